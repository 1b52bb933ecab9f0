//! Does what the schedule says.
//!
//! in → steps, a world · out → the world, mended · invariant: what a step breaks it mends, or starts again.

use crate::common::children;
use crate::faults::{Cut, Fault, Step, Who};
use crate::world::World;
use nightshift_testkit::relay::Mode;
use nightshift_testkit::trio::MEMBERS;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

fn mode(cut: Cut) -> Mode {
    match cut {
        Cut::Silent => Mode::Silent,
        Cut::Deaf => Mode::Deaf,
        Cut::Refused => Mode::Refuse,
    }
}

/// A fault, and whom it met.
struct Done {
    fault: Fault,
    scheduler: usize,
}

impl World {
    /// One step, to its end.
    pub async fn suffer(&mut self, step: &Step) {
        let leader = self.leader_now().await;
        let mut done = Vec::new();
        for fault in &step.faults {
            let scheduler = match of(*fault) {
                Some(Who::Standby) => 1 - leader.unwrap_or(1),
                _ => leader.unwrap_or(0),
            };
            self.begin(*fault, scheduler).await;
            done.push(Done { fault: *fault, scheduler });
        }
        self.pause(step.hold).await;
        // Room is made by an operator who needs every member.
        done.sort_by_key(|done| done.fault == Fault::FillDisk);
        for Done { fault, scheduler } in done {
            self.end(fault, scheduler).await;
        }
        self.pause(step.calm).await;
    }

    async fn begin(&mut self, fault: Fault, scheduler: usize) {
        match fault {
            Fault::Kill(_) => self.schedulers[scheduler].restart(&self.home),
            Fault::Stop(_) => self.schedulers[scheduler].stop(true),
            Fault::Term(_) => self.schedulers[scheduler].term(),
            Fault::CutEtcd(_, cut) => self.schedulers[scheduler].etcd_mode(mode(cut)),
            Fault::SlowEtcd(_, by) => {
                self.schedulers[scheduler].etcd_mode(Mode::Slow(Duration::from_millis(by)));
            }
            Fault::KillMember(member) => self.etcd.kill(member),
            Fault::StopMember(member) => self.etcd.signal(member, Signal::SIGSTOP),
            Fault::CutMember(member) => self.etcd.relays[member].set(Mode::Refuse),
            Fault::StopAllMembers => (0..MEMBERS).for_each(|member| self.etcd.signal(member, Signal::SIGSTOP)),
            Fault::KillAllMembers => (0..MEMBERS).for_each(|member| self.etcd.kill(member)),
            Fault::KillAgent(agent) => self.agents[agent].machine.kill(),
            Fault::CutAgent(agent, cut) => self.agents[agent].relays.iter().for_each(|relay| relay.set(mode(cut))),
            Fault::Failpoint(place, after) => {
                self.succeed_with(scheduler, format!("{place}=kill@{after}")).await;
                self.schedulers[scheduler].restart(&self.home);
            }
            Fault::Usurp => {
                self.succeed_with(scheduler, "takeover.before=sleep:3500@1".into()).await;
                self.schedulers[scheduler].etcd_mode(Mode::Silent);
            }
            Fault::Skew(seconds) => {
                let skew = ("NIGHTSHIFT_CLOCK_SKEW_MS", (seconds * 1000).to_string());
                self.schedulers[scheduler].environment.extend([skew]);
                self.schedulers[scheduler].restart(&self.home);
            }
            Fault::FillDisk => self.etcd.fill().await,
            Fault::KillRealAgent => drop(self.real.take()),
            Fault::CrashWorker => self.crash_worker(),
            Fault::Malformed => self.malformed().await,
        }
    }

    /// The standby of a leader is started anew with a failpoint.
    async fn succeed_with(&mut self, leader: usize, failpoint: String) {
        let standby = &mut self.schedulers[1 - leader];
        standby.environment.insert("NIGHTSHIFT_FAILPOINT", failpoint);
        standby.restart(&self.home);
        let ready = format!("http://127.0.0.1:{}/readyz", standby.http_port);
        for _ in 0..40 {
            self.pause(Duration::from_millis(50)).await;
            if self.answers(&ready).await {
                return;
            }
        }
    }

    fn crash_worker(&self) {
        let Some(real) = &self.real else { return };
        for worker in children(real.pid()) {
            let _ = kill(Pid::from_raw(worker as i32), Signal::SIGSEGV);
        }
    }

    async fn end(&mut self, fault: Fault, scheduler: usize) {
        match fault {
            Fault::Kill(_) | Fault::Term(_) | Fault::Skew(_) | Fault::CrashWorker | Fault::Malformed => {}
            // It leads by now, if it has not ended.
            Fault::Failpoint(place, _) if place.starts_with("resign") => self.schedulers[1 - scheduler].term(),
            Fault::Failpoint(..) => {}
            Fault::Usurp => self.schedulers[scheduler].etcd_mode(Mode::Pass),
            Fault::FillDisk => self.make_room().await,
            Fault::KillRealAgent => self.start_real().await,
            Fault::Stop(_) => self.schedulers[scheduler].stop(false),
            Fault::CutEtcd(..) | Fault::SlowEtcd(..) => self.schedulers[scheduler].etcd_mode(Mode::Pass),
            Fault::KillMember(member) => self.etcd.run(member),
            Fault::StopMember(member) => self.etcd.signal(member, Signal::SIGCONT),
            Fault::CutMember(member) => self.etcd.relays[member].heal(),
            Fault::StopAllMembers => (0..MEMBERS).for_each(|member| self.etcd.signal(member, Signal::SIGCONT)),
            Fault::KillAllMembers => (0..MEMBERS).for_each(|member| self.etcd.run(member)),
            Fault::KillAgent(agent) => self.agents[agent].machine.start(),
            Fault::CutAgent(agent, _) => self.agents[agent].relays.iter().for_each(|relay| relay.heal()),
        }
    }
}

fn of(fault: Fault) -> Option<Who> {
    match fault {
        Fault::Skew(_) => Some(Who::Standby),
        Fault::Kill(who) | Fault::Stop(who) | Fault::Term(who) | Fault::CutEtcd(who, _) | Fault::SlowEtcd(who, _) => {
            Some(who)
        }
        _ => None,
    }
}
