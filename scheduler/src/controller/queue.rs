//! TenantQueues → the table of tenants and the journal's budgets; facts → their status.
//!
//! in → TenantQueues, Namespaces and, of a cluster, PriorityClasses; the fold · out → `Tenants`, `SetQueue` commands, the
//! queue `default`, status · invariant: status is written at a low rate, whatever a queue's tasks do; a queue without an
//! object has no budget.

use super::conditions::{self, Wanted};
use super::{Context, convert, merge_diff, status};
use crate::tenants::Tenant;
use futures::StreamExt;
use futures::stream::{BoxStream, pending};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event as WatchEvent};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, ResourceExt};
use nightshift_crds::{
    DEFAULT_QUEUE, FIELD_MANAGER, FractionString, PointsString, StopPolicy, TenantQueue, TenantQueueSpec,
    TenantQueueStatus, queue_condition,
};
use nightshift_state::{Command, QueueBook, State};
use nightshift_types::{AccountId, Budget, PicoPoints, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch::Sender;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often facts are compared with what is written.
const LOOK: Duration = Duration::from_secs(1);
/// Between two writes of counts alone.
const SLOW: Duration = Duration::from_secs(5);
/// Between two tries to learn whether there are PriorityClasses.
const RETRY: Duration = Duration::from_secs(5);

type Watch<K> = BoxStream<'static, Result<WatchEvent<K>, watcher::Error>>;

/// Keeps tenants, budgets and status until `shutdown`; `changed` counts what waiting jobs may have waited for.
pub async fn run(context: Context, changed: Sender<u64>, shutdown: CancellationToken) {
    let mut queues: Watch<TenantQueue> = all(&context);
    let mut namespaces: Watch<Namespace> = all(&context);
    let mut classes: Watch<PriorityClass> = pending().boxed();
    let mut asked: Option<Instant> = None;
    let mut keeper = Keeper::new(context, changed);
    let mut timer = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(event) = queues.next() => keeper.queue(event).await,
            Some(event) = namespaces.next() => keeper.namespace(event),
            Some(event) = classes.next() => keeper.class(event),
            _ = timer.tick() => {
                if !keeper.classes_known && asked.is_none_or(|at| at.elapsed() >= RETRY) {
                    asked = Some(Instant::now());
                    if keeper.has_classes().await {
                        classes = all(&keeper.context);
                    }
                }
                keeper.look().await;
            }
        }
    }
}

fn all<K>(context: &Context) -> Watch<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watch(Api::all(context.client.clone()), watcher::Config::default()).default_backoff().boxed()
}

/// Names of one kind, so that what vanished unseen is found when a list ends.
#[derive(Default)]
struct Names {
    known: BTreeSet<String>,
    listing: BTreeSet<String>,
    listed: bool,
}

/// What an event of a watch means.
enum Seen<K> {
    Set(K),
    Gone(BTreeSet<String>),
    /// Nothing yet.
    Nothing,
}

impl Names {
    fn take<K: ResourceExt>(&mut self, event: WatchEvent<K>) -> Seen<K> {
        match event {
            WatchEvent::Apply(object) | WatchEvent::InitApply(object) => {
                self.known.insert(object.name_any());
                self.listing.insert(object.name_any());
                Seen::Set(object)
            }
            WatchEvent::Delete(object) => {
                self.known.remove(&object.name_any());
                Seen::Gone([object.name_any()].into())
            }
            WatchEvent::Init => {
                self.listing.clear();
                Seen::Nothing
            }
            WatchEvent::InitDone => {
                self.listed = true;
                let gone = self.known.difference(&self.listing).cloned().collect();
                self.known.clone_from(&self.listing);
                Seen::Gone(gone)
            }
        }
    }
}

struct Keeper {
    context: Context,
    changed: Sender<u64>,
    objects: BTreeMap<String, TenantQueue>,
    written: BTreeMap<String, Instant>,
    queues: Names,
    namespaces: Names,
    classes: Names,
    /// Whether it is known that there are PriorityClasses, or that there are none.
    classes_known: bool,
}

impl Keeper {
    fn new(context: Context, changed: Sender<u64>) -> Self {
        let (objects, written) = (BTreeMap::new(), BTreeMap::new());
        let (queues, namespaces, classes) = (Names::default(), Names::default(), Names::default());
        Self { context, changed, objects, written, queues, namespaces, classes, classes_known: false }
    }

    /// Jobs that wait look again, and so does the cycle.
    fn news(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
        self.context.leader.wake();
    }

