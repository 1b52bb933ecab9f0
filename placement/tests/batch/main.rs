//! Tasks that start together, tasks that waited too long, and tasks that are planned together.

#[path = "../common/mod.rs"]
mod common;
mod gangs;
mod hungarian;
mod kept;
mod optimum;
mod together;
mod world;
