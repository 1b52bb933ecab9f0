//! What a machine can do, measured in a process of its own.
//!
//! *In*: a folder to write in. *Out*: [`Figures`] as JSON on standard output, within a second. *Invariant*: each figure is a
//! best of several tries: what the machine can, not what it was busy with.

use crate::sys::{cuda, file, limits};
use crate::worker::model::set_threads;
use crate::worker::sandbox;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Time for each of the two computing figures.
const TIME: Duration = Duration::from_millis(250);
/// Side of the multiplied matrices: large enough to be bound by arithmetic, 4 MiB each.
const SIDE: i64 = 1024;
/// Bytes copied at once: larger than most caches.
const COPIED: i64 = 64 << 20;
/// Bytes written and read back.
const READ: usize = 16 << 20;

/// The integers of `nightshift_types::Measured`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// 10⁹ floating point operations a second of a float32 matrix product.
    pub gigaflops: u64,
    /// Bytes copied a second in memory.
    pub memory_bandwidth: u64,
    /// Bytes read a second from a file that is not in the system's cache.
    pub load_bandwidth: u64,
}

/// Prints [`Figures`].
pub fn main(folder: Option<&str>) -> ExitCode {
    limits::be_the_first_to_go();
    set_threads(std::thread::available_parallelism().map_or(1, |n| n.get()));
    let temporary = std::env::temp_dir();
    let load_bandwidth = load_bandwidth(folder.map_or(&*temporary, Path::new)).unwrap_or(0);
    match (gigaflops(), memory_bandwidth()) {
        (Ok(gigaflops), Ok(memory_bandwidth)) => print(&Figures { gigaflops, memory_bandwidth, load_bandwidth }),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("nightshift-agent worker --measure: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints how many CUDA devices libtorch can use here.
pub fn probe_main() -> ExitCode {
    let count = if cuda::load() { tch::Cuda::device_count().max(0) } else { 0 };
    print(&count)
}

/// Confines this process as one with a model, and prints what that came to.
pub fn sandbox_main() -> ExitCode {
    match sandbox::confine(None, "cpu0") {
        Ok(sandbox) => print(&sandbox),
        Err(error) => {
            eprintln!("nightshift-agent worker --sandbox: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(value: &impl Serialize) -> ExitCode {
    println!("{}", serde_json::to_string(value).unwrap_or_default());
    ExitCode::SUCCESS
}

/// The shortest of as many tries as fit in [`TIME`], after one that is not counted.
fn best(mut once: impl FnMut() -> Result<(), tch::TchError>) -> Result<f64, tch::TchError> {
    once()?;
    let (began, mut least) = (Instant::now(), f64::INFINITY);
    while began.elapsed() < TIME {
        let start = Instant::now();
        once()?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least.max(1e-9))
}

fn gigaflops() -> Result<u64, tch::TchError> {
    let a = Tensor::f_rand([SIDE, SIDE], (Kind::Float, Device::Cpu))?;
    let b = Tensor::f_rand([SIDE, SIDE], (Kind::Float, Device::Cpu))?;
    let seconds = best(|| a.f_matmul(&b).map(drop))?;
    let operations = 2.0 * (SIDE as f64).powi(3);
    Ok((operations / seconds / 1e9) as u64)
}

fn memory_bandwidth() -> Result<u64, tch::TchError> {
    let from = Tensor::f_zeros([COPIED], (Kind::Uint8, Device::Cpu))?;
    let mut to = Tensor::f_zeros([COPIED], (Kind::Uint8, Device::Cpu))?;
    let seconds = best(|| {
        to.copy_(&from);
        Ok(())
    })?;
    Ok((COPIED as f64 / seconds) as u64)
}

fn load_bandwidth(folder: &Path) -> io::Result<u64> {
    let path = folder.join(format!(".nightshift-measure-{}", std::process::id()));
    let open = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path);
    let mut written = open?;
    // The name goes at once, whatever happens next; reading goes through a descriptor.
    let reading = File::open(&path);
    std::fs::remove_file(&path)?;
    let mut reading = reading?;
    let mut buffer: Vec<u8> = (0..READ).map(|i| ((i * 31) >> 3) as u8).collect();
    written.write_all(&buffer)?;
    written.sync_all()?;
    file::forget_cached(&reading);
    let start = Instant::now();
    reading.read_exact(&mut buffer)?;
    Ok((READ as f64 / start.elapsed().as_secs_f64().max(1e-9)) as u64)
}
