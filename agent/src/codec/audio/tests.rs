//! What the decoders give against libsndfile's, another rate against the tone itself, and files made to hurt.

use crate::codec::{CodecError, Plan};
use nightshift_types::{Codec, Dtype, FailureReason, ModelSpec, Port};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Cursor;
use tch::IValue;

fn port(options: &[(&str, &str)]) -> Port {
    Port {
        name: "sound".into(),
        codec: Codec::Audio,
        dtype: Dtype::Float32,
        shape: Vec::new(),
        constant: None,
        options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
    }
}

fn read(options: &[(&str, &str)], bytes: &[u8]) -> Result<(usize, Vec<f32>), CodecError> {
    let spec = ModelSpec {
        method: "forward".into(),
        inputs: vec![port(options)],
        outputs: vec![],
        batching: Default::default(),
    };
    let decoded = Plan::new(&spec, &BTreeMap::new()).unwrap().decode(bytes)?;
    let IValue::Tensor(tensor) = &decoded.values[0] else { panic!("no tensor") };
    let samples = decoded.samples.unwrap();
    assert_eq!(tensor.size(), [1, samples.max(1) as i64]);
    Ok((samples, Vec::<f32>::try_from(tensor.reshape([-1])).unwrap()))
}

fn refused(options: &[(&str, &str)], bytes: &[u8]) -> String {
    let error = read(options, bytes).unwrap_err();
    assert_eq!(error.reason, FailureReason::InputInvalid, "{error}");
    error.message
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/audio").join(name)).unwrap()
}

fn wav(rate: u32, channels: u16, samples: impl Iterator<Item = f32>) -> Vec<u8> {
    let spec =
        hound::WavSpec { channels, sample_rate: rate, bits_per_sample: 32, sample_format: hound::SampleFormat::Float };
    let mut file = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
    samples.for_each(|sample| writer.write_sample(sample).unwrap());
    writer.finalize().unwrap();
    file.into_inner()
}

fn tone(rate: u32, hertz: f64, seconds: f64) -> impl Iterator<Item = f32> {
    let count = (f64::from(rate) * seconds) as usize;
    (0..count).map(move |n| (0.5 * (std::f64::consts::TAU * hertz * n as f64 / f64::from(rate)).sin()) as f32)
}

/// The same samples as libsndfile (libFLAC, libvorbis, mpg123), at the same places, mixed to one channel.
#[test]
fn each_format_as_libsndfile_reads_it() {
    let reference: Value = serde_json::from_slice(&fixture("reference.json")).unwrap();
    let from = reference["from"].as_u64().unwrap() as usize;
    for (name, tolerance) in [("tones.flac", 1e-6), ("tones.ogg", 1e-4), ("tones.mp3", 1e-3)] {
        let (frames, samples) = read(&[("sampleRate", "22050")], &fixture(name)).unwrap();
        let wanted = &reference[name];
        assert_eq!(frames as u64, wanted["frames"].as_u64().unwrap(), "{name}");
        for (at, wanted) in wanted["samples"].as_array().unwrap().iter().enumerate() {
            let (found, wanted) = (samples[from + at], wanted.as_f64().unwrap() as f32);
            assert!((found - wanted).abs() <= tolerance, "{name}: sample {at} is {found}, not {wanted}");
        }
    }
}

