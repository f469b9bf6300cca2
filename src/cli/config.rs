//! `config`: what a configuration file means, without starting anything.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::output;
use super::serve::plaintext;
use crate::config::{self, Anonymous, Shards};

/// Check, print or explain a configuration without starting a server, or list all keys
#[derive(Debug, Args)]
#[command(after_help = "Example: headcount config check headcount.toml")]
pub(super) struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether `serve` would accept a configuration, and what it would serve
    ///
    /// Exit code 0 and `ok`, or 78 and one line that says what is wrong and where.
    #[command(
        after_help = "Example: headcount config check headcount.toml && systemctl restart headcount"
    )]
    Check {
        #[command(flatten)]
        source: Source,
        /// Check for a server that is started with --insecure-plaintext
        #[arg(long)]
        insecure_plaintext: bool,
    },
    /// Print the effective configuration as TOML: every key, with its default where none is given
    ///
    /// Units are in the names of the keys: _ms milliseconds, _s seconds, _us microseconds, _bytes.
    /// Secrets are hidden.
    #[command(after_help = "Example: headcount config print > headcount.toml")]
    Print(Source),
    /// Print the reference of all keys as Markdown: types, defaults, ranges, and what each does
    #[command(after_help = "Example: headcount config reference | less")]
    Reference,
    /// Say which namespace a channel is in, its settings, and where each comes from
    #[command(after_help = "Example: headcount config explain chat:lobby --config headcount.toml")]
    Explain {
        /// Name of the channel, for example chat:lobby
        channel: String,
        /// Configuration file, TOML [default: none, the built-in defaults]
        #[arg(long, value_name = "FILE", env = "HEADCOUNT_CONFIG")]
        config: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct Source {
    /// Configuration file, TOML [default: none, the built-in defaults]
    #[arg(env = "HEADCOUNT_CONFIG")]
    file: Option<PathBuf>,
}

impl Config {
    pub fn run(self) -> Result<(), Failure> {
        output::print(&match self.command {
            Command::Check { source, insecure_plaintext } => {
                let config = load(source.file.as_deref())?;
                config.check()?;
                config.check_exposure(plaintext(insecure_plaintext))?;
                config.keyring(None)?;
                format!("ok\n{}", summary(&config))
            }
            Command::Print(source) => load(source.file.as_deref())?.print(),
            Command::Reference => config::Config::reference(),
            Command::Explain { channel, config } => load(config.as_deref())?.explain(&channel),
        })
    }
}

/// The configuration in a file, or the defaults without one.
pub(super) fn load(file: Option<&Path>) -> Result<config::Config, Failure> {
    Ok(file.map_or_else(|| Ok(config::Config::default()), config::Config::load)?)
}

/// What would be served, one aspect per line.
fn summary(config: &config::Config) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "  {name:<12}{value}");
    };
    line("shards", &shards(config));
    for (name, address) in config.listen.all() {
        line(name, &address.to_string());
    }
    let data = config.data_dir().map(|dir| dir.display().to_string());
    line("data", data.as_deref().unwrap_or("memory only"));
    line("anonymous", &anonymous(config));
    line("keys", &keys(config));
    line("namespaces", &config.namespace.len().to_string());
    text
}

fn shards(config: &config::Config) -> String {
    match (config.cores.shards(), available_parallelism()) {
        (Shards::Count(count), _) => count.to_string(),
        (Shards::Auto, Ok(cpus)) => format!("auto (one per CPU that the process may use: {cpus})"),
        (Shards::Auto, Err(_)) => "auto (one per CPU that the process may use)".to_owned(),
    }
}

fn anonymous(config: &config::Config) -> String {
    let (anonymous, reason) = config.anonymous();
    match anonymous {
        Anonymous::Allowed => format!("allowed, app {} ({reason})", config.anonymous_app()),
        Anonymous::Refused => format!("refused ({reason})"),
    }
}

fn keys(config: &config::Config) -> String {
    let names: Vec<&str> = config.auth.key.iter().map(|key| key.name.as_str()).collect();
    if names.is_empty() { "the development key".to_owned() } else { names.join(", ") }
}
