//! Tasks of one model in one call: who runs together, and that each gets its own result, its own blame and its own end.

use crate::common::{Lab, json, port, silero, spec, until};
use nightshift_agent::engine::{Failed, Output, Task};
use nightshift_types::{Batching, Bytes, Codec, Dtype, FailureReason, ModelSpec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;
use tch::{CModule, Device, IValue, Kind, Tensor};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

type Running = JoinHandle<Result<Output, Failed>>;

fn together(max: u32, shape: &[i64]) -> ModelSpec {
    let mut spec = spec(vec![port("x", Codec::Json, shape)], vec![port("y", Codec::Json, &[])]);
    spec.batching = Batching { max, max_delay_ms: 0 };
    spec
}

/// Each row of the result is how many rows the call had: tells who ran together.
fn counting(lab: &Lab, max: u32) -> Task {
    let x = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
    let mut task = lab.traced("counting", &[x], together(max, &[-1, -1]), |xs| {
        vec![&xs[0] * 0.0 + xs[0].ones_like().sum_dim_intlist([0i64].as_slice(), true, Kind::Float)]
    });
    task.input = b"[[1, 2, 3]]".to_vec();
    task
}

fn start(lab: &Lab, task: &Task) -> Running {
    start_with(lab, task, CancellationToken::new())
}

fn start_with(lab: &Lab, task: &Task, cancel: CancellationToken) -> Running {
    let (engine, task) = (lab.engine.clone(), task.clone());
    tokio::spawn(async move { engine.run(task, cancel).await })
}

/// Tasks with these inputs that all wait for the model to be loaded, in this order.
async fn queued(lab: &Lab, task: &Task, inputs: &[&str]) -> Vec<Running> {
    let mut running = Vec::new();
    for input in inputs {
        running.push(start(lab, &Task { input: input.as_bytes().to_vec(), ..task.clone() }));
        // So that they come in this order: the first one loads the model meanwhile.
        tokio::task::yield_now().await;
    }
    running
}

async fn results(running: Vec<Running>) -> Vec<Result<Output, Failed>> {
    let mut results = Vec::new();
    for task in running {
        results.push(task.await.unwrap());
    }
    results
}

fn firsts(results: &[Result<Output, Failed>]) -> Vec<f64> {
    results.iter().map(|result| json(result.as_ref().unwrap())[0][0].as_f64().unwrap()).collect()
}

#[tokio::test]
async fn those_that_wait_run_together_up_to_the_models_most() {
    let lab = Lab::new();
    let running = queued(&lab, &counting(&lab, 4), &["[[1, 2, 3]]"; 5]).await;
    let results = results(running).await;
    assert_eq!(firsts(&results), [4.0, 4.0, 4.0, 4.0, 1.0]);
    let timings: Vec<_> = results.into_iter().map(|result| result.unwrap().timings).collect();
    assert!(timings[0].compute == timings[1].compute && timings[0].load > Duration::ZERO);
    assert_eq!(lab.engine.workers_started(), 1);
}

#[tokio::test]
async fn other_sizes_and_other_parameters_do_not_mix() {
    let lab = Lab::new();
    let inputs = ["[[1, 2, 3]]", "[[1, 2]]", "[[1, 2, 3], [4, 5, 6]]", "[[7, 8]]"];
    let results = results(queued(&lab, &counting(&lab, 8), &inputs).await).await;
    assert_eq!(firsts(&results), [3.0, 2.0, 3.0, 2.0], "rows of three, and rows of two");
    let rows = |at: usize| json(results[at].as_ref().unwrap()).as_array().unwrap().len();
    assert_eq!([rows(0), rows(2)], [1, 2], "each its own rows");
}

#[tokio::test]
async fn one_that_waits_gets_company_for_as_long_as_the_model_allows() {
    let lab = Lab::new();
    let mut task = counting(&lab, 2);
    lab.run(task.clone()).await.unwrap();
    task.spec.batching.max_delay_ms = 60_000;
    let first = start(&lab, &task);
    tokio::task::yield_now().await;
    let second = start(&lab, &task);
    assert_eq!(firsts(&results(vec![first, second]).await), [2.0, 2.0], "full: nobody waits for the minute");
    task.spec.batching.max_delay_ms = 50;
    let alone = lab.run(task).await.unwrap();
    assert!(alone.timings.queue >= Duration::from_millis(50), "{:?}", alone.timings);
}

#[tokio::test]
async fn a_bad_input_fails_alone() {
    let lab = Lab::new();
    let results = results(queued(&lab, &counting(&lab, 8), &["[[1, 2, 3]]", "[[oops]]", "[[4, 5, 6]]"]).await).await;
    let failed = results[1].as_ref().unwrap_err();
    assert_eq!(failed.reason, FailureReason::InputInvalid, "{failed}");
    assert_eq!(firsts(&[results[0].clone(), results[2].clone()]), [2.0, 2.0], "the others run together");
    assert_eq!(lab.engine.workers_started(), 1);
}

/// Looks words up in a table of ten: an eleventh is an error of the model, which tells nothing of whose it was.
fn lookup(lab: &Lab) -> Task {
    let table = Tensor::arange(10, (Kind::Float, Device::Cpu)).reshape([10, 1]);
    let mut spec = together(8, &[-1, -1]);
    spec.inputs[0].dtype = Dtype::Int64;
    let ids = Tensor::zeros([1, 2], (Kind::Int64, Device::Cpu));
    lab.traced("lookup", &[ids], spec, |xs| {
        vec![Tensor::embedding(&table, &xs[0], -1, false, false).sum_dim_intlist(
            [1i64, 2].as_slice(),
            false,
            Kind::Float,
        )]
    })
}

#[tokio::test]
async fn an_error_of_a_batch_is_blamed_on_whose_it_is() {
    let lab = Lab::new();
    let task = lookup(&lab);
    let all = results(queued(&lab, &task, &["[[1, 2]]", "[[3, 99]]", "[[4, 5]]"]).await).await;
    let failed = all[1].as_ref().unwrap_err();
    assert_eq!(failed.reason, FailureReason::ModelExecutionFailed, "{failed}");
    assert!(failed.message.contains("index out of range"), "{failed}");
    assert_eq!(
        [&all[0], &all[2]].map(|result| json(result.as_ref().unwrap())),
        [serde_json::json!([3.0]), serde_json::json!([9.0])]
    );
    let again = results(queued(&lab, &task, &["[[1, 1]]", "[[2, 2]]"]).await).await;
    assert_eq!(
        [json(again[0].as_ref().unwrap())[0].as_f64(), json(again[1].as_ref().unwrap())[0].as_f64()],
        [Some(2.0), Some(4.0)]
    );
}

#[tokio::test]
async fn results_that_cannot_be_taken_apart_come_one_by_one() {
    let lab = Lab::new();
    let x = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
    let task = lab.traced("sum", &[x], together(8, &[-1, 3]), |xs| vec![xs[0].sum(Kind::Float)]);
    for _ in 0..2 {
        let all = results(queued(&lab, &task, &["[[1, 2, 3]]", "[[4, 5, 6]]"]).await).await;
        assert_eq!(
            [json(all[0].as_ref().unwrap()).as_f64(), json(all[1].as_ref().unwrap()).as_f64()],
            [Some(6.0), Some(15.0)]
        );
    }
    assert_eq!(lab.engine.workers_started(), 1, "no worker was lost for it");
}

#[tokio::test]
async fn a_batch_too_large_for_its_memory_is_run_one_by_one_and_then_smaller() {
    let lab = Lab::new();
    // 64 MiB for each task, more than once.
    let x = Tensor::zeros([1, 8], (Kind::Float, Device::Cpu));
    let mut task = lab.traced("outer", &[x], together(8, &[-1, -1]), |xs| {
        vec![xs[0].unsqueeze(2).bmm(&xs[0].unsqueeze(1)).sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Float)]
    });
    task.spec.inputs[0].codec = Codec::Tensor;
    task.spec.inputs[0].shape = vec![1, -1];
    task.input = 1f32.to_le_bytes().repeat(4096);
    (task.memory_limit, task.memory_shared) = (Bytes::mebi(320), Bytes::mebi(320));
    for _ in 0..2 {
        let running: Vec<Running> = (0..8).map(|_| start(&lab, &task)).collect();
        for result in results(running).await {
            assert_eq!(json(&result.unwrap())[0].as_f64(), Some(4096.0 * 4096.0));
        }
    }
    assert!(lab.engine.workers_started() <= 2, "once it was too large, and then never again");
    // Each with memory of its own: eight fit.
    task.memory_limit = Bytes::mebi(320 + 128);
    for result in results((0..8).map(|_| start(&lab, &task)).collect()).await {
        result.unwrap();
    }
}

