//! The command line, one file per subcommand.
//!
//! Exit codes: 0 success (for `serve`: after a drain), 1 failure, 64 invalid command line or configuration, 69 a port
//! or the data directory is unavailable.

mod config;
mod connection;
mod explain;
mod figures;
mod health;
mod invalidate;
mod log;
mod record;
mod replay;
mod serve;
mod settings;
pub mod simulate;
mod stats;
mod systemd;
mod token;
mod top;
pub mod trace;
#[cfg(feature = "otel")]
mod traces;
mod warm;

use std::{fmt, ops::RangeBounds, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{config::Faults, server::StartError};

/// Exit code for an invalid command line or configuration (`EX_USAGE`).
const EXIT_USAGE: u8 = 64;
/// Exit code when a port or the data directory is unavailable (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;

/// Shared cache server with a gRPC API: an in-memory tier (L1) in front of Redis or an embedded store (L2).
#[derive(Debug, Parser)]
// The last occurrence of a repeated flag wins, so that arguments can be appended to those of a container image.
#[command(name = "terrace", version, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Config(config::Args),
    Explain(explain::Args),
    Health(health::Args),
    Invalidate(invalidate::Args),
    Record(record::Args),
    Replay(replay::Args),
    Simulate(simulate::Args),
    Stats(stats::Args),
    Token(token::Args),
    Top(top::Args),
    Warm(warm::Args),
}

/// Output format of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text tables and lines.
    Text,
    /// JSON.
    Json,
}

/// Failure of a subcommand: message and exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: u8,
    message: String,
}

/// Result of a subcommand.
pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    /// Returns a failure with exit code 1.
    pub fn new(message: impl fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// Returns a failure with exit code 64: the command line is incomplete or invalid.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { code: EXIT_USAGE, message: message.to_string() }
    }
}

/// Parses a duration in `range`, which `expected` describes.
fn duration_in(range: impl RangeBounds<Duration>, expected: &str, text: &str) -> std::result::Result<Duration, String> {
    let duration = humantime::parse_duration(text).ok().filter(|duration| range.contains(duration));
    duration.ok_or_else(|| format!("invalid duration {text:?}; expected {expected}"))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Self { code: EXIT_USAGE, message: format!("invalid configuration:\n{faults}") }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let code = match &error {
            StartError::Config(_) => EXIT_USAGE,
            StartError::Port(_) | StartError::Data(_) => EXIT_UNAVAILABLE,
        };
        Self { code, message: error.to_string() }
    }
}

/// Returns the definition of the command line: subcommands, flags, defaults. The CLI reference is generated from it.
#[must_use]
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    let done = match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Config(args) => config::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Health(args) => health::run(args),
        Command::Invalidate(args) => invalidate::run(args),
        Command::Record(args) => record::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Simulate(args) => simulate::run(args),
        Command::Stats(args) => stats::run(args),
        Command::Token(args) => token::run(args),
        Command::Top(args) => top::run(args),
        Command::Warm(args) => warm::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("terrace: {}", printable(&failure.to_string()));
            ExitCode::from(failure.code)
        }
    }
}

/// Prints the message of clap and returns the exit code: help and version are not failures.
fn refused(error: &clap::Error) -> ExitCode {
    // An error means that the output is closed; there is nothing else to report to.
    let _printed = error.print();
    if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
}

/// Replaces control characters other than tab and newline by `?`. Names of keys, groups and errors come from clients and
/// servers; an escape sequence in them must not reach the terminal.
fn printable(text: &str) -> String {
    let is_control = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\t');
    text.chars().map(|letter| if is_control(letter) { '?' } else { letter }).collect()
}

/// Clears the terminal.
fn clear_screen() {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _written = out.write_all(b"\x1b[2J\x1b[H").and_then(|()| out.flush());
}

/// Prints a line on stdout. A closed stdout is not a failure.
fn say(line: impl fmt::Display) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _written = writeln!(out, "{}", printable(&line.to_string())).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_escape_sequence_reaches_the_terminal() {
        assert_eq!(super::printable("a\u{1b}[2Jb\u{9b}\u{7f}\r\tc\n"), "a?[2Jb???\tc\n");
    }
}
