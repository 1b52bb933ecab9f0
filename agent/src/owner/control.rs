//! What the owner sees and says: one object behind the commands and the page.
//!
//! in → a [`Request`] · out → JSON · invariant: nothing here waits for the session; a pause counts whether or not there is one.

use super::decide::{Manual, Pause, Signals, Verdict};
use super::held::Held;
use super::history::{Entry, History, Sums};
use super::rules::When;
use super::watch::Watch;
use crate::progress::Download;
use jiff::Timestamp;
use nightshift_types::{Bytes, PicoPoints};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Longest `pause --for`.
const LONGEST_PAUSE: u64 = 366 * 86400;

/// What the owner says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// What goes on.
    Status,
    /// Stop working; for so many seconds, or until told otherwise.
    Pause {
        /// Seconds.
        #[serde(default)]
        seconds: Option<u64>,
    },
    /// Take a pause back.
    Resume,
    /// What it gave.
    Earnings,
    /// What ran.
    History {
        /// At most so many.
        #[serde(default)]
        most: Option<usize>,
    },
    /// End the agent, gently.
    Stop,
}

/// A running attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// Its id.
    pub attempt: String,
    /// `namespace/name`.
    pub model: String,
    /// Where.
    pub device: String,
    /// Since when.
    pub since: Timestamp,
    /// How far its model is, while that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download: Option<Download>,
}

/// The last pause's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Freed {
    /// When the pause began.
    pub at: Timestamp,
    /// Memory of workers, and shared with them, at that moment.
    pub before_bytes: u64,
    /// What was left of it when all were gone; not 0: something did not let go.
    pub left_bytes: u64,
    /// From the pause to the last look.
    pub milliseconds: u64,
}

/// What the session tells.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// Whether there is a session.
    pub connected: bool,
    /// Where it dials.
    pub server: String,
    /// What runs.
    pub running: Vec<Running>,
    /// The last pause.
    pub freed: Option<Freed>,
    /// Memory that running attempts reserve.
    pub reserved: Bytes,
    /// Memory that the owner lets us use.
    pub capacity: Bytes,
    /// Disk of cached models.
    pub cache: Bytes,
    /// Results that wait to be acknowledged.
    pub waiting: usize,
    /// What the owner asks for.
    pub price_per_hour: PicoPoints,
    /// What caps workers, in words.
    pub caps: String,
}

/// What the owner's commands and the page talk to.
#[derive(Debug)]
pub struct Local {
    /// This node's name in the pool.
    pub node: String,
    /// The data folder.
    pub data_dir: PathBuf,
    /// The owner's file.
    pub config: Option<PathBuf>,
    /// The watch.
    pub watch: Watch,
    /// The history.
    pub history: History,
    /// Ends the agent.
    pub stop: CancellationToken,
    live: Mutex<Live>,
}

/// The answer to [`Request::Status`].
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Working, Ready, Paused, Stopping or Disconnected.
    pub state: &'static str,
    /// Why it pauses.
    #[serde(flatten)]
    pub pause: Option<Pause>,
    /// Since when the verdict stands.
    pub since: Timestamp,
    /// What the owner said by hand.
    pub manual: Manual,
    /// Whether the owner's use counts.
    pub when: When,
    /// What tells of input.
    pub idle_source: Option<String>,
    /// What the sources say.
    pub signals: Signals,
    /// This node's name in the pool.
    pub node: String,
    /// Where it dials.
    pub server: String,
    /// Whether there is a session.
    pub connected: bool,
    /// What runs.
    pub running: Vec<Running>,
    /// Workers and their memory, as the kernel sees them.
    pub workers: usize,
    /// Resident memory of workers, and what is shared with them.
    pub held_bytes: u64,
    /// Memory that the owner lets us use.
    pub capacity_bytes: u64,
    /// Disk of cached models.
    pub cache_bytes: u64,
    /// What caps workers, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub caps: String,
    /// The last pause.
    pub last_freed: Option<Freed>,
    /// The owner's file.
    pub config: Option<PathBuf>,
    /// The data folder.
    pub data_dir: PathBuf,
    /// The agent's.
    pub version: &'static str,
}

