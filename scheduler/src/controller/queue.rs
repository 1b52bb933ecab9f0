//! TenantQueues → the table of tenants and the journal's budgets; facts → their status.
//!
//! in → TenantQueues, Namespaces and, of a cluster, PriorityClasses; the fold · out → `Tenants`, `SetQueue` commands, the
//! queue `default`, status · invariant: status is written at a low rate, whatever a queue's tasks do; a queue without an
//! object has no budget and starts nothing; an object that cannot be read lifts no limit.

mod facts;
mod trouble;

use self::facts::{Facts, status_of, words};
pub use self::trouble::tell_trouble;
use super::{Context, convert, merge_diff};
use crate::tenants::Tenant;
use futures::StreamExt;
use futures::stream::{BoxStream, pending};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event as WatchEvent};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, ResourceExt};
use nightshift_crds::{DEFAULT_QUEUE, FIELD_MANAGER, StopPolicy, TenantQueue, TenantQueueSpec};
use nightshift_state::Command;
use nightshift_types::{Budget, Timestamp};
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
    /// What was last read of each object without an error.
    good: BTreeMap<String, Tenant>,
    written: BTreeMap<String, Instant>,
    queues: Names,
    namespaces: Names,
    classes: Names,
    /// Whether it is known that there are PriorityClasses, or that there are none.
    classes_known: bool,
}

impl Keeper {
    fn new(context: Context, changed: Sender<u64>) -> Self {
        let (objects, good, written) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (queues, namespaces, classes) = (Names::default(), Names::default(), Names::default());
        Self { context, changed, objects, good, written, queues, namespaces, classes, classes_known: false }
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
                    self.good.remove(&name);
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

    /// A queue as it is to be honoured; what cannot be keeps its jobs from being admitted, and says why. And its budget,
    /// `None` where that is not to be read: it stays.
    fn tenant(&self, object: &TenantQueue) -> (Tenant, Option<Option<Budget>>) {
        let named = object.spec.default_priority_class_name.as_deref();
        let priority = named.map(|name| self.context.priorities.resolve("spec.defaultPriorityClassName", name));
        let converted = convert::tenant(&object.spec, priority.clone().and_then(Result::ok).unwrap_or_default());
        let (mut tenant, budget) = match converted {
            Ok((tenant, budget)) => (tenant, Some(budget)),
            Err(error) => (self.unread(object, &error), None),
        };
        if let Some(Err(why)) = priority {
            tenant.broken.get_or_insert(why);
        }
        (tenant, budget)
    }

    /// Of an object that says what nobody can do: what it said before, so that a slip lifts no limit.
    fn unread(&self, object: &TenantQueue, error: &impl std::fmt::Display) -> Tenant {
        let known = self.good.get(&object.name_any()).cloned();
        let meanwhile = match known {
            Some(_) => "what was in force before this change stays in force, and no job is admitted",
            None => "nothing of this queue starts",
        };
        let mut tenant = known.unwrap_or_else(|| {
            let stop = nightshift_types::StopPolicy::Hold;
            let queue = nightshift_types::TenantQueue { stop, ..Default::default() };
            Tenant { queue, namespaces: Default::default(), broken: None }
        });
        // Whoever stops a queue is obeyed whatever else is wrong.
        if object.spec.stop_policy != StopPolicy::None {
            tenant.queue.stop = object.spec.stop_policy.as_str().parse().unwrap_or(tenant.queue.stop);
        }
        tenant.broken = Some(format!("{error}; until that is put right, {meanwhile}"));
        tenant
    }

    async fn grant(&mut self, object: &TenantQueue) {
        let (tenant, budget) = self.tenant(object);
        let name = object.name_any();
        // The budget first: nothing of the queue is placed before the ledger knows its limit.
        if let Some(budget) = budget {
            self.good.insert(name.clone(), tenant.clone());
            self.set_budget(&name, budget).await;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
