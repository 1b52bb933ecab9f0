//! What the way through the engine costs, against libtorch called in this process: the same model, bytes and threads, in
//! turns. Ignored, because it measures: `cargo test --release -p nightshift-agent --test worker -- --ignored --nocapture`.

use crate::common::{Lab, port, silero, spec};
use nightshift_agent::codec::Plan;
use nightshift_agent::engine::Task;
use nightshift_types::Codec;
use std::time::{Duration, Instant};
use tch::{CModule, IValue};
use tokio_util::sync::CancellationToken;

/// The least tenth and the median, in microseconds: the first is less disturbed by whatever else the machine does.
fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    format!("{}/{}", times[times.len() / 10].as_micros(), times[times.len() / 2].as_micros())
}

/// Least tenth and median: raw, the engine, and what the worker says of its own computing.
async fn compare(lab: &Lab, name: &str, task: Task, turns: usize) {
    let module = CModule::load(&task.model_path).unwrap();
    let plan = Plan::new(&task.spec, &task.parameters).unwrap();
    let _no_grad = tch::no_grad_guard();
    let resets = module.method_is::<IValue>("reset_states", &[]).is_ok();
    let raw = || {
        if resets {
            module.method_is::<IValue>("reset_states", &[]).unwrap();
        }
        let decoded = plan.decode(&task.input).unwrap();
        let returned = module.method_is(&task.spec.method, &decoded.values).unwrap();
        plan.encode(returned, decoded.samples, 1 << 30).unwrap().bytes
    };
    let (mut alone, mut engine, mut inside, mut added) = (vec![], vec![], vec![], vec![]);
    for turn in 0..turns + 20 {
        let began = Instant::now();
        let expected = raw();
        let raw_time = began.elapsed();
        let (engine_of, task) = (lab.engine.clone(), task.clone());
        // As in the agent: on one of the runtime's own threads.
        let timed = tokio::spawn(async move {
            let began = Instant::now();
            let output = engine_of.run(task, CancellationToken::new()).await;
            (output, began.elapsed())
        });
        let (output, engine_time) = timed.await.unwrap();
        let output = output.unwrap();
        assert_eq!(output.bytes, expected, "bit for bit");
        if turn >= 20 {
            alone.push(raw_time);
            engine.push(engine_time);
            inside.push(output.timings.compute + output.timings.codec);
            added.push(engine_time.saturating_sub(output.timings.compute + output.timings.codec));
        }
    }
    let [alone, engine, inside, added] = [alone, engine, inside, added].map(quantiles);
    println!("{name}: raw {alone} µs, engine {engine} µs, of it in the worker {inside} µs, around it {added} µs");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn the_engine_against_a_raw_loop() {
    tch::set_num_threads(1);
    let lab = Lab::new();
    let mut small = lab.affine();
    small.spec = spec(vec![port("x", Codec::Tensor, &[-1])], vec![port("y", Codec::Tensor, &[-1])]);
    small.input = vec![0; 64];
    compare(&lab, "2x + 1 of 16 floats", small, 2000).await;
    let Some(voice) = silero() else { return };
    let mut chunk = voice.clone();
    chunk.spec.method = "forward".into();
    chunk.spec.inputs[0] = port("chunk", Codec::Tensor, &[1, 512]);
    chunk.spec.outputs = vec![port("speech", Codec::Tensor, &[1, 1])];

    chunk.input = vec![0; 512 * 4];
    compare(&lab, "Silero, one chunk", chunk, 1000).await;
    compare(&lab, "Silero, 6 s of speech", voice, 60).await;
}
