//! Sounds made at test time, and Silero's segments computed by code that shares nothing with the agent's.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

const RATE: u32 = 16_000;
const WINDOW: usize = 512;

/// espeak-ng's voice as 16 kHz mono 16-bit PCM, with pauses between the sentences. The number of samples.
pub fn speak(sentences: &[&str], into: &Path) -> usize {
    let mut samples: Vec<f64> = vec![0.0; 4000];
    for sentence in sentences {
        let output = Command::new("espeak-ng").args(["-v", "en-us", "-s", "150", "--stdout", sentence]).output();
        let output = output.expect("espeak-ng is missing: `apt-get install espeak-ng`, or `brew install espeak-ng`");
        assert!(output.status.success(), "espeak-ng failed: {}", String::from_utf8_lossy(&output.stderr));
        samples.extend(resampled(&output.stdout));
        samples.extend([0.0; 12_000]);
    }
    let spec =
        hound::WavSpec { channels: 1, sample_rate: RATE, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(into, spec).unwrap();
    for sample in &samples {
        writer.write_sample(sample.clamp(-32768.0, 32767.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
    samples.len()
}

/// espeak-ng streams, so its header's length is not the real one: the samples are read past it.
fn resampled(wav: &[u8]) -> Vec<f64> {
    let rate = u32::from_le_bytes(wav[24..28].try_into().unwrap());
    let read: Vec<f64> = wav[44..].chunks_exact(2).map(|b| f64::from(i16::from_le_bytes([b[0], b[1]]))).collect();
    let count = read.len() as u64 * u64::from(RATE) / u64::from(rate);
    let at = |index: u64| {
        let position = index as f64 * f64::from(rate) / f64::from(RATE);
        let (left, part) = (position as usize, position.fract());
        let right = read.get(left + 1).copied().unwrap_or(0.0);
        read[left] * (1.0 - part) + right * part
    };
    (0..count).map(at).collect()
}

/// Segments by Silero's defaults from its probabilities, one a window of 512: written from the text in
/// examples/voice/reference/README.md as a walk over runs of windows, not as the agent's state machine.
pub fn segments(probabilities: &[f64], samples: usize) -> Vec<(usize, usize)> {
    let (threshold, negative) = (0.5, 0.35);
    let (least_speech, least_silence, pad) = (4000, 1600, 480);
    let mut found: Vec<(usize, usize)> = Vec::new();
    let mut window = 0;
    while let Some(offset) = probabilities[window..].iter().position(|p| *p >= threshold) {
        let start = window + offset;
        match pause_after(&probabilities[start..], threshold, negative, least_silence) {
            Some(Pause { begins, settled }) => {
                if begins * WINDOW > least_speech {
                    found.push((start * WINDOW, (start + begins) * WINDOW));
                }
                window = start + settled;
            }
            None => {
                if samples - start * WINDOW > least_speech {
                    found.push((start * WINDOW, samples));
                }
                break;
            }
        }
    }
    padded(found, pad, samples)
}

/// The first pause that is long enough.
fn pause_after(run: &[f64], threshold: f64, negative: f64, least: usize) -> Option<Pause> {
    let mut quiet = None;
    for (index, p) in run.iter().enumerate() {
        if *p >= threshold {
            quiet = None;
        } else if *p < negative {
            let since = *quiet.get_or_insert(index);
            if (index - since) * WINDOW >= least {
                return Some(Pause { begins: since, settled: index + 1 });
            }
        }
    }
    None
}

/// In windows from the run's start: where it begins, and the window after the one that settles it.
struct Pause {
    begins: usize,
    settled: usize,
}

fn padded(mut found: Vec<(usize, usize)>, pad: usize, samples: usize) -> Vec<(usize, usize)> {
    for index in 0..found.len() {
        if index == 0 {
            found[0].0 = found[0].0.saturating_sub(pad);
        }
        match found.get(index + 1).map(|next| next.0 - found[index].1) {
            Some(gap) => {
                let by = if gap < 2 * pad { gap / 2 } else { pad };
                found[index].1 += by;
                found[index + 1].0 -= by;
            }
            None => found[index].1 = (found[index].1 + pad).min(samples),
        }
    }
    found
}

/// `[{"start": …, "end": …}, …]` as pairs.
pub fn pairs(json: &Value) -> Vec<(usize, usize)> {
    let number = |value: &Value| value.as_u64().unwrap() as usize;
    json.as_array().unwrap().iter().map(|segment| (number(&segment["start"]), number(&segment["end"]))).collect()
}

/// Silero's own Python on the file, where `NIGHTSHIFT_SILERO_PYTHON` names an interpreter that has it.
pub fn by_python(wav: &Path) -> Option<Vec<(usize, usize)>> {
    let python = std::env::var_os("NIGHTSHIFT_SILERO_PYTHON")?;
    let script = super::example("voice").join("reference/reference.py");
    let output = Command::new(python).arg(script).arg(wav).output().expect("NIGHTSHIFT_SILERO_PYTHON");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(pairs(&serde_json::from_slice(&output.stdout).unwrap()))
}

/// The file's probabilities as the model gave them: a second ModelArtifact on the same bytes, whose output is plain JSON.
pub fn raw_model() -> String {
    let manifest = std::fs::read_to_string(super::example("voice").join("model.yaml")).unwrap();
    let (head, rest) = manifest.split_once("  outputs:").expect("model.yaml has outputs");
    let (_, tail) = rest.split_once("  variants:").expect("model.yaml has variants after its outputs");
    let outputs = "  outputs:\n    - {name: probabilities, codec: json, dtype: float32, shape: [1, -1]}\n";
    format!("{}{outputs}  variants:{tail}", head.replace("name: silero-vad", "name: silero-raw"))
}

/// The voice model with a sound as JSON, so that an item, or a line of a file, is a task.
pub fn json_model() -> String {
    let manifest = raw_model().replace("name: silero-raw", "name: silero-json");
    let (head, rest) = manifest.split_once("  inputs:").unwrap();
    let (_, tail) = rest.split_once("    - name: sampleRate").unwrap();
    let audio = "  inputs:\n    - {name: audio, codec: json, dtype: float32, shape: [1, -1]}\n    - name: sampleRate";
    format!("{head}{audio}{tail}")
}