/// Takes a while for a batch of three, on any machine: each product takes milliseconds.
fn slow(lab: &Lab) -> Task {
    let x = Tensor::zeros([1, 2, 2], (Kind::Float, Device::Cpu));
    let mut task = lab.traced("slow", &[x], together(3, &[1, 256, 256]), |xs| {
        let mut y = xs[0].shallow_clone();
        for _ in 0..400 {
            y = y.bmm(&xs[0]);
        }
        vec![y.sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Float)]
    });
    task.spec.inputs[0].codec = Codec::Tensor;
    task.input = vec![0; 256 * 256 * 4];
    task.spec.batching.max_delay_ms = 60_000;
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_goes_takes_nobody_with_it() {
    let lab = Lab::new();
    let task = slow(&lab);
    let stop = CancellationToken::new();
    let stays = start(&lab, &task);
    let cancelled = start_with(&lab, &task, stop.clone());
    until("a loaded model", || !lab.engine.loaded().is_empty()).await;
    let hurried = start(&lab, &Task { deadline: Duration::from_millis(100), ..task.clone() });
    assert_eq!(hurried.await.unwrap().unwrap_err().reason, FailureReason::DeadlineExceeded);
    stop.cancel();
    assert_eq!(cancelled.await.unwrap().unwrap_err().reason, FailureReason::Cancelled);
    stays.await.unwrap().unwrap();
    assert_eq!((lab.engine.workers_started(), lab.workers().len()), (1, 1), "the worker lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_everybody_left_frees_its_worker() {
    let lab = Lab::new();
    let mut slow = lab.busy("endless", 512, 20_000);
    slow.spec.batching = Batching { max: 4, max_delay_ms: 0 };
    slow.spec.inputs[0].shape = vec![-1, 512];
    let stop = CancellationToken::new();
    let running = [start_with(&lab, &slow, stop.clone()), start_with(&lab, &slow, stop.clone())];
    until("a loaded model", || !lab.engine.loaded().is_empty()).await;
    stop.cancel();
    for task in running {
        assert_eq!(task.await.unwrap().unwrap_err().reason, FailureReason::Cancelled);
    }
    until("the worker's end", || lab.workers().is_empty()).await;
    assert!(lab.engine.loaded().is_empty());
}

/// Processor time of a process, in hundredths of a second.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields.get(11).and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_workers_batch_is_run_again() {
    let lab = Lab::new();
    let task = slow(&lab);
    let running = [start(&lab, &task), start(&lab, &task)];
    // Two of three: with the model loaded they wait for a third.
    until("a loaded model", || !lab.engine.loaded().is_empty()).await;
    let worker = lab.workers()[0];
    let idle = ticks(worker);
    let third = start(&lab, &task);
    until("work", || ticks(worker) > idle + 5).await;
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    for result in results(running.into_iter().chain([third]).collect()).await {
        result.expect("nobody fails of it");
    }
    assert_eq!(lab.engine.workers_started(), 2);
}

