//! `serve`: from arguments and file to a running server.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::{env, io};

use clap::Args;
use clap::builder::OsStringValueParser;

use super::config::load;
use super::failure::Failure;
use super::log::{self, LogFormat};
use crate::config::{Config, InsecurePlaintext, SecretText, Shards};
use crate::server::{self, Banner, Handle, Hooks, LineQueue, Options, Takeover};

/// Start a server; runs until SIGTERM, SIGINT or SIGQUIT, then drains
///
/// SIGHUP has it read the configuration again: keys, admin rules and namespaces change, and the log
/// says what needs a restart. A configuration with an error changes nothing.
///
/// Without a configuration file it listens on loopback only, with one shard per CPU and a
/// development key. Once ready it prints `ready http=ADDR sync_tcp=ADDR admin=ADDR`. Options win
/// over the file.
#[derive(Debug, Args)]
#[command(after_help = "Environment: HEADCOUNT_ADMIN_TOKEN is the admin token ([admin] token), \
                        HEADCOUNT_LOG says what is logged (debug, info, warn, ...).\n\n\
                        Example: headcount serve --config headcount.toml --shards 2\n\
                        Example: headcount serve --http 127.0.0.1:0 --data-dir \"\"")]
pub(super) struct Serve {
    /// Configuration file, TOML [default: none, every key has a default]
    #[arg(long, value_name = "FILE", env = "HEADCOUNT_CONFIG")]
    config: Option<PathBuf>,
    /// Address for WebSocket and HTTP, IP:PORT; port 0 takes a free one [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    http: Option<SocketAddr>,
    /// Address for sync frames over TCP, IP:PORT [default: 127.0.0.1:7401]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    sync_tcp: Option<SocketAddr>,
    /// Address for health, metrics and the other commands, IP:PORT [default: 127.0.0.1:7402]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    admin: Option<SocketAddr>,
    /// Number of shards, each with a thread of its own, or auto: one per CPU that the
    /// process may use (affinity and cgroup quota) [default: auto]
    #[arg(long, value_name = "N", value_parser = shards)]
    shards: Option<Shards>,
    /// Directory for what outlives a restart; "" keeps everything in memory
    /// [default: headcount-data]
    #[arg(long, value_name = "DIR", value_parser = OsStringValueParser::new())]
    data_dir: Option<OsString>,
    /// Let other machines connect without TLS: tokens and data cross the network in the clear
    #[arg(long)]
    insecure_plaintext: bool,
    /// Share the ports with a server that is about to drain, instead of refusing taken ports
    #[arg(long)]
    takeover: bool,
    /// Print the ready line only, no banner
    #[arg(long)]
    quiet: bool,
    /// How the lines of the log look; json has no banner
    #[arg(long, value_name = "FORMAT", env = "HEADCOUNT_LOG_FORMAT", default_value = "human")]
    log_format: LogFormat,
}

impl Serve {
    pub fn run(self) -> Result<(), Failure> {
        let format = self.log_format;
        let log = LineQueue::start("log", io::stderr())
            .map_err(|error| Failure::config("cannot start the log's thread", error))?;
        let served = self.serve(&log).map_err(|failure| {
            failure.reported(|line| match format {
                LogFormat::Human => log.push(line),
                LogFormat::Json => {
                    log.push(log::error_line(line.trim_start_matches("error: ").trim_end()));
                }
            })
        });
        log.flush();
        served
    }

    fn serve(self, log: &LineQueue) -> Result<(), Failure> {
        let takeover = if self.takeover { Takeover::Allowed } else { Takeover::Refused };
        let is_plain = self.log_format == LogFormat::Human && !self.quiet;
        let banner = if is_plain { Banner::Shown } else { Banner::Hidden };
        let config = self.config()?;
        log::start(log, self.log_format);
        let options = Options { config, takeover, banner, log: log.clone() };
        let handle = Handle::new();
        let read_again = move || self.config().map_err(|failure| failure.message().to_owned());
        server::watch_signals(handle.clone(), read_again)
            .and_then(|()| server::serve(options, Hooks::new(), handle))
            .map_err(|error| Failure::new(&error, error.exit_code()))
    }

    /// The file with the options on top, checked.
    fn config(&self) -> Result<Config, Failure> {
        let mut config = load(self.config.as_deref())?;
        config.listen.http = self.http.unwrap_or(config.listen.http);
        config.listen.sync_tcp = self.sync_tcp.unwrap_or(config.listen.sync_tcp);
        config.listen.admin = self.admin.unwrap_or(config.listen.admin);
        config.cores.shards = self.shards.unwrap_or(config.cores.shards);
        config.data.dir = self.data_dir.as_ref().map_or(config.data.dir, PathBuf::from);
        config.check()?;
        let token = env::var("HEADCOUNT_ADMIN_TOKEN").ok().filter(|token| !token.is_empty());
        config.admin.token = config.admin_token(token)?.map(SecretText::new);
        config.check_exposure(plaintext(self.insecure_plaintext))?;
        Ok(config)
    }
}

/// What `--insecure-plaintext` means.
pub(super) fn plaintext(is_given: bool) -> InsecurePlaintext {
    if is_given { InsecurePlaintext::Allowed } else { InsecurePlaintext::Refused }
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "write it as 127.0.0.1:7400 or [::1]:7400")
}

fn shards(text: &str) -> Result<Shards, &'static str> {
    match text {
        "auto" => Ok(Shards::Auto),
        _ => text.parse().map(Shards::Count).map_err(|_| "give a number of shards, or auto"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: Serve,
    }

    fn config(arguments: &[&str]) -> Result<Config, Failure> {
        let line = std::iter::once(&"serve").chain(arguments);
        Line::try_parse_from(line).unwrap().serve.config()
    }

    #[test]
    fn options_win_over_the_defaults() {
        let arguments = ["--http", "127.0.0.1:0", "--admin", "[::1]:9", "--shards", "3"];
        let config = config(&arguments).unwrap();
        assert_eq!(config.listen.http, "127.0.0.1:0".parse().unwrap());
        assert_eq!(config.listen.admin, "[::1]:9".parse().unwrap());
        assert_eq!(config.listen.sync_tcp, "127.0.0.1:7401".parse().unwrap());
        assert_eq!(config.cores.shards, Shards::Count(3));
        assert_eq!(config.data_dir(), Some(Path::new("headcount-data")));
    }

    #[test]
    fn an_empty_data_directory_is_memory_only() {
        assert_eq!(config(&["--data-dir", ""]).unwrap().data_dir(), None);
    }

    #[test]
    fn options_are_checked_like_the_file() {
        for (arguments, named) in [
            (&["--shards", "0"][..], "cores.shards"),
            (&["--http", "0.0.0.0:0"], "--insecure-plaintext"),
            (&["--http", "0.0.0.0:0", "--insecure-plaintext"], "[[auth.key]]"),
        ] {
            let failure = config(arguments).unwrap_err();
            assert!(failure.message().contains(named), "{arguments:?}: {failure:?}");
        }
    }
}
