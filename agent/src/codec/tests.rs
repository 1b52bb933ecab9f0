//! The codecs as a task meets them: through [`Plan`], with hostile bytes too.

use super::*;
use nightshift_types::{Dtype, FailureReason};
use proptest::prelude::*;
use tch::{Kind, Tensor};

fn port(name: &str, codec: Codec, dtype: Dtype, shape: &[i64]) -> Port {
    Port { name: name.into(), codec, dtype, shape: shape.to_vec(), constant: None, options: BTreeMap::new() }
}

fn with(mut port: Port, options: &[(&str, &str)]) -> Port {
    port.options = options.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
    port
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect()
}

fn plan(inputs: Vec<Port>, outputs: Vec<Port>) -> Plan {
    Plan::new(&ModelSpec { method: "forward".into(), inputs, outputs, batching: Default::default() }, &BTreeMap::new())
        .unwrap()
}

fn fails(inputs: Vec<Port>, outputs: Vec<Port>, parameters: &[(&str, &str)]) -> CodecError {
    Plan::new(
        &ModelSpec { method: "forward".into(), inputs, outputs, batching: Default::default() },
        &texts(parameters),
    )
    .unwrap_err()
}

fn tensor(value: &IValue) -> &Tensor {
    match value {
        IValue::Tensor(tensor) => tensor,
        other => panic!("no tensor: {other:?}"),
    }
}

fn encoded(outputs: Vec<Port>, returned: IValue) -> Result<Encoded, CodecError> {
    plan(vec![], outputs).encode(returned, None, 1 << 20)
}

fn wav_file(spec: hound::WavSpec, samples: &[i32]) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
    for sample in samples {
        match spec.sample_format {
            hound::SampleFormat::Int => writer.write_sample(*sample).unwrap(),
            hound::SampleFormat::Float => writer.write_sample(*sample as f32 / 32768.0).unwrap(),
        }
    }
    writer.finalize().unwrap();
    file.into_inner()
}

fn pcm(channels: u16, rate: u32, bits: u16) -> hound::WavSpec {
    hound::WavSpec { channels, sample_rate: rate, bits_per_sample: bits, sample_format: hound::SampleFormat::Int }
}

#[test]
fn raw_elements_take_the_ports_shape() {
    let input = port("x", Codec::Tensor, Dtype::Float32, &[-1, 2]);
    let bytes: Vec<u8> = [1f32, 2., 3., 4., 5., 6.].iter().flat_map(|v| v.to_le_bytes()).collect();
    let decoded = plan(vec![input.clone()], vec![]).decode(&bytes).unwrap();
    assert_eq!(tensor(&decoded.values[0]).size(), [3, 2]);
    let back = encoded(vec![input.clone()], IValue::Tensor(tensor(&decoded.values[0]).shallow_clone())).unwrap();
    assert_eq!((back.bytes.as_slice(), back.content_type), (bytes.as_slice(), OCTETS));
    for bad in [&bytes[..23], &bytes[..4], &bytes[..20]] {
        let error = plan(vec![input.clone()], vec![]).decode(bad).unwrap_err();
        assert_eq!(error.reason, FailureReason::InputInvalid);
        assert!(error.message.contains("\"x\"") && error.message.contains("float32"), "{error}");
    }
    let huge = port("x", Codec::Tensor, Dtype::Uint8, &[i64::MAX, i64::MAX, -1]);
    assert!(plan(vec![huge], vec![]).decode(&[0; 8]).is_err());
    let zero = port("x", Codec::Tensor, Dtype::Uint8, &[0, -1]);
    assert!(plan(vec![zero], vec![]).decode(&[]).is_err());
    assert!(plan(vec![port("x", Codec::Tensor, Dtype::Bool, &[])], vec![]).decode(&[1, 0, 2]).is_err());
}

