//! In: the batches of whoever leads. Out: a journal that this process leads, and a state folded up to within a batch of
//! its head. Invariant: a standby only reads; what it folded is what a leader would recover.

use super::options::{EtcdOptions, Keys, request};
use super::{EtcdJournal, EtcdStore};
use crate::core::Folded;
use crate::journal::{JournalError, catch_up};
use etcd_client::{WatchClient, WatchOptions};
use std::time::{Duration, Instant};

/// Between two tries while etcd does not answer.
const RETRY: Duration = Duration::from_millis(500);
/// After this long without a word of etcd a standby ends: started anew it reads its certificates again, which may have been
/// replaced.
const GIVE_UP: Duration = Duration::from_secs(300);
/// A watch that was silent this long is not trusted: the head is read again.
const RECHECK: Duration = Duration::from_secs(10);

/// Folds what the leader appends, as it appends it, until this process leads. Dropped before that, it stands back.
/// `progress` is told after every page that was folded, and of every error that is tried again.
///
/// # Errors
/// What no retry mends: a journal that is corrupt or of a newer format, options that cannot work, and an etcd that has not
/// answered for five minutes.
pub async fn stand_by(
    options: &EtcdOptions,
    folded: &mut Folded,
    progress: &mut (dyn FnMut(Result<&Folded, &JournalError>) + Send),
) -> Result<EtcdJournal, JournalError> {
    let mut failing: Option<Instant> = None;
    loop {
        let (campaign, follow) = (EtcdJournal::campaign(options), follow(options, folded, progress, &mut failing));
        let error = tokio::select! {
            // A lead that is won is not dropped for an error of the same moment.
            biased;
            journal = campaign => match journal {
                Ok(journal) => return Ok(journal),
                Err(error) => error,
            },
            Err(error) = follow => error,
        };
        let since = *failing.get_or_insert_with(Instant::now);
        // One that says that it is full does answer: started anew we would hear the same.
        if matches!(error, JournalError::NoSpace(_) | JournalError::StoreCorrupt(_)) {
            failing = None;
        } else if !error.retryable() || since.elapsed() > GIVE_UP {
            return Err(error);
        }
        progress(Err(&error));
        tracing::warn!(%error, "standing by; trying again");
        tokio::time::sleep(RETRY).await;
    }
}

/// Ends only with an error.
async fn follow(
    options: &EtcdOptions,
    folded: &mut Folded,
    progress: &mut (dyn FnMut(Result<&Folded, &JournalError>) + Send),
    failing: &mut Option<Instant>,
) -> Result<std::convert::Infallible, JournalError> {
    let store = EtcdStore::reader(options).await?;
    let mut watch = store.client.watch_client();
    loop {
        let seen = store.revision_now().await?;
        catch_up(&store, folded).await?;
        if let Some(sequence) = folded.diverged() {
            return Err(JournalError::Diverged(sequence));
        }
        *failing = None;
        progress(Ok(folded));
        news(&mut watch, &store.keys, options.request_timeout, seen).await?;
    }
}

/// Until the head has changed since `seen`, or long enough.
async fn news(watch: &mut WatchClient, keys: &Keys, timeout: Duration, seen: i64) -> Result<(), JournalError> {
    let options = WatchOptions::new().with_start_revision(seen + 1);
    let mut stream = request(timeout, watch.watch(keys.head.as_str(), Some(options))).await?;
    let changed = async {
        while let Ok(Some(answer)) = stream.message().await {
            if answer.canceled() || !answer.events().is_empty() {
                return;
            }
        }
    };
    tokio::select! { () = changed => {}, () = tokio::time::sleep(RECHECK) => {} }
    Ok(())
}