#[tokio::test]
async fn a_batch_has_the_same_bits_as_one_made_by_hand() {
    let lab = Lab::new();
    let (x, weights) =
        (Tensor::randn([1, 64], (Kind::Float, Device::Cpu)), Tensor::randn([64, 33], (Kind::Float, Device::Cpu)));
    let mut spec = together(4, &[1, 64]);
    (spec.inputs[0].codec, spec.outputs[0].codec) = (Codec::Tensor, Codec::Tensor);
    let task = lab.traced("linear", &[x], spec, |xs| vec![xs[0].matmul(&weights).gelu("none")]);
    let inputs: Vec<Tensor> = (0..4).map(|_| Tensor::randn([1, 64], (Kind::Float, Device::Cpu))).collect();
    let bytes = |tensor: &Tensor| {
        let mut bytes = vec![0; tensor.numel() * 4];
        tensor.contiguous().copy_data_u8(&mut bytes, tensor.numel());
        bytes
    };
    let module = CModule::load(&task.model_path).unwrap();
    let IValue::Tensor(expected) = module.method_is("forward", &[IValue::Tensor(Tensor::cat(&inputs, 0))]).unwrap()
    else {
        panic!("no tensor")
    };
    let mut running = Vec::new();
    for input in &inputs {
        running.push(start(&lab, &Task { input: bytes(input), ..task.clone() }));
        tokio::task::yield_now().await;
    }
    for (row, result) in results(running).await.into_iter().enumerate() {
        assert_eq!(result.unwrap().bytes, bytes(&expected.narrow(0, row as i64, 1)));
    }
}

#[tokio::test]
async fn a_model_that_keeps_state_is_never_batched() {
    let lab = Lab::new();
    let Some(mut voice) = silero() else { return };
    let alone = lab.run(voice.clone()).await.unwrap();
    voice.spec.inputs[0].shape = vec![1, -1];
    voice.spec.batching = Batching { max: 8, max_delay_ms: 60_000 };
    for result in results((0..3).map(|_| start(&lab, &voice)).collect()).await {
        assert_eq!(result.unwrap().bytes, alone.bytes);
    }
}
