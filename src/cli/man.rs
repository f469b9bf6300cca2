//! `man`: the help of every command as man pages, for packages.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::failure::Failure;
use super::text::count;
use super::{Arguments, output};

/// Write a man page for every command
///
/// headcount.1 has the list of commands; headcount-serve.1 and so on have their options. The folder
/// is made if it does not exist; pages that are there are replaced.
#[derive(Debug, Args)]
#[command(after_help = "Example: headcount man /usr/local/share/man/man1 && man headcount-serve")]
pub(super) struct Man {
    /// Folder for the pages
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Man {
    pub fn run(&self) -> Result<(), Failure> {
        let shown = self.dir.display();
        let failed = |error| Failure::request(format!("man pages in {shown}"), error);
        fs::create_dir_all(&self.dir).map_err(failed)?;
        let command = with_paragraphs(Arguments::command());
        clap_mangen::generate_to(command, &self.dir).map_err(failed)?;
        let pages = pages(&Arguments::command());
        output::print(&format!("{} in {shown}\n", count(pages, "man page")))
    }
}

/// Every line after the options is a paragraph: a page would fill lines with them.
fn with_paragraphs(command: clap::Command) -> clap::Command {
    let after = command.get_after_help().map(|text| text.to_string());
    let lines = |text: String| text.replace("\n\n", "\n").replace('\n', "\n\n");
    let command = match after {
        Some(text) => command.after_help(lines(text)),
        None => command,
    };
    command.mut_subcommands(with_paragraphs)
}

/// One for the command, and those of the commands in it.
fn pages(command: &clap::Command) -> usize {
    1 + command.get_subcommands().map(pages).sum::<usize>()
}
