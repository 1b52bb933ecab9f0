//! Codec `json`: nested arrays of numbers, and objects by port name where there are several inputs or outputs.
//!
//! *In*: JSON text. *Out*: a tensor of the port's dtype, its shape that of the arrays. *Invariant*: read in one pass into a
//! flat vector, at most [`MAX_DIMENSIONS`] deep; rows are of equal length; a number that the dtype cannot hold is an error.

use super::dtype::{integer_range, kind_of, shape_fits};
use super::options::CodecError;
use nightshift_types::{Dtype, FailureReason, Port};
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;
use tch::{Kind, Tensor};

/// Deepest nesting of arrays.
pub const MAX_DIMENSIONS: usize = 8;

/// Reads nested arrays of numbers or truth values; a bare number is a tensor without dimensions.
pub fn decode(port: &Port, bytes: &[u8]) -> Result<Tensor, CodecError> {
    let mut flat = Flat::new(port.dtype);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Level { flat: &mut flat, depth: 0 }.deserialize(&mut reader).and_then(|()| reader.end());
    read.map_err(|error| {
        let expected = format!("expected nested arrays of {} numbers of shape {:?}", port.dtype, port.shape);
        CodecError::input(port, format!("{expected}; {error}"))
    })?;
    flat.checked(port)
}

/// The numbers of nested arrays, in order.
struct Flat {
    dtype: Dtype,
    /// Sizes found so far; the first `closed` rows of each level have set theirs.
    shape: Vec<i64>,
    /// How many of `shape`'s innermost levels have been closed once, so that later rows must agree with them.
    closed: usize,
    integers: Vec<i64>,
    floats: Vec<f64>,
}

impl Flat {
    fn new(dtype: Dtype) -> Self {
        Self { dtype, shape: Vec::new(), closed: 0, integers: Vec::new(), floats: Vec::new() }
    }

    fn checked(&self, port: &Port) -> Result<Tensor, CodecError> {
        let shape = &self.shape;
        if !shape_fits(&port.shape, shape) {
            return Err(CodecError::input(port, format!("expected shape {:?}, found {shape:?}", port.shape)));
        }
        self.tensor().and_then(|tensor| tensor.f_reshape(shape)).map_err(|error| CodecError::input(port, error))
    }

    fn tensor(&self) -> Result<Tensor, tch::TchError> {
        let kind = kind_of(self.dtype);
        match self.dtype {
            Dtype::Float64 => Tensor::f_from_slice(&self.floats),
            Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 => Tensor::f_from_slice(&self.floats)?.f_to_kind(kind),
            Dtype::Int64 => Tensor::f_from_slice(&self.integers),
            _ => Tensor::f_from_slice(&self.integers)?.f_to_kind(kind),
        }
    }

    fn open<E: Error>(&mut self, depth: usize) -> Result<(), E> {
        if depth >= MAX_DIMENSIONS {
            return Err(E::custom(format!("arrays nest more than {MAX_DIMENSIONS} deep")));
        }
        if depth == self.shape.len() {
            if self.closed > 0 || !(self.integers.is_empty() && self.floats.is_empty()) {
                return Err(E::custom("an array stands where a number stood in the row before"));
            }
            self.shape.push(0);
        }
        Ok(())
    }

    fn close<E: Error>(&mut self, depth: usize, length: i64) -> Result<(), E> {
        let first = self.shape.len() - depth > self.closed;
        if first {
            self.shape[depth] = length;
            self.closed = self.shape.len() - depth;
        } else if self.shape[depth] != length {
            let wanted = self.shape[depth];
            return Err(E::custom(format!("a row has {length} elements, the one before it {wanted}")));
        }
        Ok(())
    }

    fn leaf<E: Error>(&self, depth: usize) -> Result<(), E> {
        if depth != self.shape.len() {
            return Err(E::custom("a number stands where an array stood in the row before"));
        }
        Ok(())
    }

    fn integer<E: Error>(&mut self, depth: usize, value: i64) -> Result<(), E> {
        self.leaf(depth)?;
        match (self.dtype, integer_range(self.dtype)) {
            (Dtype::Bool, _) if value == 0 || value == 1 => self.integers.push(value),
            (_, Some((least, most))) if (least..=most).contains(&value) => self.integers.push(value),
            (Dtype::Bool, _) | (_, Some(_)) => return Err(E::custom(format!("{value} is no {}", self.dtype))),
            _ => self.floats.push(value as f64),
        }
        Ok(())
    }

    fn float<E: Error>(&mut self, depth: usize, value: f64) -> Result<(), E> {
        if self.dtype == Dtype::Bool || integer_range(self.dtype).is_some() {
            return Err(E::custom(format!("{value} is no {}", self.dtype)));
        }
        self.leaf(depth)?;
        self.floats.push(value);
        Ok(())
    }
}

