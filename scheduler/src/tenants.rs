//! Who may spend what, as the TenantQueues of the cluster say: read by the cycle and by the job controller.
//!
//! in → objects, as their controller saw them · out → a queue's terms, or why a job may not use it · invariant: a queue
//! that no object makes is unknown; nothing is known before the first lists ended, so that nothing is refused by mistake.

use kube::core::{Selector, SelectorExt};
use nightshift_types::TenantQueue;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use thiserror::Error;

/// Names written out where one is not known.
const NAMES_SHOWN: usize = 8;

/// Why a job may not use a queue; the text names the remedy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotPermitted {
    /// The lists are on their way.
    #[error("the TenantQueues are not read yet")]
    NotListed,
    /// No such object.
    #[error("spec.queueName: there is no TenantQueue {queue:?}, but {known}: apply it, or name one of them")]
    Unknown {
        /// What the job names.
        queue: String,
        /// Those there are.
        known: String,
    },
    /// Its object cannot be honoured.
    #[error("spec.queueName: TenantQueue {queue}: {what}")]
    Broken {
        /// What the job names.
        queue: String,
        /// What is wrong with it.
        what: String,
    },
    /// Its `namespaceSelector` leaves the namespace out.
    #[error(
        "spec.queueName: TenantQueue {queue} does not permit namespace {namespace}: give the namespace labels that \
         spec.namespaceSelector of the queue matches ({selector}), or name another queue"
    )]
    Namespace {
        /// What the job names.
        queue: String,
        /// The job's.
        namespace: String,
        /// What would match.
        selector: String,
    },
}

/// One TenantQueue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// What the operator grants it.
    pub queue: TenantQueue,
    /// Namespaces whose jobs may use it; empty: every one.
    pub namespaces: Selector,
    /// What its object says and nobody can do; no job is admitted meanwhile.
    pub broken: Option<String>,
}

#[derive(Debug, Default)]
struct Table {
    queues: BTreeMap<String, Tenant>,
    /// Labels, by name.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Terms alone, shared with the cycles that read them; made anew with every change.
    terms: Arc<BTreeMap<String, TenantQueue>>,
    listed: bool,
}

/// The table. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Tenants {
    table: Arc<RwLock<Table>>,
}

impl Tenants {
    /// Whether the first lists of TenantQueues and namespaces ended: place nothing before.
    pub fn listed(&self) -> bool {
        self.read(|table| table.listed)
    }

    /// A queue's terms; `None`: there is no such TenantQueue, or it is not read yet.
    pub fn get(&self, queue: &str) -> Option<TenantQueue> {
        self.read(|table| table.terms.get(queue).cloned())
    }

    /// Every queue's terms at this moment, by name: one look for a whole cycle.
    pub fn all(&self) -> Arc<BTreeMap<String, TenantQueue>> {
        self.read(|table| table.terms.clone())
    }

    /// The queue's terms, if jobs of the namespace may use it.
    pub fn permit(&self, queue: &str, namespace: &str) -> Result<TenantQueue, NotPermitted> {
        self.read(|table| {
            if !table.listed {
                return Err(NotPermitted::NotListed);
            }
            let tenant = table.queues.get(queue).ok_or_else(|| {
                let mut names: Vec<&str> = table.queues.keys().take(NAMES_SHOWN).map(String::as_str).collect();
                if table.queues.len() > NAMES_SHOWN {
                    names.push("…");
                }
                let known = if names.is_empty() { "none at all".into() } else { names.join(", ") };
                NotPermitted::Unknown { queue: queue.into(), known }
            })?;
            if let Some(what) = &tenant.broken {
                return Err(NotPermitted::Broken { queue: queue.into(), what: what.clone() });
            }
            let none = BTreeMap::new();
            if tenant.namespaces.matches(table.namespaces.get(namespace).unwrap_or(&none)) {
                return Ok(tenant.queue.clone());
            }
            let (queue, namespace, selector) = (queue.into(), namespace.into(), tenant.namespaces.to_string());
            Err(NotPermitted::Namespace { queue, namespace, selector })
        })
    }

    /// Takes an object over; `None`: it is gone. Returns whether that changed anything.
    pub fn set(&self, queue: &str, tenant: Option<Tenant>) -> bool {
        self.write(|table| {
            let before = match &tenant {
                Some(tenant) => table.queues.insert(queue.into(), tenant.clone()),
                None => table.queues.remove(queue),
            };
            let changed = before != tenant;
            if changed {
                let terms = table.queues.iter().map(|(name, tenant)| (name.clone(), tenant.queue.clone()));
                table.terms = Arc::new(terms.collect());
            }
            changed
        })
    }

