//! Several tasks in one call of the model: their inputs one behind the other, their results taken apart again.
//!
//! *In*: decoded inputs of one plan. *Out*: groups that fit together, and each task's own part of what came back.
//! *Invariant*: a part holds exactly its own rows, in order; what cannot be taken apart by the first size is an error,
//! never a guess.
//!
//! The first size of every variable input is the batch's. Inputs go together where all other sizes and the element types
//! agree; a task may bring several rows. Constants are the same for all by the plan.

use nightshift_types::ModelSpec;
use tch::{IValue, Kind, TchError, Tensor};

/// Whether the model's shapes have a first size for a batch, and its description allows one.
pub fn stacks(spec: &ModelSpec) -> bool {
    let mut variable = spec.inputs.iter().filter(|port| port.constant.is_none()).peekable();
    spec.batching.max > 1
        && variable.peek().is_some()
        && variable.all(|port| matches!(port.shape.first(), Some(-1 | 1)))
}

/// What must agree: of each variable input the element type and all sizes but the first.
pub type Form = Vec<(Kind, Vec<i64>)>;

/// A task's form and its number of rows; `None`: it can only run alone.
pub fn form(spec: &ModelSpec, values: &[IValue]) -> Option<(Form, i64)> {
    let (mut form, mut rows) = (Form::new(), None);
    for (port, value) in spec.inputs.iter().zip(values) {
        if port.constant.is_some() {
            continue;
        }
        let IValue::Tensor(tensor) = value else { return None };
        let (kind, size) = (tensor.f_kind().ok()?, tensor.size());
        let (first, rest) = size.split_first()?;
        if *first < 1 || rows.is_some_and(|rows| rows != *first) {
            return None;
        }
        rows = Some(*first);
        form.push((kind, rest.to_vec()));
    }
    rows.map(|rows| (form, rows))
}

/// The arguments of one call for all of these tasks, each with as many values as the spec has inputs.
pub fn stack(spec: &ModelSpec, tasks: Vec<Vec<IValue>>) -> Result<Vec<IValue>, TchError> {
    let count = tasks.len();
    let mut columns: Vec<Vec<IValue>> = spec.inputs.iter().map(|_| Vec::with_capacity(count)).collect();
    for values in tasks {
        for (column, value) in columns.iter_mut().zip(values) {
            column.push(value);
        }
    }
    let mut stacked = Vec::with_capacity(columns.len());
    for (port, mut column) in spec.inputs.iter().zip(columns) {
        if port.constant.is_some() || column.len() == 1 {
            stacked.extend(column.drain(..).next());
            continue;
        }
        let tensors: Vec<Tensor> = column
            .into_iter()
            .filter_map(|value| if let IValue::Tensor(tensor) = value { Some(tensor) } else { None })
            .collect();
        stacked.push(IValue::Tensor(Tensor::f_cat(&tensors, 0)?));
    }
    Ok(stacked)
}

