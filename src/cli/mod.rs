//! The command line: commands, arguments, output.
//!
//! Owns arguments, exit codes, and everything a command prints. A command that fails says so in one
//! line, `error: what: why`. It never knows how a channel is served: `serve` hands a configuration
//! to the server, `publish` and `subscribe` are clients like those of users ([`realtime`]), `join`
//! and `watch --graph` are programs of the Rust client ([`client`]), `store` reads the directory of
//! a server that is stopped, `doctor` reads the host, every other command that needs a server asks
//! it through its admin address.

mod access;
mod address;
mod admin_client;
mod client;
mod completions;
mod config;
mod credential;
mod doctor;
mod ending;
mod failure;
mod input;
mod join;
mod log;
mod man;
mod member;
mod members;
mod output;
mod place;
mod publish;
mod realtime;
mod serve;
mod store;
mod subscribe;
mod text;
mod token;
mod top;
mod trace;
mod tty;
mod watch;

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::bench::{self, BenchArgs};
use crate::terminal;
use failure::Failure;

#[derive(Debug, Parser)]
#[command(
    name = "headcount",
    version,
    about = "Who is here, what are they doing: a presence and realtime-channel server",
    after_help = "Exit codes: 0 done, 1 the request failed, 2 wrong usage, 70 a fault of the \
                  server, 78 the configuration or the host does not allow it.\n\n\
                  Empty environment variables are unset ones. With NO_COLOR or TERM=dumb \
                  nothing but text is written.\n\n\
                  Example: headcount serve, and in two more terminals: headcount watch doc:1, \
                  headcount join doc:1 --as alice"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Watch(watch::Watch),
    Trace(trace::Trace),
    Top(top::Top),
    Members(members::Members),
    Join(join::Join),
    Publish(publish::Publish),
    Subscribe(subscribe::Subscribe),
    Config(config::Config),
    Token(token::Token),
    Store(store::Store),
    Bench(BenchArgs),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
    Man(man::Man),
}

/// Runs the command of the command line.
pub fn run() -> ExitCode {
    let arguments = match parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let done = match arguments.command {
        Command::Serve(command) => command.run(),
        Command::Watch(command) => command.run(),
        Command::Trace(command) => command.run(),
        Command::Top(command) => command.run(),
        Command::Members(command) => command.run(),
        Command::Join(command) => command.run(),
        Command::Publish(command) => command.run(),
        Command::Subscribe(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Store(command) => command.run(),
        Command::Bench(command) => bench::run(command, None).map_err(Failure::from),
        Command::Doctor(command) => command.run(),
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
    };
    done.map_or_else(Failure::report, |()| ExitCode::SUCCESS)
}

fn parse() -> Result<Arguments, clap::Error> {
    let mut command = without_empty_variables(Arguments::command());
    // clap itself colours a dumb terminal where CI or CLICOLOR is set.
    if !terminal::environment_allows_escapes() {
        command = command.color(ColorChoice::Never);
    }
    let matches = command.try_get_matches_from_mut(env::args_os())?;
    Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// An empty variable is an unset one: unit and compose files pass what they do not have as empty.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| env::var_os(name).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| match arg.get_env() {
        Some(name) if is_empty(name) => arg.env(Resettable::Reset),
        _ => arg,
    });
    command.mut_subcommands(without_empty_variables)
}

/// Prints what the parser has to say: help to standard output, errors to standard error.
fn refuse(error: &clap::Error) -> ExitCode {
    let printed = error.print().and_then(|()| io::stdout().flush());
    match (error.kind(), printed) {
        (ErrorKind::DisplayHelp | ErrorKind::DisplayVersion, Err(error)) => {
            Failure::from(error).report()
        }
        _ => ExitCode::from(error.exit_code() as u8),
    }
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
