//! `nightshift completion`.

use crate::output;
use clap::ValueEnum;
use clap_complete::Shell as Generator;

const EXAMPLES: &str = "\
Examples:
  source <(nightshift completion bash)                                  # this shell
  nightshift completion zsh > \"${fpath[1]}/_nightshift\"                 # every zsh
  nightshift completion fish > ~/.config/fish/completions/nightshift.fish";

/// Flags.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let shell = match args.shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::command(None), "nightshift", &mut script);
    output::write(&script)
}
