//! Pictures as a task meets them: against Pillow's pixels (`tests/fixtures/images/make.py`), by hand, and hostile.

use crate::codec::{CodecError, Encoded, Plan};
use ::image::{DynamicImage, ImageFormat, RgbImage};
use nightshift_types::{Codec, Dtype, FailureReason, ModelSpec, Port};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use tch::{IValue, Kind, Tensor};

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect()
}

fn port(dtype: Dtype, shape: &[i64], options: &[(&str, &str)]) -> Port {
    let (shape, options) = (shape.to_vec(), texts(options));
    Port { name: "picture".into(), codec: Codec::Image, dtype, shape, constant: None, options }
}

fn plan(inputs: Vec<Port>, outputs: Vec<Port>, parameters: &[(&str, &str)]) -> Result<Plan, CodecError> {
    Plan::new(
        &ModelSpec { method: "forward".into(), inputs, outputs, batching: Default::default() },
        &texts(parameters),
    )
}

fn read(input: Port, bytes: &[u8]) -> Result<Tensor, CodecError> {
    match plan(vec![input], vec![], &[])?.decode(bytes)?.values.remove(0) {
        IValue::Tensor(tensor) => Ok(tensor),
        other => panic!("no tensor: {other:?}"),
    }
}

fn written(output: Port, parameters: &[(&str, &str)], tensor: Tensor) -> Result<Encoded, CodecError> {
    plan(vec![], vec![output], parameters)?.encode(IValue::Tensor(tensor), None, 1 << 20)
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)).unwrap()
}

fn reference(pointer: &str) -> Vec<u8> {
    let all: serde_json::Value = serde_json::from_slice(&file("reference.json")).unwrap();
    hex::decode(all.pointer(pointer).unwrap().as_str().unwrap()).unwrap()
}

/// Rows of interleaved bytes, as Pillow has them.
fn bytes(tensor: &Tensor) -> Vec<u8> {
    Vec::try_from(tensor.reshape(&tensor.size()[tensor.dim() - 3..]).permute([1, 2, 0]).contiguous().reshape(-1))
        .unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.contiguous().reshape(-1)).unwrap()
}

/// The largest difference of two pictures' bytes.
fn difference(found: &[u8], expected: &[u8]) -> u8 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

fn png(picture: impl Into<DynamicImage>) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    picture.into().write_to(&mut out, ImageFormat::Png).unwrap();
    out.into_inner()
}

fn refused(result: Result<Tensor, CodecError>, expected: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.reason, FailureReason::InputInvalid, "{error}");
    assert!(error.message.contains(expected), "{error}");
}

const ANY: &[i64] = &[1, 3, -1, -1];

#[test]
fn every_kind_of_file_has_pillows_pixels() {
    let read = |name: &str| bytes(&read(port(Dtype::Uint8, ANY, &[]), &file(name)).unwrap());
    for exact in ["plain.png", "lossless.webp", "animated.png", "animated.webp"] {
        assert_eq!(read(exact), reference("/plain"), "{exact}: the first frame");
    }
    for exact in ["palette.png", "bits.png"] {
        assert_eq!(read(exact), reference(&format!("/files/{exact}")), "{exact}");
    }
    // Two decoders of a lossy format may round differently, and interpolate chroma.
    for (lossy, most) in [("baseline.jpg", 3), ("cmyk.jpg", 4), ("progressive.jpg", 12), ("lossy.webp", 12)] {
        let found = difference(&read(lossy), &reference(&format!("/files/{lossy}")));
        assert!(found <= most, "{lossy}: {found}");
    }
}

#[test]
fn resized_as_pillow_and_torchvision_do() {
    let noise = file("noise.png");
    let sixteen = [("width", "16"), ("height", "10")];
    let resized = |options: &[(&str, &str)]| bytes(&read(port(Dtype::Uint8, ANY, options), &noise).unwrap());
    for filter in ["bilinear", "bicubic", "nearest"] {
        let found = resized(&[sixteen[0], sixteen[1], ("filter", filter)]);
        let found = difference(&found, &reference(&format!("/noise/{filter}")));
        assert!(found <= 1, "{filter}: {found}");
    }
    assert!(difference(&resized(&sixteen), &reference("/noise/bilinear")) <= 1, "bilinear is the default");
    assert!(difference(&resized(&[("width", "50"), ("height", "30")]), &reference("/noise/larger")) <= 1);
    // Resize(16), then CenterCrop(14).
    let crop = [("width", "14"), ("height", "14"), ("resize", "crop"), ("cropFraction", "0.875")];
    assert!(difference(&resized(&crop), &reference("/noise/crop")) <= 1);
}

