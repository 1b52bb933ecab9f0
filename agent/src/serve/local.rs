//! What an agent offers its owner on this machine: the watch, the socket, the page, and the file that is read again.
//!
//! in → a [`Config`] · out → [`Started`], and the tasks that serve it · invariant: the agent works without any of the doors; a
//! bad file changes nothing.

use super::{DataDir, ServeError};
use crate::config::{Config, Reload};
use crate::identity::Identity;
use crate::owner::control::Local;
use crate::owner::page::{Page, url_file};
use crate::owner::socket;
use crate::owner::watch::{Sense, Watch};
use crate::session::{Owner, Policy};
use std::future::Future;
use std::io::IsTerminal;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the file's time is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The owner's side of a running agent.
#[derive(Debug, Clone)]
pub(super) struct Started {
    pub local: Arc<Local>,
    policy: watch::Sender<Policy>,
}

impl Started {
    pub fn owner(&self) -> Owner {
        Owner { local: self.local.clone(), policy: self.policy.subscribe() }
    }
}

/// Starts the watch; the first verdict is there when this returns.
pub(super) async fn start(
    config: &Config,
    data: &DataDir,
    identity: &Identity,
    sense: impl Sense + 'static,
    stop: &CancellationToken,
) -> Result<Started, ServeError> {
    let disk = |source| ServeError::DataDir { path: data.path.clone(), source };
    let (rules, file) = (config.rules.clone(), data.path.join("owner.json"));
    // Sources may block for a moment, and the bus' library brings a runtime of its own.
    let watch = tokio::task::spawn_blocking(move || Watch::start(rules, file, sense)).await;
    let watch = watch.map_err(anyhow::Error::from)?.map_err(disk)?;
    let seen = watch.now();
    let source = seen.source.as_deref().unwrap_or("nothing: a server without a console, where load alone tells");
    info!(when = seen.when.as_str(), tells_of_input = source, "looks after its owner");
    let path = config.reload.as_ref().and_then(|reload| reload.path.clone());
    let local = Local::new(identity.node.to_string(), data.path.clone(), path, watch, stop.clone());
    let policy = Policy { offer: config.offer.clone(), accept: config.accept.clone() };
    Ok(Started { local, policy: watch::Sender::new(policy) })
}

type Door = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Opens socket and page, as far as that is possible here.
pub(super) async fn open(config: &Config, data: &DataDir, local: &Arc<Local>) -> Vec<Door> {
    let mut doors: Vec<Door> = Vec::new();
    match socket::listen(&data.path) {
        Ok(listener) => doors.push(Box::pin(socket::serve(listener, local.clone()))),
        Err(error) => {
            let remedy = "status, pause and resume do not reach this agent; a shorter --data-dir may help";
            warn!(socket = %socket::path(&data.path).display(), %error, remedy);
        }
    }
    if let Some(address) = config.page_listen {
        match Page::listen(address, &data.path).await {
            Ok(page) => {
                info!(file = %url_file(&data.path).display(), "the owner's page: its address is in this file");
                doors.push(Box::pin(page.serve(local.clone())));
            }
            Err(error) => {
                warn!(%address, %error, "the owner's page cannot be served; local.page names another address")
            }
        }
    }
    doors
}

/// Takes the doors' signs down.
pub(super) fn close(data: &DataDir) {
    for path in [socket::path(&data.path), url_file(&data.path)] {
        let _ = std::fs::remove_file(path);
    }
}

/// Reads the owner's file again whenever it changes, and on SIGHUP.
pub(super) async fn reload(reload: Option<Reload>, started: Started) {
    let Some(Reload { path: Some(path), args: Some(args) }) = reload else { return };
    // In a terminal SIGHUP means that the terminal is gone, and ends us as it ends any program.
    let mut hangups = (!std::io::stdin().is_terminal()).then(|| signal(SignalKind::hangup()).ok()).flatten();
    let mut before = stamp(&path);
    loop {
        tokio::select! {
            () = hung_up(&mut hangups) => {}
            () = tokio::time::sleep(LOOK) => {
                let now = stamp(&path);
                if now == before {
                    continue;
                }
                before = now;
            }
        }
        let settings = args.settings().and_then(|settings| Ok((settings.rules()?, settings.offer()?, settings.accept)));
        match settings {
            Ok((rules, offer, accept)) => {
                info!(file = %path.display(), "the config was read again; what says \"at the next start\" waits for that");
                started.local.watch.rules(rules);
                started.policy.send_replace(Policy { offer, accept });
            }
            Err(problem) => warn!(problem, "the config has a mistake; the old values stay"),
        }
    }
}

async fn hung_up(hangups: &mut Option<Signal>) {
    match hangups {
        Some(hangups) => drop(hangups.recv().await),
        None => std::future::pending().await,
    }
}

/// Differs whenever the file was written, replaced or deleted.
fn stamp(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}
