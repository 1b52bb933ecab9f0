//! The order of waiting tasks, as its callers see it: shares, turns, ageing, holds and words.

mod ageing;
mod any;
mod arbiter;
#[path = "../common/mod.rs"]
mod common;
mod cost;
mod fixture;
mod gang;
mod rules;
mod shares;
mod words;
