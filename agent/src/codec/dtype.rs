//! The API's element types as libtorch's.

use nightshift_types::Dtype;
use tch::Kind;

/// libtorch's name of an element type.
pub fn kind_of(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Float32 => Kind::Float,
        Dtype::Float64 => Kind::Double,
        Dtype::Float16 => Kind::Half,
        Dtype::Bfloat16 => Kind::BFloat16,
        Dtype::Int64 => Kind::Int64,
        Dtype::Int32 => Kind::Int,
        Dtype::Int16 => Kind::Int16,
        Dtype::Int8 => Kind::Int8,
        Dtype::Uint8 => Kind::Uint8,
        Dtype::Bool => Kind::Bool,
    }
}

/// Smallest and largest value of an integer type; `None` for floating point and truth values.
pub fn integer_range(dtype: Dtype) -> Option<(i64, i64)> {
    match dtype {
        Dtype::Int64 => Some((i64::MIN, i64::MAX)),
        Dtype::Int32 => Some((i32::MIN.into(), i32::MAX.into())),
        Dtype::Int16 => Some((i16::MIN.into(), i16::MAX.into())),
        Dtype::Int8 => Some((i8::MIN.into(), i8::MAX.into())),
        Dtype::Uint8 => Some((0, u8::MAX.into())),
        _ => None,
    }
}

/// Whether `shape` is one the port allows: the same rank, and each size equal where the port's is not -1.
pub fn shape_fits(wanted: &[i64], shape: &[i64]) -> bool {
    wanted.is_empty()
        || (wanted.len() == shape.len() && wanted.iter().zip(shape).all(|(want, have)| *want == -1 || want == have))
}
