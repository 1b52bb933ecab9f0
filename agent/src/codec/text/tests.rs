//! Ids, masks and types against Hugging Face's own Python tokenizers, and archives and texts that are none.

use super::Archive;
use crate::codec::{CodecError, Decoded, Plan};
use nightshift_types::{Codec, Dtype, FailureReason, ModelSpec, Port};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use tch::IValue;
use zip::write::SimpleFileOptions;

fn port(name: &str, options: &[(&str, &str)]) -> Port {
    Port {
        name: name.into(),
        codec: Codec::Text,
        dtype: Dtype::Int64,
        shape: Vec::new(),
        constant: None,
        options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
    }
}

/// Ids, mask and types, as BERT takes them; the options stand at the first.
fn bert(options: &[(&str, &str)]) -> Vec<Port> {
    let parts = [("mask", "attentionMask"), ("types", "tokenTypeIds")];
    let mut ports = vec![port("ids", options)];
    ports.extend(parts.map(|(name, tensor)| port(name, &[("tensor", tensor)])));
    ports
}

fn spec(inputs: Vec<Port>) -> ModelSpec {
    ModelSpec { method: "forward".into(), inputs, outputs: Vec::new(), batching: Default::default() }
}

/// An archive as libtorch writes it, with extra files.
fn archive(folder: &Path, extras: &[(&str, &[u8])]) -> Archive {
    let path = folder.join("model.pt");
    let mut writer = zip::ZipWriter::new(File::create(&path).unwrap());
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("data.pkl", &b"pickle"[..])].iter().copied() {
        writer.start_file(format!("model/{name}"), stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    for (name, bytes) in extras {
        writer.start_file(format!("model/extra/{name}"), stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap();
    Archive::new(File::open(path).unwrap())
}

/// Words of a small vocabulary; `[CLS]` before and `[SEP]` behind.
fn small() -> Vec<u8> {
    let words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "a", "machine", "that", "sleeps", "works"];
    let vocab: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| (word.to_string(), json!(id))).collect();
    let special = |token: &str, id: u32| json!({"id": token, "ids": [id], "tokens": [token]});
    let sep = json!({"SpecialToken": {"id": "[SEP]", "type_id": 0}});
    let cls = json!({"SpecialToken": {"id": "[CLS]", "type_id": 0}});
    let one = json!({"Sequence": {"id": "A", "type_id": 0}});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing", "single": [cls, one, sep], "pair": [cls, one, sep, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": special("[CLS]", 1), "[SEP]": special("[SEP]", 2)},
        },
        "decoder": null, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    })
    .to_string()
    .into_bytes()
}

fn rows(decoded: &Decoded) -> Vec<Vec<i64>> {
    let row = |value: &IValue| match value {
        IValue::Tensor(tensor) => {
            assert_eq!(tensor.size()[0], 1, "one text");
            Vec::<i64>::try_from(tensor.reshape([-1]).to_kind(tch::Kind::Int64)).unwrap()
        }
        other => panic!("{other:?}"),
    };
    decoded.values.iter().map(row).collect()
}

fn read(archive: &Archive, ports: Vec<Port>, text: &[u8]) -> Result<Vec<Vec<i64>>, CodecError> {
    Plan::of(&spec(ports), &BTreeMap::new(), Some(archive))?.decode(text).map(|decoded| rows(&decoded))
}

#[test]
fn one_text_makes_every_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path(), &[("tokenizer.json", &small()), ("other.json", b"{}")]);
    let text = b"A machine that sleeps works";
    let all = read(&archive, bert(&[]), text).unwrap();
    assert_eq!(all, [vec![1, 4, 5, 6, 7, 8, 2], vec![1; 7], vec![0; 7]]);
    let cut = read(&archive, bert(&[("maxTokens", "4")]), text).unwrap();
    assert_eq!(cut, [vec![1, 4, 5, 2], vec![1; 4], vec![0; 4]]);
    let padded = read(&archive, bert(&[("maxTokens", "9"), ("padding", "max")]), text).unwrap();
    assert_eq!(padded, [vec![1, 4, 5, 6, 7, 8, 2, 3, 3], vec![1, 1, 1, 1, 1, 1, 1, 0, 0], vec![0; 9]]);
    let refused = bert(&[("maxTokens", "4"), ("truncation", "refuse")]);
    let error = read(&archive, refused, text).unwrap_err();
    assert_eq!(error.reason, FailureReason::InputInvalid);
    assert!(error.message.contains("7 tokens; at most 4 are taken"), "{error}");
    // A constant beside it, 32 bits, one dimension.
    let flag = Port { codec: Codec::Json, constant: Some("true".into()), ..port("flag", &[]) };
    let ids = Port { dtype: Dtype::Int32, shape: vec![-1], ..port("ids", &[]) };
    let plan = Plan::of(&spec(vec![flag, ids]), &BTreeMap::new(), Some(&archive)).unwrap();
    let decoded = plan.decode(b"works").unwrap();
    let IValue::Tensor(tensor) = &decoded.values[1] else { panic!("{decoded:?}") };
    assert_eq!((tensor.kind(), tensor.size()), (tch::Kind::Int, vec![3]));
}

