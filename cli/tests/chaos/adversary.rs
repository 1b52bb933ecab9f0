//! Does what the schedule says.
//!
//! in → steps, a world · out → the world, mended · invariant: what a step breaks it mends, or starts again.

use crate::faults::{Cut, Fault, Step, Who};
use crate::world::World;
use nightshift_testkit::relay::Mode;
use nightshift_testkit::trio::MEMBERS;
use nix::sys::signal::Signal;

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
            self.begin(*fault, scheduler);
            done.push(Done { fault: *fault, scheduler });
        }
        self.pause(step.hold).await;
        for Done { fault, scheduler } in done {
            self.end(fault, scheduler);
        }
        self.pause(step.calm).await;
    }

    fn begin(&mut self, fault: Fault, scheduler: usize) {
        match fault {
            Fault::Kill(_) => self.schedulers[scheduler].restart(&self.home),
            Fault::Stop(_) => self.schedulers[scheduler].stop(true),
            Fault::Term(_) => {
                if self.schedulers[scheduler].process.has_ended().is_none() {
                    self.schedulers[scheduler].process.signal(Signal::SIGTERM);
                }
            }
            Fault::CutEtcd(_, cut) => self.schedulers[scheduler].etcd_mode(mode(cut)),
            Fault::SlowEtcd(_, by) => {
                self.schedulers[scheduler].etcd_mode(Mode::Slow(std::time::Duration::from_millis(by)));
            }
            Fault::KillMember(member) => self.etcd.kill(member),
            Fault::StopMember(member) => self.etcd.signal(member, Signal::SIGSTOP),
            Fault::CutMember(member) => self.etcd.relays[member].set(Mode::Refuse),
            Fault::StopAllMembers => (0..MEMBERS).for_each(|member| self.etcd.signal(member, Signal::SIGSTOP)),
            Fault::KillAllMembers => (0..MEMBERS).for_each(|member| self.etcd.kill(member)),
            Fault::KillAgent(agent) => self.agents[agent].machine.kill(),
            Fault::CutAgent(agent, cut) => self.agents[agent].relays.iter().for_each(|relay| relay.set(mode(cut))),
        }
    }

    fn end(&mut self, fault: Fault, scheduler: usize) {
        match fault {
            Fault::Kill(_) | Fault::Term(_) => {}
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
        Fault::Kill(who) | Fault::Stop(who) | Fault::Term(who) | Fault::CutEtcd(who, _) | Fault::SlowEtcd(who, _) => {
            Some(who)
        }
        _ => None,
    }
}