#[test]
fn json_arrays_have_a_shape() {
    let read = |dtype, shape: &[i64], text: &str| {
        plan(vec![port("x", Codec::Json, dtype, shape)], vec![])
            .decode(text.as_bytes())
            .map(|d| tensor(&d.values[0]).copy())
    };
    assert_eq!(read(Dtype::Float32, &[], "[[1, 2.5], [3, -4]]").unwrap().size(), [2, 2]);
    assert_eq!(read(Dtype::Int64, &[], "7").unwrap().size(), [0i64; 0]);
    assert_eq!(read(Dtype::Uint8, &[-1], "[0, 255]").unwrap().kind(), Kind::Uint8);
    assert_eq!(read(Dtype::Bool, &[2], "[true, 0]").unwrap().kind(), Kind::Bool);
    assert_eq!(read(Dtype::Float32, &[], "[[], []]").unwrap().size(), [2, 0]);
    let deep = format!("{}1{}", "[".repeat(9), "]".repeat(9));
    let abyss = "[".repeat(100_000);
    for (dtype, text) in [
        (Dtype::Float32, "[[1],[2,3]]"),
        (Dtype::Float32, "[1,[2]]"),
        (Dtype::Float32, "[[1],2]"),
        (Dtype::Float32, "[[],[1]]"),
        (Dtype::Float32, "[[],[[]]]"),
        (Dtype::Float32, "[1,]"),
        (Dtype::Float32, "[1] 2"),
        (Dtype::Float32, "[\"1\"]"),
        (Dtype::Float32, "[true]"),
        (Dtype::Float32, "{}"),
        (Dtype::Float32, ""),
        (Dtype::Float32, "null"),
        (Dtype::Uint8, "[256]"),
        (Dtype::Uint8, "[-1]"),
        (Dtype::Int64, "[1.5]"),
        (Dtype::Int64, "[9223372036854775808]"),
        (Dtype::Bool, "[2]"),
        (Dtype::Float32, deep.as_str()),
        (Dtype::Float32, abyss.as_str()),
    ] {
        let error = read(dtype, &[], text).unwrap_err();
        assert_eq!(error.reason, FailureReason::InputInvalid);
        assert!(error.message.starts_with("input \"x\" (codec json): expected"), "{error}");
    }
    assert!(read(Dtype::Float32, &[2, -1], "[[1],[2],[3]]").unwrap_err().message.contains("found [3, 1]"));
}

#[test]
fn json_is_the_shortest_that_reads_back() {
    let out = |value| encoded(vec![port("y", Codec::Json, Dtype::Float32, &[])], value);
    let floats = Tensor::from_slice(&[0.1f32, 1.0, -2.5e-8]).reshape([1, 3]);
    assert_eq!(out(IValue::Tensor(floats)).unwrap().bytes, b"[[0.1,1.0,-2.5e-8]]");
    assert_eq!(out(IValue::Tensor(Tensor::from_slice(&[0.1f64]))).unwrap().bytes, b"[0.1]");
    assert_eq!(out(IValue::Tensor(Tensor::from_slice(&[true, false]))).unwrap().bytes, b"[true,false]");
    assert_eq!(out(IValue::Int(7)).unwrap().bytes, b"7");
    assert_eq!(out(IValue::Tensor(Tensor::zeros([2, 0], (Kind::Int64, tch::Device::Cpu)))).unwrap().bytes, b"[[],[]]");
    let error = out(IValue::Tensor(Tensor::from_slice(&[f32::NAN]))).unwrap_err();
    assert_eq!(error.reason, FailureReason::OutputInvalid);
    assert!(out(IValue::None).unwrap_err().message.contains("\"y\""));
    assert!(out(IValue::String("x".into())).is_err());
    assert!(out(IValue::Tuple(vec![])).is_err());
}

