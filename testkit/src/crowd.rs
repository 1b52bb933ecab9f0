//! Simulated agents that work: a task's answer comes after the time that the test says it takes.
//!
//! in → a machine that joined, how long an assignment lasts · out → frames as a real agent's: heartbeats that name what
//! runs, outcomes until they are acknowledged · invariant: what was cancelled is not reported.

use crate::agent::{SimulatedAgent, SimulatedSession};
use nightshift_wire::proto::agent_message::Kind as Up;
use nightshift_wire::proto::scheduler_message::Kind as Down;
use nightshift_wire::proto::{self, AgentMessage};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::Status;

/// Time between two heartbeats: below the least lease of a test.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How long an assignment lasts on a machine.
pub type Lasts = Arc<dyn Fn(&proto::Assignment) -> Duration + Send + Sync>;

/// Whether an attempt still computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Computing,
    Reported,
}

/// Serves as a node until the scheduler ends the session; drop the future to vanish without a word.
pub async fn work(agent: SimulatedAgent, hello: proto::Hello, lasts: Lasts) -> Result<(), Status> {
    let mut session = agent.open(hello).await?;
    let mut attempts: BTreeMap<String, Phase> = BTreeMap::new();
    let mut computing: JoinSet<(String, Duration)> = JoinSet::new();
    // Not all in the same moment.
    let first = Duration::from_millis(agent.node.bytes().map(u64::from).sum::<u64>() * 37 % 2_000);
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + first, HEARTBEAT);
    let mut pong = 0;
    loop {
        tokio::select! {
            frame = session.down.message() => match frame?.and_then(|frame| frame.kind) {
                None => return Ok(()),
                Some(Down::Assignment(assignment)) => {
                    let (attempt, time) = (assignment.attempt.clone(), lasts(&assignment));
                    // The same one again: its frame was thought lost.
                    if attempts.insert(attempt.clone(), Phase::Computing).is_none() {
                        computing.spawn(async move {
                            tokio::time::sleep(time).await;
                            (attempt, time)
                        });
                    }
                }
                Some(Down::Cancel(cancel)) => drop(attempts.remove(&cancel.attempt)),
                Some(Down::Ack(ack)) => drop(attempts.remove(&ack.attempt)),
                Some(Down::Ping(ping)) => pong = ping.nonce,
                Some(_) => {}
            },
            Some(Ok((attempt, time))) = computing.join_next() => {
                if let Some(phase) = attempts.get_mut(&attempt) {
                    *phase = Phase::Reported;
                    report(&session, &attempt, time).await;
                }
            }
            _ = beat.tick() => {
                for (attempt, _) in attempts.iter().filter(|(_, phase)| **phase == Phase::Reported) {
                    report(&session, attempt, Duration::ZERO).await;
                }
                let running = attempts.keys().map(|attempt| proto::RunningAttempt {
                    attempt: attempt.clone(),
                    phase: "Computing".into(),
                    ..Default::default()
                });
                let beat = proto::Heartbeat { running: running.collect(), pong, ..Default::default() };
                session.send(Up::Heartbeat(beat)).await;
            }
        }
    }
}

async fn report(session: &SimulatedSession, attempt: &str, computed: Duration) {
    let success = proto::Success {
        output: Some(proto::success::Output::Inline(b"{}".to_vec())),
        content_type: "application/json".into(),
    };
    let timings = proto::Timings { compute_us: computed.as_micros() as u64, ..Default::default() };
    let outcome = proto::Outcome {
        attempt: attempt.into(),
        epoch: Some((&session.epoch()).into()),
        result: Some(proto::outcome::Result::Success(success)),
        timings: Some(timings),
    };
    let _ = session.up.send(AgentMessage { kind: Some(Up::Outcome(outcome)) }).await;
}