/// The answer to [`Request::Earnings`].
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Earnings {
    /// Sums over what ran.
    #[serde(flatten)]
    pub sums: Sums,
    /// Results that wait to be acknowledged.
    pub waiting: usize,
    /// What the owner asks for.
    pub price_per_hour: String,
    /// Price × computing time of results: what they come to at this machine's own pace.
    pub points_at_own_pace: String,
    /// What that is and is not.
    pub note: &'static str,
}

const NOTE: &str = "The pool pays your price times its reference time for each accepted result, not your machine's own time, \
                    and it alone knows the account: status.earned of your ComputeNode. Here it is your price times the time \
                    that your machine computed.";

impl Local {
    /// Nothing runs yet.
    pub fn new(
        node: String,
        data_dir: PathBuf,
        config: Option<PathBuf>,
        watch: Watch,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let history = History::open(&data_dir);
        Arc::new(Self { node, data_dir, config, watch, history, stop, live: Mutex::default() })
    }

    /// The session's part.
    pub fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a request.
    pub fn answer(&self, request: &Request) -> Result<Value, String> {
        match request {
            Request::Status => Ok(json!(self.status())),
            Request::Pause { seconds } => {
                let manual = match seconds {
                    None => Manual::Paused,
                    Some(seconds @ 1..=LONGEST_PAUSE) => {
                        let seconds = i64::try_from(*seconds).unwrap_or(i64::MAX);
                        let end = Timestamp::now().as_second().saturating_add(seconds);
                        Manual::Until(Timestamp::from_second(end).map_err(|error| error.to_string())?)
                    }
                    Some(_) => return Err("a pause lasts a second to a year".into()),
                };
                self.say(manual)
            }
            Request::Resume => self.say(Manual::No),
            Request::Earnings => Ok(json!(self.earnings())),
            Request::History { most } => Ok(json!(self.recent(most.unwrap_or(50)))),
            Request::Stop => {
                info!("the owner ends this agent");
                self.stop.cancel();
                Ok(json!({ "stopping": true }))
            }
        }
    }

    fn say(&self, manual: Manual) -> Result<Value, String> {
        self.watch.say(manual).map_err(|error| format!("cannot be kept in {}: {error}", self.data_dir.display()))?;
        Ok(json!({ "manual": manual }))
    }

    /// The last attempts, the newest first.
    pub fn recent(&self, most: usize) -> Vec<Entry> {
        self.history.recent(most.min(500))
    }

    /// What goes on.
    pub fn status(&self) -> Status {
        let seen = self.watch.now();
        let held = Held::look("/proc".as_ref(), std::process::id()).unwrap_or_default();
        let live = self.live().clone();
        let state = match &seen.verdict {
            _ if self.stop.is_cancelled() => "Stopping",
            Verdict::Pause(_) => "Paused",
            Verdict::Work if !live.connected => "Disconnected",
            Verdict::Work if live.running.is_empty() => "Ready",
            Verdict::Work => "Working",
        };
        Status {
            state,
            pause: match seen.verdict {
                Verdict::Pause(pause) => Some(pause),
                Verdict::Work => None,
            },
            since: seen.since,
            manual: seen.manual,
            when: seen.when,
            idle_source: seen.source,
            signals: seen.signals,
            node: self.node.clone(),
            server: live.server,
            connected: live.connected,
            running: live.running,
            workers: held.processes,
            held_bytes: held.total().0,
            capacity_bytes: live.capacity.0,
            cache_bytes: live.cache.0,
            caps: live.caps,
            last_freed: live.freed,
            config: self.config.clone(),
            data_dir: self.data_dir.clone(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// What it gave.
    pub fn earnings(&self) -> Earnings {
        let (sums, live) = (self.history.sums(), self.live().clone());
        let milliseconds = (sums.all.compute_seconds * 1000.0) as i128;
        let points = PicoPoints(live.price_per_hour.0.saturating_mul(milliseconds) / 3_600_000);
        Earnings {
            sums,
            waiting: live.waiting,
            price_per_hour: live.price_per_hour.to_string(),
            points_at_own_pace: points.to_string(),
            note: NOTE,
        }
    }
}
