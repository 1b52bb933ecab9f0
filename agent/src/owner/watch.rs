//! The thread that looks at the machine and says when to pause.
//!
//! in → [`Sense`], rules, what the owner says by hand · out → the verdict, through a channel, as soon as it changes ·
//! invariant: nobody waits for this thread; what the owner says by hand survives a restart.

use super::decide::{Manual, Now, Pause, Seen, Signals, Verdict, decide};
use super::idle::{Chosen, Places};
use super::procfs::{self, Ticks};
use super::rules::{Rules, When};
use super::{Roots, sysfs};
use crate::files;
use jiff::Timestamp;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{error, info, warn};

/// Between two looks, where the owner's use counts: a fifth of the second in which the memory must be free.
const POLL: Duration = Duration::from_millis(200);
/// On a dedicated machine nothing changes that fast.
const SLOW_POLL: Duration = Duration::from_secs(1);
/// The load of other programs is that of the last so long, or a little more.
const LOAD_WINDOW: Duration = Duration::from_millis(500);
/// Battery, heat, power and programs are looked at so often.
const RARE: Duration = Duration::from_millis(500);

/// Looks at the machine.
pub trait Sense: Send {
    /// What the rules need to know.
    fn look(&mut self, rules: &Rules, now: Instant) -> Signals;
    /// What tells of input, in words; `None`: nothing.
    fn source(&self) -> Option<String>;
}

/// This machine.
#[derive(Debug)]
pub struct Machine {
    roots: Roots,
    own: u32,
    idle: Chosen,
    power: sysfs::Power,
    ticks: VecDeque<(Instant, Ticks)>,
    rare: Option<(Instant, Signals)>,
}

impl Machine {
    /// `own` is the process whose descendants are not "other programs".
    pub fn new(roots: Roots, own: u32, places: impl Fn() -> Places + Send + 'static) -> Self {
        let idle = Chosen::new(places);
        Self { roots, own, idle, power: sysfs::Power::default(), ticks: VecDeque::new(), rare: None }
    }

    fn load(&mut self, now: Instant) -> Option<f32> {
        let ticks = Ticks::read(&self.roots.proc, self.own)?;
        self.ticks.push_back((now, ticks));
        let old_enough = |at: &Instant| now.saturating_duration_since(*at) >= LOAD_WINDOW;
        while self.ticks.get(1).is_some_and(|(at, _)| old_enough(at)) {
            self.ticks.pop_front();
        }
        let (at, before) = self.ticks.front()?;
        old_enough(at).then(|| ticks.others(before)).flatten()
    }

    fn battery(&self) -> Option<bool> {
        #[cfg(target_os = "macos")]
        return super::idle::macos::battery();
        #[cfg(not(target_os = "macos"))]
        sysfs::on_battery(&self.roots.sys)
    }

    fn rare(&mut self, rules: &Rules, now: Instant) -> Signals {
        if let Some((at, signals)) = &self.rare
            && now.saturating_duration_since(*at) < RARE
        {
            return signals.clone();
        }
        let signals = Signals {
            on_battery: self.battery(),
            celsius: sysfs::celsius(&self.roots.sys),
            watts: self.power.watts(&self.roots.sys, now),
            excluded_program: procfs::running(&self.roots.proc, &rules.excluded),
            ..Signals::default()
        };
        self.rare = Some((now, signals.clone()));
        signals
    }
}

impl Sense for Machine {
    fn look(&mut self, rules: &Rules, now: Instant) -> Signals {
        let rare = self.rare(rules, now);
        if rules.when == When::Always {
            return rare;
        }
        Signals {
            idle_seconds: self.idle.idle(now).map(|idle| idle.as_secs_f64()),
            other_programs_percent: self.load(now),
            ..rare
        }
    }

    fn source(&self) -> Option<String> {
        self.idle.name()
    }
}

#[derive(Debug)]
struct State {
    rules: Rules,
    manual: Manual,
    signals: Signals,
    source: Option<String>,
    verdict: Verdict,
    since: Timestamp,
    ended: bool,
}

/// What is known now.
#[derive(Debug, Clone)]
pub struct View {
    /// What the sources say.
    pub signals: Signals,
    /// What tells of input.
    pub source: Option<String>,
    /// What follows.
    pub verdict: Verdict,
    /// Since when.
    pub since: Timestamp,
    /// What the owner said by hand.
    pub manual: Manual,
    /// Whether the owner's use counts.
    pub when: When,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    verdicts: watch::Sender<Verdict>,
    file: PathBuf,
}

/// The watch; clones share it, the thread ends with [`Watch::end`].
#[derive(Debug, Clone)]
pub struct Watch(Arc<Inner>);

impl Watch {
    /// Starts looking. `file` keeps what the owner says by hand. The first verdict is there when this returns.
    pub fn start(rules: Rules, file: PathBuf, sense: impl Sense + 'static) -> std::io::Result<Self> {
        let manual = match files::read_optional(&file)?.map(|text| serde_json::from_str(&text)) {
            Some(Ok(manual)) => manual,
            Some(Err(error)) => {
                warn!(file = %file.display(), %error, "a damaged file is read as \"paused\"; `nightshift-agent resume` replaces it");
                Manual::Paused
            }
            None => Manual::No,
        };
        let state = State {
            rules,
            manual,
            signals: Signals::default(),
            source: None,
            verdict: Verdict::Work,
            since: Timestamp::now(),
            ended: false,
        };
        let (verdicts, _) = watch::channel(Verdict::Work);
        let inner = Arc::new(Inner { state: Mutex::new(state), changed: Condvar::new(), verdicts, file });
        let watch = Self(inner.clone());
        let mut round = Round { sense, seen: Seen::default(), started: Instant::now() };
        round.look(&inner);
        std::thread::Builder::new().name("nightshift-owner".into()).spawn(move || {
            let alarm = Alarm(inner.clone());
            while inner.wait() {
                round.look(&alarm.0);
            }
        })?;
        Ok(watch)
    }

