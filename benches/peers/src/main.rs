//! kernelet among its peers: the same works, in processes that take turns. PROTOCOL.md says how a
//! contestant is asked, README.md how to run all of this.

mod arrays;
mod compare;
mod contestants;
mod interrupt;
mod process;
mod protocol;
mod record;
mod statistics;
mod works;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Compares kernelet with other libraries, in processes that take turns
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lets contestants do works in turn, and says how they compare
    Compare(compare::Options),
    /// Answers requests on standard input, as PROTOCOL.md has them
    Contestant(contestants::Options),
}

fn main() -> ExitCode {
    let result = match Options::parse().command {
        Command::Compare(options) => compare::run(&options),
        Command::Contestant(options) => contestants::serve(&options).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
