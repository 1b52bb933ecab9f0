//! Simulated machines that outlive schedulers, networks and themselves: what a real agent promises, with time for work.
//!
//! in → the real protocol's frames, whether its process lives · out → results, until they are acknowledged; what it was told,
//! for the judge · invariant: an outcome is kept as on a disk, over kills, until it is acknowledged; a scheduler of an older
//! epoch is not listened to.

use crate::judge::Telling;
use crate::judge::decode::Attempt;
use crate::record::Recorder;
use nightshift_testkit::agent::{SimulatedAgent, SimulatedSession};
use nightshift_types::{AttemptId, FailureReason};
use nightshift_wire::convert::{Output, OutputPlace};
use nightshift_wire::proto;
use nightshift_wire::proto::agent_message::Kind as Up;
use nightshift_wire::proto::scheduler_message::Kind as Down;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

/// Between two tries to reach a scheduler.
const REDIAL: Duration = Duration::from_millis(150);
/// After so long without an answer the next scheduler is tried.
const ANSWER: Duration = Duration::from_secs(2);
/// Memory of a machine: more tasks than it is ever given.
const MEMORY: u64 = 64 << 30;
/// Of a thousand attempts so many fail.
const FAILING: u64 = 30;

/// What is on its disk.
#[derive(Debug, Default)]
struct Disk {
    session: u64,
    /// Newest epoch it has heard of: journal, revision.
    epoch: (String, u64),
    outbox: BTreeMap<String, Result<(), FailureReason>>,
    acknowledged: BTreeSet<String>,
    /// It sends a frame that is none.
    babbles: bool,
}

/// One machine.
pub struct Machine {
    agent: SimulatedAgent,
    servers: Vec<SocketAddr>,
    disk: Arc<Mutex<Disk>>,
    recorder: Recorder,
    process: Option<AbortHandle>,
}

/// What its process holds in memory.
struct Process {
    agent: SimulatedAgent,
    disk: Arc<Mutex<Disk>>,
    recorder: Recorder,
    running: BTreeMap<String, AbortHandle>,
    computing: JoinSet<String>,
    finished: Arc<Notify>,
}

/// The number that an attempt's fate is drawn from: the same in every run.
fn lot(attempt: &str) -> u64 {
    attempt
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn parsed(attempt: &str) -> Option<Attempt> {
    let id: AttemptId = attempt.parse().ok()?;
    Some((id.task.job.to_string(), u64::from(id.task.index), u64::from(id.number)))
}

impl Machine {
    /// One that has joined, and dials these.
    pub fn new(agent: SimulatedAgent, servers: Vec<SocketAddr>, recorder: Recorder) -> Self {
        let mut machine = Self { agent, servers, disk: Arc::default(), recorder, process: None };
        machine.start();
        machine
    }

    /// kill -9: what it computes is lost, its disk is not.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.abort();
        }
    }

    /// Starts it, if it does not run.
    pub fn start(&mut self) {
        if self.process.is_none() {
            let mut process = Process {
                agent: self.agent.clone(),
                disk: self.disk.clone(),
                recorder: self.recorder.clone(),
                running: BTreeMap::new(),
                computing: JoinSet::new(),
                finished: Arc::default(),
            };
            let servers = self.servers.clone();
            let task = tokio::spawn(async move {
                loop {
                    for server in &servers {
                        // Whatever ends a session, the next one may be better.
                        let _ = process.session(*server).await;
                        tokio::time::sleep(REDIAL).await;
                    }
                }
            });
            self.process = Some(task.abort_handle());
        }
    }

    /// A malformed frame with the next report: it costs the session, and nothing else.
    pub fn babble(&mut self) {
        self.disk.lock().unwrap().babbles = true;
    }

    /// Results that nobody has acknowledged.
    pub fn undelivered(&self) -> usize {
        self.disk.lock().unwrap().outbox.len()
    }
}

