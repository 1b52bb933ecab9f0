//! Trains the model of `examples/digits` and writes what that example and `examples/batch` are made of; `make digits`.
//!
//! *In*: `data/digits.csv`, the UCI digits. *Out*: `digits.pt` (TorchScript, traced), the digest in `model.yaml`, both
//! jobs' inputs, `reference/expected.json`. *Invariant*: no row that accuracy is measured on was trained on, or looked at
//! to choose anything; seeds and threads are fixed, so the same libtorch on the same processor writes the same file.

use anyhow::{Context, bail, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tch::nn::{self, Module, OptimizerConfig};
use tch::{CModule, Device, Kind, Tensor};

/// Sides of an image, in pixels.
const SIDE: usize = 8;
const PIXELS: usize = SIDE * SIDE;
/// The rows before this one are trained on, the others measured on. Not shuffled: rows of one filled-in form stand together
/// in the file, and a shuffled split would train on every form that it measures.
const HELD_OUT_FROM: usize = 1397;
/// Held-out rows of `examples/digits/job.yaml` and of `examples/batch`, from [`HELD_OUT_FROM`] on.
const FEW: usize = 10;
const MANY: usize = 200;
const EPOCHS: usize = 60;
const BATCH: i64 = 64;
const LEARNING_RATE: f64 = 3e-3;
const SEED: i64 = 2026;

/// Images as rows of the file have them, 0 to 16, and what they show.
struct Digits {
    pixels: Vec<[u8; PIXELS]>,
    labels: Vec<u8>,
}

impl Digits {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut digits = Self { pixels: Vec::new(), labels: Vec::new() };
        for (number, line) in text.lines().enumerate() {
            let row: Vec<u8> = line.split(',').map(str::parse).collect::<Result<_, _>>()?;
            let Some((label, pixels)) = row.split_last() else { bail!("line {} is empty", number + 1) };
            let pixels = pixels.try_into().with_context(|| format!("line {}: not {PIXELS} pixels", number + 1))?;
            ensure!(*label < 10 && row.iter().all(|v| *v <= 16), "line {}: out of range", number + 1);
            digits.pixels.push(pixels);
            digits.labels.push(*label);
        }
        ensure!(digits.labels.len() >= HELD_OUT_FROM + MANY, "only {} rows", digits.labels.len());
        Ok(digits)
    }

    /// Rows as float32 `[n, 8, 8]` and int64 `[n]`.
    fn tensors(&self, rows: std::ops::Range<usize>) -> (Tensor, Tensor) {
        let pixels: Vec<f32> = self.pixels[rows.clone()].iter().flatten().map(|v| f32::from(*v)).collect();
        let labels: Vec<i64> = self.labels[rows].iter().map(|v| i64::from(*v)).collect();
        (Tensor::from_slice(&pixels).view([-1, SIDE as i64, SIDE as i64]), Tensor::from_slice(&labels))
    }

    /// A row as a task's input: JSON rows of pixels.
    fn json(&self, row: usize) -> String {
        let lines: Vec<String> = self.pixels[row].chunks(SIDE).map(|line| json!(line).to_string()).collect();
        format!("[{}]", lines.join(","))
    }
}

/// Two convolutions and a linear layer: 9,930 weights.
fn network(path: &nn::Path) -> impl Module + use<> {
    let padded = nn::ConvConfig { padding: 1, ..Default::default() };
    let (first, second) = (nn::conv2d(path / "1", 1, 16, 3, padded), nn::conv2d(path / "2", 16, 32, 3, padded));
    let last = nn::linear(path / "3", 32 * 4 * 4, 10, Default::default());
    nn::func(move |x| {
        let x = (x / 16.0).unsqueeze(1);
        let x = x.apply(&first).relu().apply(&second).relu().max_pool2d_default(2);
        x.flatten(1, -1).apply(&last)
    })
}

/// The images moved by at most a pixel each way, another way each time.
fn jitter(images: &Tensor) -> anyhow::Result<Tensor> {
    let (side, padded) = (SIDE as i64, images.constant_pad_nd([1, 1, 1, 1]));
    let offset = || i64::try_from(Tensor::randint(3, [], (Kind::Int64, Device::Cpu)));
    Ok(padded.narrow(1, offset()?, side).narrow(2, offset()?, side))
}

fn train(network: &impl Module, variables: &nn::VarStore, images: &Tensor, labels: &Tensor) -> anyhow::Result<()> {
    let mut optimizer = nn::AdamW::default().build(variables, LEARNING_RATE)?;
    let rows = images.size()[0];
    for epoch in 0..EPOCHS {
        // Down to nothing along half a cosine.
        let progress = epoch as f64 / EPOCHS as f64;
        optimizer.set_lr(LEARNING_RATE * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()));
        let order = Tensor::randperm(rows, (Kind::Int64, Device::Cpu));
        let mut total = 0.0;
        for start in (0..rows).step_by(BATCH as usize) {
            let chosen = order.narrow(0, start, BATCH.min(rows - start));
            let batch = jitter(&images.index_select(0, &chosen))?;
            let loss = network.forward(&batch).cross_entropy_for_logits(&labels.index_select(0, &chosen));
            optimizer.backward_step(&loss);
            total += f64::try_from(&loss)? * chosen.size()[0] as f64;
        }
        if (epoch + 1) % 10 == 0 {
            println!("epoch {:>2}: loss {:.4}", epoch + 1, total / rows as f64);
        }
    }
    Ok(())
}

