//! The `kernelet` program. Without arguments it trains the study's multilayer perceptron on the
//! embedded letters and shows the result.
//!
//! A library only for `src/main.rs` and for the fuzz target of the command line.

#![forbid(unsafe_code)]

mod args;
mod charts;
mod checkpoint;
mod completions;
mod files;
mod history;
mod info;
mod interrupt;
mod man;
mod model;
mod network;
mod output;
mod play;
mod predict;
mod profile;
mod progress;
mod report;
mod reproduce;
mod result;
mod run;
mod sets;
mod study;
mod summary;
mod table;
mod train;

use std::process::ExitCode;

use clap::Parser;
use kernelet::Error;

pub use args::Arguments;
use args::{Command, ProfileCommand, TrainCommand};

/// What a command that did not fail ended with.
enum Done {
    /// It did all it was asked to.
    Complete,
    /// Ctrl-C ended it early; what there was has been saved.
    Interrupted,
}

/// Does what the command line of this process asks for, and returns the exit status.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        None => train::mlp(args::main_job()),
        Some(Command::Train { network: TrainCommand::Mlp(options) }) => train::mlp(*options),
        Some(Command::Train { network: TrainCommand::Cnn(options) }) => train::cnn(*options),
        Some(Command::Study { study }) => reproduce::study(&study),
        Some(Command::Reproduce(options)) => reproduce::all(&options),
        Some(Command::Play(options)) => play::run(&options),
        Some(Command::Predict(options)) => predict::run(&options),
        Some(Command::Profile { network: ProfileCommand::Mlp(options) }) => profile::mlp(&options),
        Some(Command::Profile { network: ProfileCommand::Cnn(options) }) => profile::cnn(&options),
        Some(Command::Info(options)) => info::run(&options),
        Some(Command::Completions { shell }) => completions::run(shell),
        Some(Command::Man(options)) => man::run(&options),
    };
    match result {
        Ok(Done::Complete) => ExitCode::SUCCESS,
        Ok(Done::Interrupted) => ExitCode::from(interrupt::STATUS),
        Err(error) => {
            // One line, whatever a library put into its message.
            let mut message = error.to_string().replace('\n', " ");
            if matches!(error, Error::TooLarge { .. }) {
                message.push_str(" (--data-limit raises it)");
            }
            output::complain(&format!("error: {message}\n"));
            ExitCode::FAILURE
        }
    }
}
