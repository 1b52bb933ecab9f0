//! The decisions as their callers see them: through the public interface alone.

#[path = "../common/mod.rs"]
mod common;
mod filters;
mod fixture;
mod latency;
mod messages;
#[path = "../exact/oracle.rs"]
mod oracle;
mod properties;
mod score;