/// The rows from `start` on of everything that the spec names an output for; `None`: something there has not `total` rows.
pub fn part(spec: &ModelSpec, returned: &IValue, start: i64, rows: i64, total: i64) -> Option<IValue> {
    let outputs = spec.outputs.len();
    let narrow = |tensor: &Tensor| {
        let divisible = tensor.size().first() == Some(&total);
        divisible.then(|| tensor.f_narrow(0, start, rows).ok()).flatten().map(IValue::Tensor)
    };
    let value = |value: &IValue| if let IValue::Tensor(tensor) = value { narrow(tensor) } else { None };
    match returned {
        IValue::Tensor(tensor) => narrow(tensor),
        IValue::Tuple(values) | IValue::GenericList(values) => {
            values.iter().take(outputs).map(value).collect::<Option<_>>().map(IValue::Tuple)
        }
        IValue::TensorList(tensors) => {
            tensors.iter().take(outputs).map(narrow).collect::<Option<_>>().map(IValue::Tuple)
        }
        IValue::GenericDict(pairs) => {
            let named =
                |key: &IValue| matches!(key, IValue::String(key) if spec.outputs.iter().any(|p| p.name == *key));
            let of = |(key, entry): &(IValue, IValue)| match key {
                IValue::String(key) => value(entry).map(|entry| (IValue::String(key.clone()), entry)),
                _ => None,
            };
            pairs.iter().filter(|(key, _)| named(key)).map(of).collect::<Option<_>>().map(IValue::GenericDict)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightshift_types::{Batching, Codec, Dtype, Port};
    use tch::Device;

    fn port(name: &str, shape: &[i64], constant: Option<&str>) -> Port {
        let constant = constant.map(Into::into);
        let (codec, dtype, options) = (Codec::Tensor, Dtype::Float32, Default::default());
        Port { name: name.into(), codec, dtype, shape: shape.to_vec(), constant, options }
    }

    fn spec(first: i64) -> ModelSpec {
        ModelSpec {
            method: "forward".into(),
            inputs: vec![port("x", &[first, -1], None), port("rate", &[], Some("7"))],
            outputs: vec![port("y", &[], None)],
            batching: Batching { max: 8, max_delay_ms: 0 },
        }
    }

    fn values(rows: i64, width: i64, from: f64) -> Vec<IValue> {
        let x = Tensor::arange(rows * width, (Kind::Float, Device::Cpu)).reshape([rows, width]) + from;
        vec![IValue::Tensor(x), IValue::Int(7)]
    }

    #[test]
    fn the_first_size_is_the_batchs() {
        assert!(stacks(&spec(-1)) && stacks(&spec(1)) && !stacks(&spec(3)));
        let mut open = spec(-1);
        open.inputs[0].shape.clear();
        assert!(!stacks(&open), "nobody says which size is the batch's");
        let one = ModelSpec { batching: Batching::default(), ..spec(-1) };
        assert!(!stacks(&one));
    }

    #[test]
    fn tasks_go_together_by_form_and_come_apart_by_rows() {
        let spec = spec(-1);
        let (form_a, rows_a) = form(&spec, &values(1, 4, 0.0)).unwrap();
        let (form_b, rows_b) = form(&spec, &values(2, 4, 100.0)).unwrap();
        assert_eq!((form_a.clone(), rows_a, rows_b), (form_b, 1, 2));
        assert_ne!(form(&spec, &values(1, 5, 0.0)).unwrap().0, form_a, "another width");
        assert!(form(&spec, &values(0, 4, 0.0)).is_none(), "no row: nothing to find again");
        assert!(form(&spec, &[IValue::Int(1), IValue::Int(7)]).is_none());

        let stacked = stack(&spec, vec![values(1, 4, 0.0), values(2, 4, 100.0)]).unwrap();
        assert_eq!((stacked.len(), &stacked[1]), (2, &IValue::Int(7)), "a constant stays one");
        let IValue::Tensor(x) = &stacked[0] else { panic!() };
        assert_eq!(x.size(), [3, 4]);
        let returned = IValue::Tuple(vec![
            IValue::Tensor(x + 1.0),
            IValue::Tensor(Tensor::zeros([9], (Kind::Float, Device::Cpu))),
        ]);
        let IValue::Tuple(second) = part(&spec, &returned, 1, 2, 3).unwrap() else { panic!() };
        let IValue::Tensor(second) = &second[0] else { panic!() };
        assert_eq!(second, &(Tensor::arange(8, (Kind::Float, Device::Cpu)).reshape([2, 4]) + 101.0));
    }

    #[test]
    fn what_has_other_rows_is_no_batch() {
        let spec = spec(-1);
        let sum = IValue::Tensor(Tensor::zeros([1], (Kind::Float, Device::Cpu)));
        assert!(part(&spec, &sum, 0, 1, 3).is_none());
        let scalar = IValue::Tensor(Tensor::from(1.0));
        assert!(part(&spec, &scalar, 0, 1, 1).is_none() && part(&spec, &IValue::Int(1), 0, 1, 3).is_none());
    }
}
