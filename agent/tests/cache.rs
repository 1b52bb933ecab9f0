//! The model cache under kill -9: a process that fills it is killed at any instruction, over and over.
#![allow(missing_docs)]

use nightshift_agent::cache::Cache;
use nightshift_types::{Bytes, Digest};
use sha2::{Digest as _, Sha256};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where the process to be killed works; set in it alone.
const FOLDER: &str = "CACHE_TEST_FOLDER";
const CAP: u64 = 1_000_000;
const ROUNDS: u64 = 12;

fn file(number: u64) -> Vec<u8> {
    let size = 50_000 + number * 37_813 % 250_000;
    number.to_le_bytes().iter().copied().cycle().take(size as usize).collect()
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

fn on_disk(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().map_or(0, |meta| meta.len())).sum()
}

/// Downloads and keeps files for ever: what a fetcher does, without a network. It goes on with halves, breaks off every
/// third download, and holds on to one file.
fn fill(folder: &Path) -> ! {
    let cache = Cache::open(folder, Bytes(CAP)).unwrap();
    let mut held = None;
    let mut out = std::io::stdout();
    for turn in u64::from(std::process::id()).. {
        let bytes = file(turn % 17);
        let digest = digest(&bytes);
        if let Some(pinned) = cache.get(&digest) {
            held = Some(pinned);
            continue;
        }
        let Ok(room) = cache.reserve(&digest, Bytes(bytes.len() as u64)) else { continue };
        let mut part = std::fs::OpenOptions::new().append(true).create(true).open(cache.part(&digest)).unwrap();
        let have = part.metadata().unwrap().len() as usize;
        for chunk in bytes[have..].chunks(16_384) {
            part.write_all(chunk).unwrap();
        }
        if turn % 3 == 0 {
            part.set_len(bytes.len() as u64 / 2).unwrap();
            continue; // it breaks off: the reservation goes, a half stays
        }
        part.sync_all().unwrap();
        let pinned = cache.insert(room).unwrap();
        held.get_or_insert(pinned);
        writeln!(out, "{digest}").unwrap();
    }
    unreachable!("{held:?}")
}

#[test]
fn a_killed_cache_has_whole_files_within_its_cap_and_goes_on() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        fill(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut whole, mut halves) = (0, 0);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "a_killed_cache_has_whole_files_within_its_cap_and_goes_on", "--nocapture"]);
        let mut child = child.env(FOLDER, folder.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap().contains("sha256:")).expect("a first file").unwrap();
        // Not a wait for anything: the instruction at which it dies is what the round is about.
        std::thread::sleep(Duration::from_millis(round * 7 % 60));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        assert!(on_disk(folder.path()) <= CAP, "round {round}: {} on disk at the kill", on_disk(folder.path()));
        let cache = Cache::open(folder.path(), Bytes(CAP)).unwrap();
        assert!(cache.size().0 <= CAP && cache.size().0 == on_disk(folder.path()), "round {round}: {cache:?}");
        for digest in cache.list() {
            let pinned = cache.get(&digest).unwrap();
            let found = self::digest(&std::fs::read(&pinned.path).unwrap());
            assert_eq!(found, digest, "round {round}: a file with a digest's name is that file");
            whole += 1;
        }
        let part = |path: &Path| path.extension().is_some_and(|end| end == "part");
        halves += std::fs::read_dir(folder.path()).unwrap().filter(|file| part(&file.as_ref().unwrap().path())).count();
    }
    assert!(whole > 0 && halves > 0, "{whole} files and {halves} halves were seen: the kills hit nothing");
}