/// all-MiniLM-L6-v2's own, through an archive: exactly the numbers of Python's tokenizers 0.23.3.
#[test]
fn minilm_as_python_has_it() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let path = checkout.join(".deps/models/minilm/tokenizer.json");
    let Ok(tokenizer) = std::fs::read(&path) else {
        return eprintln!("skipped: {} is missing; `make deps` fetches it", path.display());
    };
    let vectors: PathBuf = checkout.join("agent/tests/fixtures/text/minilm.json");
    let vectors: Vec<Value> = serde_json::from_slice(&std::fs::read(vectors).unwrap()).unwrap();
    assert_eq!(vectors.len(), 20);
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path(), &[("tokenizer.json", &tokenizer)]);
    for case in vectors {
        let most = case["maxTokens"].to_string();
        let ports = bert(&[("maxTokens", &most), ("padding", case["padding"].as_str().unwrap())]);
        let found = read(&archive, ports, case["text"].as_str().unwrap().as_bytes()).unwrap();
        for (row, name) in found.iter().zip(["ids", "attentionMask", "tokenTypeIds"]) {
            assert_eq!(json!(row), case[name], "{name} of {}", case["text"]);
        }
    }
}

#[test]
fn texts_that_are_none_are_the_inputs_fault() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path(), &[("tokenizer.json", &small())]);
    for (bytes, words) in [
        (&b"\xff\xfe"[..], "expected text in UTF-8"),
        (&vec![b'a'; super::MAX_TEXT + 1][..], "at most 1048576 are read"),
    ] {
        let error = read(&archive, bert(&[]), bytes).unwrap_err();
        assert!(error.reason == FailureReason::InputInvalid && error.message.contains(words), "{error}");
    }
    let fixed = vec![Port { shape: vec![1, 16], ..port("ids", &[]) }];
    let error = read(&archive, fixed, b"works").unwrap_err();
    assert!(error.message.contains("needs maxTokens of that length and padding max"), "{error}");
    assert_eq!(read(&archive, bert(&[]), b"").unwrap()[0], [1, 2]);
    assert_eq!(read(&archive, bert(&[]), "\0 \u{202e} 机器".as_bytes()).unwrap()[0].first(), Some(&1));
}

#[test]
fn tokenizers_that_are_none_are_the_models_fault() {
    let folder = tempfile::tempdir().unwrap();
    let archive =
        archive(folder.path(), &[("tokenizer.json", &small()), ("other.json", b"{}"), ("deep.json", &[b'['; 100_000])]);
    let fails = |ports: Vec<Port>, words: &str| {
        let error = read(&archive, ports, b"works").unwrap_err();
        assert!(error.reason == FailureReason::ModelExecutionFailed && error.message.contains(words), "{error}");
    };
    fails(bert(&[("tokenizer", "gone.json")]), "torch.jit.save(model, FILE, _extra_files={\"gone.json\"");
    fails(bert(&[("tokenizer", "other.json")]), "is no tokenizer of Hugging Face");
    fails(bert(&[("tokenizer", "deep.json")]), "is no tokenizer of Hugging Face");
    fails(bert(&[("maxTokens", "0")]), "must be from 1 to 1048576");
    fails(bert(&[("padding", "left")]), "must be none or max");
    fails(bert(&[("truncation", "yes")]), "must be cut or refuse");
    fails(vec![port("ids", &[("tensor", "offsets")])], "must be ids or attentionMask or tokenTypeIds");
    fails(vec![Port { dtype: Dtype::Float32, ..port("ids", &[]) }], "makes int64 or int32");
    let two =
        vec![port("ids", &[("maxTokens", "5")]), port("mask", &[("tensor", "attentionMask"), ("maxTokens", "6")])];
    fails(two, "of two inputs differ");
    fails(bert(&[("maxTokens", "1")]), "maxTokens 1 leaves no room");
    let error = Plan::new(&spec(bert(&[])), &BTreeMap::new()).unwrap_err();
    assert!(error.message.contains("comes with the model's file alone"), "{error}");
    let path = folder.path().join("no.zip");
    std::fs::write(&path, b"PK\x05\x06 and nonsense").unwrap();
    let broken = Archive::new(File::open(path).unwrap());
    let error = read(&broken, bert(&[]), b"works").unwrap_err();
    assert!(error.message.contains("archive cannot be read"), "{error}");
}