    /// Why nothing of a queue starts, or no job of it is admitted, beside its stop policy: there is no such object, or it
    /// cannot be honoured.
    pub fn trouble(&self, queue: &str) -> Option<String> {
        self.read(|table| match table.queues.get(queue) {
            None if !table.listed => None,
            None => Some(format!(
                "there is no TenantQueue {queue}: nothing of it starts until it is applied again; or suspend the job and \
                 name another in spec.queueName"
            )),
            Some(tenant) => tenant.broken.as_ref().map(|what| format!("TenantQueue {queue}: {what}")),
        })
    }

    /// Takes a namespace's labels over; `None`: it is gone. Returns whether some queue permits it now that did not, or the
    /// other way round.
    pub fn set_namespace(&self, namespace: &str, labels: Option<BTreeMap<String, String>>) -> bool {
        self.write(|table| {
            let before = match &labels {
                Some(labels) => table.namespaces.insert(namespace.into(), labels.clone()),
                None => table.namespaces.remove(namespace),
            };
            let (before, after) = (before.unwrap_or_default(), labels.unwrap_or_default());
            let permits = |tenant: &Tenant, labels| tenant.namespaces.matches(labels);
            before != after && table.queues.values().any(|tenant| permits(tenant, &before) != permits(tenant, &after))
        })
    }

    /// The first lists ended.
    pub fn set_listed(&self) {
        self.write(|table| table.listed = true);
    }

    fn read<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        change(&mut self.table.write().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

    fn tenant(labels: &[(&str, &str)], weight: u32) -> Tenant {
        let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let selector = LabelSelector { match_labels: Some(labels), ..LabelSelector::default() };
        let queue = TenantQueue { weight, ..TenantQueue::default() };
        Tenant { queue, namespaces: selector.try_into().unwrap(), broken: None }
    }

    #[test]
    fn a_queue_permits_the_namespaces_that_its_selector_matches() {
        let tenants = Tenants::default();
        tenants.set("open", Some(tenant(&[], 1)));
        assert_eq!(tenants.permit("open", "a"), Err(NotPermitted::NotListed));
        tenants.set_listed();
        tenants.set("team", Some(tenant(&[("team", "x")], 3)));
        tenants.set_namespace("a", Some([("team".to_string(), "x".to_string())].into()));
        assert_eq!(tenants.permit("team", "a").unwrap().weight, 3);
        assert_eq!(tenants.permit("open", "b").unwrap().weight, 1);
        let refused = tenants.permit("team", "b").unwrap_err().to_string();
        assert!(refused.contains("does not permit namespace b") && refused.contains("team=x"), "{refused}");
        let unknown = tenants.permit("taem", "a").unwrap_err().to_string();
        assert!(unknown.contains("no TenantQueue \"taem\", but open, team"), "{unknown}");
        let labels = |team: &str, else_: &str| {
            let pairs = [("team", team), ("else", else_)].map(|(key, value)| (key.to_string(), value.to_string()));
            Some(BTreeMap::from(pairs))
        };
        assert!(!tenants.set_namespace("a", labels("x", "1")), "every queue answers as before");
        assert!(tenants.set_namespace("a", labels("y", "1")) && tenants.permit("team", "a").is_err());
        assert!(tenants.set_namespace("a", labels("x", "2")) && tenants.permit("team", "a").is_ok());
        assert!(tenants.set_namespace("a", None) && tenants.permit("team", "a").is_err());
        assert!(!tenants.set_namespace("b", labels("z", "1")) && tenants.permit("open", "b").is_ok());
    }

    #[test]
    fn terms_follow_the_objects() {
        let tenants = Tenants::default();
        assert!(tenants.set("q", Some(tenant(&[], 2))) && !tenants.set("q", Some(tenant(&[], 2))));
        let before = tenants.all();
        assert!(tenants.set("q", Some(tenant(&[], 5))));
        assert_eq!((before["q"].weight, tenants.get("q").unwrap().weight), (2, 5));
        assert_eq!(tenants.trouble("q"), None);
        assert!(tenants.set("q", None) && tenants.get("q").is_none());
        assert_eq!(tenants.trouble("q"), None, "nothing is known before the lists ended");
        tenants.set_listed();
        assert!(tenants.trouble("q").unwrap().starts_with("there is no TenantQueue q: "));
    }
}