/// Resampled, a tone is the same tone: at every sample but those at the ends, where a filter sees silence.
#[test]
fn another_rate_is_the_same_sound() {
    for (from, to) in [(44_100u32, 16_000u32), (8_000, 16_000), (48_000, 16_000), (22_050, 24_000), (16_000, 8_000)] {
        let text = to.to_string();
        let (frames, samples) = read(&[("sampleRate", &text)], &wav(from, 1, tone(from, 440.0, 0.5))).unwrap();
        assert_eq!(frames, to as usize / 2, "{from} to {to}");
        // The filter shifts it by less than a sample; which part of one the best fit tells.
        let wanted = |at: f64| 0.5 * (std::f64::consts::TAU * 440.0 * at / f64::from(to)).sin();
        let off = |shift: f64| {
            let differences = (600..frames - 600).map(|at| (f64::from(samples[at]) - wanted(at as f64 + shift)).abs());
            differences.fold(0.0, f64::max)
        };
        let best = (-100..=100).map(|part| off(f64::from(part) / 100.0)).fold(f64::MAX, f64::min);
        assert!(best < 2e-3, "{from} to {to}: {best} off");
    }
    // What the lower rate cannot hold is gone, not folded back: 7 kHz has no place at 8,000 samples a second.
    let (frames, samples) = read(&[("sampleRate", "8000")], &wav(48_000, 1, tone(48_000, 7000.0, 0.5))).unwrap();
    let loudest = samples[600..frames - 600].iter().fold(0.0f32, |most, sample| most.max(sample.abs()));
    assert!(loudest < 1e-3, "{loudest}");
}

#[test]
fn channels_are_averaged_and_silence_pads_to_a_window() {
    let two = tone(16_000, 440.0, 0.1).flat_map(|sample| [sample, -sample]);
    let (frames, samples) = read(&[], &wav(16_000, 2, two)).unwrap();
    assert!(frames == 1600 && samples.iter().all(|sample| sample.abs() < 1e-6));
    let eight = (0..80).map(|n| if n % 8 == 0 { 0.8 } else { 0.0 });
    let (frames, samples) = read(&[], &wav(16_000, 8, eight)).unwrap();
    assert!(frames == 10 && samples.iter().all(|sample| (sample - 0.1).abs() < 1e-6), "{samples:?}");
    assert_eq!(read(&[], &wav(16_000, 1, std::iter::empty())).unwrap().0, 0);
}

#[test]
fn what_is_no_sound_is_an_error_with_a_remedy() {
    for bytes in
        [&b""[..], b"no sound at all, only text", b"fLaC", b"OggS", b"RIFF", b"ID3\x04\x00\x00\x00\x00\x00\x00"]
    {
        let message = refused(&[], bytes);
        assert!(message.starts_with("input \"sound\" (codec audio): "), "{message}");
    }
    assert!(refused(&[], b"text, which is long enough to be looked at").contains("ffmpeg -i FILE -ac 1 out.flac"));
    assert!(refused(&[], b"\0\0\0\x20ftypM4A \0\0\0\0").contains("AAC in MP4 is not read"));
    assert!(refused(&[], &fixture("opus.ogg")).contains("not an Ogg Vorbis file"));
    let flac = fixture("tones.flac");
    assert!(refused(&[], &flac[..flac.len() / 2]).contains("FLAC file is"));
    assert!(refused(&[], &wav(500, 1, tone(500, 40.0, 0.1))).contains("500 samples a second; 1000 to 384000 are read"));
    let not_finite = [0.0, f32::NAN].into_iter();
    assert!(refused(&[], &wav(16_000, 1, not_finite)).contains("not a finite number"));
}

/// CRC of FLAC frames and their headers.
fn crc(bytes: &[u8], polynomial: u32, width: u32) -> u32 {
    let top = 1 << (width - 1);
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u32::from(*byte) << (width - 8)), |crc, _| {
            if crc & top == 0 { crc << 1 } else { (crc << 1) ^ polynomial }
        }) & ((1 << width) - 1)
    })
}

/// A FLAC file of 65,536 samples of silence a frame of some 14 bytes; its header does not say how many there are.
fn flac_bomb(frames: u32) -> Vec<u8> {
    let mut file = b"fLaC\x80\x00\x00\x22".to_vec();
    file.extend([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0]);
    // 8,000 a second in 20 bits, one channel, 16 bits a sample, no number of samples, no checksum.
    file.extend([0x01, 0xf4, 0x00, 0xf0, 0, 0, 0, 0]);
    file.extend([0; 16]);
    for number in 0..frames {
        let mut frame = vec![0xff, 0xf8, 0x70, 0x08];
        frame.extend(char::from_u32(number).unwrap_or('x').to_string().bytes());
        frame.extend([0xff, 0xfe]);
        frame.push(crc(&frame, 0x07, 8) as u8);
        // A constant subframe: 0.
        frame.extend([0x00, 0x00, 0x00]);
        let sum = crc(&frame, 0x8005, 16) as u16;
        frame.extend(sum.to_be_bytes());
        file.extend(frame);
    }
    file
}

