//! In: committed changes → out: objects, lists at a revision, events since a revision → invariant: `rev` is the revision of
//! the last change applied; a shelf's log holds every event of its resource after `dropped`.

use super::{CRDS, Event, EventKind, Key, Meta, NAMESPACES, Stored};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use tokio::sync::watch;

/// Bounds of one resource's log.
const LOG_EVENTS: usize = 10_000;
const LOG_BYTES: usize = 64 << 20;

/// The revision asked for is no longer known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expired {
    /// The oldest revision that still is.
    pub oldest: u64,
}

/// Events after a revision, and the revision up to which they are complete.
#[derive(Debug)]
pub(crate) struct Since {
    pub events: Vec<Arc<Event>>,
    pub rev: u64,
}

/// An object whose owners should be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct GcItem {
    pub resource: Arc<str>,
    pub key: Key,
}

/// One resource's objects and log.
struct Shelf {
    objects: BTreeMap<Key, Arc<Stored>>,
    log: VecDeque<Arc<Event>>,
    log_bytes: usize,
    dropped: u64,
    bell: watch::Sender<u64>,
}

/// All that readers see.
pub(crate) struct State {
    pub rev: u64,
    /// Events before this revision were not seen by this process.
    start: u64,
    shelves: HashMap<Arc<str>, Shelf>,
    /// uid → whether the object lives.
    uids: HashSet<String>,
    /// owner uid → dependents.
    owned: HashMap<String, HashSet<GcItem>>,
    /// Objects with a deletionTimestamp whose deletion has to be carried on by the server.
    deleting: HashSet<GcItem>,
    /// Dependents to look at: just written with owners, or an owner has just gone.
    pub garbage: Vec<GcItem>,
}

/// One committed change.
pub(super) struct Change {
    pub resource: Arc<str>,
    pub delete: bool,
    pub object: Arc<Stored>,
}

impl Shelf {
    fn new(start: u64) -> Shelf {
        Shelf {
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            log_bytes: 0,
            dropped: start,
            bell: watch::Sender::new(start),
        }
    }

    fn push(&mut self, event: Event) {
        self.log_bytes += event.object.bytes.len();
        self.log.push_back(Arc::new(event));
        while self.log.len() > LOG_EVENTS || self.log_bytes > LOG_BYTES {
            let Some(old) = self.log.pop_front() else { break };
            self.log_bytes -= old.object.bytes.len();
            self.dropped = old.object.rev;
        }
    }

    /// The index of the first event after `rev`.
    fn after(&self, rev: u64) -> usize {
        self.log.partition_point(|e| e.object.rev <= rev)
    }
}

impl State {
    pub(super) fn load(rev: u64, objects: Vec<(Arc<str>, Stored)>) -> State {
        let mut state = State {
            rev,
            start: rev,
            shelves: HashMap::new(),
            uids: HashSet::new(),
            owned: HashMap::new(),
            deleting: HashSet::new(),
            garbage: Vec::new(),
        };
        for (resource, object) in objects {
            let object = Arc::new(object);
            state.index(&resource, &object);
            state.shelf(&resource).objects.insert(object.key.clone(), object);
        }
        state
    }

    fn shelf(&mut self, resource: &Arc<str>) -> &mut Shelf {
        let start = self.start;
        self.shelves.entry(resource.clone()).or_insert_with(|| Shelf::new(start))
    }

    fn index(&mut self, resource: &Arc<str>, object: &Stored) {
        let item = GcItem { resource: resource.clone(), key: object.key.clone() };
        self.uids.insert(object.meta.uid.clone());
        for owner in &object.meta.owners {
            self.owned.entry(owner.uid.clone()).or_default().insert(item.clone());
        }
        if !object.meta.owners.is_empty() {
            self.garbage.push(item.clone());
        }
        let followed = object.meta.foreground || matches!(&**resource, NAMESPACES | CRDS);
        if object.meta.deleting && followed {
            self.deleting.insert(item);
        }
    }

    fn unindex(&mut self, resource: &Arc<str>, key: &Key, meta: &Meta, gone: bool) {
        let item = GcItem { resource: resource.clone(), key: key.clone() };
        for owner in &meta.owners {
            if let Some(set) = self.owned.get_mut(&owner.uid) {
                set.remove(&item);
                if set.is_empty() {
                    self.owned.remove(&owner.uid);
                }
            }
        }
        self.deleting.remove(&item);
        if gone {
            self.uids.remove(&meta.uid);
            self.garbage.extend(self.owned.get(&meta.uid).into_iter().flatten().cloned());
        }
    }

