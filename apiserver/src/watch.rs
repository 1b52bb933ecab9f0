//! In: a resource, a filter and a revision → out: a stream of watch events → invariant: every matching change after the start
//! is sent once, in order. A watcher reads the store's log at its own pace and holds nobody up; one that falls behind the log
//! gets an in-stream `410 Expired` and must list again (an HTTP 410 would make clients retry for ever).

use crate::api::{Api, Call};
use crate::encode;
use crate::events;
use crate::kinds::Resource;
use crate::negotiate::Form;
use crate::object::meta_mut;
use crate::status::{ApiError, ApiResult, json_response};
use crate::store::{Event, EventKind, Stored};
use crate::table::{self, Include};
use crate::verbs::read::Filter;
use axum::body::{Body, Bytes};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Events taken from the log at once, and the size at which a chunk is sent.
const BATCH: usize = 256;
const CHUNK: usize = 64 << 10;
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` ends at a random time between this and twice this, as the real server's.
const DEFAULT_TIMEOUT: u64 = 1800;

struct Watcher {
    api: Arc<Api>,
    resource: Arc<Resource>,
    namespace: String,
    filter: Filter,
    form: Form,
    include: Include,
    bell: tokio::sync::watch::Receiver<u64>,
    /// All events up to here are sent.
    cursor: u64,
    initial: VecDeque<Arc<Stored>>,
    /// Send the bookmark that ends the initial events.
    end_of_initial: bool,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    headers_sent: bool,
    done: bool,
}

/// Begins a watch. `start` is the revision after which to send events; `None` begins with what exists.
pub(crate) fn start(call: &Call, filter: Filter, start: Option<u64>) -> ApiResult<Response<Body>> {
    let o = &call.options;
    let r = &call.resource;
    let bell = call.api.store.bell(&r.store_key);
    let send_initial = o.send_initial_events.unwrap_or(start.is_none());
    let (rev, initial) = call.api.store.read(|s| {
        if !send_initial {
            return (start.unwrap_or(s.rev), VecDeque::new());
        }
        let listed = s.list(&r.store_key, &call.target.namespace, None);
        (s.rev, listed.filter(|i| filter.matches(r, i)).cloned().collect())
    });
    let timeout =
        o.timeout.unwrap_or_else(|| Duration::from_secs(rand::random_range(DEFAULT_TIMEOUT..2 * DEFAULT_TIMEOUT)));
    let now = Instant::now();
    let watcher = Watcher {
        api: call.api.clone(),
        resource: r.clone(),
        namespace: call.target.namespace.clone(),
        filter,
        form: call.form,
        include: encode::include(&o.include_object),
        bell,
        cursor: rev,
        initial,
        end_of_initial: o.send_initial_events == Some(true),
        bookmarks: o.bookmarks,
        next_bookmark: now + BOOKMARK_EVERY,
        deadline: now + timeout.min(Duration::from_secs(7 * 86_400)),
        headers_sent: false,
        done: false,
    };
    let stream = futures::stream::unfold(watcher, |mut w| async move {
        let chunk = w.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), w))
    });
    Ok(json_response(StatusCode::OK, Body::from_stream(stream)))
}

impl Watcher {
    /// The next chunk of whole lines; `None` ends the watch.
    async fn next(&mut self) -> Option<Bytes> {
        let shutdown = self.api.shutdown.clone();
        loop {
            if self.done || shutdown.is_cancelled() {
                return None;
            }
            self.bell.borrow_and_update();
            let chunk = self.take();
            if !chunk.is_empty() {
                return Some(chunk);
            }
            tokio::select! {
                changed = self.bell.changed() => if changed.is_err() { return None },
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    if let Some(line) = self.bookmark(false) {
                        return Some(line);
                    }
                }
            }
        }
    }

    /// What can be sent now.
    fn take(&mut self) -> Bytes {
        let mut out = Vec::new();
        while let Some(object) = self.initial.pop_front() {
            self.push(&mut out, "ADDED", &object);
            if out.len() >= CHUNK {
                return out.into();
            }
        }
        if self.end_of_initial {
            self.end_of_initial = false;
            out.extend(self.bookmark(true).unwrap_or_default());
        }
        while out.len() < CHUNK && !self.done {
            let since = self.api.store.read(|s| s.since(&self.resource.store_key, self.cursor, BATCH));
            match since {
                Err(expired) => {
                    let text = format!("too old resource version: {} ({})", self.cursor, expired.oldest);
                    out.extend(line("ERROR", ApiError::expired(text).to_value().to_string().as_bytes()));
                    self.done = true;
                }
                Ok(since) => {
                    let more = since.events.len() == BATCH;
                    since.events.iter().for_each(|e| self.event(&mut out, e));
                    self.cursor = since.rev;
                    if !more {
                        break;
                    }
                }
            }
        }
        // One event alone is most often the line all watchers share: no copy then.
        out.into()
    }

    fn event(&mut self, out: &mut Vec<u8>, e: &Event) {
        if !self.namespace.is_empty() && e.object.key.ns != self.namespace {
            return;
        }
        let r = self.resource.clone();
        if self.filter.is_empty() {
            if self.form == Form::Json && r.serves_raw(e.object.tag) {
                out.extend_from_slice(e.line.get_or_init(|| line(kind_name(e.kind), &e.object.bytes).into()));
                return;
            }
            return self.push(out, kind_name(e.kind), &e.object);
        }
        let before = e.prev.as_ref().is_some_and(|p| self.filter.matches(&r, p));
        let after = e.kind != EventKind::Deleted && self.filter.matches(&r, &e.object);
        match (before, after) {
            (false, true) => self.push(out, "ADDED", &e.object),
            (true, true) => self.push(out, "MODIFIED", &e.object),
            (true, false) if e.kind == EventKind::Deleted => self.push(out, "DELETED", &e.object),
            (true, false) => self.push_left(out, e),
            (false, false) => {}
        }
    }

    /// An object that left the selector: deleted for this watcher, in its old state with the new revision.
    fn push_left(&mut self, out: &mut Vec<u8>, e: &Event) {
        let Some(prev) = &e.prev else { return };
        let Ok(mut v) = serde_json::from_slice::<Value>(&prev.bytes) else { return };
        meta_mut(&mut v).insert("resourceVersion".into(), e.object.rev.to_string().into());
        let old = Stored {
            key: prev.key.clone(),
            rev: e.object.rev,
            tag: prev.tag,
            meta: prev.meta.clone(),
            bytes: v.to_string().into(),
        };
        self.push(out, "DELETED", &old);
    }

    fn push(&mut self, out: &mut Vec<u8>, kind: &str, object: &Stored) {
        let r = &self.resource;
        let encoded = match self.form {
            Form::Json => encode::served_bytes(r, object),
            Form::Partial => encode::stored_value(r, object).map(|v| table::partial(&v).to_string().into()),
            Form::Table => encode::row(r, object, self.include).map(|row| {
                let meta = json!({"resourceVersion": object.rev.to_string()});
                table::table(r, vec![row], meta, !self.headers_sent).to_string().into()
            }),
        };
        match encoded {
            Ok(bytes) => {
                self.headers_sent = true;
                out.extend(line(kind, &bytes));
            }
            Err(e) => tracing::error!(error = %e, "a stored object cannot be read"),
        }
    }

    fn bookmark(&mut self, initial: bool) -> Option<Bytes> {
        let mut meta = json!({"resourceVersion": self.cursor.to_string()});
        if initial {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let mut v = json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": meta});
        events::to_served(&self.resource, &mut v);
        let v = match self.form {
            Form::Json => v,
            Form::Partial => table::partial(&v),
            Form::Table => {
                let row =
                    json!({"cells": vec![Value::Null; self.resource.columns.len()], "object": table::partial(&v)});
                let meta = json!({"resourceVersion": self.cursor.to_string()});
                table::table(&self.resource, vec![row], meta, !self.headers_sent)
            }
        };
        self.headers_sent = true;
        Some(line("BOOKMARK", v.to_string().as_bytes()).into())
    }
}

fn kind_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Added => "ADDED",
        EventKind::Modified => "MODIFIED",
        EventKind::Deleted => "DELETED",
    }
}

fn line(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out
}
