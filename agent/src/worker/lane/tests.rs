use super::*;
use nightshift_types::{Batching, Bytes, Codec, Digest, Dtype, ModelSpec, Port};
use std::collections::BTreeMap;

type Outcome = oneshot::Receiver<Result<Output, Failed>>;

fn port(shape: &[i64]) -> Port {
    let (codec, dtype, options) = (Codec::Tensor, Dtype::Float32, BTreeMap::new());
    Port { name: "x".into(), codec, dtype, shape: shape.to_vec(), constant: None, options }
}

fn task(label: &str, max: u32, delay: u64) -> Task {
    Task {
        model_digest: Digest([1; 32]),
        model_path: "m.pt".into(),
        spec: ModelSpec {
            method: "forward".into(),
            inputs: vec![port(&[-1, 4])],
            outputs: vec![port(&[])],
            batching: Batching { max, max_delay_ms: delay },
        },
        input: Vec::new(),
        parameters: BTreeMap::new(),
        device: "cpu0".into(),
        memory_limit: Bytes(0),
        memory_shared: Bytes(0),
        deadline: Duration::from_secs(1),
        label: label.into(),
    }
}

fn push(lane: &Lane, task: Task) -> Outcome {
    let (member, outcome) = Member::new(task);
    lane.push(member);
    outcome
}

fn labels(lane: &Lane) -> Vec<String> {
    let batch = lane.state().next().unwrap().expect("it need not wait");
    batch.into_iter().map(|member| member.task.label).collect()
}

fn broken(reason: FailureReason) -> Broken {
    Broken { failed: Failed::new(reason, ""), healthy: false, indivisible: false }
}

#[test]
fn a_batch_has_the_first_and_those_like_it_up_to_the_models_most() {
    let lane = Lane::default();
    let mut outcomes = Vec::new();
    for (index, label) in ["a", "b", "c", "d", "e"].iter().enumerate() {
        let mut task = task(label, 3, 0);
        if index == 1 {
            task.parameters.insert("threshold".into(), "0.5".into());
        }
        outcomes.push(push(&lane, task));
    }
    assert_eq!(labels(&lane), ["a", "c", "d"]);
    assert_eq!(labels(&lane), ["b"]);
    assert_eq!(labels(&lane), ["e"]);
    assert!(lane.state().next().is_none());
}

#[test]
fn one_driver_at_a_time() {
    let lane = Lane::default();
    let (first, _kept) = Member::new(task("a", 1, 0));
    let (second, _too) = Member::new(task("b", 1, 0));
    assert!(lane.push(first) && !lane.push(second));
}

#[test]
fn it_waits_for_more_no_longer_than_the_model_says() {
    let lane = Lane::default();
    let _kept = [push(&lane, task("a", 3, 60_000)), push(&lane, task("b", 3, 60_000))];
    let rest = lane.state().next().unwrap().expect_err("two of three");
    assert!(rest <= Duration::from_secs(60));
    let _full = push(&lane, task("c", 3, 60_000));
    assert_eq!(labels(&lane), ["a", "b", "c"], "full: at once");
    let _old = push(&lane, task("d", 3, 60_000));
    lane.state().waiting[0].waiter.came = Instant::now().checked_sub(Duration::from_secs(61)).unwrap();
    assert_eq!(labels(&lane), ["d"]);
}

#[test]
fn who_has_gone_is_in_no_batch() {
    let lane = Lane::default();
    let gone = push(&lane, task("a", 3, 0));
    let _kept = push(&lane, task("b", 3, 0));
    drop(gone);
    assert_eq!(labels(&lane), ["b"]);
    assert!(!lane.state().wanted());
}

#[test]
fn models_without_a_batchs_size_and_those_that_keep_state_run_one_by_one() {
    let lane = Lane::default();
    let fixed = |label| {
        let mut task = task(label, 8, 0);
        task.spec.inputs[0].shape = vec![512];
        task
    };
    let _kept = [push(&lane, fixed("a")), push(&lane, fixed("b"))];
    assert_eq!([labels(&lane), labels(&lane)], [["a"], ["b"]]);
    lane.state().never_together();
    let _too = [push(&lane, task("c", 8, 60_000)), push(&lane, task("d", 8, 60_000))];
    assert_eq!([labels(&lane), labels(&lane)], [["c"], ["d"]], "and they wait for nobody");
}

/// Fails a batch of `size`, then runs its members alone; answers how large the next batch is.
fn after_a_failed_batch(reason: FailureReason, size: usize, well: &[bool]) -> usize {
    let lane = Lane::default();
    let _kept: Vec<Outcome> = (0..size).map(|_| push(&lane, task("x", size as u32, 0))).collect();
    let Some(Ok(batch)) = lane.state().next() else { panic!("no batch") };
    assert_eq!(batch.len(), size);
    lane.state().retry(batch, &broken(reason));
    let _later = push(&lane, task("later", size as u32, 0));
    for well in well {
        assert_eq!(labels(&lane), ["x"], "alone, and before those that came later");
        lane.state().tried(true, *well);
    }
    assert_eq!(labels(&lane), ["later"]);
    let _again: Vec<Outcome> = (0..size).map(|_| push(&lane, task("y", size as u32, 0))).collect();
    labels(&lane).len()
}

#[test]
fn a_failed_batch_teaches_what_its_members_tell_alone() {
    let all = [true; 8];
    assert_eq!(after_a_failed_batch(FailureReason::OutOfMemory, 8, &all), 4, "it was too large");
    assert_eq!(after_a_failed_batch(FailureReason::ModelExecutionFailed, 8, &all), 1, "it was no batch");
    assert_eq!(after_a_failed_batch(FailureReason::WorkerCrashed, 8, &all), 8, "somebody killed the worker");
    let mut one_bad = all;
    one_bad[5] = false;
    assert_eq!(after_a_failed_batch(FailureReason::ModelExecutionFailed, 8, &one_bad), 8, "one input was bad");
}

#[test]
fn results_that_cannot_be_taken_apart_end_batching() {
    let lane = Lane::default();
    let _kept: Vec<Outcome> = (0..2).map(|_| push(&lane, task("x", 8, 0))).collect();
    let Some(Ok(batch)) = lane.state().next() else { panic!("no batch") };
    lane.state().retry(batch, &Broken { indivisible: true, healthy: true, ..broken(FailureReason::OutputInvalid) });
    assert_eq!([labels(&lane), labels(&lane)], [["x"], ["x"]]);
    let _again: Vec<Outcome> = (0..2).map(|_| push(&lane, task("y", 8, 0))).collect();
    assert_eq!(labels(&lane), ["y"]);
}