#[test]
fn bilinear_by_hand() {
    // 2 × 2 to 4 × 4: pixel centres of the new stand at -0.25, 0.25, 0.75 and 1.25 of the old, and the edge is repeated.
    let old = RgbImage::from_fn(2, 2, |x, y| ::image::Rgb([(x * 80 + y * 160) as u8, 0, 0]));
    let input = port(Dtype::Float32, &[3, 4, 4], &[("scale", "255")]);
    let found = floats(&read(input, &png(old)).unwrap());
    let at = [0.0f32, 0.25, 0.75, 1.0];
    let expected: Vec<f32> = at.iter().flat_map(|y| at.map(|x| x * 80.0 + y * 160.0)).collect();
    assert_eq!(found[..16], expected);
    assert!(found[16..].iter().all(|value| *value == 0.0));
}

#[test]
fn normalised_for_an_imagenet_model() {
    let options = [("mean", r#"["0.485","0.456","0.406"]"#), ("std", r#"["0.229","0.224","0.225"]"#)];
    let colour = [10u8, 128, 255];
    let file = png(RgbImage::from_pixel(5, 4, ::image::Rgb(colour)));
    let tensor = read(port(Dtype::Float32, &[1, 3, 2, 3], &options), &file).unwrap();
    assert_eq!((tensor.size(), tensor.kind()), (vec![1, 3, 2, 3], Kind::Float));
    let (mean, std) = ([0.485f32, 0.456, 0.406], [0.229f32, 0.224, 0.225]);
    let expected = |c: usize| (f32::from(colour[c]) / 255.0 - mean[c]) / std[c];
    for (index, value) in floats(&tensor).iter().enumerate() {
        assert_eq!(*value, expected(index / 6));
    }
    let half = read(port(Dtype::Float16, &[3, 2, 3], &options), &file).unwrap();
    assert_eq!((half.size(), half.kind()), (vec![3, 2, 3], Kind::Half));
    let one = read(port(Dtype::Float32, &[], &[("mean", "[0.5]"), ("std", "[0.5]")]), &file).unwrap();
    assert_eq!(one.size(), [1, 3, 4, 5]);
    assert_eq!(floats(&one)[59], 1.0);
}

#[test]
fn channels_and_backgrounds() {
    let first = |dtype, shape: &[i64], options: &[(&str, &str)], file: &[u8]| {
        bytes(&read(port(dtype, shape, options), file).unwrap())[..shape.first().map_or(3, |c| *c as usize)].to_vec()
    };
    let orange = png(RgbImage::from_pixel(1, 1, ::image::Rgb([250, 100, 7])));
    assert_eq!(first(Dtype::Uint8, &[3, 1, 1], &[("channels", "bgr")], &orange), [7, 100, 250]);
    // 0.299 r + 0.587 g + 0.114 b = 134.2; one channel in the shape is enough to say gray.
    assert_eq!(first(Dtype::Uint8, &[1, 1, 1], &[], &orange), [134]);
    let plain = read(port(Dtype::Uint8, &[1, 1, -1, -1], &[]), &file("plain.png")).unwrap();
    assert_eq!(bytes(&plain), reference("/gray"));

    let glass = png(::image::RgbaImage::from_pixel(1, 1, ::image::Rgba([200, 0, 100, 51])));
    // A fifth of it over white, and over blue.
    assert_eq!(first(Dtype::Uint8, &[3, 1, 1], &[], &glass), [244, 204, 224]);
    assert_eq!(first(Dtype::Uint8, &[3, 1, 1], &[("background", "#0000ff")], &glass), [40, 0, 224]);
    let clear = png(::image::GrayAlphaImage::from_pixel(1, 1, ::image::LumaA([9, 0])));
    assert_eq!(first(Dtype::Uint8, &[3, 1, 1], &[], &clear), [255, 255, 255]);

    let deep = ::image::ImageBuffer::from_pixel(1, 1, ::image::Rgb([0u16, 65535, 32896]));
    assert_eq!(first(Dtype::Uint8, &[3, 1, 1], &[], &png(DynamicImage::ImageRgb16(deep))), [0, 255, 128]);
    let deep = ::image::ImageBuffer::from_pixel(1, 1, ::image::LumaA([128u16, 65535]));
    assert_eq!(first(Dtype::Uint8, &[3, 1, 1], &[], &png(DynamicImage::ImageLumaA16(deep))), [0, 0, 0]);
}

#[test]
fn padding_keeps_the_proportions() {
    let wide = png(RgbImage::from_pixel(8, 4, ::image::Rgb([9, 9, 9])));
    let options = [("resize", "pad"), ("background", "#010203")];
    let found = bytes(&read(port(Dtype::Uint8, &[1, 3, 4, 4], &options), &wide).unwrap());
    let rows: Vec<&[u8]> = found.chunks(12).collect();
    assert_eq!((rows[0], rows[3]), ([1, 2, 3].repeat(4).as_slice(), [1, 2, 3].repeat(4).as_slice()));
    assert_eq!((rows[1], rows[2]), ([9; 12].as_slice(), [9; 12].as_slice()));
}

/// `baseline.jpg` with an EXIF block that says `orientation`.
fn with_orientation(orientation: u8) -> Vec<u8> {
    let tiff =
        [b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(), &[orientation], b"\0\0\0\0\0\0"].concat();
    let exif = [b"Exif\0\0".as_slice(), &tiff].concat();
    let plain = file("baseline.jpg");
    let length = (exif.len() as u16 + 2).to_be_bytes();
    [&plain[..2], &[0xff, 0xe1], &length, &exif, &plain[2..]].concat()
}

type Seen = fn(i64, i64) -> (i64, i64);

#[test]
fn pictures_stand_as_their_exif_says() {
    let upright = read(port(Dtype::Uint8, ANY, &[]), &file("baseline.jpg")).unwrap();
    let (h, w) = (23, 37);
    assert_eq!(upright.size(), [1, 3, h, w]);
    // For each value of EXIF 2.32, where the stored pixel of row y and column x is seen.
    let seen: [Seen; 8] = [
        |y, x| (y, x),
        |y, x| (y, 36 - x),
        |y, x| (22 - y, 36 - x),
        |y, x| (22 - y, x),
        |y, x| (x, y),
        |y, x| (x, 22 - y),
        |y, x| (36 - x, 22 - y),
        |y, x| (36 - x, y),
    ];
    for (index, seen) in seen.iter().enumerate() {
        let turned = read(port(Dtype::Uint8, ANY, &[]), &with_orientation(index as u8 + 1)).unwrap();
        for (y, x) in [(0, 0), (0, w - 1), (h - 1, 0), (h - 1, w - 1), (5, 11)] {
            let (to_y, to_x) = seen(y, x);
            for channel in 0..3 {
                let (stored, seen) =
                    (upright.int64_value(&[0, channel, y, x]), turned.int64_value(&[0, channel, to_y, to_x]));
                assert_eq!(stored, seen, "orientation {}", index + 1);
            }
        }
    }
    assert_eq!(read(port(Dtype::Uint8, ANY, &[]), &file("turned.jpg")).unwrap().size(), [1, 3, w, h], "Pillow's own");
}

/// A PNG of which only the header and a few bytes are there.
fn claim(width: u32, height: u32) -> Vec<u8> {
    let chunk = |kind: &[u8], data: &[u8]| {
        let body = [kind, data].concat();
        [&(data.len() as u32).to_be_bytes(), body.as_slice(), &crc32fast::hash(&body).to_be_bytes()].concat()
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let data = [0x78, 1, 1, 0, 0, 0xff, 0xff, 0, 0, 0, 1];
    [b"\x89PNG\r\n\x1a\n".as_slice(), &chunk(b"IHDR", &header), &chunk(b"IDAT", &data), &chunk(b"IEND", &[])].concat()
}

#[test]
fn bombs_are_refused_by_their_header() {
    let input = || port(Dtype::Float32, &[1, 3, 8, 8], &[]);
    refused(read(input(), &claim(60_000, 60_000)), "60000 × 60000 pixels; at most 16384 a side");
    refused(read(input(), &claim(16_384, 16_384)), "scale it down before you send it");
    refused(read(input(), &claim(20_000, 1)), "at most 16384 a side");
    refused(read(input(), &claim(100, 100)), "broken");
    // The frame header of a JPEG says 65500 × 65500.
    let mut jpeg = file("baseline.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    refused(read(input(), &jpeg), "65500 × 65500 pixels");
    // And the canvas of a WebP 2^24 × 2^24.
    let mut webp = file("animated.webp");
    webp[24..30].fill(0xff);
    refused(read(input(), &webp), "webp");
    // A chunk that claims 4 GiB.
    let mut webp = file("animated.webp");
    webp.extend_from_slice(b"EXIF\xf0\xff\xff\xff");
    let size = (webp.len() as u32 - 8).to_le_bytes();
    webp[4..8].copy_from_slice(&size);
    refused(read(input(), &webp), "is cut off before its end");
    refused(read(input(), &vec![0x89; super::MAX_BYTES + 1]), "at most 67108864 are read");
    // Thin pictures that would grow beyond all bounds where they are made to cover.
    let thin = png(RgbImage::new(1, 16_000));
    let crop = port(Dtype::Float32, &[1, 3, 224, 224], &[("resize", "crop")]);
    refused(read(crop, &thin), "proportions nearer to the model's");
}

#[test]
fn what_is_no_picture_or_half_of_one() {
    for name in
        ["plain.png", "baseline.jpg", "progressive.jpg", "turned.jpg", "lossy.webp", "lossless.webp", "animated.webp"]
    {
        let whole = file(name);
        for part in [whole.len() - 12, whole.len() / 2, whole.len() / 4, 30] {
            let error = read(port(Dtype::Float32, ANY, &[]), &whole[..part]).unwrap_err();
            assert_eq!(error.reason, FailureReason::InputInvalid, "{name}, {part} bytes: {error}");
        }
    }
    for other in [b"".as_slice(), b"GIF89a\x01\0\x01\0", b"RIFF\0\0\0\0WAVE", b"hello", b"\x89PNG", b"\xff\xd8\xff"] {
        let error = read(port(Dtype::Float32, ANY, &[]), other).unwrap_err();
        assert_eq!(error.reason, FailureReason::InputInvalid);
    }
    refused(read(port(Dtype::Float32, ANY, &[]), b"GIF89a"), "expected a PNG, JPEG or WebP file; it begins with");
    refused(read(port(Dtype::Float32, &[3, -1, 5], &[("width", "5")]), b"x"), "expected a PNG");
}

#[test]
fn options_that_make_no_sense() {
    let wrong = |dtype, shape: &[i64], options: &[(&str, &str)], expected: &str| {
        let error = plan(vec![port(dtype, shape, options)], vec![], &[]).unwrap_err();
        assert!(error.reason == FailureReason::ModelExecutionFailed && error.message.contains(expected), "{error}");
    };
    wrong(Dtype::Int64, ANY, &[], "not int64");
    wrong(Dtype::Float32, &[3, 3], &[], "[channels, height, width]");
    wrong(Dtype::Float32, &[2, 3, 8, 8], &[], "[1, channels, height, width]");
    wrong(Dtype::Float32, &[1, 4, 8, 8], &[], "its shape [1, 4, 8, 8] says 4");
    wrong(Dtype::Float32, &[1, 3, 8, 8], &[("width", "9")], "says 8, width is 9");
    wrong(Dtype::Float32, &[1, 3, 8, 0], &[], "width is not set");
    wrong(Dtype::Float32, ANY, &[("width", "0")], "must be from 1 to 16384");
    wrong(Dtype::Float32, ANY, &[("width", "16384"), ("height", "16384")], "over 33554432 pixels");
    wrong(Dtype::Float32, ANY, &[("resize", "crop"), ("width", "8")], "need both width and height");
    wrong(Dtype::Float32, ANY, &[("cropFraction", "0.5")], "for resize crop only");
    wrong(Dtype::Float32, ANY, &[("filter", "lanczos")], "one of nearest, bilinear, bicubic");
    wrong(Dtype::Float32, ANY, &[("channels", "cmyk")], "one of rgb, bgr, gray");
    wrong(Dtype::Float32, ANY, &[("background", "white")], "a colour such as #ffffff");
    wrong(Dtype::Float32, ANY, &[("mean", "[1, 2]")], "2 numbers for 3 channels");
    wrong(Dtype::Float32, ANY, &[("mean", "half")], "JSON array");
    wrong(Dtype::Float32, ANY, &[("std", "[0]")], "cannot be divided by");
    wrong(Dtype::Uint8, ANY, &[("mean", "[0.5]")], "is for floating point");
    wrong(Dtype::Float32, ANY, &[("format", "png")], "unknown to codec image");
    let wrong = |options: &[(&str, &str)], parameters: &[(&str, &str)], expected: &str| {
        let error = plan(vec![], vec![port(Dtype::Float32, &[], options)], parameters).unwrap_err();
        assert!(error.message.contains(expected), "{error}");
    };
    wrong(&[("width", "8")], &[], "option \"width\" of output");
    wrong(&[("watermark", "日本")], &[], "Latin-1");
    wrong(&[("quality", "50")], &[], "for format jpeg only");
    wrong(&[], &[("format", "gif")], "one of png, jpeg, webp");
    wrong(&[], &[("quality", "50"), ("format", "webp")], "for format jpeg only");
    wrong(&[], &[("watermark", "mine")], "is not one of this model's: format, quality");
}

fn decoded(encoded: &Encoded, format: ImageFormat) -> DynamicImage {
    ::image::load_from_memory_with_format(&encoded.bytes, format).unwrap()
}

#[test]
fn pictures_out_of_tensors() {
    let values =
        Tensor::from_slice(&[-1.0f32, -0.5, 0.0, 1.0, 2.0, 0.5, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]).reshape([1, 3, 2, 2]);
    let output = || port(Dtype::Float32, &[], &[("mean", "[0.5]"), ("std", "[0.5]")]);
    // (v + 1) / 2 * 255, rounded, clamped.
    let expected = [[0, 255, 128], [64, 191, 255], [128, 128, 255], [255, 128, 255]].concat();
    for (format, kind, mime) in [("png", ImageFormat::Png, "image/png"), ("webp", ImageFormat::WebP, "image/webp")] {
        let out = written(output(), &[("format", format)], values.shallow_clone()).unwrap();
        assert_eq!((out.content_type, decoded(&out, kind).to_rgb8().into_raw()), (mime, expected.clone()));
    }
    assert_eq!(written(output(), &[], values.shallow_clone()).unwrap().content_type, "image/png");

    let plain = read(port(Dtype::Uint8, ANY, &[]), &file("plain.png")).unwrap();
    let again = written(port(Dtype::Uint8, &[], &[]), &[], plain.shallow_clone()).unwrap();
    assert_eq!(decoded(&again, ImageFormat::Png).to_rgb8().into_raw(), reference("/plain"));
    let swapped = written(port(Dtype::Uint8, &[], &[("channels", "bgr")]), &[], plain.flip([1])).unwrap();
    assert_eq!(swapped, again);
    let jpeg =
        |quality| written(port(Dtype::Uint8, &[], &[]), &[("format", "jpeg"), ("quality", quality)], plain.copy());
    let (good, poor) = (jpeg("95").unwrap(), jpeg("10").unwrap());
    assert!(good.content_type == "image/jpeg" && poor.bytes.len() < good.bytes.len());
    assert!(difference(&decoded(&good, ImageFormat::Jpeg).to_rgb8().into_raw(), &reference("/plain")) < 40);
    let gray = written(port(Dtype::Uint8, &[], &[]), &[], plain.narrow(1, 0, 1).squeeze_dim(0)).unwrap();
    assert_eq!(decoded(&gray, ImageFormat::Png).color(), ::image::ColorType::L8);
}

#[test]
fn tensors_that_are_no_pictures() {
    let wrong = |options: &[(&str, &str)], tensor: Tensor, expected: &str| {
        let error = written(port(Dtype::Float32, &[], options), &[], tensor).unwrap_err();
        assert!(error.reason == FailureReason::OutputInvalid && error.message.contains(expected), "{error}");
    };
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, tch::Device::Cpu));
    wrong(&[], zeros(&[4]), "[channels, height, width]");
    wrong(&[], zeros(&[2, 3, 4, 4]), "[channels, height, width]");
    wrong(&[], zeros(&[2, 4, 4]), "1 channel (gray) or 3");
    wrong(&[("channels", "gray")], zeros(&[3, 4, 4]), "1 channel (gray) or 3");
    wrong(&[], zeros(&[3, 0, 4]), "1 to 16384 a side");
    wrong(&[], zeros(&[1, 1]).expand([3, 16_384, 16_384], false), "33554432 in all");
    wrong(&[], zeros(&[3, 4, 4]) + f64::NAN, "not a finite number");
    wrong(&[], zeros(&[3, 4, 4]).to_kind(Kind::Int64), "the model returned Int64");
    wrong(&[], zeros(&[3, 4, 4]).to_kind(Kind::Uint8), "the model returned Uint8");
    let noise = Tensor::rand([3, 700, 700], (Kind::Float, tch::Device::Cpu));
    wrong(&[], noise, "at most 1048576 are allowed");
}

#[test]
fn free_tiers_get_small_marked_pictures() {
    let white = || Tensor::ones([3, 200, 400], (Kind::Float, tch::Device::Cpu));
    let options = [("maxSide", "160"), ("watermark", "made on Nightshift · free")];
    let marked = written(port(Dtype::Float32, &[], &options), &[], white()).unwrap();
    let marked = decoded(&marked, ImageFormat::Png).to_rgb8();
    assert_eq!(marked.dimensions(), (160, 80));
    // 25 letters of 6 pixels and a border of 2, at the bottom right: a grey box with white letters; else untouched.
    let in_box = |x: u32, y: u32| x >= 160 - 154 && y >= 80 - 14;
    let (mut lit, mut dark) = (0, 0);
    for (x, y, pixel) in marked.enumerate_pixels() {
        match (in_box(x, y), pixel.0) {
            (true, [127, 127, 127]) => dark += 1,
            (true, [255, 255, 255]) => lit += 1,
            (inside, colour) => assert!(!inside && colour == [255; 3], "{x}, {y}: {colour:?}"),
        }
    }
    assert!(lit > 200 && dark > lit, "{lit} {dark}");
    // Where there is room for 20 pixels, twice as many; and a text wider than the picture is cut, not a panic.
    let large = Tensor::ones([1, 1, 640, 640], (Kind::Float, tch::Device::Cpu));
    let large = written(port(Dtype::Float32, &[], &[("watermark", "free")]), &[], large).unwrap();
    assert_eq!(decoded(&large, ImageFormat::Png).to_luma8().get_pixel(640 - 84, 640 - 84 + 60).0, [127]);
    let tiny = Tensor::ones([1, 5, 5], (Kind::Float, tch::Device::Cpu));
    written(port(Dtype::Float32, &[], &[("watermark", "far too long for five pixels")]), &[], tiny).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A damaged file is read or refused; it never panics, and never blames the model.
    #[test]
    fn damaged_files(which in 0usize..8, at in any::<prop::sample::Index>(), value: u8, cut in any::<prop::sample::Index>()) {
        let names = ["plain.png", "animated.png", "baseline.jpg", "progressive.jpg", "cmyk.jpg", "turned.jpg", "lossy.webp", "animated.webp"];
        let mut damaged = file(names[which]);
        let (at, cut) = (at.index(damaged.len()), cut.index(2 * damaged.len()));
        damaged[at] = value;
        damaged.truncate(cut.max(1));
        let options = [("width", "8"), ("height", "8"), ("resize", "crop")];
        match read(port(Dtype::Float32, ANY, &options), &damaged) {
            Ok(tensor) => prop_assert_eq!(tensor.size(), [1, 3, 8, 8]),
            Err(error) => prop_assert_eq!(error.reason, FailureReason::InputInvalid),
        }
    }
}