    fn failed(&self, kind: &str, error: &watcher::Error) {
        tracing::warn!(%error, kind, "watching; trying again");
        self.context.leader.metrics().watch_errors.with_label_values(&[kind]).inc();
    }

    async fn queue(&mut self, event: Result<WatchEvent<TenantQueue>, watcher::Error>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return self.failed("TenantQueue", &error),
        };
        match self.queues.take(event) {
            Seen::Set(object) => {
                self.objects.insert(object.name_any(), object.clone());
                self.grant(&object).await;
            }
            Seen::Gone(names) => {
                for name in names {
                    self.objects.remove(&name);
                    self.written.remove(&name);
                    self.context.leader.tenants().set(&name, None);
                    self.set_budget(&name, None).await;
                    self.news();
                }
            }
            Seen::Nothing => {}
        }
        self.see_to_default().await;
        self.listed();
    }

    fn namespace(&mut self, event: Result<WatchEvent<Namespace>, watcher::Error>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return self.failed("Namespace", &error),
        };
        let tenants = self.context.leader.tenants();
        let changed = match self.namespaces.take(event) {
            Seen::Set(object) => tenants.set_namespace(&object.name_any(), Some(object.labels().clone())),
            Seen::Gone(names) => names.iter().filter(|name| tenants.set_namespace(name, None)).count() > 0,
            Seen::Nothing => false,
        };
        if changed && tenants.listed() {
            self.news();
        }
        self.listed();
    }

    fn class(&mut self, event: Result<WatchEvent<PriorityClass>, watcher::Error>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return self.failed("PriorityClass", &error),
        };
        let priorities = &self.context.priorities;
        match self.classes.take(event) {
            Seen::Set(object) => priorities.set(&object.name_any(), Some(object.value.unwrap_or_default())),
            Seen::Gone(names) => names.iter().for_each(|name| priorities.set(name, None)),
            Seen::Nothing => return,
        }
        if self.classes.listed {
            priorities.set_listed();
            self.terms();
        }
    }

    /// Whether the API server has PriorityClasses to watch; one that does not know the kind has ours.
    async fn has_classes(&mut self) -> bool {
        let api: Api<PriorityClass> = Api::all(self.context.client.clone());
        match api.list(&ListParams::default().limit(1)).await {
            Ok(_) => {
                self.classes_known = true;
                true
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.classes_known = true;
                self.context.priorities.set_built_in();
                self.terms();
                false
            }
            Err(error) => {
                tracing::warn!(%error, "PriorityClasses cannot be listed; jobs that name one wait");
                false
            }
        }
    }

    /// Says so once the first lists ended and the queue default is there: before, nothing is placed and no job refused.
    fn listed(&self) {
        let tenants = self.context.leader.tenants();
        let complete = self.queues.listed && self.namespaces.listed && self.objects.contains_key(DEFAULT_QUEUE);
        if complete && !tenants.listed() {
            tenants.set_listed();
            self.news();
        }
    }

    /// A queue as it is to be honoured; what cannot be keeps its jobs from being admitted, and says why.
    fn tenant(&self, object: &TenantQueue) -> (Tenant, Option<Budget>) {
        let named = object.spec.default_priority_class_name.as_deref();
        let priority = named.map(|name| self.context.priorities.resolve("spec.defaultPriorityClassName", name));
        let converted = convert::tenant(&object.spec, priority.clone().and_then(Result::ok).unwrap_or_default());
        let (mut tenant, budget) = converted.unwrap_or_else(|error| {
            let (queue, namespaces) = (nightshift_types::TenantQueue::default(), Default::default());
            (Tenant { queue, namespaces, broken: Some(error.to_string()) }, None)
        });
        if let Some(Err(why)) = priority {
            tenant.broken.get_or_insert(why);
        }
        (tenant, budget)
    }

    async fn grant(&self, object: &TenantQueue) {
        let (tenant, budget) = self.tenant(object);
        let name = object.name_any();
        // The budget first: nothing of the queue is placed before the ledger knows its limit.
        self.set_budget(&name, budget).await;
        if self.context.leader.tenants().set(&name, Some(tenant)) {
            self.news();
        }
    }

    /// The same for all of them, after priorities changed.
    fn terms(&self) {
        for (name, object) in &self.objects {
            self.context.leader.tenants().set(name, Some(self.tenant(object).0));
        }
        self.news();
    }

    async fn set_budget(&self, queue: &str, budget: Option<Budget>) {
        if self.context.leader.state().await.ledger().queue(queue).budget == budget {
            return;
        }
        let command = Command::SetQueue { queue: queue.into(), budget };
        if let Err(error) = self.context.leader.submit(command).await {
            tracing::warn!(queue, %error, "the queue's budget was not journaled");
        }
    }

    /// Makes what should be there, takes back what should not, and writes what changed.
    async fn look(&mut self) {
        if !self.queues.listed {
            return;
        }
        self.see_to_default().await;
        let now = self.context.leader.now();
        let facts = Facts::of(&*self.context.leader.state().await, now);
        // Gone while nobody led.
        for name in facts.queues.iter().filter(|(_, fact)| fact.book.budget.is_some()).map(|(name, _)| name) {
            if !self.objects.contains_key(name) {
                self.set_budget(name, None).await;
            }
        }
        let names: Vec<String> = self.objects.keys().cloned().collect();
        for name in names {
            if let Err(error) = self.write(&name, &facts, now).await {
                self.not_written(&name, &error);
            }
        }
    }

    fn not_written(&self, queue: &str, error: &kube::Error) {
        tracing::warn!(queue, %error, "TenantQueue not written; trying again");
        self.context.leader.metrics().reconcile_errors.with_label_values(&["TenantQueue"]).inc();
    }

    /// Its watch tells of the object that this makes.
    async fn see_to_default(&self) {
        let missing = self.queues.listed && !self.objects.contains_key(DEFAULT_QUEUE);
        if missing && let Err(error) = self.create_default().await {
            self.not_written(DEFAULT_QUEUE, &error);
        }
    }

    async fn create_default(&self) -> Result<(), kube::Error> {
        let api: Api<TenantQueue> = Api::all(self.context.client.clone());
        let object = TenantQueue::new(DEFAULT_QUEUE, TenantQueueSpec::default());
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        match api.create(&params, &object).await {
            // Another was faster, or the watch is late.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other.map(drop),
        }
    }

    async fn write(&mut self, name: &str, facts: &Facts, now: Timestamp) -> Result<(), kube::Error> {
        let Some(object) = self.objects.get(name) else { return Ok(()) };
        let before = object.status.clone().unwrap_or_default();
        let broken = self.tenant(object).0.broken;
        let after = status_of(&before, object, broken.as_deref(), facts, now);
        let recent = self.written.get(name).is_some_and(|at| at.elapsed() < SLOW);
        if recent && words(&before) == words(&after) {
            return Ok(());
        }
        let value = |status| serde_json::to_value(status).map_err(kube::Error::SerdeError);
        let Some(change) = merge_diff(&value(&before)?, &value(&after)?) else { return Ok(()) };
        let api: Api<TenantQueue> = Api::all(self.context.client.clone());
        let body = Patch::Merge(json!({ "status": change }));
        match api.patch_status(name, &PatchParams::apply(FIELD_MANAGER), &body).await {
            Ok(object) => drop(self.objects.insert(name.into(), object)),
            // It is being deleted: its watch says so.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
        self.written.insert(name.into(), Instant::now());
        Ok(())
    }
}

