//! What runs an attempt: the libtorch engine, or a stand-in in tests.

use crate::engine::{Engine, Failed, Output, Task};
use nightshift_types::Digest;
use tokio_util::sync::CancellationToken;

/// Runs tasks on loaded models. [`Engine`] says what each call means.
#[tonic::async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Runs one task, before its deadline.
    async fn run(&self, task: Task, cancel: CancellationToken) -> Result<Output, Failed>;
    /// Loaded models and their devices.
    fn loaded(&self) -> Vec<(Digest, String)>;
    /// Worker processes that ever started and loaded their model.
    fn workers_started(&self) -> u64;
    /// Frees an idle model's memory.
    async fn evict(&self, digest: Digest) -> usize;
    /// Frees the memory of every idle model.
    async fn evict_idle(&self) -> usize;
    /// Frees all memory, and returns when it is free; nothing runs at that time.
    async fn release(&self);
    /// Ends everything.
    async fn shutdown(&self);
    /// What caps workers here, in words.
    fn caps(&self) -> String {
        String::new()
    }
}

#[tonic::async_trait]
impl Executor for Engine {
    async fn run(&self, task: Task, cancel: CancellationToken) -> Result<Output, Failed> {
        Engine::run(self, task, cancel).await
    }
    fn loaded(&self) -> Vec<(Digest, String)> {
        Engine::loaded(self)
    }
    fn workers_started(&self) -> u64 {
        Engine::workers_started(self)
    }
    async fn evict(&self, digest: Digest) -> usize {
        Engine::evict(self, digest).await
    }
    async fn evict_idle(&self) -> usize {
        Engine::evict_idle(self).await
    }
    async fn release(&self) {
        Engine::release(self).await;
    }
    async fn shutdown(&self) {
        Engine::shutdown(self).await;
    }
    fn caps(&self) -> String {
        Engine::caps(self)
    }
}
