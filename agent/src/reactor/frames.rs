//! The frames the agent sends.
//!
//! in → the core's state · out → hello and heartbeat · invariant: no frame is longer than
//! [`nightshift_wire::MAX_CONTROL_FRAME`]; what does not fit is left out from the end of a list, models first.

use super::{AgentCore, Phase, Stage, Surroundings};
use nightshift_types::Bytes;
use nightshift_wire::convert::{ATTEMPTS_ATTRIBUTE, MAX_LISTED, clip};
use nightshift_wire::{CAPABILITIES, MAX_CONTROL_FRAME, proto};
use prost::Message;

impl AgentCore {
    /// The first message of a session.
    pub fn hello(&self, session_number: u64, around: &Surroundings) -> proto::AgentMessage {
        let known = self.held.iter().filter(|(_, held)| !held.dropped);
        let mut hello = proto::Hello {
            session_number,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            capabilities: CAPABILITIES.iter().map(ToString::to_string).collect(),
            devices: self.facts.devices.iter().map(|device| self.device(device)).collect(),
            measured: Some((&self.facts.measured).into()),
            offer: Some((&self.facts.offer).into()),
            attempts: known.map(|(attempt, _)| attempt.to_string()).take(MAX_LISTED).collect(),
            models: models(around),
            availability: Some(self.availability_frame()),
            os: std::env::consts::OS.into(),
            arch: std::env::consts::ARCH.into(),
        };
        while hello.encoded_len() > MAX_CONTROL_FRAME - FRAMING && hello.models.pop().is_some() {}
        while hello.encoded_len() > MAX_CONTROL_FRAME - FRAMING && hello.attempts.pop().is_some() {}
        proto::AgentMessage { kind: Some(proto::agent_message::Kind::Hello(hello)) }
    }

    /// A sign of life. A ping is answered once.
    pub(super) fn heartbeat(&mut self, around: &Surroundings) -> Box<proto::AgentMessage> {
        let phase = |stage: &Stage| match stage {
            Stage::Running { phase, .. } => phase.as_str(),
            Stage::Storing | Stage::Waiting { .. } => "Reporting",
        };
        let download = |stage: &Stage| match stage {
            Stage::Running { phase: Phase::Fetching, demand, .. } => around.downloads.get(&demand.model).copied(),
            _ => None,
        };
        let known = self.held.iter().filter(|(_, held)| !held.dropped);
        let running = known.map(|(attempt, held)| {
            let download = download(&held.stage);
            proto::RunningAttempt {
                attempt: attempt.to_string(),
                phase: phase(&held.stage).into(),
                percent: download.map_or(0, |download| download.percent()),
                download: download.map(|download| proto::Download {
                    done_bytes: download.done_bytes,
                    total_bytes: download.total_bytes,
                    seconds_left: download.seconds_left,
                }),
            }
        });
        let mut heartbeat = proto::Heartbeat {
            running: running.take(MAX_LISTED).collect(),
            models: models(around),
            availability: Some(self.availability_frame()),
            free_memory_bytes: self.free_memory(around).0,
            pong: std::mem::take(&mut self.pong),
        };
        while heartbeat.encoded_len() > MAX_CONTROL_FRAME - FRAMING && heartbeat.models.pop().is_some() {}
        while heartbeat.encoded_len() > MAX_CONTROL_FRAME - FRAMING && heartbeat.running.pop().is_some() {}
        Box::new(proto::AgentMessage { kind: Some(proto::agent_message::Kind::Heartbeat(heartbeat)) })
    }

    /// A device, and how many attempts it takes at once: one computes while others fetch, decode and encode. Those that can
    /// run in one call with others count as one.
    fn device(&self, device: &nightshift_types::Device) -> proto::Device {
        let mut frame = proto::Device::from(device);
        frame.attributes.insert("slots".into(), self.limits.max_attempts.min(SLOTS).to_string());
        let share = self.limits.max_attempts / self.facts.devices.len().max(1);
        frame.attributes.insert(ATTEMPTS_ATTRIBUTE.into(), share.max(1).to_string());
        frame
    }

    fn availability_frame(&self) -> proto::Availability {
        let (reason, message) = self.availability.away.clone().unwrap_or_default();
        proto::Availability { available: self.availability.away.is_none(), reason, message: clip(&message) }
    }

    /// Of all devices together: what the book has free and the machine too.
    fn free_memory(&self, around: &Surroundings) -> Bytes {
        let machine = |device: &str| around.free.get(device).copied().unwrap_or(Bytes(u64::MAX));
        self.book.devices().map(|device| self.book.free(device).min(machine(device))).sum()
    }
}

/// Attempts of one device at once, where `--max-attempts` does not say less.
const SLOTS: usize = 4;
/// Tag and length of the message around a frame.
const FRAMING: usize = 16;

fn models(around: &Surroundings) -> Vec<proto::CachedModel> {
    let loaded = around.loaded.iter().map(|(digest, device)| proto::CachedModel {
        digest: digest.to_string(),
        loaded: true,
        device: device.clone(),
    });
    let is_loaded = |digest: &_| around.loaded.iter().any(|(d, _)| d == digest);
    let cached = around.cached.iter().filter(|digest| !is_loaded(digest));
    let cached = cached.map(|digest| proto::CachedModel { digest: digest.to_string(), ..Default::default() });
    loaded.chain(cached).take(MAX_LISTED).collect()
}
