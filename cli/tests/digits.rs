//! The digits example as a newcomer applies it: the answers are those of the trainer, which knows nothing of codecs,
//! workers or journals; the pictures are the data's.

mod common;

use common::{Home, Pool, digits, example, repository};
use serde_json::Value;

const FEW: usize = 10;

#[test]
fn the_example_reads_digits_it_was_not_trained_on() {
    let home = Home::new();
    let pool = Pool::up_with(&home, &["--seed", &digits::model()]);
    pool.apply(&example("digits"));
    let job = pool.wait("digits", "Complete");
    let items = job["spec"]["input"]["items"].as_array().unwrap();
    let pictures: Vec<Value> = items.iter().map(|item| serde_json::from_str(item.as_str().unwrap()).unwrap()).collect();
    let rows = digits::rows(FEW);
    assert_eq!(pictures, rows.iter().map(|(picture, _)| picture.clone()).collect::<Vec<_>>(), "rows of the data");

    let expected = digits::expected();
    digits::check(&digits::results(&pool, "digits"), FEW, &expected["few"]["right"]);
    // The same in the status, and they are probabilities.
    for (index, result) in job["status"]["results"].as_array().unwrap().iter().enumerate() {
        let scores: Value = serde_json::from_str(result["output"].as_str().unwrap()).unwrap();
        let all: Vec<f64> = scores.as_array().unwrap().iter().map(|score| score["score"].as_f64().unwrap()).collect();
        assert_eq!((result["index"].as_u64(), all.len()), (Some(index as u64), 3));
        assert!(all.is_sorted_by(|a, b| a >= b) && all[2] >= 0.0 && all.iter().sum::<f64>() <= 1.000_01, "{all:?}");
        assert_eq!(scores[0]["label"], digits::answers(FEW)[index].as_str());
    }

    // A picture of one's own, without a manifest; one that is no picture is refused by name.
    let mine = home.write("one.json", rows[3].0.to_string());
    let output = pool.cli_ok(&["run", "--model", "digits", "--input", mine.to_str().unwrap()]);
    assert_eq!(serde_json::from_str::<Value>(&output).unwrap()[0]["label"], digits::answers(FEW)[3].as_str());
    let flat = home.write("flat.json", "[1, 2, 3]");
    let refused = pool.cli(&["run", "--model", "digits", "--input", flat.to_str().unwrap()]);
    assert!(!refused.status.success() && common::text(&refused).contains("[8, 8]"), "{}", common::text(&refused));
    pool.stop();
}

#[test]
fn readmes_say_what_was_measured() {
    let expected = digits::expected();
    let line = |part: &str| {
        let (rows, right) = (expected[part]["rows"].as_u64().unwrap(), expected[part]["right"].as_u64().unwrap());
        format!("{right} of {rows} right, {:.2} %", 100.0 * right as f64 / rows as f64)
    };
    let read = |path: &str| std::fs::read_to_string(repository().join("examples").join(path)).unwrap();
    assert!(read("digits/README.md").contains(&line("heldOut")) && read("digits/README.md").contains(&line("batch")));
    assert!(read("batch/README.md").contains(&line("batch")));
    assert!(read("digits/README.md").contains(&format!("show {}; row", digits::answers(FEW).join(" "))));
}
