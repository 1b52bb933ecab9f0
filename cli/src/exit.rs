//! Exit codes. *In*: an error. *Out*: one line on stderr and a code. *Invariant*: scripts can branch on the code alone.

use std::fmt;
use std::process::ExitCode;

/// Something could not be done.
pub const FAILURE: u8 = 1;
/// The command line is wrong (clap's own code).
pub const USAGE: u8 = 2;
/// The job ran and failed.
pub const JOB_FAILED: u8 = 3;
/// The job did not end in time.
pub const TIMED_OUT: u8 = 4;
/// Ctrl-C, as shells report it.
pub const INTERRUPTED: u8 = 130;

/// The codes in words, for `--help`.
pub const HELP: &str = "\
Exit codes:
  0  done
  1  could not be done; the message says what to do
  2  wrong command line
  3  the job failed
  4  the job did not end in time
  130  interrupted";

/// An error with an exit code of its own.
#[derive(Debug)]
pub struct Coded {
    /// The process's exit code.
    pub code: u8,
    /// One line; empty for silence.
    pub message: String,
}

impl Coded {
    /// As an error to return.
    pub fn error(code: u8, message: impl Into<String>) -> anyhow::Error {
        Self { code, message: message.into() }.into()
    }
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Coded {}

/// The code that an error asks for.
pub fn code_of(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Coded>().map_or(FAILURE, |coded| coded.code)
}

/// An error with its causes in one line; a cause that the text has already is not repeated.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        match text.is_empty() {
            true => text = cause,
            false if text.contains(&cause) => {}
            false => text = format!("{text}: {cause}"),
        }
    }
    text
}

/// Prints the error and gives its code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let text = one_line(error);
    if !text.is_empty() {
        eprintln!("error: {text}");
    }
    ExitCode::from(code_of(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn one_line_without_repeats() {
        let error =
            anyhow::anyhow!("refused\n  by the disk").context("cannot write x: refused by the disk").context("push");
        assert_eq!(one_line(&error), "push: cannot write x: refused by the disk");
        assert_eq!(code_of(&error), FAILURE);
        let coded: anyhow::Result<()> = Err(Coded::error(JOB_FAILED, "no")).context("job/x");
        assert_eq!(code_of(&coded.unwrap_err()), JOB_FAILED);
    }
}
