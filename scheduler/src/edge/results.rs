//! Results of a job, through the gateway: as JSON Lines, or one by itself.
//!
//! in → a job, where to begin · out → a stream · invariant: whatever a job put out, no more of it is in memory than a page
//! of small results and a chunk of a large one. A line is the same whenever it is asked for, so that a client whose
//! connection broke goes on in its midst.

use super::http::{Answer, Failure, Gateway, find};
use crate::leader::Leader;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use nightshift_state::{OutputBody, OutputRef, Task, TaskState};
use nightshift_types::JobId;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use std::io::{self, Read};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes in one chunk: whole groups of base64's three.
const CHUNK: usize = 3 << 16;
/// Chunks that wait for a slow reader.
const AHEAD: usize = 4;
/// A page ends with so many results, or bytes, or tasks looked at: the state is held for no longer.
const PAGE: usize = 64;
const PAGE_BYTES: usize = 1 << 20;
const PAGE_TASKS: usize = 4096;
/// JSON nested deeper than this is not taken for JSON: few parsers read it.
const MAX_DEPTH: usize = 120;

/// Which lines.
#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The first task.
    #[serde(default)]
    from: usize,
    /// So many tasks from there on, those without a result counted too.
    count: Option<usize>,
    /// Bytes of the first line that are not wanted again.
    #[serde(default)]
    skip: u64,
    /// Of a larger output its size alone.
    largest: Option<u64>,
}

/// What ends a stream early.
enum End {
    /// Nobody reads any more.
    Unread,
    /// This.
    Error(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Error(error)
    }
}

/// Every result so far, a line each.
pub(super) async fn lines(
    Shared(gateway): Shared<Gateway>,
    Path((namespace, name)): Path<(String, String)>,
    Query(wanted): Query<Wanted>,
) -> Answer<impl IntoResponse> {
    let (job, tasks) = {
        let state = gateway.leader.state().await;
        let job = find(&state, &namespace, &name)?;
        (job.id.clone(), job.tasks.len())
    };
    let end = wanted.count.map_or(tasks, |count| tasks.min(wanted.from.saturating_add(count)));
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut out = Out { sender, skip: wanted.skip };
        if let Err(End::Error(error)) = write(&gateway.leader, &job, wanted, end, &mut out).await {
            let _ = out.sender.send(Err(error)).await;
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(ReceiverStream::new(receiver))))
}

/// One result's own bytes, or the rest of them: `Range: bytes=N-`.
pub(super) async fn one(
    Shared(gateway): Shared<Gateway>,
    Path((namespace, name, index)): Path<(String, String, usize)>,
    headers: HeaderMap,
) -> Answer<Response> {
    let found = {
        let state = gateway.leader.state().await;
        let job = find(&state, &namespace, &name)?;
        job.tasks.get(index).and_then(output).cloned()
    };
    let none = || Failure(StatusCode::NOT_FOUND, format!("job {name} has no result of task {index} yet"));
    let output = found.ok_or_else(none)?;
    let size = size(&output);
    let from = begin(&headers).filter(|from| *from <= size);
    let body = match output.body {
        OutputBody::Inline(bytes) => Body::from(Bytes::from(bytes).slice(from.unwrap_or(0) as usize..)),
        OutputBody::Blob { digest, .. } => {
            let lost = |error| {
                Failure(StatusCode::GONE, format!("the result of task {index} is not in the blob store: {error}"))
            };
            let mut file = File::open(gateway.leader.blobs().file(&digest)).await.map_err(lost)?;
            file.seek(io::SeekFrom::Start(from.unwrap_or(0))).await.map_err(lost)?;
            Body::from_stream(tokio_util::io::ReaderStream::with_capacity(file, CHUNK))
        }
    };
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_LENGTH, (size - from.unwrap_or(0)).into());
    headers.insert(header::ACCEPT_RANGES, header::HeaderValue::from_static("bytes"));
    if let Ok(type_) = output.content_type.parse() {
        headers.insert(header::CONTENT_TYPE, type_);
    }
    // What a node calls its bytes is not to be believed by a browser.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    if let Some(from) = from
        && let Ok(range) = format!("bytes {from}-{}/{size}", size.saturating_sub(1)).parse()
    {
        headers.insert(header::CONTENT_RANGE, range);
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(answer)
}