/// What of a status people wait for.
fn words(status: &TenantQueueStatus) -> Vec<(&str, &str)> {
    status.conditions.iter().map(|condition| (condition.status.as_str(), condition.reason.as_str())).collect()
}

/// What the journal says of one queue.
#[derive(Default)]
struct Fact {
    pending: i64,
    running: i64,
    usage: u64,
    balance: PicoPoints,
    spendable: Option<PicoPoints>,
    book: QueueBook,
}

/// What the journal says of all of them.
struct Facts {
    queues: BTreeMap<String, Fact>,
    usage: u128,
}

impl Facts {
    fn of(state: &State, now: Timestamp) -> Self {
        let mut queues: BTreeMap<String, Fact> = BTreeMap::new();
        for (name, book) in state.ledger().queues() {
            let (usage, spendable) = (state.usage(name, now), state.spendable(name, now));
            let balance = state.balance(&AccountId::Tenant(name.into()));
            queues.insert(name.into(), Fact { usage, balance, spendable, book, ..Fact::default() });
        }
        for job in state.unfinished() {
            if !queues.contains_key(&job.spec.queue) {
                queues.insert(job.spec.queue.clone(), Fact::new(&job.spec.queue));
            }
            if let Some(fact) = queues.get_mut(&job.spec.queue) {
                fact.pending += i64::from(job.waiting());
                fact.running += i64::from(job.running);
            }
        }
        let usage = queues.values().map(|fact| u128::from(fact.usage)).sum();
        Self { queues, usage }
    }
}

