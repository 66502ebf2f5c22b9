//! `kernelet man`: the program's help as man pages.

use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use kernelet::Error;
use kernelet::data::npz::write_atomically;

use crate::args::{Arguments, ManOptions};
use crate::files::check_writable;
use crate::{Done, output};

/// Prints the program's page, or writes a page for every command into a folder.
pub fn run(options: &ManOptions) -> Result<Done, Error> {
    let mut program = Arguments::command();
    // Gives the commands the names of their pages: kernelet-train-mlp.
    program.build();
    match &options.out {
        Some(folder) => write(&program, folder)?,
        None => {
            let mut page = Vec::new();
            let rendered = Man::new(program).render(&mut page);
            rendered.map_err(|source| Error::Io { path: "standard output".into(), source })?;
            output::print(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(Done::Complete)
}

/// Writes the page of a command and those of its subcommands.
fn write(command: &Command, folder: &Path) -> Result<(), Error> {
    let man = Man::new(command.clone());
    let path = folder.join(man.get_filename());
    check_writable(&path)?;
    write_atomically(&path, |to| {
        // The renderer wants a writer of known size.
        let mut page = Vec::new();
        man.render(&mut page)?;
        to.write_all(&page)
    })?;
    output::print(&format!("wrote {}\n", path.display()))?;
    let commands = command.get_subcommands().filter(|command| command.get_name() != "help");
    commands.into_iter().try_for_each(|command| write(command, folder))
}
