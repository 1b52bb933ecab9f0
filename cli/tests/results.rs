//! `nightshift results` where the connection breaks and where somebody presses Ctrl-C, against a gateway that does what the
//! test says. What the real one answers is tested with the scheduler (`scheduler/tests/results.rs`) and in `batch.rs`.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

/// A gateway that serves its requests one after another.
struct Gateway {
    folder: tempfile::TempDir,
    serving: JoinHandle<()>,
}

impl Gateway {
    fn start(serve: impl FnOnce(&TcpListener) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = format!(r#"{{"url":"http://{}","token":"t"}}"#, listener.local_addr().unwrap());
        std::fs::write(folder.path().join("gateway.json"), file).unwrap();
        Self { folder, serving: std::thread::spawn(move || serve(&listener)) }
    }

    fn results(&self, more: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightshift"));
        command.args(["results", "job/j", "--data-dir"]).arg(self.folder.path()).args(more);
        command.env_remove("NIGHTSHIFT_HOME").env_remove("KUBECONFIG");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// The next request's path and query, answered with a stream that is not ended yet.
fn accept(listener: &TcpListener) -> (String, TcpStream) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut line) = (String::new(), String::new());
    reader.read_line(&mut first).unwrap();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    (first.split(' ').nth(1).unwrap().to_string(), stream)
}

fn chunk(stream: &mut TcpStream, text: &str) {
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).unwrap();
}

fn line(index: u32) -> String {
    format!("{{\"index\":{index},\"contentType\":\"application/json\",\"output\":[{index}]}}\n")
}

const PATH: &str = "/v1/namespaces/default/jobs/j/results";

#[test]
fn a_broken_connection_costs_nothing_and_repeats_nothing() {
    let gateway = Gateway::start(|listener| {
        let (path, mut stream) = accept(listener);
        assert_eq!(path, format!("{PATH}?from=0&skip=0"));
        chunk(&mut stream, &line(0));
        chunk(&mut stream, &line(2)[..9]);
        drop(stream);
        // Broken before a byte, too.
        let (path, stream) = accept(listener);
        assert_eq!(path, format!("{PATH}?from=1&skip=0"));
        drop(stream);
        let (_, mut stream) = accept(listener);
        chunk(&mut stream, &line(2));
        // A line too long to be held: what was written of it is not asked for again.
        let long = "A".repeat(8 << 20);
        chunk(&mut stream, &format!("{{\"index\":3,\"outputBase64\":\"{long}"));
        drop(stream);
        let (path, mut stream) = accept(listener);
        let skip = path.strip_prefix(&format!("{PATH}?from=3&skip=")).unwrap().parse::<usize>().unwrap();
        assert!(skip >= 8 << 20, "{skip}");
        let whole = format!("{{\"index\":3,\"outputBase64\":\"{long}BBBB\"}}\n");
        chunk(&mut stream, &whole[skip..]);
        chunk(&mut stream, &line(4));
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let done = gateway.results(&["-o", "json"]).wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let all: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let indexes: Vec<_> = all.as_array().unwrap().iter().map(|one| one["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [0, 2, 3, 4]);
    assert_eq!(all[2]["outputBase64"].as_str().unwrap().len(), (8 << 20) + 4);
    gateway.serving.join().unwrap();
}

#[test]
fn ctrl_c_ends_it_after_a_whole_line() {
    let (told, tell) = std::sync::mpsc::channel::<()>();
    let gateway = Gateway::start(move |listener| {
        let (_, mut stream) = accept(listener);
        chunk(&mut stream, &format!("{}{}{}", line(5), line(6), &line(9)[..20]));
        // Until the other side has ended.
        let _ = tell.recv();
    });
    let mut results = gateway.results(&["--from", "5"]);
    let mut out = BufReader::new(results.stdout.take().unwrap());
    let mut text = String::new();
    while text.lines().count() < 2 {
        assert!(out.read_line(&mut text).unwrap() > 0, "two lines come");
    }
    kill(Pid::from_raw(results.id() as i32), Signal::SIGINT).unwrap();
    out.read_to_string(&mut text).unwrap();
    let done = results.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(130));
    assert_eq!(text, line(5) + &line(6), "whole lines alone");
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains("`--from 7` goes on"), "{said}");
    drop(told);
    gateway.serving.join().unwrap();
}

#[test]
fn ctrl_c_ends_it_also_where_nobody_reads() {
    let gateway = Gateway::start(|listener| {
        let (_, mut stream) = accept(listener);
        let text = line(1).repeat(1000);
        let text = format!("{:x}\r\n{text}\r\n", text.len());
        while stream.write_all(text.as_bytes()).is_ok() {}
    });
    let mut results = gateway.results(&[]);
    let mut first = [0; 1];
    let mut out = results.stdout.take().unwrap();
    out.read_exact(&mut first).unwrap();
    kill(Pid::from_raw(results.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(results.wait().unwrap().code(), Some(130), "the pipe is full, and stays so");
    gateway.serving.join().unwrap();
}
