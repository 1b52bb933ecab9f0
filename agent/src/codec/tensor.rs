//! Codec `tensor`: raw little-endian elements, in row order.
//!
//! *In*: bytes whose number is the shape's product times the element's size. *Out*: a tensor of the port's dtype and shape;
//! one size of -1 is inferred, an empty shape is one dimension. *Invariant*: libtorch copies exactly the bytes given.

use super::dtype::{kind_of, shape_fits};
use super::options::CodecError;
use nightshift_types::{Dtype, Port};
use tch::Tensor;

/// Reads raw elements.
pub fn decode(port: &Port, bytes: &[u8]) -> Result<Tensor, CodecError> {
    let kind = kind_of(port.dtype);
    let element = kind.elt_size_in_bytes();
    let shape = infer(port, bytes.len(), element)?;
    if port.dtype == Dtype::Bool && bytes.iter().any(|byte| *byte > 1) {
        return Err(CodecError::input(port, "a bool is a byte of 0 or 1, and there are others"));
    }
    // libtorch reads product(shape) elements from the pointer: `infer` made that exactly what is there.
    Tensor::f_from_data_size(bytes, &shape, kind).map_err(|error| CodecError::input(port, error))
}

/// The shape that so many bytes have; its product times the element's size is their number.
fn infer(port: &Port, bytes: usize, element: usize) -> Result<Vec<i64>, CodecError> {
    let expected = || format!("expected {} elements of shape {:?}, {element} bytes each", port.dtype, port.shape);
    if !bytes.is_multiple_of(element) {
        return Err(CodecError::input(port, format!("{}; {bytes} bytes are no whole number of them", expected())));
    }
    let elements = bytes / element;
    if port.shape.is_empty() {
        return Ok(vec![elements as i64]);
    }
    if port.shape.iter().filter(|size| **size == -1).count() > 1 {
        let problem =
            "raw bytes cannot tell several open sizes apart; leave at most one -1 in shape, or use codec json";
        return Err(CodecError::input(port, problem));
    }
    let known = port
        .shape
        .iter()
        .filter(|size| **size != -1)
        .try_fold(1usize, |product, size| usize::try_from(*size).ok().and_then(|size| product.checked_mul(size)));
    let known = known.ok_or_else(|| CodecError::input(port, format!("shape {:?} is not possible", port.shape)))?;
    let open = port.shape.contains(&-1);
    let fits = if open { known > 0 && elements.is_multiple_of(known) } else { elements == known };
    if !fits {
        return Err(CodecError::input(port, format!("{}; found {elements} elements", expected())));
    }
    Ok(port.shape.iter().map(|size| if *size == -1 { (elements / known) as i64 } else { *size }).collect())
}

/// Writes raw elements.
pub fn encode(port: &Port, tensor: &Tensor, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let kind = tensor.f_kind().map_err(|error| CodecError::output(port, error))?;
    if kind != kind_of(port.dtype) || !shape_fits(&port.shape, &tensor.size()) {
        let found = format!("{kind:?} of shape {:?}", tensor.size());
        let expected = format!("expected {} of shape {:?}", port.dtype, port.shape);
        return Err(CodecError::output(port, format!("{expected}; the model returned {found}")));
    }
    let count = tensor.numel();
    let bytes = count.saturating_mul(kind.elt_size_in_bytes());
    out.try_reserve_exact(bytes).map_err(|_| CodecError::output(port, format!("no memory for {bytes} bytes")))?;
    let start = out.len();
    out.resize(start + bytes, 0);
    let contiguous = tensor.f_contiguous().map_err(|error| CodecError::output(port, error))?;
    contiguous.f_copy_data_u8(&mut out[start..], count).map_err(|error| CodecError::output(port, error))
}