fn begin(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

fn output(task: &Task) -> Option<&OutputRef> {
    match &task.state {
        TaskState::Succeeded(success) => Some(&success.output),
        _ => None,
    }
}

fn size(output: &OutputRef) -> u64 {
    match &output.body {
        OutputBody::Inline(bytes) => bytes.len() as u64,
        OutputBody::Blob { size, .. } => size.0,
    }
}

async fn write(leader: &Leader, job: &JobId, wanted: Wanted, end: usize, out: &mut Out) -> Result<(), End> {
    let mut next = wanted.from;
    while next < end {
        for (index, output) in page(leader, job, &mut next, end).await? {
            line(leader, index, output, wanted.largest.unwrap_or(u64::MAX), out).await?;
            // It was of the first line alone.
            out.skip = 0;
        }
    }
    Ok(())
}

/// The next results, from task `next` on.
async fn page(leader: &Leader, job: &JobId, next: &mut usize, end: usize) -> io::Result<Vec<(usize, OutputRef)>> {
    let state = leader.state().await;
    let job = state.job(job).ok_or_else(|| io::Error::other("the job was deleted meanwhile"))?;
    let (mut page, mut bytes) = (Vec::new(), 0);
    let last = end.min(job.tasks.len()).min(*next + PAGE_TASKS);
    while *next < last && page.len() < PAGE && bytes < PAGE_BYTES {
        if let Some(output) = output(&job.tasks[*next]) {
            if let OutputBody::Inline(inline) = &output.body {
                bytes += inline.len();
            }
            page.push((*next, output.clone()));
        }
        *next += 1;
    }
    if *next >= job.tasks.len() {
        *next = end;
    }
    Ok(page)
}

/// `{"index":N,"contentType":…,` and `"output":` JSON, `"outputBase64":` other bytes, `"size":` of what is too large, or
/// `"error":` of what was lost.
async fn line(leader: &Leader, index: usize, output: OutputRef, largest: u64, out: &mut Out) -> Result<(), End> {
    let size = size(&output);
    let head = json!({ "index": index, "contentType": output.content_type }).to_string();
    let head = head.trim_end_matches('}');
    if size > largest {
        return out.text(format!("{head},\"size\":{size}}}\n")).await;
    }
    let declared = output.content_type.contains("json");
    match output.body {
        OutputBody::Inline(bytes) => {
            let is_json = declared && is_json(&bytes[..]);
            body(head, is_json, &bytes[..], out).await
        }
        OutputBody::Blob { digest, .. } => {
            let path = leader.blobs().file(&digest);
            let opened = tokio::task::spawn_blocking(move || {
                let mut file = std::fs::File::open(path)?;
                let is_json = declared && is_json(io::BufReader::with_capacity(CHUNK, &file));
                io::Seek::rewind(&mut file)?;
                Ok::<_, io::Error>((file, is_json))
            });
            match opened.await.unwrap_or_else(|_| Err(io::Error::other("reading it failed"))) {
                Ok((file, is_json)) => body(head, is_json, File::from_std(file), out).await,
                Err(error) => {
                    tracing::warn!(%digest, index, %error, "a result is not in the blob store");
                    let error = json!(format!("not in the blob store: {error}"));
                    out.text(format!("{head},\"error\":{error}}}\n")).await
                }
            }
        }
    }
}

/// The rest of a line. JSON is written as it is: it has no line breaks but between its words, where a space does as well.
async fn body(head: &str, is_json: bool, mut bytes: impl AsyncRead + Unpin, out: &mut Out) -> Result<(), End> {
    out.text(format!("{head},{}", if is_json { "\"output\":" } else { "\"outputBase64\":\"" })).await?;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        (&mut bytes).take(CHUNK as u64).read_to_end(&mut chunk).await?;
        let last = chunk.len() < CHUNK;
        if is_json {
            chunk.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
            out.bytes(chunk).await?;
        } else {
            out.text(base64::engine::general_purpose::STANDARD.encode(&chunk)).await?;
        }
        if last {
            return out.text(if is_json { "}\n" } else { "\"}\n" }.into()).await;
        }
    }
}

