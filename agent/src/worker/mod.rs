//! Stop ⑩: one process for each loaded model.
//!
//! *In*: a verified model file and a task's bytes, in shared memory. *Out*: the result's bytes, or a typed failure.
//! *Invariant*: whatever a model or an input does to its process, the agent lives, and the process and its memory are gone
//! when the engine has let go of them.
//!
//! * Engine side: [`pool`] (which worker, who is evicted) → [`lane`] (who waits, who runs together) → [`handle`] (one process)
//!   → [`spawner`] (the thread that starts and reaps processes).
//! * Between: [`protocol`] over a socket; bytes in shared memory (`sys::shm`).
//! * Worker side: [`child`] (the loop) → [`sandbox`] (walls, once) → [`model`] (libtorch), [`batch`] and the codecs. [`prove`] and [`measure`] are one-shot uses.
//!
//! A stateful model starts each task from its fresh state if it has a method `reset_states()`, as Silero's does; the
//! worker calls it after loading, to see whether it is there, and before every task. A model that keeps state and has no
//! such method carries it from task to task.

pub mod batch;
pub mod child;
pub mod handle;
pub mod lane;
pub mod measure;
pub mod message;
pub mod model;
pub mod pool;
pub mod protocol;
pub mod prove;
pub mod sandbox;
pub mod spawner;
#[cfg(target_os = "linux")]
mod syscalls;

use std::process::ExitCode;

/// `worker --control-fd N`, `worker --measure DIR`, `worker --probe` or `worker --sandbox`.
pub fn main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let mut args = args.into_iter();
    let (what, value) = (args.next().unwrap_or_default(), args.next());
    match (what.as_str(), value.as_deref().map(str::parse::<i32>)) {
        ("--control-fd", Some(Ok(fd))) => child::main(fd),
        ("--measure", _) => measure::main(value.as_deref()),
        ("--probe", _) => measure::probe_main(),
        ("--sandbox", _) => measure::sandbox_main(),
        _ => {
            eprintln!("nightshift-agent worker is started by the agent itself; use `nightshift-agent --help`");
            ExitCode::from(2)
        }
    }
}
