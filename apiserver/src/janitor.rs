//! In: changes of the store → out: deletions that follow from others → invariant: everything here is idempotent and driven by
//! what the store holds now: a restart continues where it was.
//!
//! Terminating namespaces are emptied and go; a deleted definition's objects go before it; an object all of whose owners are
//! gone goes; an object deleted in the foreground goes after its dependents.

use crate::api::Api;
use crate::kinds::{Core, Resource, crd};
use crate::object::{FOREGROUND, as_map, draft, finalizers, index_meta, meta_mut, str_at};
use crate::store::{CRDS, Expect, GcItem, Key, NAMESPACES, Stored, Write, WriteError};
use crate::{admit, encode};
use serde_json::Value;
use std::sync::Arc;

/// Runs until the server shuts down.
pub(crate) async fn run(api: Arc<Api>) {
    let mut bell = api.store.any_bell();
    loop {
        bell.borrow_and_update();
        api.sweep().await;
        tokio::select! {
            changed = bell.changed() => if changed.is_err() { return },
            () = api.shutdown.cancelled() => return,
        }
    }
}

impl Api {
    async fn sweep(&self) {
        for item in self.store.take_garbage() {
            self.collect(&item).await;
        }
        for item in self.store.read(|s| s.deleting()) {
            match &*item.resource {
                NAMESPACES => self.empty_namespace(&item.key).await,
                CRDS => self.empty_definition(&item.key).await,
                _ => {}
            }
            self.finish_foreground(&item).await;
        }
    }

    fn resource_of(&self, store_key: &str) -> Option<Arc<Resource>> {
        self.registry().by_store_key(store_key).cloned()
    }

    /// Deletes one object as a client's background deletion would.
    async fn remove(&self, r: &Resource, key: &Key) {
        self.change(r, key, |v| {
            if !admit::may_go(r, v) {
                admit::mark_deleted(r, v);
            }
        })
        .await;
    }

    /// Changes one object, or deletes it if it then may go and is marked or would not need to be.
    async fn change(&self, r: &Resource, key: &Key, mut f: impl FnMut(&mut Value)) {
        // A lost race is a newer object: look again.
        loop {
            let Some(stored) = self.store.get(&r.store_key, key) else { return };
            let Ok(old) = encode::stored_value(r, &stored) else { return };
            let mut v = old.clone();
            f(&mut v);
            let gone = admit::may_go(r, &v);
            if !gone && admit::same(&v, &old) {
                return;
            }
            match self.overwrite(r, &stored, &v, gone).await {
                Err(WriteError::Conflict) => {}
                Err(e) => return tracing::warn!(error = ?e, "a dependent deletion was refused"),
                Ok(()) => return,
            }
        }
    }

    async fn overwrite(&self, r: &Resource, stored: &Stored, v: &Value, delete: bool) -> Result<(), WriteError> {
        let write = Write {
            resource: r.store_key.clone(),
            key: stored.key.clone(),
            expect: Expect::Rev(stored.rev),
            delete,
            draft: draft(v),
            meta: index_meta(v),
            tag: r.schema_tag,
            inside: None,
        };
        self.store.write(write).await?;
        if r.core == Some(Core::Crd) {
            self.reload();
        }
        Ok(())
    }

    async fn empty_namespace(&self, key: &Key) {
        let mut left = false;
        for resource in self.store.read(|s| s.resources()) {
            let Some(r) = self.resource_of(&resource).filter(|r| r.namespaced) else { continue };
            let all: Vec<_> = self.store.read(|s| s.list(&resource, &key.name, None).cloned().collect());
            for object in all {
                if !object.meta.deleting {
                    self.remove(&r, &object.key).await;
                }
            }
            left |= self.store.read(|s| s.list(&resource, &key.name, None).next().is_some());
        }
        let Some(r) = self.resource_of(NAMESPACES).filter(|_| !left) else { return };
        self.change(&r, key, |v| drop(as_map(v).shift_remove("spec"))).await;
    }

    async fn empty_definition(&self, key: &Key) {
        let _guard = self.crd_lock.lock().await;
        let Some(r) = self.resource_of(CRDS) else { return };
        let Some(stored) = self.store.get(CRDS, key) else { return };
        let Ok(crd) = encode::stored_value(&r, &stored) else { return };
        let served = format!("{}/{}", str_at(&crd, &["spec", "group"]), str_at(&crd, &["spec", "names", "plural"]));
        let all: Vec<_> = self.store.read(|s| s.list(&served, "", None).cloned().collect());
        if let Some(own) = self.resource_of(&served) {
            for object in all.iter().filter(|o| !o.meta.deleting) {
                self.remove(&own, &object.key).await;
            }
        }
        if self.store.read(|s| s.list(&served, "", None).next().is_none()) {
            self.change(&r, key, |v| remove_finalizer(v, crd::CLEANUP)).await;
        }
    }

    /// Deletes an object that has owners none of which lives.
    async fn collect(&self, item: &GcItem) {
        let Some(stored) = self.store.get(&item.resource, &item.key) else { return };
        let registry = self.registry();
        let lives = |o: &crate::store::Owner| {
            // Of a kind that is not served here nothing is known: its owner counts as living.
            registry.by_kind(&o.api_version, &o.kind).is_none() || self.store.read(|s| s.lives(&o.uid))
        };
        if stored.meta.deleting || stored.meta.owners.is_empty() || stored.meta.owners.iter().any(lives) {
            return;
        }
        if let Some(r) = self.resource_of(&item.resource) {
            self.remove(&r, &item.key).await;
        }
    }

    async fn finish_foreground(&self, item: &GcItem) {
        let Some(r) = self.resource_of(&item.resource) else { return };
        let Some(stored) = self.store.get(&item.resource, &item.key) else { return };
        if !stored.meta.foreground {
            return;
        }
        for dependent in self.store.read(|s| s.dependents(&stored.meta.uid)) {
            if let Some(r) = self.resource_of(&dependent.resource) {
                self.remove(&r, &dependent.key).await;
            }
        }
        if self.store.read(|s| s.dependents(&stored.meta.uid)).is_empty() {
            self.change(&r, &item.key, |v| remove_finalizer(v, FOREGROUND)).await;
        }
    }

    /// Takes an owner out of its dependents, so that they outlive it.
    pub(crate) async fn orphan(&self, uid: &str) {
        for dependent in self.store.read(|s| s.dependents(uid)) {
            let Some(r) = self.resource_of(&dependent.resource) else { continue };
            let Some(stored) = self.store.get(&dependent.resource, &dependent.key) else { continue };
            let Ok(mut v) = encode::stored_value(&r, &stored) else { continue };
            if let Some(list) = meta_mut(&mut v).get_mut("ownerReferences").and_then(Value::as_array_mut) {
                list.retain(|o| str_at(o, &["uid"]) != uid);
            }
            if let Err(e) = self.overwrite(&r, &stored, &v, false).await {
                tracing::warn!(error = ?e, "a dependent could not be orphaned");
            }
        }
    }
}

fn remove_finalizer(v: &mut Value, name: &str) {
    let left: Vec<Value> = finalizers(v).into_iter().filter(|f| f != name).map(Value::from).collect();
    let m = meta_mut(v);
    if left.is_empty() {
        m.shift_remove("finalizers");
    } else {
        m.insert("finalizers".into(), left.into());
    }
}
