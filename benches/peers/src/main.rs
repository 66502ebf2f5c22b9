//! kernelet among its peers: the same works, in processes that take turns. PROTOCOL.md says how a
//! contestant is asked, README.md how to run all of this.

mod arrays;
mod bars;
mod compare;
mod contestants;
mod interrupt;
mod picture;
mod process;
mod protocol;
mod record;
mod splice;
mod statistics;
mod works;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kernelet::allocator::Aligned;

/// The arrays of every contestant in Rust begin at cache lines, as PyTorch's do, and the large ones are on huge pages, as NumPy's.
#[global_allocator]
static ALLOCATOR: Aligned = Aligned;

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
    /// Puts the newest records into BENCHMARKS.md
    Splice(splice::Options),
}

fn main() -> ExitCode {
    let result = match Options::parse().command {
        Command::Compare(options) => compare::run(&options),
        Command::Contestant(options) => contestants::serve(&options).map(|()| ExitCode::SUCCESS),
        Command::Splice(options) => splice::run(&options),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