    /// Tells of every change.
    pub fn verdicts(&self) -> watch::Receiver<Verdict> {
        self.0.verdicts.subscribe()
    }

    /// What is known now.
    pub fn now(&self) -> View {
        let state = self.0.lock();
        let State { signals, source, verdict, since, manual, rules, .. } = &*state;
        let (signals, source, verdict) = (signals.clone(), source.clone(), verdict.clone());
        View { signals, source, verdict, since: *since, manual: *manual, when: rules.when }
    }

    /// What the owner says by hand counts at once.
    pub fn say(&self, manual: Manual) -> std::io::Result<()> {
        let text = serde_json::to_vec(&manual)?;
        files::write_atomic(&self.0.file, &[&text])?;
        self.0.lock().manual = manual;
        self.0.changed.notify_all();
        Ok(())
    }

    /// New rules count at once.
    pub fn rules(&self, rules: Rules) {
        self.0.lock().rules = rules;
        self.0.changed.notify_all();
    }

    /// The rules in force.
    pub fn grace(&self) -> Duration {
        self.0.lock().rules.grace
    }

    /// No more looking.
    pub fn end(&self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the next look; false at the end.
    fn wait(&self) -> bool {
        let state = self.lock();
        if state.ended {
            return false;
        }
        let poll = if state.rules.when == When::Idle { POLL } else { SLOW_POLL };
        let (state, _) = self.changed.wait_timeout(state, poll).unwrap_or_else(PoisonError::into_inner);
        !state.ended
    }
}

/// If nobody looks any more, nothing may run.
struct Alarm(Arc<Inner>);

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if !state.ended {
            let message = "what looks after the owner has failed: restart the agent".to_string();
            error!(message);
            state.verdict = Verdict::Pause(Pause { reason: super::Cause::Paused, message });
            self.0.verdicts.send_replace(state.verdict.clone());
        }
    }
}

struct Round<S> {
    sense: S,
    seen: Seen,
    started: Instant,
}

impl<S: Sense> Round<S> {
    fn look(&mut self, inner: &Inner) {
        let rules = inner.lock().rules.clone();
        let signals = self.sense.look(&rules, Instant::now());
        let source = self.sense.source();
        let wall = Timestamp::now();
        let now = Now { running: self.started.elapsed(), wall };
        let mut state = inner.lock();
        let (mut verdict, seen) = decide(&signals, &state.rules, state.manual, &self.seen, now);
        self.seen = seen;
        (state.signals, state.source) = (signals, source);
        if let Manual::Until(end) = state.manual
            && end <= wall
        {
            state.manual = Manual::No;
            if let Err(error) = std::fs::remove_file(&inner.file) {
                error!(file = %inner.file.display(), %error, "the end of a pause could not be kept");
            }
        }
        if same(&state.verdict, &verdict) {
            return;
        }
        match &mut verdict {
            Verdict::Work => info!("the owner lets this machine work"),
            Verdict::Pause(pause) => info!(reason = pause.reason.as_str(), why = pause.message, "this machine pauses"),
        }
        (state.verdict, state.since) = (verdict.clone(), wall);
        inner.verdicts.send_replace(verdict);
    }
}

/// A message that counts seconds is no news.
fn same(a: &Verdict, b: &Verdict) -> bool {
    match (a, b) {
        (Verdict::Work, Verdict::Work) => true,
        (Verdict::Pause(Pause { reason: a, .. }), Verdict::Pause(Pause { reason: b, .. })) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(u32);
    impl Sense for Broken {
        fn look(&mut self, _: &Rules, _: Instant) -> Signals {
            self.0 += 1;
            assert!(self.0 < 2, "as asked");
            Signals::default()
        }
        fn source(&self) -> Option<String> {
            None
        }
    }

    #[tokio::test]
    async fn when_nobody_looks_any_more_nothing_runs() {
        let dir = tempfile::tempdir().unwrap();
        let watch = Watch::start(Rules::default(), dir.path().join("owner.json"), Broken(0)).unwrap();
        let mut verdicts = watch.verdicts();
        let paused = verdicts.wait_for(|verdict| *verdict != Verdict::Work).await.unwrap().clone();
        assert!(matches!(paused, Verdict::Pause(pause) if pause.message.contains("has failed")));
    }

    #[tokio::test]
    async fn a_pause_is_kept_and_ends_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("owner.json");
        struct Nobody;
        impl Sense for Nobody {
            fn look(&mut self, _: &Rules, _: Instant) -> Signals {
                Signals::default()
            }
            fn source(&self) -> Option<String> {
                None
            }
        }
        let start = || Watch::start(Rules::default(), file.clone(), Nobody).unwrap();
        let watch = start();
        watch.say(Manual::Paused).unwrap();
        watch.verdicts().wait_for(|verdict| *verdict != Verdict::Work).await.unwrap();
        watch.end();
        let watch = start();
        assert_ne!(watch.now().verdict, Verdict::Work, "after a restart");
        watch.say(Manual::Until(Timestamp::now())).unwrap();
        watch.verdicts().wait_for(|verdict| *verdict == Verdict::Work).await.unwrap();
        watch.end();
        std::fs::write(&file, "{").unwrap();
        assert_ne!(start().now().verdict, Verdict::Work, "a damaged file");
    }
}
