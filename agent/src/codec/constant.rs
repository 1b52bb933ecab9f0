//! Constant inputs: a value that the model's description gives, the same for every task.
//!
//! *In*: the port's JSON. *Out*: with a shape, a tensor of the port's dtype; without, a plain value by its JSON type:
//! `16000` an int, `0.5` or `16000.0` a float, `true` a bool, `"en"` a string, an array a tensor as decoded.
//! *Invariant*: TorchScript tells an int from a tensor (Silero takes `sr: int`), so the two are never mixed up.

use super::json;
use super::options::CodecError;
use nightshift_types::Port;
use serde_json::Value;
use tch::IValue;

/// The constant's value. Errors are the model's fault: the job's owner did not write it.
pub fn value(port: &Port) -> Result<IValue, CodecError> {
    let text = port.constant.as_deref().unwrap_or("null");
    let bad = |problem: &str| CodecError::model(format!("constant of input {:?}: {problem}", port.name));
    let parsed: Value = serde_json::from_str(text).map_err(|error| bad(&format!("it is no JSON: {error}")))?;
    if !port.shape.is_empty() || parsed.is_array() {
        return json::decode(port, text.as_bytes()).map(IValue::Tensor).map_err(|error| bad(&error.message));
    }
    match parsed {
        Value::Bool(value) => Ok(IValue::Bool(value)),
        Value::String(value) => Ok(IValue::String(value)),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Ok(IValue::Int(value)),
            (None, Some(value)) => Ok(IValue::Double(value)),
            (None, None) => Err(bad("the number is too large")),
        },
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(bad("it must be a number, true, false, a string or an array of numbers"))
        }
    }
}
