//! Preemption, as its callers see it: rules, least harm against every choice there is, and whole runs that must end.

#[path = "../common/mod.rs"]
mod common;
mod cost;
mod cycles;
mod fixture;
mod least;
mod rules;
