//! `kernelet completions`: what a shell needs to complete the command line.

use clap::CommandFactory;
use clap_complete::Shell;
use kernelet::Error;

use crate::args::Arguments;
use crate::{Done, output};

/// Prints the script for a shell.
pub fn run(shell: Shell) -> Result<Done, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "kernelet", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Done::Complete)
}