impl Process {
    async fn session(&mut self, server: SocketAddr) -> Result<(), tonic::Status> {
        let hello = {
            let mut disk = self.disk.lock().unwrap();
            disk.session += 1;
            let mut hello = self.agent.hello(disk.session, MEMORY);
            hello.attempts = self.running.keys().chain(disk.outbox.keys()).cloned().collect();
            hello
        };
        let agent = self.agent.clone().at(server);
        let opened = tokio::time::timeout(ANSWER, agent.open(hello)).await;
        let mut session = opened.map_err(|_| tonic::Status::deadline_exceeded("no welcome"))??;
        let epoch = session.epoch();
        {
            let mut disk = self.disk.lock().unwrap();
            if disk.epoch.0 == epoch.journal && epoch.revision < disk.epoch.1 {
                return Err(tonic::Status::failed_precondition("a leader that is deposed"));
            }
            disk.epoch = (epoch.journal, epoch.revision);
        }
        let mut beat = tokio::time::interval(Duration::from_millis(500));
        let finished = self.finished.clone();
        let mut pong = 0;
        loop {
            tokio::select! {
                frame = session.next() => match frame? {
                    Down::Assignment(assignment) => self.assigned(&assignment),
                    Down::Cancel(cancel) => self.forget(&cancel.attempt),
                    Down::Ack(ack) => self.acknowledged(&ack.attempt),
                    Down::Ping(ping) => pong = ping.nonce,
                    _ => {}
                },
                Some(Ok(attempt)) = self.computing.join_next() => drop(self.running.remove(&attempt)),
                () = finished.notified() => self.report(&session).await,
                _ = beat.tick() => {
                    self.report(&session).await;
                    let outbox: Vec<String> = self.disk.lock().unwrap().outbox.keys().cloned().collect();
                    let running = self.running.keys().cloned().chain(outbox).map(|attempt| proto::RunningAttempt {
                        attempt,
                        phase: "Computing".into(),
                        ..Default::default()
                    });
                    let beat = proto::Heartbeat { running: running.collect(), pong, ..Default::default() };
                    session.send(Up::Heartbeat(beat)).await;
                }
            }
        }
    }

    fn assigned(&mut self, assignment: &proto::Assignment) {
        let name = assignment.attempt.clone();
        let Some(attempt) = parsed(&name) else { return };
        let node = self.agent.node.clone();
        let disk = self.disk.lock().unwrap();
        if disk.acknowledged.contains(&name) {
            return self.recorder.told(Telling::Again { node, attempt });
        }
        // The same again: its frame and ours crossed.
        if disk.outbox.contains_key(&name) || self.running.contains_key(&name) {
            return;
        }
        self.recorder.told(Telling::Assignment { node, attempt });
        // A result, or now and then a failure, after 0.2 to 1.2 s.
        let lot = lot(&name);
        let lasts = Duration::from_millis(200 + lot % 1000);
        let fails = (lot / 1000) % 1000 < FAILING;
        let (kept, finished, ends) = (self.disk.clone(), self.finished.clone(), name.clone());
        let task = self.computing.spawn(async move {
            tokio::time::sleep(lasts).await;
            let result = if fails { Err(FailureReason::WorkerCrashed) } else { Ok(()) };
            kept.lock().unwrap().outbox.insert(ends.clone(), result);
            finished.notify_one();
            ends
        });
        drop(disk);
        self.running.insert(name, task);
    }

    /// What is computed of it stops, what is kept of it is dropped.
    fn forget(&mut self, attempt: &str) {
        if let Some(task) = self.running.remove(attempt) {
            task.abort();
        }
        self.disk.lock().unwrap().outbox.remove(attempt);
    }

    fn acknowledged(&mut self, name: &str) {
        let reported = {
            let mut disk = self.disk.lock().unwrap();
            let reported = disk.outbox.remove(name).is_some();
            if reported {
                disk.acknowledged.insert(name.into());
            }
            reported
        };
        match parsed(name) {
            Some(attempt) if reported => self.recorder.told(Telling::Ack { node: self.agent.node.clone(), attempt }),
            _ => self.forget(name),
        }
    }

    /// Reports all that is not acknowledged.
    async fn report(&self, session: &SimulatedSession) {
        let (outbox, babbles) = {
            let mut disk = self.disk.lock().unwrap();
            (disk.outbox.clone(), std::mem::take(&mut disk.babbles))
        };
        if babbles {
            let outcome = proto::Outcome { attempt: "no/attempt".into(), ..Default::default() };
            session.send(Up::Outcome(outcome)).await;
        }
        for (attempt, result) in outbox {
            let output = Output { content_type: "application/json".into(), place: OutputPlace::Inline(b"{}".to_vec()) };
            let result = result.map(|()| output).map_err(|reason| (reason, "drawn by lot".to_string()));
            session.report(&attempt, result).await;
        }
    }
}
