//! The engine with real worker processes, real libtorch and, where `make deps` has fetched it, the real Silero model.

#[path = "worker/batching.rs"]
mod batching;
#[path = "worker/common.rs"]
mod common;
#[path = "worker/failures.rs"]
mod failures;
#[path = "worker/images.rs"]
mod images;
#[path = "worker/models.rs"]
mod models;
#[path = "worker/overhead.rs"]
mod overhead;
#[path = "worker/proving.rs"]
mod proving;
