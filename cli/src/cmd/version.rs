//! `nightshift version`.

use crate::output;
use clap::ValueEnum;

/// Flags.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  nightshift version\n  nightshift version -o json")]
pub struct Args {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum Format {
    Text,
    Json,
}

/// Prints the version.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    match args.output {
        Format::Text => output::line(&format!("nightshift {version}, API {}", nightshift_crds::API_VERSION)),
        Format::Json => output::json(&serde_json::json!({"version": version, "api": nightshift_crds::API_VERSION})),
    }
}
