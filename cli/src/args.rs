//! The command line, as clap reads it; each command's own flags stand beside its code.

use crate::{cmd, up};
use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Begin:
  nightshift up                                  # a whole pool on this machine
  nightshift push .deps/models/silero_vad.jit    # in another terminal, as the rest
  kubectl apply -f examples/voice/
  nightshift explain job/voice

Everything else is kubectl: inferencejobs (ij), modelartifacts (ma), computenodes (cnode),
tenantqueues (tq).";

/// Nightshift: idle machines as one pool for AI inference, driven like Kubernetes
#[derive(Parser, Debug)]
#[command(name = "nightshift", version, after_help = EXAMPLES, propagate_version = false)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a whole pool on this machine: Kubernetes API, scheduler and one agent, until Ctrl-C
    Up(up::Args),
    /// Run one scheduler of a cluster: journal in etcd, objects in the cluster's own Kubernetes API
    Scheduler(Box<cmd::scheduler::Args>),
    /// Run a model on one input and print the result
    Run(cmd::run::Args),
    /// Say why a job is where it is: nodes counted by reason, tasks, failures, what would help
    Explain(cmd::explain::Args),
    /// Print a job's results
    Results(cmd::results::Args),
    /// Put a file into the pool's blob store and print the URI that manifests name it by
    Push(cmd::push::Args),
    /// List the machines of the pool
    Nodes(cmd::nodes::Args),
    /// Let other machines join
    #[command(subcommand)]
    Token(cmd::token::Token),
    /// Bring points in, and show who has, paid and got how many
    #[command(subcommand)]
    Points(cmd::points::Points),
    /// Look after this machine's agent: status, pause, resume, earnings, doctor …
    Agent(cmd::agent::Args),
    /// Learn a cluster's gateway, for the commands that need it
    Connect(cmd::connect::Args),
    /// Check, print, save and restore the journal: what was placed, what came out, what was paid
    #[command(subcommand)]
    State(cmd::state::State),
    /// Say whether the pool is up, where it listens and what it does
    Status(cmd::status::Args),
    /// Print this program's version
    Version(cmd::version::Args),
    /// Print a shell's completion script
    Completion(cmd::completion::Args),
}