    pub(super) fn apply(&mut self, change: Change) {
        let Change { resource, delete, object } = change;
        let shelf = self.shelf(&resource);
        let prev = if delete {
            shelf.objects.remove(&object.key)
        } else {
            shelf.objects.insert(object.key.clone(), object.clone())
        };
        let kind = match (&prev, delete) {
            (_, true) => EventKind::Deleted,
            (None, false) => EventKind::Added,
            (Some(_), false) => EventKind::Modified,
        };
        let old_meta = prev.as_ref().map(|p| p.meta.clone());
        shelf.push(Event { kind, object: object.clone(), prev, line: Default::default() });
        shelf.bell.send_replace(object.rev);
        if let Some(meta) = old_meta {
            self.unindex(&resource, &object.key, &meta, delete);
        }
        if !delete {
            self.index(&resource, &object);
        }
        self.rev = object.rev;
    }

    pub fn get(&self, resource: &str, key: &Key) -> Option<Arc<Stored>> {
        self.shelves.get(resource)?.objects.get(key).cloned()
    }

    pub(super) fn bell(&self, resource: &str) -> Option<watch::Receiver<u64>> {
        self.shelves.get(resource).map(|s| s.bell.subscribe())
    }

    pub(super) fn make_bell(&mut self, resource: &str) -> watch::Receiver<u64> {
        self.shelf(&Arc::from(resource)).bell.subscribe()
    }

    /// Objects of `resource`, of one namespace if `ns` is not empty, in key order, after `after`.
    pub fn list<'a>(
        &'a self,
        resource: &str,
        ns: &'a str,
        after: Option<&Key>,
    ) -> impl Iterator<Item = &'a Arc<Stored>> + use<'a> {
        use std::ops::Bound;
        let from = match after {
            Some(k) => Bound::Excluded(k.clone()),
            None => Bound::Included(Key::new(ns, "")),
        };
        let shelf = self.shelves.get(resource);
        shelf
            .into_iter()
            .flat_map(move |s| s.objects.range((from.clone(), Bound::Unbounded)))
            .map(|(_, o)| o)
            .take_while(move |o| ns.is_empty() || o.key.ns == ns)
    }

    /// As [`State::list`], as it was at `rev`: later events are undone.
    pub fn list_at(
        &self,
        resource: &str,
        ns: &str,
        after: Option<&Key>,
        rev: u64,
    ) -> Result<Vec<Arc<Stored>>, Expired> {
        let Some(shelf) = self.shelves.get(resource) else { return Ok(Vec::new()) };
        if rev < shelf.dropped {
            return Err(Expired { oldest: shelf.dropped });
        }
        let mut objects: BTreeMap<&Key, &Arc<Stored>> = self.list(resource, ns, after).map(|o| (&o.key, o)).collect();
        for event in shelf.log.iter().skip(shelf.after(rev)).rev() {
            let key = &event.object.key;
            if (!ns.is_empty() && key.ns != ns) || after.is_some_and(|a| key <= a) {
                continue;
            }
            match &event.prev {
                Some(prev) => objects.insert(key, prev),
                None => objects.remove(key),
            };
        }
        Ok(objects.into_values().cloned().collect())
    }

    /// At most `max` events of `resource` after `rev`.
    pub fn since(&self, resource: &str, rev: u64, max: usize) -> Result<Since, Expired> {
        let Some(shelf) = self.shelves.get(resource) else {
            return Ok(Since { events: Vec::new(), rev: self.rev.max(rev) });
        };
        if rev < shelf.dropped {
            return Err(Expired { oldest: shelf.dropped });
        }
        let events: Vec<_> = shelf.log.iter().skip(shelf.after(rev)).take(max).cloned().collect();
        let upto = match events.last() {
            Some(last) if events.len() == max => last.object.rev,
            _ => self.rev.max(rev),
        };
        Ok(Since { events, rev: upto })
    }

    pub fn lives(&self, uid: &str) -> bool {
        self.uids.contains(uid)
    }

    pub fn dependents(&self, uid: &str) -> Vec<GcItem> {
        self.owned.get(uid).into_iter().flatten().cloned().collect()
    }

    pub fn deleting(&self) -> Vec<GcItem> {
        self.deleting.iter().cloned().collect()
    }

    /// The resource keys that have ever had objects.
    pub fn resources(&self) -> Vec<Arc<str>> {
        self.shelves.keys().cloned().collect()
    }
}
