//! In: a state. Out: 32 bytes that equal states share. Invariant: every field that the fold sets is in it, in a fixed
//! order and form, so that two versions that fold alike agree. Lengths stand before texts and lists.

use crate::event::{JobResult, OutputBody};
use crate::spec::spec_to;
use crate::state::{Job, State, Task, TaskState};
use nightshift_types::{AttemptId, PicoPoints, Timestamp};
use prost::Message;
use sha2::{Digest as _, Sha256};

struct Sink(Sha256);

impl Sink {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }
    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }
    fn number(&mut self, number: impl Into<u64>) -> &mut Self {
        self.0.update(number.into().to_le_bytes());
        self
    }
    fn points(&mut self, points: PicoPoints) -> &mut Self {
        self.0.update(points.0.to_le_bytes());
        self
    }
    fn time(&mut self, time: Timestamp) -> &mut Self {
        self.number(time.0)
    }
    fn maybe_time(&mut self, time: Option<Timestamp>) -> &mut Self {
        self.number(time.map_or(0, |time| time.0.saturating_add(1)))
    }
    fn attempt(&mut self, attempt: &AttemptId) -> &mut Self {
        self.text(attempt.cell.as_str()).text(attempt.task.job.as_str());
        self.number(attempt.task.index).number(attempt.number)
    }
}

impl State {
    /// What equal states share, and different ones do not. Linear in its size.
    pub fn digest(&self) -> [u8; 32] {
        let mut sink = Sink(Sha256::new());
        sink.text(&self.journal).text(self.cell.as_ref().map_or("", |cell| cell.as_str()));
        if let Some(epoch) = &self.epoch {
            sink.text(&epoch.journal).number(epoch.revision);
        }
        sink.number(self.format).time(self.leader_since).time(self.time).number(self.admitted).number(self.misfits);
        self.digest_nodes(&mut sink);
        sink.number(self.jobs.len() as u64);
        self.jobs.values().for_each(|job| digest_job(&mut sink, job));
        sink.number(self.forgotten.len() as u64);
        for job in &self.forgotten {
            sink.text(job.as_str());
        }
        self.digest_ledger(&mut sink);
        sink.0.finalize().into()
    }

    fn digest_nodes(&self, sink: &mut Sink) {
        sink.number(self.nodes.len() as u64);
        for (id, node) in &self.nodes {
            sink.text(id.as_str()).text(&node.owner).bytes(&node.key_hash).text(node.tier.as_str());
            sink.time(node.joined_at)
                .number(node.revoked)
                .points(node.earned)
                .number(node.succeeded)
                .number(node.failed);
            let (good, bad) = node.evidence.millionths();
            sink.number(good).number(bad);
        }
        sink.number(self.tokens.len() as u64);
        for (id, token) in &self.tokens {
            sink.text(id.as_str()).bytes(&token.secret_hash).time(token.expires);
            sink.text(&token.owner).text(token.tier.as_str()).number(token.spent.is_some());
            if let Some((key, node)) = &token.spent {
                sink.bytes(key).text(node.as_str());
            }
        }
        sink.number(self.models.len() as u64);
        for (digest, reference) in &self.models {
            sink.bytes(&digest.0).number(reference.0);
        }
    }

    fn digest_ledger(&self, sink: &mut Sink) {
        sink.number(self.ledger.entries());
        for (account, amount) in self.ledger.balances() {
            sink.text(&account.to_string()).points(amount);
        }
        for (queue, book) in self.ledger.queues() {
            sink.text(queue).points(book.spent).points(book.reserved).points(book.drawn);
            sink.number(book.usage.at(self.time));
            for (start, spent) in book.periods {
                sink.time(start).points(spent);
            }
            if let Some(budget) = book.budget {
                sink.text(budget.period.as_str()).points(budget.points);
            }
        }
        for (id, amount) in self.ledger.newest_grants.values().flatten() {
            sink.text(id).points(*amount);
        }
        sink.number(self.ledger.grants()).number(self.ledger.recent.len() as u64);
        for posted in &self.ledger.recent {
            sink.time(posted.at).text(&posted.entry.id).text(&posted.job);
        }
    }
}

fn digest_job(sink: &mut Sink, job: &Job) {
    sink.text(job.id.as_str()).number(job.number).bytes(&spec_to(&job.spec).encode_to_vec()).time(job.admitted_at);
    sink.maybe_time(job.started_at).maybe_time(job.active_since).maybe_time(job.pending_since);
    sink.number(job.running).number(job.succeeded).number(job.failed).number(job.failures);
    sink.points(job.cost).points(job.reserved);
    match &job.result {
        None => sink.number(0u64),
        Some((JobResult::Complete, at)) => sink.number(1u64).time(*at),
        Some((JobResult::Failed { reason, message }, at)) => sink.number(2u64).time(*at).text(reason).text(message),
        Some((JobResult::Cancelled { message }, at)) => sink.number(3u64).time(*at).text(message),
    };
    sink.number(job.tasks.len() as u64);
    job.tasks.iter().for_each(|task| digest_task(sink, task));
}

fn digest_task(sink: &mut Sink, task: &Task) {
    sink.number(task.attempts).number(task.failures).number(task.cancelled).number(task.preempted).number(task.losses);
    sink.number(task.settlements);
    sink.number(task.avoid.len() as u64);
    for node in &task.avoid {
        sink.text(node.as_str());
    }
    sink.number(task.last_failure.is_some());
    if let Some(failure) = &task.last_failure {
        sink.attempt(&failure.attempt).text(failure.node.as_str());
        sink.text(failure.reason.as_str()).text(&failure.message).time(failure.at);
    }
    match &task.state {
        TaskState::Waiting { not_before } => {
            sink.number(0u64).time(*not_before);
        }
        TaskState::Running(r) => {
            sink.number(1u64).attempt(&r.attempt).text(r.node.as_str()).text(&r.device);
            sink.number(r.memory.0).points(r.quote).number(r.drawn).time(r.placed_at);
        }
        TaskState::Succeeded(s) => {
            sink.number(2u64).attempt(&s.attempt).text(s.node.as_str()).text(&s.output.content_type).points(s.cost);
            match &s.output.body {
                OutputBody::Inline(bytes) => sink.number(0u64).bytes(bytes),
                OutputBody::Blob { digest, size } => sink.number(1u64).bytes(&digest.0).number(size.0),
            };
            let t = &s.timings;
            sink.number(t.fetch_us).number(t.load_us).number(t.queue_us).number(t.compute_us).number(t.codec_us);
            sink.time(s.placed_at).time(s.finished_at);
        }
        TaskState::Failed { reason, message } => {
            sink.number(3u64).text(reason.as_str()).text(message);
        }
        TaskState::Stopped => {
            sink.number(4u64);
        }
    }
}
