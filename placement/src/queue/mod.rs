//! In: the jobs that run or wait → out: the next tasks, as requests in the order they are placed in.

mod turns;

pub use turns::{WaitingJob, WaitingTask, next};
