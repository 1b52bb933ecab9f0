//! The node: session, admission, libtorch workers, model cache.

pub mod device;
pub mod engine;
