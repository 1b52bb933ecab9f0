//! For tests: a simulated agent that speaks the real protocol over real mTLS, a real etcd, and waiting for conditions.
//!
//! Nothing here is a mock of our own code: the agent's frames pass the same edge as a real one's.

pub mod agent;
pub mod etcd;
pub mod kube;

use std::future::Future;
use std::time::Duration;

/// Longest a test waits for anything: loaded machines are slow, and a condition that never comes must still fail.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `look` gives something, or fails the test by name.
pub async fn until<T, F, Fut>(what: &str, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited {PATIENCE:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
