//! The node: session, admission, libtorch workers, model cache.

pub mod codec;
pub mod device;
pub mod engine;
mod sys;
mod worker;