struct Level<'a> {
    flat: &'a mut Flat,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
        self.flat.open(self.depth)?;
        let mut length = 0;
        while rows.next_element_seed(Level { flat: &mut *self.flat, depth: self.depth + 1 })?.is_some() {
            length += 1;
        }
        self.flat.close(self.depth, length)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        if self.flat.dtype != Dtype::Bool {
            return Err(E::custom(format!("{value} is no {}", self.flat.dtype)));
        }
        self.flat.integer(self.depth, i64::from(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.flat.integer(self.depth, value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.flat.integer(self.depth, value),
            Err(_) => self.flat.float(self.depth, value as f64),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.flat.float(self.depth, value)
    }
}

/// Reads an object with one field for each of `ports`, in any order; answers the tensors in the ports' order.
pub fn decode_object(ports: &[&Port], bytes: &[u8]) -> Result<Vec<Tensor>, CodecError> {
    let names = ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>().join(", ");
    let wrong = |problem: String| CodecError {
        reason: FailureReason::InputInvalid,
        message: format!("expected a JSON object with the fields {names}; {problem}"),
    };
    let mut fields: Vec<Flat> = ports.iter().map(|port| Flat::new(port.dtype)).collect();
    let mut seen = vec![false; ports.len()];
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Fields { ports, fields: &mut fields, seen: &mut seen }.deserialize(&mut reader);
    read.and_then(|()| reader.end()).map_err(|error| wrong(error.to_string()))?;
    match seen.iter().position(|seen| !seen) {
        Some(missing) => Err(wrong(format!("{:?} is missing", ports[missing].name))),
        None => ports.iter().zip(&fields).map(|(port, flat)| flat.checked(port)).collect(),
    }
}

struct Fields<'a> {
    ports: &'a [&'a Port],
    fields: &'a mut [Flat],
    seen: &'a mut [bool],
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let Some(index) = self.ports.iter().position(|port| port.name == name) else {
                let shown: String = name.chars().take(80).collect();
                return Err(A::Error::custom(format!("{shown:?} is not an input")));
            };
            if std::mem::replace(&mut self.seen[index], true) {
                return Err(A::Error::custom(format!("{name:?} is there twice")));
            }
            map.next_value_seed(Level { flat: &mut self.fields[index], depth: 0 })?;
        }
        Ok(())
    }
}

/// Appends a JSON string.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    // Writing a string to a vector has no way to fail.
    let _ = serde_json::to_writer(out, text);
}

/// Writes nested arrays; floats as the shortest decimal that reads back as the same float32 or float64.
pub fn encode(port: &Port, tensor: &Tensor, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let shape = tensor.size();
    if !shape_fits(&port.shape, &shape) {
        let problem = format!("expected shape {:?}, the model returned {shape:?}", port.shape);
        return Err(CodecError::output(port, problem));
    }
    let fail = |error: tch::TchError| CodecError::output(port, error);
    let flat = tensor.f_contiguous().and_then(|t| t.f_view(-1)).map_err(fail)?;
    match flat.f_kind().map_err(fail)? {
        Kind::Float | Kind::Half | Kind::BFloat16 => {
            let values: Vec<f32> = Vec::try_from(flat.f_to_kind(Kind::Float).map_err(fail)?).map_err(fail)?;
            finite(port, values.iter().all(|v| v.is_finite()))?;
            nested(&shape, &values, out);
        }
        Kind::Double => {
            let values: Vec<f64> = Vec::try_from(flat).map_err(fail)?;
            finite(port, values.iter().all(|v| v.is_finite()))?;
            nested(&shape, &values, out);
        }
        Kind::Bool => {
            let bits: Vec<i64> = Vec::try_from(flat.f_to_kind(Kind::Int64).map_err(fail)?).map_err(fail)?;
            let values: Vec<bool> = bits.iter().map(|bit| *bit != 0).collect();
            nested(&shape, &values, out);
        }
        Kind::Int64 | Kind::Int | Kind::Int16 | Kind::Int8 | Kind::Uint8 => {
            let values: Vec<i64> = Vec::try_from(flat.f_to_kind(Kind::Int64).map_err(fail)?).map_err(fail)?;
            nested(&shape, &values, out);
        }
        other => return Err(CodecError::output(port, format!("JSON has no form of {other:?}"))),
    }
    Ok(())
}

fn finite(port: &Port, all: bool) -> Result<(), CodecError> {
    if all {
        return Ok(());
    }
    Err(CodecError::output(port, "there is a NaN or an infinity, which JSON does not have; codec tensor does"))
}

fn nested<T: serde::Serialize>(shape: &[i64], values: &[T], out: &mut Vec<u8>) {
    let Some((rows, inner)) = shape.split_first() else {
        if let Some(value) = values.first() {
            // Writing a number to a vector has no way to fail.
            let _ = serde_json::to_writer(out, value);
        }
        return;
    };
    let rows = usize::try_from(*rows).unwrap_or(0);
    let width = values.len().checked_div(rows).unwrap_or(0);
    out.push(b'[');
    for row in 0..rows {
        if row > 0 {
            out.push(b',');
        }
        nested(inner, &values[row * width..(row + 1) * width], out);
    }
    out.push(b']');
}
