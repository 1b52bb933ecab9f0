//! One agent's stream, from its hello to its end.
//!
//! in → frames of at most 64 KiB · out → commands to the leader, soft state of the node · invariant: an outcome is
//! acknowledged only after its commit; a malformed frame ends this session and nothing else.

use crate::downloads::Download;
use crate::edge::service::{staging, stopped};
use crate::leader::{Leader, SubmitError};
use crate::nodes::{Announced, Resident, SessionKey};
use nightshift_placement::Unavailable;
use nightshift_state::event::MAX_INLINE_OUTPUT;
use nightshift_state::hooks::planted;
use nightshift_state::{Command, Outcome, OutputBody, OutputRef, Timings, pass};
use nightshift_types::{AttemptId, NodeId};
use nightshift_wire::convert::{self, OutputPlace, Report};
use nightshift_wire::proto::agent_message::Kind as Up;
use nightshift_wire::proto::scheduler_message::Kind as Down;
use nightshift_wire::{CAPABILITIES, MAX_CONTROL_FRAME, WireError, proto};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Frames waiting for a slow agent; beyond it its session is closed, so that it slows nobody else.
const QUEUE: usize = 256;
/// Outcomes and refusals of one session under way at once.
const UNDER_WAY: usize = 64;
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// Waits for the hello, answers it, and serves the session in a task of its own.
pub async fn open(
    leader: Leader,
    node: NodeId,
    mut frames: Streaming<proto::AgentMessage>,
) -> Result<impl futures::Stream<Item = Result<proto::SchedulerMessage, Status>> + Send, Status> {
    let first = tokio::time::timeout(HELLO_WITHIN, frames.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello within 10 s"))??;
    let Some(Up::Hello(hello)) = first.and_then(|message| message.kind) else {
        return Err(Status::invalid_argument("a session begins with a hello"));
    };
    let resident = resident(&hello.models).map_err(|e| Status::invalid_argument(format!("hello.{e}")))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let announced = announced(&hello).map_err(|e| Status::invalid_argument(format!("hello.{e}")))?;
    let listed = attempts(&hello.attempts).map_err(|e| Status::invalid_argument(format!("hello.{e}")))?;
    let now = leader.now();
    // The welcome is queued before the session is known to anyone else: it is always the first frame.
    let welcome = leader.welcome(CAPABILITIES);
    let _ = sender.try_send(Ok(proto::SchedulerMessage { kind: Some(Down::Welcome(welcome)) }));
    let key = leader.nodes().connect(&node, announced, sender, now);
    let key = key.ok_or_else(|| Status::already_exists("a newer session of this node is open"))?;
    leader.nodes().heartbeat(&key, resident, unavailable(hello.availability.as_ref()), 0, now);
    tracing::info!(%node, version = %convert::clip(&hello.agent_version), "session opened");
    leader.reconcile_attempts(&node, &listed).await;
    leader.session_changed(&node);
    tokio::spawn(serve(leader, key, frames));
    Ok(ReceiverStream::new(receiver))
}

async fn serve(leader: Leader, key: SessionKey, mut frames: Streaming<proto::AgentMessage>) {
    let turns = Arc::new(Semaphore::new(UNDER_WAY));
    let end = loop {
        let frame = match frames.message().await {
            Ok(Some(frame)) => frame,
            Ok(None) => break None,
            Err(status) => break Some(status),
        };
        if !leader.nodes().is_current(&key) {
            break Some(Status::already_exists("replaced by a newer session"));
        }
        if frame.encoded_len() > MAX_CONTROL_FRAME {
            let length = frame.encoded_len();
            break Some(Status::resource_exhausted(format!(
                "a control frame of {length} bytes, at most {MAX_CONTROL_FRAME}"
            )));
        }
        leader.nodes().heard(&key, leader.now());
        if let Err(error) = handle(&leader, &key, &turns, frame).await {
            break Some(Status::invalid_argument(error.to_string()));
        }
    };
    let reason = end.as_ref().map_or("closed by the agent", Status::message);
    tracing::info!(node = %key.node, reason, "session ended");
    if leader.nodes().is_current(&key) {
        leader.downloading(&key.node, Vec::new()).await;
    }
    leader.nodes().disconnect(&key, end);
    leader.session_changed(&key.node);
}

async fn handle(
    leader: &Leader,
    key: &SessionKey,
    turns: &Arc<Semaphore>,
    frame: proto::AgentMessage,
) -> Result<(), WireError> {
    match frame.kind {
        Some(Up::Heartbeat(beat)) => {
            let resident = resident(&beat.models)?;
            let unavailable = unavailable(beat.availability.as_ref());
            listed("running", &beat.running)?;
            let downloads = downloads(&beat.running)?;
            let named = beat.running.into_iter().map(|running| running.attempt).collect();
            if leader.nodes().heartbeat(key, resident, unavailable, beat.pong, leader.now()) {
                leader.session_changed(&key.node);
            }
            leader.downloading(&key.node, downloads).await;
            leader.redeliver(&key.node, &named).await;
        }
        Some(Up::Outcome(outcome)) => {
            let report = convert::report(&outcome)?;
            // Outcomes wait for a commit; the next frame is read meanwhile. One too many is dropped: it was not
            // acknowledged, so the agent sends it again.
            if let Ok(turn) = turns.clone().try_acquire_owned() {
                tokio::spawn(settle(leader.clone(), key.node.clone(), report, turn));
            }
        }
        Some(Up::Refusal(refusal)) => {
            let attempt = convert::attempt(&refusal.attempt)?;
            tracing::info!(node = %key.node, %attempt, message = %convert::clip(&refusal.message), "assignment refused");
            leader.nodes().park(&key.node, leader.now());
            let message = convert::clip(&refusal.message);
            let command = Command::Refuse { node: key.node.clone(), attempt, message };
            if let Ok(turn) = turns.clone().try_acquire_owned() {
                tokio::spawn(refuse(leader.clone(), command, turn));
            }
        }
        Some(Up::Offer(offer)) => {
            leader.nodes().offer(key, convert::offer(&offer)?);
            leader.session_changed(&key.node);
        }
        Some(Up::Hello(_)) => return Err(WireError { field: "hello", problem: "sent twice".into() }),
        // A kind of a newer agent: the capabilities say we do not need it.
        None => {}
    }
    Ok(())
}

/// Commits one outcome, then acknowledges it. On a fault nothing is acknowledged, and the agent sends it again.
async fn settle(leader: Leader, node: NodeId, report: Report, _turn: OwnedSemaphorePermit) {
    let attempt = report.attempt.clone();
    if let Err(status) = commit(&leader, &node, report).await {
        tracing::warn!(%node, %attempt, error = status.message(), "outcome not settled yet");
    }
}

async fn refuse(leader: Leader, command: Command, _turn: OwnedSemaphorePermit) {
    if let Err(SubmitError::Rejected(why)) = leader.submit(command).await {
        tracing::debug!(%why, "refusal dropped");
    }
}

async fn commit(leader: &Leader, node: &NodeId, report: Report) -> Result<(), Status> {
    let Report { attempt, result, timings: t, .. } = report;
    let outcome = match result {
        // Of an attempt that is not current, or not this node's, nothing is stored; the decision drops it.
        Ok(output) => match current_namespace(leader, node, &attempt).await {
            Some(namespace) => Outcome::Success(output_ref(leader, &namespace, &attempt, output).await?),
            None => Outcome::Success(OutputRef { body: OutputBody::Inline(Vec::new()), content_type: String::new() }),
        },
        Err((reason, message)) => Outcome::Failure { reason, message },
    };
    let timings = Timings {
        fetch_us: t.fetch_us,
        load_us: t.load_us,
        queue_us: t.queue_us,
        compute_us: t.compute_us,
        codec_us: t.codec_us,
    };
    let id = attempt.to_string();
    if planted("acknowledged-early") {
        leader.nodes().send(node, Down::Ack(proto::Ack { attempt: id.clone() }));
    }
    pass!("publish.before");
    match leader.submit(Command::Report { node: node.clone(), attempt, outcome, timings }).await {
        // The commit's own effects acknowledge it.
        Ok(_) => Ok(()),
        // Nothing a repeat could change: the agent may forget it.
        Err(SubmitError::Rejected(why)) => {
            tracing::info!(%node, %why, "outcome dropped");
            leader.nodes().send(node, Down::Ack(proto::Ack { attempt: id }));
            Ok(())
        }
        Err(SubmitError::Stopped | SubmitError::Busy) => Err(stopped()),
    }
}

/// The namespace of an attempt's job, if the attempt is current and this node's.
async fn current_namespace(leader: &Leader, node: &NodeId, attempt: &AttemptId) -> Option<String> {
    let state = leader.state().await;
    state.current(attempt).filter(|running| running.node == *node)?;
    state.job(&attempt.task.job).map(|job| job.spec.namespace.clone())
}

/// Where the journal says the result is: itself for small ones, else a blob of the job's namespace.
async fn output_ref(
    leader: &Leader,
    namespace: &str,
    attempt: &AttemptId,
    output: convert::Output,
) -> Result<OutputRef, Status> {
    let internal = |error: crate::blobs::BlobError| Status::internal(error.to_string());
    let body = match output.place {
        OutputPlace::Inline(bytes) if bytes.len() <= MAX_INLINE_OUTPUT => OutputBody::Inline(bytes),
        OutputPlace::Inline(bytes) => {
            let blob = leader.blobs().put(namespace, &bytes).await.map_err(internal)?;
            OutputBody::Blob { digest: blob.digest, size: blob.size }
        }
        OutputPlace::Blob(claimed) => {
            let staged = leader.blobs().granted(&staging(attempt), &claimed.digest).await;
            let staged = staged.ok_or_else(|| Status::failed_precondition("the result was not put"))?;
            leader.blobs().grant(namespace, &staged.digest).await.map_err(internal)?;
            leader.blobs().revoke_all(&staging(attempt)).await.map_err(internal)?;
            OutputBody::Blob { digest: staged.digest, size: staged.size }
        }
    };
    Ok(OutputRef { body, content_type: output.content_type })
}

fn announced(hello: &proto::Hello) -> Result<Announced, WireError> {
    let word = |text: &str| text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(32).collect();
    Ok(Announced {
        session_number: hello.session_number,
        devices: convert::devices(&hello.devices)?,
        measured: hello.measured.as_ref().map(Into::into).unwrap_or_default(),
        offer: hello.offer.as_ref().map(convert::offer).transpose()?.unwrap_or_default(),
        version: convert::clip(&hello.agent_version),
        os: word(&hello.os),
        arch: word(&hello.arch),
    })
}

fn listed<T>(field: &'static str, list: &[T]) -> Result<(), WireError> {
    let fits = list.len() <= convert::MAX_LISTED;
    if fits { Ok(()) } else { Err(WireError { field, problem: format!("more than {} entries", convert::MAX_LISTED) }) }
}

fn attempts(list: &[String]) -> Result<Vec<AttemptId>, WireError> {
    listed("attempts", list)?;
    list.iter().map(|text| convert::attempt(text)).collect()
}

/// Models on their way to attempts. An agent of before says nothing of them.
fn downloads(running: &[proto::RunningAttempt]) -> Result<Vec<(AttemptId, Download)>, WireError> {
    let download = |one: &proto::RunningAttempt| {
        let coming = one.download?;
        let download =
            Download { done: coming.done_bytes, total: coming.total_bytes, seconds_left: coming.seconds_left };
        Some(convert::attempt(&one.attempt).map(|attempt| (attempt, download)))
    };
    running.iter().filter_map(download).collect()
}

fn resident(models: &[proto::CachedModel]) -> Result<Resident, WireError> {
    listed("models", models)?;
    let mut resident = Resident::default();
    for model in models {
        let digest = convert::digest(&model.digest)?;
        resident.cached.push(digest);
        if model.loaded {
            resident.loaded.push((digest, convert::clip(&model.device)));
        }
    }
    Ok(resident)
}

fn unavailable(availability: Option<&proto::Availability>) -> Option<(Unavailable, String)> {
    let availability = availability.filter(|availability| !availability.available)?;
    let reason = match availability.reason.as_str() {
        "OutsideWindow" => Unavailable::OutsideWindow,
        "OnBattery" => Unavailable::OnBattery,
        "Hot" => Unavailable::Hot,
        "Draining" | "Stopping" => Unavailable::Draining,
        _ => Unavailable::OwnerActive,
    };
    Some((reason, convert::clip(&availability.message)))
}
