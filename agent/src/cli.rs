//! The program `nightshift-agent`.
//!
//! in → arguments, signals · out → an exit code, and one line on stderr where it is not 0 · invariant: the first signal ends
//! gently, the second at once.

use crate::caps::{self, Caps};
use crate::commands::{self, Common};
use crate::config::{LogFormat, RunArgs};
use crate::device;
use crate::engine::{self, Engine, EngineConfig, Sandbox};
use crate::hardware::Hardware;
use crate::serve::{DataDir, MAX_INPUT, ServeError, serve};
use anyhow::Context;
use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

const EXAMPLES: &str = "\
Examples:
  # The first start, with a token from `nightshift token create`
  nightshift-agent run --server scheduler.example.org:7443 --join nsj1.ID.SECRET.CAHASH

  # The same, without the secret in the process list
  NIGHTSHIFT_JOIN_TOKEN=nsj1.… nightshift-agent run --server scheduler.example.org:7443

  # Later starts: half the price, 4 GiB at most, two threads
  nightshift-agent run --server scheduler.example.org:7443 --price-per-hour 0.025 --memory 4Gi --threads 2

  # A dedicated machine: whether somebody uses it does not matter
  nightshift-agent run --server scheduler.example.org:7443 --when always

Every option of `run` can be given as NIGHTSHIFT_… in the environment: see `nightshift-agent run --help`.

Exit codes: 0 stopped as asked; 1 failed; 2 wrong arguments; 3 not joined, refused, or the wrong scheduler;
4 the data folder cannot be used; 5 models cannot be confined, and --require-sandbox is given.";

#[derive(Debug, Parser)]
#[command(
    name = "nightshift-agent",
    version,
    about = "Lets this machine compute for Nightshift, and earn points for it"
)]
#[command(after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve as a node until stopped
    #[command(after_help = EXAMPLES)]
    Run(Box<RunArgs>),
    /// Say what the running agent does, and why it pauses
    Status(Common),
    /// Stop working at once and free the memory
    Pause(commands::local::Pause),
    /// Take a pause back
    Resume(Common),
    /// Say what this machine gave, and what that comes to
    Earnings(Common),
    /// List what ran on this machine
    History(commands::local::History),
    /// Print the address of the running agent's page
    Page(Common),
    /// Write, check or find the owner's file
    #[command(subcommand)]
    Config(commands::config::Config),
    /// Say what works on this machine, and what would help
    Doctor(commands::doctor::Doctor),
    /// Measure this machine and run a model in the sandbox, without joining or earning
    SelfTest(Common),
    /// Run as a service of this user, from now on
    Install(commands::install::Install),
    /// Undo install, and delete everything the agent keeps
    Uninstall(commands::install::Uninstall),
    /// End the agent, and delete its key, models and history
    Leave(Common),
    /// One model in a sandbox; started by `run`
    #[command(hide = true, disable_help_flag = true)]
    Worker {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Loads and runs a model once, to prove it; started by the scheduler
    #[command(hide = true, disable_help_flag = true)]
    Prove {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// Parses, runs, and answers the exit code.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Worker { args } => engine::worker_main(args),
        Command::Prove { args } => engine::prove_main(args),
        Command::Run(args) => start(&args),
        command => match of_the_owner(&command) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("nightshift-agent: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn of_the_owner(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Status(common) => commands::local::status(common)?,
        Command::Pause(args) => commands::local::pause(args)?,
        Command::Resume(common) => commands::local::resume(common)?,
        Command::Earnings(common) => commands::local::earnings(common)?,
        Command::History(args) => commands::local::history(args)?,
        Command::Page(common) => commands::local::page(common)?,
        Command::Config(command) => commands::config::run(command)?,
        Command::Install(args) => commands::install::install(args)?,
        Command::Uninstall(args) => commands::install::uninstall(args)?,
        Command::Leave(common) => commands::leave::run(common)?,
        Command::Doctor(args) => return tokio::runtime::Runtime::new()?.block_on(commands::doctor::run(args)),
        Command::SelfTest(common) => tokio::runtime::Runtime::new()?.block_on(commands::self_test::run(common))?,
        Command::Run(_) | Command::Worker { .. } | Command::Prove { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn start(args: &RunArgs) -> ExitCode {
    start_log(args.log_format);
    let config = match args.check() {
        Ok(config) => config,
        Err(problem) => {
            eprintln!("nightshift-agent: {problem}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("nightshift-agent: no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(&config, args.exit_with_parent));
    // Whatever still blocks a thread is not waited for: workers are dead, outcomes are on disk.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nightshift-agent: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn start_log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Human => log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

async fn run(config: &crate::config::Config, exit_with_parent: bool) -> Result<(), ServeError> {
    let stop = CancellationToken::new();
    watch_signals(stop.clone())?;
    if exit_with_parent {
        watch_parent(stop.clone())?;
    }
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let sandbox = walls(config.require_sandbox, &program).await?;
    let data = DataDir::open(&config.data_dir)?;
    let identity = tokio::select! {
        identity = data.identity(config) => identity?,
        () = stop.cancelled() => return Ok(()),
    };
    let mut engine = EngineConfig::new(&program, config.data_dir.join("run"));
    engine.threads = config.threads.unwrap_or(engine.threads);
    engine.max_input = MAX_INPUT;
    engine.caps = Caps::claim(caps::Places::default());
    let capped = engine.caps.found().to_string();
    info!(by = capped, "workers are capped");
    let hardware = Hardware::detect(config, &program, sandbox).await;
    serve(config, &data, identity, hardware, Arc::new(Engine::new(engine)), stop).await
}

/// What confines models here, said once in the log.
async fn walls(required: bool, program: &Path) -> Result<Sandbox, ServeError> {
    let found = device::sandbox(program).await;
    match found {
        Ok(sandbox) if sandbox.is_whole() => info!(%sandbox, "models are confined"),
        Ok(sandbox) if !required => warn!(%sandbox, "models are not confined: run those you trust, and no others"),
        Ok(sandbox) => return Err(ServeError::Sandbox(sandbox.to_string())),
        Err(error) if required => return Err(ServeError::Sandbox(format!("{error:#}"))),
        Err(ref error) => warn!(error = format!("{error:#}"), "models cannot be confined, so none will be loaded"),
    }
    Ok(found.unwrap_or_default())
}

/// SIGTERM or Ctrl-C: gently; once more: at once.
fn watch_signals(stop: CancellationToken) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    tokio::spawn(async move {
        loop {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            if stop.is_cancelled() {
                std::process::exit(130);
            }
            info!("asked to stop; once more to stop at once");
            stop.cancel();
        }
    });
    Ok(())
}

/// Stops when another process becomes our parent. Linux tells us when the *thread* that started us ends, which need not
/// be the end of its process: so the signal only makes us look.
fn watch_parent(stop: CancellationToken) -> Result<(), ServeError> {
    let parent = std::os::unix::process::parent_id();
    let mut hint = signal(SignalKind::user_defined1()).context("cannot listen to SIGUSR1")?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGUSR1).context("cannot watch the parent process")?;
    tokio::spawn(async move {
        while std::os::unix::process::parent_id() == parent {
            tokio::select! { _ = hint.recv() => {}, () = tokio::time::sleep(Duration::from_millis(500)) => {} }
        }
        info!("the process that started this agent is gone");
        stop.cancel();
    });
    Ok(())
}
