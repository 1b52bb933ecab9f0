//! Pictures through a real, confined worker: in to labels, in and out again, and a bomb that costs one task.

use crate::common::{Lab, json, port, spec};
use nightshift_agent::engine::Task;
use nightshift_types::{Bytes, Codec, FailureReason, Port};
use std::path::Path;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

fn with(mut port: Port, options: &[(&str, &str)]) -> Port {
    port.options = options.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
    port
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)).unwrap()
}

/// A file of one colour.
fn plain(format: image::ImageFormat, colour: [u8; 3]) -> Vec<u8> {
    let picture = image::RgbImage::from_pixel(40, 30, image::Rgb(colour));
    let mut out = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut out, format).unwrap();
    out.into_inner()
}

/// Scores of red, green and blue: how much of each a picture has.
fn colours(lab: &Lab) -> Task {
    let x = Tensor::zeros([1, 3, 16, 16], (Kind::Float, Device::Cpu));
    let picture = with(
        port("picture", Codec::Image, &[1, 3, 16, 16]),
        &[("resize", "crop"), ("mean", r#"["0.5"]"#), ("std", r#"["0.5"]"#)],
    );
    let colour = with(
        port("colour", Codec::Labels, &[]),
        &[("labels", r#"["red","green","blue"]"#), ("topK", "1"), ("softmax", "true")],
    );
    lab.traced("colours", &[x], spec(vec![picture], vec![colour]), |xs| {
        vec![xs[0].mean_dim([2i64, 3].as_slice(), false, Kind::Float)]
    })
}

/// The same picture with light and dark exchanged.
fn negative(lab: &Lab) -> Task {
    let x = Tensor::zeros([1, 3, 4, 4], (Kind::Float, Device::Cpu));
    let picture = port("picture", Codec::Image, &[1, 3, -1, -1]);
    lab.traced("negative", &[x], spec(vec![picture.clone()], vec![picture]), |xs| vec![xs[0].neg() + 1.0])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_to_labels() {
    let lab = Lab::new();
    let mut task = colours(&lab);
    let formats = [image::ImageFormat::Png, image::ImageFormat::Jpeg, image::ImageFormat::WebP];
    for format in formats {
        for (colour, name) in [([200, 20, 30], "red"), ([20, 200, 30], "green"), ([20, 30, 200], "blue")] {
            task.input = plain(format, colour);
            let labels = json(&lab.run(task.clone()).await.unwrap());
            assert_eq!(labels[0]["label"], name, "{format:?}: {labels}");
        }
    }
    for lossy in ["cmyk.jpg", "progressive.jpg", "lossy.webp", "animated.webp", "turned.jpg"] {
        task.input = file(lossy);
        assert_eq!(json(&lab.run(task.clone()).await.unwrap()).as_array().unwrap().len(), 1);
    }
    assert_eq!(lab.workers().len(), 1, "the sandbox ended none of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_to_a_picture() {
    let lab = Lab::new();
    let mut task = negative(&lab);
    task.input = file("plain.png");
    let before = image::load_from_memory(&task.input).unwrap().to_rgb8();
    let formats =
        [("png", image::ImageFormat::Png), ("webp", image::ImageFormat::WebP), ("jpeg", image::ImageFormat::Jpeg)];
    for (name, format) in formats {
        task.parameters = [("format".to_owned(), name.to_owned())].into();
        let output = lab.run(task.clone()).await.unwrap();
        assert_eq!(output.content_type, format!("image/{name}"));
        let after = image::load_from_memory_with_format(&output.bytes, format).unwrap().to_rgb8();
        assert_eq!(after.dimensions(), before.dimensions());
        let most = before.iter().zip(after.iter()).map(|(a, b)| (255 - a).abs_diff(*b)).max().unwrap();
        assert!(most <= if name == "jpeg" { 60 } else { 0 }, "{name}: {most}");
    }
    task.parameters = [("format".to_owned(), "gif".to_owned())].into();
    let refused = lab.run(task).await.unwrap_err();
    assert!(refused.reason == FailureReason::InputInvalid && refused.message.contains("png, jpeg, webp"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_costs_one_task_and_no_memory() {
    let lab = Lab::new();
    let mut task = colours(&lab);
    task.input = plain(image::ImageFormat::Png, [200, 20, 30]);
    // 60000 × 60000 pixels would be 10 GiB.
    task.memory_limit = Bytes::mebi(256);
    lab.run(task.clone()).await.unwrap();
    let worker = lab.workers();

    let good = task.input.clone();
    let mut bomb = good.clone();
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let sum = crc32fast::hash(&bomb[12..29]).to_be_bytes();
    bomb[29..33].copy_from_slice(&sum);
    let cut = good[..good.len() / 2].to_vec();
    for (hostile, expected) in [(bomb, "60000 × 60000 pixels"), (cut, "broken"), (b"GIF89a".to_vec(), "expected a PNG")]
    {
        task.input = hostile;
        let failed = lab.run(task.clone()).await.unwrap_err();
        assert_eq!(failed.reason, FailureReason::InputInvalid, "{failed}");
        assert!(failed.message.contains(expected), "{failed}");
    }
    task.input = good;
    let next = lab.run(task).await.unwrap();
    assert_eq!((lab.workers(), next.timings.load), (worker, Duration::ZERO), "the same worker, still there");
    assert_eq!(json(&next)[0]["label"], "red");
}