#[test]
fn several_inputs_and_outputs_are_objects() {
    let inputs = vec![
        port("a", Codec::Json, Dtype::Int64, &[]),
        Port { constant: Some("16000".into()), ..port("rate", Codec::Json, Dtype::Float32, &[]) },
        port("b", Codec::Json, Dtype::Float32, &[2]),
    ];
    let two = plan(inputs.clone(), vec![]);
    let decoded = two.decode(br#"{"b": [1, 2], "a": 3}"#).unwrap();
    assert_eq!(tensor(&decoded.values[0]).int64_value(&[]), 3);
    assert_eq!(decoded.values[1], IValue::Int(16000));
    assert_eq!(tensor(&decoded.values[2]).size(), [2]);
    for bad in [
        r#"{"a": 3}"#,
        r#"{"a": 3, "a": 3, "b": [1,2]}"#,
        r#"{"a": 3, "b": [1,2], "c": 1}"#,
        "[1]",
        r#"{"a":3,"b":[1]}"#,
    ] {
        assert_eq!(two.decode(bad.as_bytes()).unwrap_err().reason, FailureReason::InputInvalid, "{bad}");
    }
    let mixed = plan(vec![inputs[0].clone(), port("t", Codec::Tensor, Dtype::Float32, &[])], vec![]);
    assert!(mixed.decode(b"{}").unwrap_err().message.contains("\"t\""));

    let outputs = vec![port("p", Codec::Json, Dtype::Float32, &[]), port("q", Codec::Json, Dtype::Float32, &[])];
    let tuple = IValue::Tuple(vec![IValue::Double(0.5), IValue::Bool(true), IValue::None]);
    assert_eq!(encoded(outputs.clone(), tuple).unwrap().bytes, br#"{"p":0.5,"q":true}"#);
    let pairs = vec![("q".into(), IValue::Int(1)), ("x".into(), IValue::None), ("p".into(), IValue::Int(2))];
    assert_eq!(encoded(outputs.clone(), IValue::GenericDict(pairs)).unwrap().bytes, br#"{"p":2,"q":1}"#);
    assert!(encoded(outputs, IValue::Double(0.5)).unwrap_err().message.contains("\"q\""));
}

#[test]
fn constants_are_what_torchscript_tells_apart() {
    let constant = |text: &str, dtype, shape: &[i64]| {
        constant::value(&Port { constant: Some(text.into()), ..port("c", Codec::Json, dtype, shape) })
    };
    assert_eq!(constant("16000", Dtype::Float32, &[]).unwrap(), IValue::Int(16000));
    assert_eq!(constant("0.5", Dtype::Float32, &[]).unwrap(), IValue::Double(0.5));
    assert_eq!(constant("true", Dtype::Float32, &[]).unwrap(), IValue::Bool(true));
    assert_eq!(constant("\"en\"", Dtype::Float32, &[]).unwrap(), IValue::String("en".into()));
    assert_eq!(tensor(&constant("[1, 2]", Dtype::Int32, &[]).unwrap()).kind(), Kind::Int);
    assert_eq!(tensor(&constant("[[1, 2]]", Dtype::Float32, &[1, 2]).unwrap()).size(), [1, 2]);
    for bad in ["", "null", "{}", "[[1],[2,3]]", "1e999"] {
        let error = constant(bad, Dtype::Float32, &[]).unwrap_err();
        assert_eq!(error.reason, FailureReason::ModelExecutionFailed, "{bad}");
    }
}

#[test]
fn wav_files_of_every_kind() {
    let audio = with(port("audio", Codec::Wav, Dtype::Float32, &[]), &[("sampleRate", "16000")]);
    let read = |bytes: &[u8]| plan(vec![audio.clone()], vec![]).decode(bytes);
    let values = |bytes: &[u8]| Vec::<f32>::try_from(tensor(&read(bytes).unwrap().values[0]).reshape(-1)).unwrap();
    assert_eq!(values(&wav_file(pcm(1, 16000, 16), &[0, 1, -32768, 32767])), [0., 1. / 32768., -1., 32767. / 32768.]);
    assert_eq!(values(&wav_file(pcm(1, 16000, 8), &[0, -128, 64])), [0., -1., 0.5]);
    assert_eq!(values(&wav_file(pcm(1, 16000, 24), &[0, -8388608, 4194304])), [0., -1., 0.5]);
    assert_eq!(values(&wav_file(pcm(1, 16000, 32), &[0, i32::MIN, 1 << 30])), [0., -1., 0.5]);
    assert_eq!(values(&wav_file(pcm(2, 16000, 16), &[16384, 0, -32768, -32768])), [0.25, -1.]);
    let float = hound::WavSpec { bits_per_sample: 32, sample_format: hound::SampleFormat::Float, ..pcm(1, 16000, 32) };
    assert_eq!(values(&wav_file(float, &[16384, -32768])), [0.5, -1.]);
    assert_eq!(read(&wav_file(pcm(1, 16000, 16), &[])).unwrap().samples, Some(0));

    let error = read(&wav_file(pcm(1, 44100, 16), &[1, 2])).unwrap_err();
    for part in ["\"audio\"", "16000", "44100", "ffmpeg -i FILE -ac 1 -ar 16000", "sox FILE -r 16000"] {
        assert!(error.message.contains(part), "{error}");
    }
    let whole = wav_file(pcm(1, 16000, 16), &[5; 1000]);
    for cut in 0..whole.len() - 1 {
        assert_eq!(read(&whole[..cut]).unwrap_err().reason, FailureReason::InputInvalid, "{cut}");
    }
    assert!(read(b"ID3 an mp3").is_err());
    assert!(read(&wav_file(pcm(9, 16000, 16), &[0; 9])).unwrap_err().message.contains("channels"));
}

#[test]
fn labels_best_first() {
    let names = [("labels", r#"["cat","dog","cow"]"#), ("topK", "2")];
    let out = |port: Port, scores: &[f32]| encoded(vec![port], IValue::Tensor(Tensor::from_slice(scores).unsqueeze(0)));
    let labels = port("y", Codec::Labels, Dtype::Float32, &[]);
    let best = out(with(labels.clone(), &names), &[0.1, 0.7, 0.2]).unwrap();
    assert_eq!(best.bytes, br#"[{"label":"dog","score":0.7},{"label":"cow","score":0.2}]"#);
    assert_eq!(
        out(labels.clone(), &[0.5, 0.5]).unwrap().bytes,
        br#"[{"label":"0","score":0.5},{"label":"1","score":0.5}]"#
    );
    let even = out(with(labels.clone(), &[("softmax", "true")]), &[3.0, 3.0]).unwrap();
    assert_eq!(even.bytes, br#"[{"label":"0","score":0.5},{"label":"1","score":0.5}]"#);
    assert!(out(with(labels.clone(), &names), &[0.1]).unwrap_err().message.contains("3 labels for 1 scores"));
    assert!(out(labels.clone(), &[f32::NAN]).is_err());
    assert_eq!(fails(vec![], vec![labels], &[("topK", "0")]).reason, FailureReason::InputInvalid);
}

#[test]
fn options_and_parameters_are_checked() {
    let segments = port("speech", Codec::Segments, Dtype::Float32, &[]);
    let error = fails(vec![], vec![segments.clone()], &[("treshold", "0.5")]);
    assert_eq!(error.reason, FailureReason::InputInvalid);
    assert!(error.message.contains("treshold") && error.message.contains("negThreshold"), "{error}");
    for (name, text) in [
        ("threshold", "1.5"),
        ("threshold", "NaN"),
        ("threshold", "x"),
        ("minSpeechMilliseconds", "-1"),
        ("sampleRate", "8000"),
    ] {
        assert_eq!(
            fails(vec![], vec![segments.clone()], &[(name, text)]).reason,
            FailureReason::InputInvalid,
            "{name}"
        );
    }
    let bad = with(segments.clone(), &[("threshold", "high")]);
    assert_eq!(fails(vec![], vec![bad], &[]).reason, FailureReason::ModelExecutionFailed);
    let unknown = with(segments.clone(), &[("colour", "red")]);
    assert!(fails(vec![], vec![unknown], &[]).message.contains("colour"));
    let text = with(port("x", Codec::Text, Dtype::Int64, &[]), &[("width", "3")]);
    assert!(fails(vec![text], vec![], &[]).message.contains("\"width\" of input \"x\" is unknown to codec text"));
    for codec in [Codec::Text, Codec::Audio] {
        assert!(fails(vec![], vec![port("y", codec, Dtype::Int64, &[])], &[]).message.contains("inputs only"));
    }
    assert!(fails(vec![segments], vec![], &[]).message.contains("outputs only"));
    assert!(fails(vec![], vec![port("y", Codec::Wav, Dtype::Float32, &[])], &[]).message.contains("inputs only"));
}

#[test]
fn silero_vectors() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/silero");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let case: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let parameters: BTreeMap<String, String> = serde_json::from_value(case["parameters"].clone()).unwrap();
        let probabilities: Vec<f32> = serde_json::from_value(case["probabilities"].clone()).unwrap();
        let spec = ModelSpec {
            method: "forward".into(),
            inputs: vec![],
            outputs: vec![with(port("speech", Codec::Segments, Dtype::Float32, &[]), &[("sampleRate", "16000")])],
            batching: Default::default(),
        };
        let plan = Plan::new(&spec, &parameters).unwrap();
        let samples = case["samples"].as_u64().unwrap() as usize;
        let returned = IValue::Tensor(Tensor::from_slice(&probabilities).unsqueeze(0));
        let encoded = plan.encode(returned, Some(samples), 1 << 20).unwrap();
        let found: serde_json::Value = serde_json::from_slice(&encoded.bytes).unwrap();
        assert_eq!(found, case["segments"], "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 6, "{seen} vectors");
}

#[test]
fn segments_need_as_many_windows_as_the_audio_has() {
    let speech = port("speech", Codec::Segments, Dtype::Float32, &[]);
    let run = |count: usize, samples| {
        let returned = IValue::Tensor(Tensor::from_slice(&vec![0.9f32; count]));
        plan(vec![], vec![speech.clone()]).encode(returned, samples, 1 << 20)
    };
    assert_eq!(run(1, Some(0)).unwrap().bytes, b"[]");
    assert_eq!(run(20, None).unwrap().bytes, br#"[{"start":0,"end":10240}]"#);
    assert!(run(2, Some(512)).unwrap_err().message.contains("expected 1 probabilities"));
    let audio = with(port("audio", Codec::Wav, Dtype::Float32, &[]), &[("sampleRate", "16000")]);
    let short = plan(vec![audio], vec![speech.clone()]).decode(&wav_file(pcm(1, 16000, 16), &[1; 10])).unwrap();
    assert_eq!((tensor(&short.values[0]).size(), short.samples), (vec![1, 512], Some(10)));
}

#[test]
fn results_are_limited() {
    let json = plan(vec![], vec![port("y", Codec::Json, Dtype::Float32, &[])]);
    let returned = || IValue::Tensor(Tensor::from_slice(&[1.5f32; 100]));
    assert!(json.encode(returned(), None, 99).unwrap_err().message.contains("at most 99"));
    assert!(json.encode(returned(), None, 101).unwrap_err().message.contains("at most 101"));
    assert!(json.encode(returned(), None, 401).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for codec in [Codec::Tensor, Codec::Json, Codec::Wav] {
            let _ = plan(vec![port("x", codec, Dtype::Float32, &[])], vec![]).decode(&bytes);
        }
        let two = vec![port("a", Codec::Json, Dtype::Bool, &[]), port("b", Codec::Json, Dtype::Int8, &[1, -1])];
        let _ = plan(two, vec![]).decode(&bytes);
    }

    #[test]
    fn no_json_panics(text in "[\\[\\]{},:0-9.eE\" a-]{0,80}") {
        let _ = plan(vec![port("x", Codec::Json, Dtype::Int32, &[])], vec![]).decode(text.as_bytes());
    }

    #[test]
    fn no_wav_header_panics(changes in proptest::collection::vec((0usize..80, any::<u8>()), 1..12)) {
        let float = hound::WavSpec { bits_per_sample: 32, sample_format: hound::SampleFormat::Float, ..pcm(2, 8000, 32) };
        for spec in [pcm(1, 16000, 16), pcm(2, 16000, 24), float] {
            let mut file = wav_file(spec, &[7; 20]);
            for (at, byte) in &changes {
                let at = at % file.len();
                file[at] = *byte;
            }
            let _ = plan(vec![port("x", Codec::Wav, Dtype::Float32, &[])], vec![]).decode(&file);
        }
    }

    #[test]
    fn segments_are_in_order_and_within(probabilities in proptest::collection::vec(0f32..=1.0, 0..200), cut in 0usize..512) {
        let speech = port("speech", Codec::Segments, Dtype::Float32, &[]);
        let parameters = BTreeMap::new();
        let segments = segments::Segments::new(&Options::new(&speech, Side::Output, &parameters).unwrap()).unwrap();
        let samples = (probabilities.len() * 512).saturating_sub(cut);
        let found = segments.segments(&probabilities, samples);
        let mut before = 0;
        for segment in found {
            prop_assert!(before <= segment.start && segment.start <= segment.end && segment.end <= samples as i64);
            before = segment.end;
        }
    }
}
