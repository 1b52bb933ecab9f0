//! The session's side of owner protection: pause, verify, resume; and what the owner is told.
//!
//! in → verdicts, changes of the owner's file · out → handed-back work, freed memory, history · invariant: memory is said to
//! be free when the kernel says so; a pause never waits for the scheduler.

use super::Shell;
use crate::assignment::Work;
use crate::config::Accept;
use crate::link::Event;
use crate::owner::control::{Freed, Local, Running};
use crate::owner::held::Held;
use crate::owner::history::Entry;
use crate::owner::{Pause, Verdict};
use jiff::Timestamp;
use nightshift_types::{AttemptId, Digest, Offer};
use nightshift_wire::convert::Report;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{info, warn};

/// What the owner may change while the agent runs, beside the rules.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    /// Price, region, labels.
    pub offer: Offer,
    /// Which models.
    pub accept: Accept,
}

/// Where the session hears of its owner, and tells.
#[derive(Debug, Clone)]
pub struct Owner {
    /// What commands and page see.
    pub local: Arc<Local>,
    /// Changes of the file.
    pub policy: watch::Receiver<Policy>,
}

/// What the shell keeps of it.
#[derive(Debug, Default)]
pub(super) struct Guest {
    paused: Option<Paused>,
    running: HashMap<AttemptId, Begun>,
}

#[derive(Debug)]
struct Begun {
    shown: Running,
    model: Digest,
    at: Instant,
}

#[derive(Debug)]
struct Paused {
    at: Instant,
    wall: Timestamp,
    before: Held,
    /// Waits for the last worker's end.
    release: Option<AbortHandle>,
}

impl Drop for Paused {
    /// Who waits for all workers' ends would wait for those of new work too, and keep their places.
    fn drop(&mut self) {
        if let Some(release) = &self.release {
            release.abort();
        }
    }
}

fn look() -> Held {
    Held::look("/proc".as_ref(), std::process::id()).unwrap_or_default()
}

impl Shell {
    /// The owner comes, or goes.
    pub(super) fn owner_says(&mut self, verdict: Verdict) {
        let around = self.around();
        let actions = match verdict {
            Verdict::Work if self.guest.paused.take().is_some() => {
                self.parts.metrics.pause(None);
                self.core.resume(&around)
            }
            Verdict::Work => Vec::new(),
            Verdict::Pause(pause) => self.pause(&pause, &around),
        };
        self.carry_out(actions);
    }

    fn pause(&mut self, pause: &Pause, around: &crate::reactor::Surroundings) -> Vec<crate::reactor::Action> {
        self.parts.metrics.pause(Some(pause.reason));
        let away = (pause.reason.wire().to_string(), pause.message.clone());
        if self.guest.paused.is_some() {
            return self.core.tell_away(away, around);
        }
        let before = look();
        let paused = Paused { at: Instant::now(), wall: Timestamp::now(), before, release: None };
        self.guest.paused = Some(paused);
        // Idle models go at once; those of work that is handed back with it.
        let executor = self.parts.runner.executor.clone();
        tokio::spawn(async move { executor.evict_idle().await });
        self.core.pause(away, self.parts.owner.local.watch.grace(), around)
    }

    /// Once nothing runs any more, waits for the end of the workers and looks.
    pub(super) fn release_if_quiet(&mut self) {
        let Some(paused) = self.guest.paused.as_mut().filter(|_| self.running.is_empty()) else { return };
        if paused.release.is_some() {
            return;
        }
        let (executor, events) = (self.parts.runner.executor.clone(), self.events.clone());
        let release = tokio::spawn(async move {
            executor.release().await;
            let _ = events.send(Event::Released(look())).await;
        });
        paused.release = Some(release.abort_handle());
    }

    /// The workers are gone: is their memory?
    pub(super) fn released(&mut self, held: Held) {
        let Some(paused) = &self.guest.paused else { return };
        if paused.before.processes == 0 && held.processes == 0 {
            return; // nothing was loaded
        }
        let took = paused.at.elapsed();
        self.parts.metrics.release.observe(took.as_secs_f64());
        crate::metrics::Metrics::bytes(&self.parts.metrics.unreleased, held.total());
        let (before, left) = (paused.before.total().human(), held.total().human());
        if held.processes == 0 {
            info!(before, left, ?took, "the memory is the owner's again");
        } else {
            warn!(before, left, processes = held.processes, ?took, "not all memory is free after a pause");
        }
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let (before_bytes, left_bytes) = (paused.before.total().0, held.total().0);
        self.parts.owner.local.live().freed = Some(Freed { at: paused.wall, before_bytes, left_bytes, milliseconds });
    }

    /// The owner's file changed.
    pub(super) fn policy(&mut self, policy: Policy) {
        self.parts.owner.local.live().price_per_hour = policy.offer.price_per_hour;
        self.core.set_accept(policy.accept);
        let actions = self.core.set_offer(policy.offer);
        self.carry_out(actions);
    }

    /// For "running now" and the history.
    pub(super) fn begins(&mut self, work: &Work) {
        let running = Running {
            attempt: work.attempt.to_string(),
            model: work.model_name.clone(),
            device: work.demand.device.clone(),
            since: Timestamp::now(),
            download: None,
        };
        let begun = Begun { shown: running, model: work.model.digest, at: Instant::now() };
        self.guest.running.insert(work.attempt.clone(), begun);
    }

    /// What the core made of an attempt's end goes into the history.
    pub(super) fn ended(&mut self, report: &Report) {
        let Some(Begun { shown: running, at: since, .. }) = self.guest.running.remove(&report.attempt) else { return };
        let result = report.result.as_ref().map_or_else(|(reason, _)| reason.as_str(), |_| "Succeeded");
        let entry = Entry {
            at: Timestamp::now(),
            attempt: running.attempt,
            model: running.model,
            device: running.device,
            result: result.into(),
            seconds: since.elapsed().as_secs_f64(),
            compute_seconds: Duration::from_micros(report.timings.compute_us).as_secs_f64(),
        };
        let local = self.parts.owner.local.clone();
        tokio::task::spawn_blocking(move || local.history.add(entry));
    }

    /// What commands and page show.
    pub(super) fn tell_owner(&self) {
        let downloads = self.parts.runner.fetcher.downloads();
        let shown = |begun: &Begun| Running { download: downloads.get(&begun.model).copied(), ..begun.shown.clone() };
        let mut live = self.parts.owner.local.live();
        live.connected = self.core.connected();
        live.server = self.parts.edge.server();
        live.running = self.guest.running.values().map(shown).collect();
        live.running.sort_by(|a, b| a.attempt.cmp(&b.attempt));
        live.reserved = self.core.reserved();
        live.cache = self.parts.cache.size();
        live.waiting = self.parts.outbox.size().0;
    }
}