/// Where a line goes.
struct Out {
    sender: mpsc::Sender<io::Result<Bytes>>,
    skip: u64,
}

impl Out {
    async fn text(&mut self, text: String) -> Result<(), End> {
        self.bytes(text.into_bytes()).await
    }

    async fn bytes(&mut self, bytes: Vec<u8>) -> Result<(), End> {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        let bytes = Bytes::from(bytes).slice(skipped as usize..);
        if bytes.is_empty() {
            return Ok(());
        }
        self.sender.send(Ok(bytes)).await.map_err(|_| End::Unread)
    }
}

/// Whether bytes are one JSON value, in valid UTF-8 and nested no deeper than parsers read. Needs no memory of its size.
fn is_json(bytes: impl Read) -> bool {
    let mut text = Text { bytes, partial: Vec::new(), depth: 0, string: false, escaped: false };
    serde_json::from_reader::<_, IgnoredAny>(io::BufReader::with_capacity(CHUNK, &mut text)).is_ok()
        && text.partial.is_empty()
}

/// Passes bytes on that are UTF-8 and not nested too deep.
struct Text<R> {
    bytes: R,
    /// The beginning of a character.
    partial: Vec<u8>,
    depth: usize,
    string: bool,
    escaped: bool,
}

impl<R: Read> Read for Text<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(buffer)?;
        let new = &buffer[..read];
        self.partial.extend(new);
        let valid = match std::str::from_utf8(&self.partial) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        };
        self.partial.drain(..valid);
        for byte in new {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.string => self.escaped = true,
                b'"' => self.string = !self.string,
                b'[' | b'{' if !self.string => self.depth += 1,
                b']' | b'}' if !self.string => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            if self.depth > MAX_DEPTH {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "nested too deep"));
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_from_other_bytes() {
        let nested = |depth| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        for good in ["1", " {\"a\": \"ü[\\\"[\"}\n", "\"\\\\\"", "[1,\n2]", &nested(MAX_DEPTH)] {
            assert!(is_json(good.as_bytes()), "{good}");
            // A character may be cut anywhere.
            assert!(is_json(Slow(good.as_bytes())), "{good}");
        }
        for bad in ["", "{", "1 2", "nul", "[1,]", "\"a\nb\"", &nested(MAX_DEPTH + 1)] {
            assert!(!is_json(bad.as_bytes()), "{bad}");
        }
        for bad in [&b"\"\xff\""[..], b"\"\xc3", b"\"\xc3\"", b"1\xc3"] {
            assert!(!is_json(bad) && !is_json(Slow(bad)), "{bad:?}");
        }
        assert!(!is_json("[".repeat(10 << 20).as_bytes()));
    }

    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            buffer[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[tokio::test]
    async fn a_line_is_whole_and_can_be_gone_on_with_anywhere() {
        async fn collect(is_json: bool, bytes: Vec<u8>, skip: u64) -> Vec<u8> {
            let (sender, mut receiver) = mpsc::channel(AHEAD);
            let writing = async move {
                let mut out = Out { sender, skip };
                assert!(body("{\"index\":0", is_json, &bytes[..], &mut out).await.is_ok());
            };
            let reading = async {
                let mut all = Vec::new();
                while let Some(chunk) = receiver.recv().await {
                    all.extend(chunk.unwrap());
                }
                all
            };
            tokio::join!(writing, reading).1
        }
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let line = collect(false, bytes.clone(), 0).await;
            let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let encoded = value["outputBase64"].as_str().unwrap();
            assert_eq!(base64::engine::general_purpose::STANDARD.decode(encoded).unwrap(), bytes);
            for skip in [1, 10, line.len() / 2, line.len()] {
                assert_eq!(collect(false, bytes.clone(), skip as u64).await, line[skip..], "{size} from {skip}");
            }
        }
        let line = collect(true, b"{\n  \"a\":\r\n 1}\n".to_vec(), 0).await;
        assert_eq!(line, b"{\"index\":0,\"output\":{   \"a\":   1} }\n");
    }
}
