//! The node: session, admission, libtorch workers, model cache.

pub mod admission;
pub mod assignment;
pub mod attempt;
pub mod backoff;
pub mod cache;
pub mod cli;
pub mod codec;
pub mod config;
pub mod device;
pub mod edge;
pub mod engine;
pub mod executor;
pub mod expose;
pub mod fetch;
pub mod files;
pub mod hardware;
pub mod identity;
pub mod join;
pub mod link;
pub mod metrics;
pub mod outbox;
pub mod reactor;
pub mod serve;
pub mod session;
pub mod state;
mod sys;
mod worker;
