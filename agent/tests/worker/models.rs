//! What works: models, codecs, reuse, eviction.

use crate::common::{Lab, checkout, json, port, silero, spec, until};
use nightshift_types::Codec;
use std::time::Duration;
use tch::{Device, Kind, Tensor};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn silero_finds_the_reference_segments() {
    let Some(task) = silero() else { return };
    let lab = Lab::new();
    let expected = std::fs::read(checkout().join("examples/voice/reference/expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    let cold = lab.run(task.clone()).await.unwrap();
    assert_eq!(json(&cold), expected);
    assert!(cold.timings.load > Duration::ZERO && cold.timings.compute > Duration::ZERO);
    for _ in 0..3 {
        let warm = lab.run(task.clone()).await.unwrap();
        assert_eq!(json(&warm), expected, "the model's state must not pass from task to task");
        assert_eq!(warm.timings.load, Duration::ZERO);
    }
    assert_eq!(lab.workers().len(), 1);

    let mut strict = task.clone();
    strict.parameters.insert("maxSpeechSeconds".into(), "1".into());
    let cut = json(&lab.run(strict).await.unwrap());
    assert!(cut.as_array().unwrap().len() > expected.as_array().unwrap().len());

    let mut short = task;
    short.input.truncate(44 + 200);
    let header = |bytes: &mut [u8], at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    header(&mut short.input, 4, 36 + 200);
    header(&mut short.input, 40, 200);
    assert_eq!(json(&lab.run(short).await.unwrap()), serde_json::json!([]), "100 samples are padded to a window");
}

#[tokio::test(flavor = "multi_thread")]
async fn silero_chunk_by_chunk_starts_fresh() {
    let Some(mut task) = silero() else { return };
    task.spec.method = "forward".into();
    task.spec.inputs[0] = port("chunk", Codec::Tensor, &[1, 512]);
    task.spec.outputs = vec![port("speech", Codec::Tensor, &[1, 1])];
    let noise: Vec<u8> = (0..512).flat_map(|i| ((i as f32 * 0.7).sin() * 0.3).to_le_bytes()).collect();
    task.input = noise;
    let lab = Lab::new();
    let first = lab.run(task.clone()).await.unwrap().bytes;
    assert_eq!(first.len(), 4);
    for _ in 0..3 {
        assert_eq!(lab.run(task.clone()).await.unwrap().bytes, first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_and_raw_tensors() {
    let lab = Lab::new();
    let task = lab.affine();
    assert_eq!(json(&lab.run(task.clone()).await.unwrap()), serde_json::json!([3.0, 5.0, 7.0]));

    let mut raw = task;
    raw.spec.inputs[0].codec = Codec::Tensor;
    raw.spec.outputs[0].codec = Codec::Tensor;
    raw.input = [0.5f32, -1.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let output = lab.run(raw).await.unwrap();
    assert_eq!(output.content_type, "application/octet-stream");
    assert_eq!(output.bytes, [2.0f32, -1.0].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    assert_eq!(lab.workers().len(), 1, "another spec of the same file needs no other worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_tensors_both_ways() {
    let lab = Lab::new();
    let mut task = lab.affine();
    task.spec.inputs[0].codec = Codec::Tensor;
    task.spec.outputs[0].codec = Codec::Tensor;
    for count in [6_000_000u32, 3, 2_500_000, 100_000] {
        task.input = (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let bytes = lab.run(task.clone()).await.unwrap().bytes;
        assert_eq!(bytes.len(), task.input.len());
        let last = f32::from_le_bytes(bytes[bytes.len() - 4..].try_into().unwrap());
        assert_eq!(last, (count - 1) as f32 * 2.0 + 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_inputs() {
    let lab = Lab::new();
    let one = || Tensor::ones([1], (Kind::Float, Device::Cpu));
    let spec = spec(
        vec![port("a", Codec::Json, &[-1]), port("b", Codec::Json, &[-1])],
        vec![port("difference", Codec::Json, &[])],
    );
    let mut task = lab.traced("two", &[one(), one()], spec, |xs| vec![&xs[0] - &xs[1]]);
    task.input = br#"{"b": [1], "a": [5]}"#.to_vec();
    assert_eq!(json(&lab.run(task).await.unwrap()), serde_json::json!([4.0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_used_worker_makes_room() {
    let lab = Lab::with(|config| config.max_workers = 2);
    let tasks: Vec<_> = (0..3).map(|i| lab.affine_named(&format!("m{i}"), f64::from(i) + 2.0)).collect();
    let digests = || lab.engine.loaded().into_iter().map(|(digest, _)| digest).collect::<Vec<_>>();
    for index in [0, 1, 0, 2] {
        lab.run(tasks[index].clone()).await.unwrap();
        assert!(lab.workers().len() <= 2);
    }
    let mut expected = vec![tasks[0].model_digest, tasks[2].model_digest];
    expected.sort_unstable();
    assert_eq!(digests(), expected);

    assert_eq!(lab.engine.evict(tasks[0].model_digest).await, 1);
    assert_eq!(digests(), [tasks[2].model_digest]);
    assert_eq!(lab.workers().len(), 1);
    assert_eq!(lab.engine.evict(tasks[0].model_digest).await, 0);
    assert_eq!(lab.engine.evict_idle().await, 1);
    assert!(lab.workers().is_empty());
    lab.run(tasks[0].clone()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_on_few_workers() {
    let lab = Lab::with(|config| config.max_workers = 2);
    let tasks: Vec<_> = (0..4).map(|i| lab.affine_named(&format!("m{i}"), f64::from(i) + 2.0)).collect();
    let runs = (0..40).map(|i| {
        let (engine, task) = (lab.engine.clone(), tasks[i % 4].clone());
        tokio::spawn(async move { engine.run(task, CancellationToken::new()).await })
    });
    for run in runs.collect::<Vec<_>>() {
        run.await.unwrap().unwrap();
    }
    assert!(lab.workers().len() <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_worker_marked_for_eviction_ends_with_its_task() {
    let lab = Lab::new();
    let task = lab.busy("busy", 256, 1000);
    lab.run(task.clone()).await.unwrap();
    let (engine, slow) = (lab.engine.clone(), task.clone());
    let run = tokio::spawn(async move { engine.run(slow, CancellationToken::new()).await });
    // Until it is found loaded and not idle: then it is marked.
    until("the task's start", || !lab.engine.loaded().is_empty()).await;
    while !run.is_finished() {
        if lab.engine.evict(task.model_digest).await == 0 && !lab.engine.loaded().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    run.await.unwrap().unwrap();
    until("the worker's end", || lab.workers().is_empty()).await;
    assert!(lab.engine.loaded().is_empty());
}
