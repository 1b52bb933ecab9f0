//! `nightshift state`: the journal itself. *In*: etcd, a data dir, or a backup. *Out*: a verdict, events, a file, a new
//! journal. *Invariant*: only `restore` writes to a journal, and only to an empty one.

use super::etcd::EtcdArgs;
use crate::output;
use crate::paths::{DataDir, shell_quoted};
use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use nightshift_state::{Archive, EmbeddedJournal, EtcdJournal, Journal, JournalError, Source, Verified};
use nightshift_types::AccountId;
use serde::Serialize;
use std::path::PathBuf;

const VERIFY: &str = "\
Examples:
  nightshift state verify                             # of `nightshift up`, while it is stopped
  nightshift state verify --etcd http://127.0.0.1:2379 --etcd-prefix /nightshift/default
  nightshift state verify --file before-upgrade.nsj -o json

It reads the snapshot, if there is one, and every batch after it: each chunk must be the one that
the manifest names, the state the one that was snapshotted, each batch must hold the hash of the
one before. It folds all events and checks what must always hold: each task settled once, points
neither made nor lost. With the ledger's archive it follows its chain to the first entry, and all
entries must add up to the snapshot's balances. On failure the message names the batch or the
object, and the exit code is 1.";

const DUMP: &str = "\
Examples:
  nightshift state dump --etcd http://127.0.0.1:2379 | grep TaskSucceeded
  nightshift state dump --file before-upgrade.nsj | jq 'select(.kind == \"Transferred\")'

One JSON object a line and event, then one a queue: what it spent, reserved and used lately. What
a node or a person wrote is in it: results up to 4 KiB too. Of a journal with a snapshot it has the
events that no snapshot stands for.";

const BACKUP: &str = "\
Examples:
  nightshift state backup before-upgrade.nsj --etcd https://etcd-0.etcd:2379 --etcd-ca-file ca.crt
  nightshift state backup laptop.nsj                  # of `nightshift up`, while it is stopped

The pool may run meanwhile when its journal is in etcd. Blobs (models, inputs, large results) and
the ledger's archive are not in it: save their folders too.";

const RESTORE: &str = "\
Examples:
  nightshift state restore laptop.nsj --data-dir /srv/nightshift
  nightshift state restore before-upgrade.nsj --etcd http://127.0.0.1:2379 \\
    --etcd-prefix /nightshift/new

The journal must be empty: start schedulers with the new prefix or folder afterwards. It gets a new
id, so agents drop what they began for the old one; jobs that were admitted after the backup fail
with JournalLost, and are never silently run again.";

