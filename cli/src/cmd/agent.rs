//! `nightshift agent …`: the owner's side of this machine. *In*: words for `nightshift-agent`. *Out*: that program, in our
//! place.

use crate::up::agent;
use anyhow::Context;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  nightshift agent status              # what this machine does, and why it pauses
  nightshift agent pause --for 2h      # the memory is free within a second
  nightshift agent doctor              # what works here, and what would help
  nightshift agent --help              # this; `nightshift agent help` lists every command";

/// Flags.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The agent's program [default: nightshift-agent beside this one]
    #[arg(long, env = "NIGHTSHIFT_AGENT_PROGRAM", value_name = "PATH")]
    agent_program: Option<PathBuf>,
    /// What it is told: run, status, pause, resume, earnings, history, page, config, doctor, install, leave …
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    words: Vec<OsString>,
}

/// Becomes the agent's program.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let program = agent::find(args.agent_program.as_deref())?;
    // Only an error comes back.
    Err(std::process::Command::new(&program).args(&args.words).exec())
        .with_context(|| format!("cannot start {}", program.display()))
}
