//! `nightshift`, also installed as `kubectl-nightshift`: parse, run, exit code.

fn main() -> std::process::ExitCode {
    nightshift_cli::main(std::env::args_os())
}
