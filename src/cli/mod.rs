//! The command line: what an operator asks for, and how the answer looks.
//!
//! Owns arguments, exit codes, and everything a command prints. A command that fails says so in one
//! line, `error: what: why`. It never knows how a channel is served: `serve` hands a configuration
//! to the server, `publish` and `subscribe` are clients like those of users ([`realtime`]), every
//! other command asks a server through its admin address.

mod address;
mod admin_client;
mod config;
mod failure;
mod member;
mod members;
mod output;
mod place;
mod publish;
mod realtime;
mod serve;
mod subscribe;
mod text;
mod token;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::bench::{self, BenchArgs};
use failure::Failure;

#[derive(Debug, Parser)]
#[command(
    name = "headcount",
    version,
    about = "Who is here, what are they doing: a presence and realtime-channel server",
    after_help = "Exit codes: 0 done, 1 the request failed, 2 wrong usage, 78 the configuration \
                  or the host does not allow it.\n\n\
                  Example: headcount serve, and in another terminal: headcount watch doc:1"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Watch(watch::Watch),
    Members(members::Members),
    Publish(publish::Publish),
    Subscribe(subscribe::Subscribe),
    Config(config::Config),
    Token(token::Token),
    Bench(BenchArgs),
}

/// Does what the command line asks for.
pub fn run() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve(command) => command.run(),
        Command::Watch(command) => command.run(),
        Command::Members(command) => command.run(),
        Command::Publish(command) => command.run(),
        Command::Subscribe(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Bench(command) => bench::run(command).map_err(|error| Failure::new(&error, 1)),
    };
    done.map_or_else(Failure::report, |()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does_and_gives_an_example() {
        let mut commands = vec![Arguments::command()];
        while let Some(mut command) = commands.pop() {
            let help = command.render_long_help().to_string();
            assert!(command.get_about().is_some(), "{help}");
            assert!(help.contains("Example: headcount"), "{help}");
            let written = command.get_subcommands().filter(|command| command.get_name() != "help");
            commands.extend(written.cloned());
        }
    }
}