/// The model as it is served: one image `[8, 8]` to ten probabilities.
fn export(network: &impl Module, path: &Path) -> anyhow::Result<()> {
    let image = Tensor::zeros([SIDE as i64, SIDE as i64], (Kind::Float, Device::Cpu));
    let mut serve =
        |inputs: &[Tensor]| vec![network.forward(&inputs[0].unsqueeze(0)).softmax(-1, Kind::Float).squeeze_dim(0)];
    let module = CModule::create_by_tracing("digits", "forward", &[image], &mut serve)?;
    module.save(path).with_context(|| format!("cannot write {}", path.display()))
}

fn percent(right: usize, of: usize) -> String {
    format!("{right} of {of} right, {:.2} %", 100.0 * right as f64 / of as f64)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Puts a digest where the text after each of `marks` has one.
fn replace_digest(path: &Path, marks: &[&str], digest: &str) -> anyhow::Result<()> {
    let mut text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    for mark in marks {
        let at = text.find(mark).with_context(|| format!("{} has no {mark}", path.display()))? + mark.len();
        ensure!(text.len() >= at + 64, "{}: no digest after {mark}", path.display());
        text.replace_range(at..at + 64, digest);
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A manifest up to its items stays as it is; the items are written anew.
fn replace_items(path: &Path, digits: &Digits, rows: std::ops::Range<usize>) -> anyhow::Result<()> {
    const MARK: &str = "    items:";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let head = text.split(MARK).next().filter(|head| head.len() < text.len());
    let mut text = format!("{}{MARK}\n", head.with_context(|| format!("{} has no items", path.display()))?);
    for row in rows {
        writeln!(text, "      - \"{}\"", digits.json(row))?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn main() -> anyhow::Result<()> {
    let examples = std::env::args_os().nth(1).map(PathBuf::from);
    let examples = examples.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("examples"));
    let (here, batch) = (examples.join("digits"), examples.join("batch"));
    let digits = Digits::read(&here.join("data/digits.csv"))?;
    let rows = digits.labels.len();

    let started = Instant::now();
    tch::manual_seed(SEED);
    tch::set_num_threads(1);
    let mut variables = nn::VarStore::new(Device::Cpu);
    let network = network(&variables.root());
    let (images, labels) = digits.tensors(0..HELD_OUT_FROM);
    train(&network, &variables, &images, &labels)?;
    // What follows only reads the weights; tracing takes them as constants.
    variables.freeze();

    let (images, _) = digits.tensors(HELD_OUT_FROM..rows);
    let answers: Vec<i64> = Vec::try_from(network.forward(&images).argmax(-1, false))?;
    let truth: Vec<i64> = digits.labels[HELD_OUT_FROM..].iter().map(|label| i64::from(*label)).collect();
    let right = |n: usize| answers.iter().zip(&truth).take(n).filter(|(answer, truth)| answer == truth).count();
    let held_out = rows - HELD_OUT_FROM;
    println!("trained on {HELD_OUT_FROM} images in {:.1} s", started.elapsed().as_secs_f64());
    println!("accuracy on the {held_out} held out: {}", percent(right(held_out), held_out));
    println!("on the first {MANY} of them, examples/batch: {}", percent(right(MANY), MANY));

    let model = here.join("digits.pt");
    export(&network, &model)?;
    let bytes = std::fs::read(&model)?;
    let digest = sha256(&bytes);
    println!("{}: {} bytes, sha256:{digest}", model.display(), bytes.len());
    replace_digest(&here.join("model.yaml"), &["store://sha256/", "digest: sha256:"], &digest)?;
    replace_items(&here.join("job.yaml"), &digits, HELD_OUT_FROM..HELD_OUT_FROM + FEW)?;
    replace_items(&batch.join("job.yaml"), &digits, HELD_OUT_FROM..HELD_OUT_FROM + MANY)?;
    let lines: String = (HELD_OUT_FROM..HELD_OUT_FROM + MANY).map(|row| digits.json(row) + "\n").collect();
    std::fs::write(batch.join("digits.jsonl"), &lines)?;
    replace_digest(&batch.join("from-a-file/job.yaml"), &["store://sha256/"], &sha256(lines.as_bytes()))?;
    let expected = json!({
        "firstRow": HELD_OUT_FROM, "answers": &answers[..MANY],
        "heldOut": { "rows": held_out, "right": right(held_out) },
        "batch": { "rows": MANY, "right": right(MANY) }, "few": { "rows": FEW, "right": right(FEW) },
    });
    std::fs::write(here.join("reference/expected.json"), format!("{expected}\n"))?;
    Ok(())
}
