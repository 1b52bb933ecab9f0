//! One session's stream, and the outcomes that travel on it.
//!
//! in → frames to send · out → the scheduler's messages as events, and the one event that ends them · invariant: the first
//! message is a Welcome, within [`WELCOME`]; reading stops while the core is busy.

use crate::edge::Edge;
use crate::join::chain;
use crate::reactor::Phase;
use crate::session::Parts;
use nightshift_types::AttemptId;
use nightshift_wire::convert::Report;
use nightshift_wire::{MAX_INLINE_OUTPUT, proto};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

/// Longest wait for a Welcome.
const WELCOME: Duration = Duration::from_secs(15);

/// What happens to the task that owns the core.
#[derive(Debug)]
pub enum Event {
    /// On the link of that generation.
    Link(u64, LinkEvent),
    /// An attempt moved on.
    Phase(AttemptId, Phase),
    /// An attempt ended.
    Finished(Box<Report>),
    /// An outcome is in the outbox.
    Stored(AttemptId),
    /// An outcome can be sent.
    Loaded(AttemptId, Box<proto::Outcome>),
    /// An outcome could not be read or uploaded now.
    Lost(AttemptId),
    /// The workers are gone after a pause; what the kernel says is left.
    Released(crate::owner::held::Held),
}

/// What happens on a link.
#[derive(Debug)]
pub enum LinkEvent {
    /// A message came.
    Message(Box<proto::SchedulerMessage>),
    /// It is over.
    Down(String),
}

/// Dials and reads until the link breaks; the last event is [`LinkEvent::Down`].
pub async fn run(
    edge: Edge,
    frames: mpsc::Receiver<proto::AgentMessage>,
    generation: u64,
    events: mpsc::Sender<Event>,
) {
    let problem = match read(edge, frames, generation, &events).await {
        Ok(()) => "the scheduler ended the session".to_string(),
        Err(status) => explain(&status),
    };
    let _ = events.send(Event::Link(generation, LinkEvent::Down(problem))).await;
}

async fn read(
    edge: Edge,
    frames: mpsc::Receiver<proto::AgentMessage>,
    generation: u64,
    events: &mpsc::Sender<Event>,
) -> Result<(), tonic::Status> {
    let late = |_| tonic::Status::deadline_exceeded("the scheduler did not answer");
    let mut client = edge.session_client();
    let call = client.session(ReceiverStream::new(frames));
    let mut stream = tokio::time::timeout(WELCOME, call).await.map_err(late)??.into_inner();
    let mut first = true;
    loop {
        let next = stream.message();
        let message = if first { tokio::time::timeout(WELCOME, next).await.map_err(late)?? } else { next.await? };
        let Some(message) = message else { return Ok(()) };
        if first && !matches!(message.kind, Some(proto::scheduler_message::Kind::Welcome(_))) {
            return Err(tonic::Status::internal("the first message was no Welcome"));
        }
        first = false;
        let event = LinkEvent::Message(Box::new(message));
        if events.send(Event::Link(generation, event)).await.is_err() {
            return Ok(());
        }
    }
}

/// A status in one line, with the remedy where there is one.
fn explain(status: &tonic::Status) -> String {
    let remedy = match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            ": if this node was removed or its certificate revoked, delete its identity folder and join with a new token"
        }
        Code::Unimplemented => ": the scheduler is too old for this agent",
        _ => "",
    };
    let message = if status.message().is_empty() { chain(status) } else { status.message().to_string() };
    format!("{:?}: {message}{remedy}", status.code())
}

/// An outcome from the outbox as a control frame: an output too large for one is staged first.
pub async fn load_outcome(parts: &Parts, uploads: &Semaphore, attempt: &AttemptId) -> Result<proto::Outcome, String> {
    let _few = uploads.acquire().await.map_err(|e| e.to_string())?;
    let (outbox, wanted) = (parts.outbox.clone(), attempt.clone());
    let read = tokio::task::spawn_blocking(move || outbox.get(&wanted)).await.map_err(|e| e.to_string())?;
    let mut outcome = read.map_err(|e| e.to_string())?.ok_or("it is not in the outbox any more")?;
    if let Some(proto::outcome::Result::Success(success)) = &mut outcome.result
        && let Some(proto::success::Output::Inline(bytes)) = &mut success.output
        && bytes.len() > MAX_INLINE_OUTPUT
    {
        let bytes = std::mem::take(bytes);
        let size = bytes.len() as u64;
        let blob = parts.edge.put_result(attempt, bytes).await.map_err(|status| explain(&status))?;
        if blob.size.0 != size {
            return Err(format!("the scheduler took {} of {size} bytes", blob.size.0));
        }
        parts.metrics.put.inc_by(size);
        success.output = Some(proto::success::Output::Blob((&blob).into()));
    }
    Ok(outcome)
}