/// What to do with the journal.
#[derive(Subcommand, Debug)]
pub enum State {
    /// Check a journal or a backup from its first batch to its last
    #[command(after_help = VERIFY)]
    Verify {
        /// The ledger's archive: a folder or a URL [default: archive/ in the data dir, of a journal that is there]
        #[arg(long, value_name = "FOLDER|URL", env = "NIGHTSHIFT_ARCHIVE")]
        archive: Option<String>,
        /// Where it is.
        #[command(flatten)]
        place: Place,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Print every event
    #[command(after_help = DUMP)]
    Dump {
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Save a journal to a file
    #[command(after_help = BACKUP)]
    Backup {
        /// The file to write; one that is there is not overwritten
        #[arg(value_name = "FILE")]
        to: PathBuf,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Make a new journal from a backup
    #[command(after_help = RESTORE)]
    Restore {
        /// The backup
        #[arg(value_name = "FILE")]
        from: PathBuf,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
}

/// How a verdict is printed.
#[derive(ValueEnum, Debug, Clone, Copy)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Which journal.
#[derive(clap::Args, Debug)]
pub struct Place {
    /// A backup
    #[arg(long, value_name = "FILE", conflicts_with = "endpoints")]
    file: Option<PathBuf>,
    /// Data dir of a `nightshift up` that is stopped [default: the user's, unless --etcd or --file is given]
    #[arg(long, value_name = "DIR", env = crate::paths::DATA_DIR_ENV, hide_env_values = true)]
    data_dir: Option<PathBuf>,
    // The last: what follows would stand under its heading.
    #[command(flatten)]
    etcd: EtcdArgs,
}

impl Place {
    fn source(&self) -> anyhow::Result<Source> {
        if let Some(file) = &self.file {
            return Ok(Source::Backup(file.clone()));
        }
        if self.etcd.is_given() {
            return Ok(Source::Etcd(Box::new(self.etcd.options("nightshift state".into())?)));
        }
        let path = DataDir::resolve(self.data_dir.as_deref())?.journal();
        anyhow::ensure!(
            path.exists(),
            "there is no journal at {}: name one with --data-dir, --etcd or --file",
            path.display()
        );
        Ok(Source::Embedded(path))
    }

    /// The one that is named, or that of the data dir.
    fn archive(&self, named: Option<String>) -> anyhow::Result<Option<Archive>> {
        let own = || {
            let folder =
                DataDir::resolve(self.data_dir.as_deref()).ok()?.path().join(nightshift_scheduler::run::ARCHIVE);
            let ours = self.file.is_none() && !self.etcd.is_given() && folder.is_dir();
            ours.then(|| folder.display().to_string())
        };
        named.or_else(own).map(|place| Archive::open(&place)).transpose().context("--archive")
    }
}

/// What a journal holds.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    journal: String,
    cell: String,
    batches: u64,
    /// The batch that the snapshot stands at.
    snapshot: Option<u64>,
    /// Batches that were read: those after the snapshot, where those before are deleted.
    read: u64,
    events: u64,
    hash: String,
    jobs: usize,
    unfinished_jobs: usize,
    running_attempts: usize,
    nodes: usize,
    ledger_entries: u64,
    /// Those of them that are in the archive.
    archived_entries: u64,
    /// The archive was read.
    archive_checked: bool,
}

impl Verdict {
    fn of(verified: &Verified) -> Self {
        let (state, head) = (verified.folded.state(), verified.folded.head());
        Self {
            journal: state.journal().to_string(),
            cell: state.cell().map(ToString::to_string).unwrap_or_default(),
            batches: head.sequence,
            snapshot: verified.snapshot,
            read: verified.batches,
            events: verified.events,
            hash: nightshift_types::Digest(head.hash).hex(),
            jobs: state.jobs().count(),
            unfinished_jobs: state.unfinished().count(),
            running_attempts: state.running().count(),
            nodes: state.nodes().len(),
            ledger_entries: state.ledger().entries(),
            archived_entries: verified.archive.as_ref().map_or(0, |archive| archive.entries),
            archive_checked: verified.archive_read,
        }
    }

    fn text(&self) -> String {
        let snapshot = match self.snapshot {
            Some(batch) => format!("Snapshot: of batch {batch}, {} batches read beside it\n", self.read),
            None => String::new(),
        };
        let archive = match (self.archived_entries, self.archive_checked) {
            (0, _) => String::new(),
            (entries, true) => format!("Archive:  {entries} of them, they add up to the snapshot's balances\n"),
            (entries, false) => format!("Archive:  {entries} of them, NOT CHECKED: name it with --archive\n"),
        };
        format!(
            "Journal:  {} of cell {}\nBatches:  {}, {} events, the last has hash {}\n{snapshot}Jobs:     {}, {} unfinished, {} \
             attempts running\nNodes:    {}\nLedger:   {} entries, points conserved\n{archive}OK: no gap in the chain, and \
             every invariant holds\n",
            self.journal,
            self.cell,
            self.batches,
            self.events,
            &self.hash[..16],
            self.jobs,
            self.unfinished_jobs,
            self.running_attempts,
            self.nodes,
            self.ledger_entries
        )
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    batch: u64,
    time_milliseconds: u64,
    kind: &'a str,
    event: &'a str,
}

/// Does it.
pub async fn run(command: State) -> anyhow::Result<()> {
    match command {
        State::Verify { archive, place, output } => {
            let (source, archive) = (place.source()?, place.archive(archive)?);
            let verdict = Verdict::of(&source.verify(archive.as_ref()).await?);
            match output {
                Format::Json => output::json(&verdict),
                Format::Text => output::write(verdict.text().as_bytes()),
            }
        }
        State::Dump { place } => dump(&place.source()?).await,
        State::Backup { to, place } => {
            let head = place.source()?.backup(&to).await?;
            output::line(&format!("{}: {} batches, checked", shell_quoted(&to), head.sequence))
        }
        State::Restore { from, place } => restore(&from, &place).await,
    }
}

/// A queue at the end of the journal.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QueueLine<'a> {
    batch: u64,
    time_milliseconds: u64,
    kind: &'a str,
    queue: &'a str,
    balance: String,
    spent: String,
    reserved: String,
    spendable: Option<String>,
    usage_milliseconds: u64,
}

async fn dump(source: &Source) -> anyhow::Result<()> {
    let mut print = |_: &[u8], batch: nightshift_state::Batch, _: nightshift_state::Head| {
        for of in &batch.events {
            let event = format!("{of:?}");
            let kind = event.split([' ', '{', '(']).next().unwrap_or_default();
            let line = Line { batch: batch.sequence, time_milliseconds: batch.time.0, kind, event: &event };
            let text = serde_json::to_string(&line).map_err(|error| JournalError::Io(error.to_string()))?;
            output::line(&text).map_err(|error| JournalError::Io(format!("{error:#}")))?;
        }
        Ok(())
    };
    let head = source.read(&mut print).await?;
    // The events that were printed may not be all there ever were.
    let verified = source.verify(None).await?;
    let state = verified.folded.state();
    let time = state.time();
    for (queue, book) in state.ledger().queues() {
        output::line(&serde_json::to_string(&QueueLine {
            batch: head.sequence,
            time_milliseconds: time.0,
            kind: "Queue",
            queue,
            balance: state.balance(&AccountId::Tenant(queue.into())).to_string(),
            spent: book.spent.to_string(),
            reserved: book.reserved.to_string(),
            spendable: state.spendable(queue, time).map(|points| points.to_string()),
            usage_milliseconds: state.usage(queue, time),
        })?)?;
    }
    Ok(())
}

async fn restore(from: &std::path::Path, place: &Place) -> anyhow::Result<()> {
    anyhow::ensure!(
        place.file.is_none(),
        "--file names what `verify` and `dump` read: restore into --data-dir or --etcd"
    );
    let head = if place.etcd.is_given() {
        let options = place.etcd.options("nightshift state restore".into())?;
        eprintln!("waiting for the lead under {}: stop schedulers that use it", options.prefix);
        let mut journal = EtcdJournal::campaign(&options).await?;
        let head = nightshift_state::restore(from, &mut journal).await;
        // Schedulers need not wait for the lease.
        let _ = journal.resign().await;
        head?
    } else {
        let data_dir = DataDir::resolve(place.data_dir.as_deref())?;
        std::fs::create_dir_all(data_dir.path()).with_context(|| data_dir.path().display().to_string())?;
        let mut journal = EmbeddedJournal::open(data_dir.journal()).await?;
        nightshift_state::restore(from, &mut journal).await?
    };
    output::line(&format!("restored {} batches under a new journal id: schedulers may start", head.sequence))
}
