//! What the digits examples must answer, from the data itself and from what the trainer wrote down.

use super::{Pool, example};
use serde_json::Value;
use std::collections::BTreeMap;

/// The committed model, to be seeded.
pub fn model() -> String {
    example("digits").join("digits.pt").to_str().unwrap().into()
}

/// What the trainer computed from the weights in its own process, before it exported them.
pub fn expected() -> Value {
    let text = std::fs::read_to_string(example("digits").join("reference/expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The trainer's answers to the first `count` held-out rows.
pub fn answers(count: usize) -> Vec<String> {
    expected()["answers"].as_array().unwrap().iter().take(count).map(Value::to_string).collect()
}

/// Held-out rows of the data: the pixels as a task's input has them, and the digit that was written.
pub fn rows(count: usize) -> Vec<(Value, String)> {
    let text = std::fs::read_to_string(example("digits").join("data/digits.csv")).unwrap();
    let first = expected()["firstRow"].as_u64().unwrap() as usize;
    let row = |line: &str| {
        let mut numbers: Vec<u64> = line.split(',').map(|number| number.parse().unwrap()).collect();
        let digit = numbers.pop().unwrap().to_string();
        (numbers.chunks(8).map(|pixels| pixels.to_vec()).collect::<Vec<_>>().into(), digit)
    };
    text.lines().skip(first).take(count).map(row).collect()
}

/// The likeliest digit of each result, by index, as `nightshift results` has them; every index once.
pub fn results(pool: &Pool, job: &str) -> BTreeMap<u64, String> {
    let mut labels = BTreeMap::new();
    for line in pool.cli_ok(&["results", job]).lines() {
        let result: Value = serde_json::from_str(line).unwrap();
        let label = result["output"][0]["label"].as_str().unwrap().to_string();
        let index = result["index"].as_u64().unwrap();
        assert_eq!(labels.insert(index, label), None, "{job}: index {index} is there twice");
    }
    labels
}

/// Every index up to `count`, the trainer's answers, and as many right as it counted.
pub fn check(labels: &BTreeMap<u64, String>, count: usize, right: &Value) {
    assert_eq!(labels.keys().copied().collect::<Vec<_>>(), (0..count as u64).collect::<Vec<_>>());
    assert_eq!(labels.values().cloned().collect::<Vec<_>>(), answers(count));
    let written = rows(count);
    let found = labels.values().zip(&written).filter(|(label, (_, digit))| *label == digit).count();
    assert_eq!(Value::from(found), *right, "accuracy");
}
