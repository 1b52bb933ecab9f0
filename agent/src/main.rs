//! `nightshift-agent`: see `nightshift-agent --help`.

fn main() -> std::process::ExitCode {
    nightshift_agent::cli::main()
}
