//! The thread that starts workers and sees to their end.
//!
//! *In*: commands to start, children to bury. *Out*: children, and their exit statuses. *Invariant*: every child is waited
//! for, so none stays a zombie; a worker's place in the pool is free only once its process is gone. The thread lives as
//! long as the engine, because on Linux a worker dies with the thread that started it.

use crate::caps::Cage;
use crate::sys::process;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// How often dying children are looked at.
const POLL: Duration = Duration::from_millis(2);

/// Gives orders to the thread; clones share it.
#[derive(Debug, Clone)]
pub struct Spawner {
    // Unbounded, so that dropping a worker never blocks; there are never more orders than places in the pool.
    orders: Sender<Order>,
}

/// What a worker has until it is gone.
type Held = (OwnedSemaphorePermit, Option<Cage>);

enum Order {
    Start { command: Box<Command>, control: OwnedFd, reply: oneshot::Sender<io::Result<Child>> },
    Bury(Burial),
}

/// A child that is dying, or is to be killed.
struct Burial {
    child: Child,
    /// When to kill it, if it has not ended by itself.
    kill_at: Option<Instant>,
    /// Its place in the pool, given back by dropping it, and its cgroup, which can go only after it.
    held: Option<Held>,
    done: oneshot::Sender<Option<ExitStatus>>,
}

impl Spawner {
    /// Starts the thread.
    pub fn new() -> Self {
        let (orders, inbox) = channel();
        let thread = std::thread::Builder::new().name("nightshift-spawner".into());
        if let Err(error) = thread.spawn(move || serve(&inbox)) {
            tracing::error!(%error, "no thread for starting workers: no model can be run");
        }
        Self { orders }
    }

    /// Starts a worker with `control` as its end of the control socket.
    pub async fn start(&self, command: Command, control: OwnedFd) -> io::Result<Child> {
        let gone = || io::Error::other("the thread that starts workers is gone");
        let (reply, started) = oneshot::channel();
        self.orders.send(Order::Start { command: Box::new(command), control, reply }).map_err(|_| gone())?;
        started.await.map_err(|_| gone())?
    }

    /// Kills a child unless it ends by itself within `grace`; the receiver gets its status when it is gone.
    pub fn bury(&self, child: Child, grace: Duration, held: Held) -> oneshot::Receiver<Option<ExitStatus>> {
        let (done, status) = oneshot::channel();
        // A dead thread means a dying engine: the kernel kills its children.
        let _ = self.orders.send(Order::Bury(Burial {
            child,
            kill_at: Some(Instant::now() + grace),
            held: Some(held),
            done,
        }));
        status
    }
}

fn serve(orders: &Receiver<Order>) {
    let mut dying: Vec<Burial> = Vec::new();
    loop {
        let order = if dying.is_empty() {
            orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            orders.recv_timeout(POLL)
        };
        match order {
            Ok(Order::Start { command, control, reply }) => {
                // Whoever wanted it may be gone: then it is buried at once.
                if let Err(Ok(child)) = reply.send(process::spawn(*command, control)) {
                    let (done, _) = oneshot::channel();
                    dying.push(Burial { child, kill_at: Some(Instant::now()), held: None, done });
                }
            }
            Ok(Order::Bury(burial)) => dying.push(burial),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if dying.is_empty() => return,
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(POLL),
        }
        dying = dying.into_iter().filter_map(Burial::look).collect();
    }
}

impl Burial {
    /// `None` once the process is gone.
    fn look(mut self) -> Option<Self> {
        if self.kill_at.is_some_and(|at| Instant::now() >= at) {
            self.kill_at = None;
            // A worker leads its own group: what it may have started goes with it.
            let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
            let _ = self.child.kill();
        }
        let status = match self.child.try_wait() {
            Ok(None) => return Some(self),
            Ok(Some(status)) => Some(status),
            Err(error) => {
                tracing::warn!(%error, "a worker's end cannot be awaited");
                None
            }
        };
        if let Some((place, cage)) = self.held.take() {
            drop(cage);
            drop(place);
        }
        let _ = self.done.send(status);
        None
    }
}
