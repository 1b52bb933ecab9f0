//! The commands, one file each. *In*: parsed flags. *Out*: text on stdout.

pub mod agent;
pub mod completion;
pub mod connect;
pub mod etcd;
pub mod explain;
pub mod nodes;
pub mod points;
pub mod push;
pub mod results;
pub mod run;
pub mod scheduler;
pub mod state;
pub mod status;
pub mod token;
pub mod version;

use crate::args::Command;

/// Runs a command.
pub async fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => crate::up::run(args).await,
        Command::Scheduler(args) => scheduler::run(*args).await,
        Command::Run(args) => run::run(args).await,
        Command::Explain(args) => explain::run(args).await,
        Command::Results(args) => results::run(args).await,
        Command::Push(args) => push::run(args).await,
        Command::Nodes(args) => nodes::run(args).await,
        Command::Token(token::Token::Create(args)) => token::create(args).await,
        Command::Points(command) => points::run(command).await,
        Command::Agent(args) => agent::run(&args),
        Command::Connect(args) => connect::run(args).await,
        Command::State(command) => state::run(command).await,
        Command::Status(args) => status::run(args).await,
        Command::Version(args) => version::run(&args),
        Command::Completion(args) => completion::run(&args),
    }
}
