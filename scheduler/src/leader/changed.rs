//! What changed, for whoever writes it down elsewhere.
//!
//! in → ids · out → the same, once · invariant: never more than there are, however often each changes.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Ids that changed since somebody last asked: never more than there are, however often each changes.
#[derive(Debug)]
pub struct Changed<T> {
    ids: Mutex<BTreeSet<T>>,
    news: Notify,
}

impl<T: Ord + Clone> Default for Changed<T> {
    fn default() -> Self {
        Self { ids: Mutex::new(BTreeSet::new()), news: Notify::new() }
    }
}

impl<T: Ord> Changed<T> {
    pub(super) fn add(&self, id: T) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        self.news.notify_one();
    }

    /// Waits for changes, and takes them. For one caller.
    pub async fn take(&self) -> BTreeSet<T> {
        loop {
            let ids = std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner));
            if !ids.is_empty() {
                return ids;
            }
            self.news.notified().await;
        }
    }
}