/// 36 kB that stand for 5 hours, and more: memory and time go no further than the model's limit.
#[test]
fn a_sound_bomb_is_an_error() {
    let (frames, samples) = read(&[("sampleRate", "8000")], &flac_bomb(2)).unwrap();
    assert!(frames == 2 * 65_535 && samples.iter().all(|sample| *sample == 0.0), "the bomb is a file that decodes");
    let bomb = flac_bomb(2500);
    assert!(bomb.len() < 40_000);
    assert!(refused(&[("maxSeconds", "60")], &bomb).contains("more than 60 s of audio"));
    assert!(refused(&[], &bomb).contains("more than 3600 s of audio"));
    // A header's claim of more than the limit is believed at once.
    let mut claims = flac_bomb(1);
    claims[21] = 0xff;
    assert!(refused(&[], &claims).contains("more than 3600 s of audio"));
    let long = wav(1000, 1, std::iter::repeat_n(0.0, 11_000));
    assert!(refused(&[("maxSeconds", "10")], &long).contains("more than 10 s of audio"));
    // 1,000 samples a second made 384,000: a small file would become a large one.
    let wide = wav(1000, 1, std::iter::repeat_n(0.0, 200_000));
    assert!(refused(&[("sampleRate", "384000")], &wide).contains("at most 67108864 are made"));
}

/// Any damage is an error or other sound, never a panic or a read without end.
#[test]
fn damaged_files_of_every_format() {
    for name in ["tones.flac", "tones.ogg", "tones.mp3"] {
        let good = fixture(name);
        let mut seed = 1u64;
        for round in 0..120 {
            let mut bad = good.clone();
            for _ in 0..=round % 8 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (seed >> 33) as usize % bad.len();
                bad[at] = (seed >> 20) as u8;
            }
            bad.truncate(if round % 5 == 0 { bad.len() / 2 } else { bad.len() });
            if let Err(error) = read(&[("maxSeconds", "60")], &bad) {
                assert_eq!(error.reason, FailureReason::InputInvalid, "{error}");
            }
        }
    }
}

#[test]
fn options_are_checked() {
    let fails = |options: &[(&str, &str)]| {
        let spec = ModelSpec {
            method: "forward".into(),
            inputs: vec![port(options)],
            outputs: vec![],
            batching: Default::default(),
        };
        Plan::new(&spec, &BTreeMap::new()).unwrap_err().message
    };
    assert!(fails(&[("sampleRate", "0")]).contains("must be from 1000 to 384000"));
    assert!(fails(&[("maxSeconds", "forever")]).contains("must be from 1 to 86400"));
    assert!(fails(&[("channels", "2")]).contains("unknown to codec audio"));
    let int = Port { dtype: Dtype::Int16, ..port(&[]) };
    let spec = ModelSpec { method: "forward".into(), inputs: vec![int], outputs: vec![], batching: Default::default() };
    let error = Plan::new(&spec, &BTreeMap::new()).unwrap().decode(&fixture("tones.flac")).unwrap_err();
    assert!(error.message.contains("makes float32") && error.reason == FailureReason::ModelExecutionFailed);
    let fixed = Port { shape: vec![1, 7], ..port(&[]) };
    let spec =
        ModelSpec { method: "forward".into(), inputs: vec![fixed], outputs: vec![], batching: Default::default() };
    assert!(Plan::new(&spec, &BTreeMap::new()).unwrap().decode(&fixture("tones.flac")).is_err());
}
