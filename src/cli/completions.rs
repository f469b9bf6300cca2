//! `completions`: what the shell completes after `headcount`.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::failure::Failure;
use super::{Arguments, output};

/// Print the completions of a shell
///
/// bash: source the output, or write it to /usr/share/bash-completion/completions/headcount.
/// zsh: write it to a file _headcount in a folder of $fpath. fish: write it to
/// ~/.config/fish/completions/headcount.fish.
#[derive(Debug, Args)]
#[command(after_help = "Example: headcount completions bash > \
                        /usr/share/bash-completion/completions/headcount\n\
                        Example: source <(headcount completions bash)")]
pub(super) struct Completions {
    /// Shell that is to complete
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub fn run(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        generate(self.shell, &mut Arguments::command(), "headcount", &mut script);
        output::print(&String::from_utf8_lossy(&script))
    }
}
