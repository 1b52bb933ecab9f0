//! Files to mono samples, each by its decoder.
//!
//! *In*: a file's bytes and the most that may come of them. *Out*: [`Sound`]. *Invariant*: memory grows with what was decoded
//! and never beyond the most: a header's count is a claim.

use super::super::wav::{self, MAX_CHANNELS};
use super::{Most, Sound};
use claxon::FlacReader;
use lewton::inside_ogg::OggStreamReader;
use nanomp3::SliceReader;
use std::io::Cursor;

const EXPECTED: &str =
    "expected a WAV, FLAC, Ogg Vorbis or MP3 file; `ffmpeg -i FILE -ac 1 out.flac` makes one of nearly anything";

/// Reads a file of any of the formats.
pub fn sound(bytes: &[u8], most: Most) -> Result<Sound, String> {
    match bytes {
        [b'R', b'I', b'F', b'F', ..] => of_wav(bytes, most),
        [b'f', b'L', b'a', b'C', ..] => of_flac(bytes, most),
        [b'O', b'g', b'g', b'S', ..] => of_vorbis(bytes, most),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Err(format!("AAC in MP4 is not read: {EXPECTED}")),
        _ if nanomp3::detect(bytes) => of_mp3(bytes, most),
        _ => Err(EXPECTED.into()),
    }
}

/// Averages frames into `samples`, up to the most.
struct Mix {
    samples: Vec<f32>,
    rate: u32,
    frames: usize,
    most: Most,
}

impl Mix {
    fn new(rate: u32, channels: u32, most: Most) -> Result<Self, String> {
        if channels == 0 || channels > u32::from(MAX_CHANNELS) {
            return Err(format!("{channels} channels; 1 to {MAX_CHANNELS} are read"));
        }
        Ok(Self { samples: Vec::new(), rate, frames: most.frames(rate)?, most })
    }

    /// Room for so many more frames.
    fn room(&mut self, frames: usize) -> Result<(), String> {
        if self.samples.len() + frames > self.frames {
            return Err(self.most.exceeded());
        }
        self.samples.try_reserve(frames).map_err(|_| "the node has no memory for so many samples".to_string())
    }

    /// Frames of channels one after the other.
    fn planes<'a>(&mut self, frames: usize, planes: impl Iterator<Item = &'a [f32]> + Clone) -> Result<(), String> {
        self.room(frames)?;
        let count = planes.clone().count().max(1) as f32;
        for frame in 0..frames {
            let sum: f32 = planes.clone().map(|plane| plane.get(frame).copied().unwrap_or(0.0)).sum();
            self.samples.push(sum / count);
        }
        Ok(())
    }

    /// Frames of interleaved channels.
    fn interleaved(&mut self, samples: &[f32], channels: usize) -> Result<(), String> {
        self.room(samples.len() / channels.max(1))?;
        let mixed = samples.chunks_exact(channels.max(1)).map(|frame| frame.iter().sum::<f32>() / channels as f32);
        self.samples.extend(mixed);
        Ok(())
    }

    fn done(self) -> Result<Sound, String> {
        match self.samples.iter().position(|sample| !sample.is_finite()) {
            Some(at) => Err(format!("sample {at} is not a finite number")),
            None => Ok(Sound { samples: self.samples, rate: self.rate }),
        }
    }
}

fn of_wav(bytes: &[u8], most: Most) -> Result<Sound, String> {
    let (samples, rate) = wav::read(bytes)?;
    if samples.len() > most.frames(rate)? {
        return Err(most.exceeded());
    }
    Ok(Sound { samples, rate })
}

fn of_flac(bytes: &[u8], most: Most) -> Result<Sound, String> {
    let bad = |error: claxon::Error| format!("the FLAC file is damaged: {error}");
    let mut reader = FlacReader::new(Cursor::new(bytes)).map_err(bad)?;
    let info = reader.streaminfo();
    let mut mix = Mix::new(info.sample_rate, info.channels, most)?;
    if info.samples.is_some_and(|samples| samples > mix.frames as u64) {
        return Err(most.exceeded());
    }
    let scale = 2f32.powi(i32::try_from(info.bits_per_sample.clamp(1, 32)).unwrap_or(32) - 1);
    let mut blocks = reader.blocks();
    let (mut buffer, mut floats) = (Vec::new(), Vec::new());
    while let Some(block) = blocks.read_next_or_eof(std::mem::take(&mut buffer)).map_err(bad)? {
        let (frames, channels) = (block.duration() as usize, block.channels());
        if channels != info.channels {
            return Err("the FLAC file is damaged: its channels change".into());
        }
        floats.clear();
        for channel in 0..channels {
            floats.extend(block.channel(channel).iter().map(|sample| *sample as f32 / scale));
        }
        mix.planes(frames, floats.chunks_exact(frames.max(1)))?;
        buffer = block.into_buffer();
    }
    if info.samples.is_some_and(|samples| samples > mix.samples.len() as u64) {
        return Err(format!("the FLAC file is cut off after {} samples", mix.samples.len()));
    }
    mix.done()
}

fn of_vorbis(bytes: &[u8], most: Most) -> Result<Sound, String> {
    let bad = |error: lewton::VorbisError| format!("not an Ogg Vorbis file that can be read: {error}; {EXPECTED}");
    let mut reader = OggStreamReader::new(Cursor::new(bytes)).map_err(bad)?;
    let (rate, serial) = (reader.ident_hdr.audio_sample_rate, reader.stream_serial());
    let mut mix = Mix::new(rate, u32::from(reader.ident_hdr.audio_channels), most)?;
    while let Some(packet) = reader.read_dec_packet_generic::<Vec<Vec<f32>>>().map_err(bad)? {
        if reader.ident_hdr.audio_sample_rate != rate {
            return Err("its rate changes in the middle".into());
        }
        let frames = packet.first().map_or(0, Vec::len);
        mix.planes(frames, packet.iter().map(Vec::as_slice))?;
    }
    // The last page says where the sound ends within its last packet; lewton heeds that of files of several pages only.
    if let (Some(end), true) = (reader.get_last_absgp(), reader.stream_serial() == serial) {
        mix.samples.truncate(usize::try_from(end).unwrap_or(usize::MAX));
    }
    mix.done()
}

fn of_mp3(bytes: &[u8], most: Most) -> Result<Sound, String> {
    // Without its scan of the whole file: the length it would tell is not needed.
    let options = nanomp3::Options::default().skip_scan(true).allow_mono_stereo_transition(true);
    let mut reader = SliceReader::<f32>::with_options(bytes, options);
    let mut mix: Option<Mix> = None;
    loop {
        let frame = reader.read_frame().map_err(|error| format!("the MP3 file is damaged: {error}"))?;
        let Some(samples) = frame.map(<[f32]>::to_vec) else { break };
        let channels = reader.channels().map_or(1, |channels| if channels == nanomp3::Channels::Mono { 1 } else { 2 });
        let mix = match &mut mix {
            Some(mix) => mix,
            None => mix.insert(Mix::new(reader.sample_rate(), channels, most)?),
        };
        mix.interleaved(&samples, channels as usize)?;
    }
    mix.ok_or_else(|| format!("no MP3 frame can be read: {EXPECTED}"))?.done()
}
