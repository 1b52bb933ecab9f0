//! The `nightshift` command. *In*: a command line. *Out*: what was asked for on stdout, progress on stderr, an exit code.
//! *Invariant*: an error is one line that names the remedy; nothing is left behind by Ctrl-C.
//!
//! * [`args`]: the command line; [`parse`]: the small grammars in it
//! * [`up`]: everything on one machine in one terminal
//! * [`cmd`]: the commands that talk to a pool that is up
//! * [`connect`]: which pool that is; [`gateway`]: its HTTP side
//! * [`output`]: tables, amounts, pipes that close early; [`exit`]: exit codes

pub mod args;
pub mod cmd;
pub mod connect;
pub mod exit;
pub mod gateway;
pub mod output;
pub mod parse;
pub mod paths;
pub mod signals;
pub mod up;

use clap::{CommandFactory, FromArgMatches};
use std::ffi::OsString;
use std::process::ExitCode;

/// Name under which kubectl finds its plugin.
const PLUGIN: &str = "kubectl-nightshift";

/// The command tree, named after the program that was started.
pub fn command(program: Option<&OsString>) -> clap::Command {
    let stem = program.map(std::path::Path::new).and_then(|path| path.file_stem()?.to_str());
    let command = args::Cli::command().max_term_width(100);
    if stem == Some(PLUGIN) { command.name("kubectl-nightshift").bin_name("kubectl nightshift") } else { command }
}

/// Parses, runs, and turns the result into an exit code.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let matches = command(arguments.first()).get_matches_from(arguments);
    let cli = args::Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&anyhow::Error::new(error).context("the async runtime")),
    };
    // rustls has no provider of its own choice; the first caller decides for the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let code = match runtime.block_on(cmd::dispatch(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    };
    // A blocked read of stdin must not hold the process.
    runtime.shutdown_background();
    code
}
