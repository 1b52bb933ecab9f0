//! What a model's method returned, as one tensor for each output port.
//!
//! *In*: any value TorchScript can return. *Out*: tensors on the CPU, in the ports' order. *Invariant*: dense, and small
//! enough for the result's limit before anything is written.

use super::options::CodecError;
use nightshift_types::Port;
use tch::{Device, IValue, Tensor};

/// One tensor a port: a tuple's or list's in order (more than the ports are ignored), a dictionary's by the ports' names.
pub fn tensors(returned: IValue, ports: &[&Port]) -> Result<Vec<Tensor>, CodecError> {
    let values = match returned {
        IValue::Tuple(values) | IValue::GenericList(values) => values,
        IValue::TensorList(values) => values.into_iter().map(IValue::Tensor).collect(),
        IValue::GenericDict(pairs) => by_name(pairs, ports)?,
        other => vec![other],
    };
    let found = values.len();
    if let Some(missing) = ports.get(found) {
        let problem = format!("the model returned {found} values, the spec names {} outputs", ports.len());
        return Err(CodecError::output(missing, problem));
    }
    ports.iter().zip(values).map(|(port, value)| tensor(port, value)).collect()
}

fn by_name(pairs: Vec<(IValue, IValue)>, ports: &[&Port]) -> Result<Vec<IValue>, CodecError> {
    let mut named: Vec<(String, IValue)> = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        if let IValue::String(key) = key {
            named.push((key, value));
        }
    }
    let take = |port: &&Port| match named.iter().position(|(name, _)| *name == port.name) {
        Some(index) => Ok(named.swap_remove(index).1),
        None => Err(CodecError::output(port, "the model returned a dictionary without a tensor of this name")),
    };
    ports.iter().map(take).collect()
}

fn tensor(port: &Port, value: IValue) -> Result<Tensor, CodecError> {
    let fail = |error: tch::TchError| CodecError::output(port, error);
    match value {
        IValue::Tensor(tensor) => dense(port, &tensor),
        IValue::Int(value) => Tensor::f_from_slice(&[value]).and_then(|t| t.f_reshape([0i64; 0])).map_err(fail),
        IValue::Double(value) => Tensor::f_from_slice(&[value]).and_then(|t| t.f_reshape([0i64; 0])).map_err(fail),
        IValue::Bool(value) => Tensor::f_from_slice(&[value]).and_then(|t| t.f_reshape([0i64; 0])).map_err(fail),
        IValue::IntList(values) => Tensor::f_from_slice(&values).map_err(fail),
        IValue::DoubleList(values) => Tensor::f_from_slice(&values).map_err(fail),
        IValue::None => Err(CodecError::output(port, "the model returned nothing here; a tensor was expected")),
        _ => Err(CodecError::output(port, "the model returned something that is no tensor here")),
    }
}

fn dense(port: &Port, tensor: &Tensor) -> Result<Tensor, CodecError> {
    if tensor.is_sparse() || tensor.is_mkldnn() || tensor.is_complex() {
        return Err(CodecError::output(
            port,
            "the model returned a sparse, packed or complex tensor; make it dense and real",
        ));
    }
    tensor.f_to_device(Device::Cpu).and_then(|t| t.f_detach()).map_err(|error| CodecError::output(port, error))
}

/// Refuses a tensor whose smallest form is over the limit, before memory is taken for it.
pub fn check(port: &Port, tensor: &Tensor, limit: usize) -> Result<(), CodecError> {
    check_size(port, tensor.numel(), limit)
}

/// Refuses a result over the limit.
pub fn check_size(port: &Port, bytes: usize, limit: usize) -> Result<(), CodecError> {
    if bytes <= limit {
        return Ok(());
    }
    Err(CodecError::output(port, format!("the result has {bytes} bytes or more; at most {limit} are allowed")))
}
