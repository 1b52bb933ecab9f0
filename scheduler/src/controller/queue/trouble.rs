//! The journal's trouble, where operators look: each TenantQueue's `Active` condition, and an Event.
//!
//! in → the leader's trouble · out → conditions, Events · invariant: reads no state, which nobody can while the journal is
//! in trouble; afterwards the queues' own status says `Active` anew, also where another leader wrote this.

use crate::controller::conditions::{self, Wanted};
use crate::controller::{Context, status};
use crate::leader::trouble::Trouble;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use nightshift_crds::{DEFAULT_QUEUE, FIELD_MANAGER, TenantQueue, queue_condition};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Trouble that passes sooner is for metrics alone.
const LASTS: Duration = Duration::from_secs(3);
/// While it lasts the queues are looked at again: new ones, and what another wrote.
const AGAIN: Duration = Duration::from_secs(15);

/// Tells until `shutdown`.
pub async fn tell_trouble(context: Context, shutdown: CancellationToken) {
    tokio::select! { () = shutdown.cancelled() => {}, () = tell(&context) => {} }
}

async fn tell(context: &Context) {
    let mut news = context.leader.watch_trouble();
    loop {
        if news.wait_for(Option::is_some).await.is_err() {
            return;
        }
        if tokio::time::timeout(LASTS, news.wait_for(Option::is_none)).await.is_ok() {
            continue;
        }
        let mut said: Option<Arc<Trouble>> = None;
        loop {
            let Some(now) = news.borrow_and_update().clone() else { break };
            let other = said.as_ref().is_none_or(|said| said.reason != now.reason);
            if let Err(error) = write(context, &now, other).await {
                tracing::warn!(%error, "the journal's trouble is not told yet; trying again");
            }
            said = Some(now);
            let _ = tokio::time::timeout(AGAIN, news.changed()).await;
        }
        let event = event(EventType::Normal, "JournalAvailable", "the journal takes everything again");
        publish(context, &TenantQueue::new(DEFAULT_QUEUE, Default::default()), &event).await;
    }
}

async fn write(context: &Context, trouble: &Trouble, news: bool) -> Result<(), kube::Error> {
    let api: Api<TenantQueue> = Api::all(context.client.clone());
    let reason = format!("Journal{}", trouble.reason.as_str());
    let message = format!("nothing starts and no result is settled: {}", trouble.message);
    let now = status::time(context.leader.now());
    for queue in api.list(&ListParams::default()).await? {
        let mut conditions = queue.status.clone().unwrap_or_default().conditions;
        let before = conditions.clone();
        let wanted = Wanted { type_: queue_condition::ACTIVE, status: Some(false), reason: &reason, message: &message };
        conditions::set(&mut conditions, wanted, queue.metadata.generation, &now);
        if conditions != before {
            let body = Patch::Merge(json!({ "status": { "conditions": conditions } }));
            api.patch_status(&queue.name_any(), &PatchParams::apply(FIELD_MANAGER), &body).await?;
        }
        if news && queue.name_any() == DEFAULT_QUEUE {
            publish(context, &queue, &event(EventType::Warning, &reason, &message)).await;
        }
    }
    Ok(())
}

fn event(type_: EventType, reason: &str, note: &str) -> Event {
    let mut note = note.to_string();
    note.truncate((0..=1000.min(note.len())).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0));
    Event { type_, reason: reason.into(), note: Some(note), action: "Journal".into(), secondary: None }
}

async fn publish(context: &Context, queue: &TenantQueue, event: &Event) {
    if let Err(error) = context.recorder.publish(event, &queue.object_ref(&())).await {
        tracing::debug!(%error, "event not published");
    }
}
