//! For tests: a simulated agent that speaks the real protocol over real mTLS, a real etcd, and waiting for conditions.
//!
//! Nothing here is a mock of our own code: the agent's frames pass the same edge as a real one's.

pub mod agent;
pub mod crowd;
pub mod etcd;
pub mod kube;
pub mod relay;
pub mod trio;

use std::time::Duration;

/// Longest a test waits for anything: loaded machines are slow, and a condition that never comes must still fail.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A loopback port that nobody listens on now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until `look` gives something, or fails the test by name.
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, look).await
}

/// The same with another patience.
pub async fn until_within<T>(patience: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited {patience:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