impl Fact {
    /// Of a queue that never had anything.
    fn new(queue: &str) -> Self {
        Self { spendable: (queue != DEFAULT_QUEUE).then_some(PicoPoints::ZERO), ..Self::default() }
    }
}

fn status_of(
    before: &TenantQueueStatus,
    object: &TenantQueue,
    broken: Option<&str>,
    facts: &Facts,
    now: Timestamp,
) -> TenantQueueStatus {
    let (name, generation) = (object.name_any(), object.metadata.generation);
    let nothing = Fact::new(&name);
    let fact = facts.queues.get(&name).unwrap_or(&nothing);
    let mut after = TenantQueueStatus {
        pending_tasks: Some(fact.pending),
        running_tasks: Some(fact.running),
        spent: Some(fact.book.spent.into()),
        reserved: Some(fact.book.reserved.into()),
        balance: (name != DEFAULT_QUEUE).then(|| fact.balance.into()),
        budget_left: fact.book.budget_left(now).map(PointsString::from),
        share: Some(share(fact.usage, facts.usage)),
        observed_generation: generation,
        conditions: before.conditions.clone(),
    };
    let mut set = |type_, status, reason, message: &str| {
        let wanted = Wanted { type_, status: Some(status), reason, message };
        conditions::set(&mut after.conditions, wanted, generation, &status::time(now));
    };
    let stop = object.spec.stop_policy;
    match (broken, stop) {
        (Some(why), _) => set(queue_condition::ACTIVE, false, "Misconfigured", why),
        (None, StopPolicy::None) => set(queue_condition::ACTIVE, true, "Active", "its tasks may start"),
        (None, _) => {
            let message = format!("spec.stopPolicy is {stop}: nothing starts; set it to None to go on");
            set(queue_condition::ACTIVE, false, "Stopped", &message);
        }
    }
    let (available, reason, message) = means(&name, fact, now);
    set(queue_condition::BUDGET_AVAILABLE, available, reason, &message);
    after
}

/// Whether something is left to spend; and if not, how much there was and what helps.
fn means(queue: &str, fact: &Fact, now: Timestamp) -> (bool, &'static str, String) {
    match (fact.spendable, fact.book.budget) {
        (None, _) => (true, "Unlimited", "it draws on the mint, without a budget".into()),
        (Some(left), _) if left > PicoPoints::ZERO => (true, "Available", "something is left to spend".into()),
        (Some(_), Some(budget)) if fact.book.budget_left(now) == Some(PicoPoints::ZERO) => {
            let again = status::time(budget.period.end(now)).0;
            let (points, period) = (budget.points, budget.period);
            let spent = fact.book.spent_in(period, now);
            let message = format!(
                "{spent} of {points} points a {period} are spent and {} reserved; the next begins at {again}: raise \
                 spec.budget.points, or wait",
                fact.book.reserved
            );
            (false, "BudgetExhausted", message)
        }
        (Some(_), _) => {
            let message = format!(
                "{} points of its balance of {} are reserved: bring more in with `nightshift points grant {queue} AMOUNT`",
                fact.book.drawn, fact.balance
            );
            (false, "NoBalance", message)
        }
    }
}

/// Two decimals, so that what merely ages is not written again and again.
fn share(part: u64, all: u128) -> FractionString {
    let hundredths = (u128::from(part) * 100 + all / 2).checked_div(all).unwrap_or(0);
    PicoPoints(hundredths as i128 * 10_000_000_000).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_two_decimals() {
        for (part, all, text) in [(0, 0, "0"), (1, 3, "0.33"), (2, 3, "0.67"), (7, 7, "1"), (1, 1_000, "0")] {
            assert_eq!(share(part, all).0, text);
        }
    }

    #[test]
    fn an_object_that_vanished_unseen_is_gone_when_the_list_ends() {
        let queue = |name: &str| TenantQueue::new(name, TenantQueueSpec::default());
        let mut names = Names::default();
        names.take::<TenantQueue>(WatchEvent::Init);
        names.take(WatchEvent::InitApply(queue("a")));
        names.take(WatchEvent::InitApply(queue("b")));
        assert!(matches!(names.take::<TenantQueue>(WatchEvent::InitDone), Seen::Gone(gone) if gone.is_empty()));
        names.take::<TenantQueue>(WatchEvent::Init);
        names.take(WatchEvent::InitApply(queue("b")));
        let Seen::Gone(gone) = names.take::<TenantQueue>(WatchEvent::InitDone) else { panic!("nothing is gone") };
        assert_eq!(gone, ["a".to_string()].into());
    }
}
