//! `store`: looks at the messages and documents on disk while no server runs, and repairs them.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::builder::OsStringValueParser;
use clap::{Args, Subcommand};

use super::config::load;
use super::failure::Failure;
use super::output;
use crate::ids::Clocks;
use crate::server::{DataDir, STORE, Takeover};
use crate::store::{self, Report, StoreError};

/// Check, export or repair the messages and documents on disk
///
/// These are the messages of channels whose namespace has durability = "disk", and the documents of
/// NodeDB Lite devices. The server that uses the directory must be stopped.
#[derive(Debug, Args)]
#[command(after_help = "Example: headcount store check --data-dir /var/lib/headcount")]
pub(super) struct Store {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read everything, and say what is wrong
    ///
    /// Exit code 0 when every message is there, 1 otherwise. What a crash cut off at the very end
    /// is removed, as a start of the server would; it was never acknowledged.
    #[command(after_help = "Example: headcount store check --json | jq .findings")]
    Check {
        #[command(flatten)]
        place: Place,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Count channels, messages, rows of documents and bytes
    #[command(after_help = "Example: headcount store stats --json")]
    Stats {
        #[command(flatten)]
        place: Place,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print every message as a line of JSON
    ///
    /// Messages that cannot be read are left out; then the exit code is 1.
    #[command(after_help = "Example: headcount store export | gzip > messages.jsonl.gz")]
    Export {
        #[command(flatten)]
        place: Place,
    },
    /// Keep what can be read of damaged messages, and set the rest aside
    ///
    /// Channels that lost their newest messages go on above all earlier serials, so that clients
    /// notice the gap. The damaged directory is kept beside the repaired one.
    #[command(after_help = "Example: headcount store repair && headcount store check")]
    Repair {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// Data directory of the server [default: that of the configuration, or headcount-data]
    #[arg(long, value_name = "DIR", value_parser = OsStringValueParser::new())]
    data_dir: Option<OsString>,
    /// Configuration file of the server, TOML
    #[arg(long, value_name = "FILE", env = "HEADCOUNT_CONFIG")]
    config: Option<PathBuf>,
}

/// A store that no server uses, as long as this is held.
struct Idle {
    path: PathBuf,
    data_dir: DataDir,
}

impl Store {
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Check { place, json } => check(&place.open()?.path, json),
            Command::Stats { place, json } => stats(&place.open()?.path, json),
            Command::Export { place } => export(&place.open()?.path),
            Command::Repair { place } => repair(&place.open()?),
        }
    }
}

impl Place {
    fn open(self) -> Result<Idle, Failure> {
        let mut config = load(self.config.as_deref())?;
        config.data.dir = self.data_dir.map_or(config.data.dir, PathBuf::from);
        let path = config.data.dir.join(STORE);
        if !path.is_dir() {
            let why = "no messages are stored there (--data-dir names another place)";
            return Err(Failure::request(format!("store {}", path.display()), why));
        }
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let wall_ms = since_epoch.unwrap_or_default().as_millis() as u64;
        let now = Clocks { mono_ms: 0, wall_ms };
        let data_dir = DataDir::open(&config, Takeover::Refused, now)
            .map_err(|error| Failure::new(&error, error.exit_code()))?;
        Ok(Idle { path, data_dir })
    }
}

fn failed(path: &Path) -> impl Fn(StoreError) -> Failure {
    move |error| match error {
        StoreError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        error => Failure::request(format!("store {}", path.display()), error),
    }
}

fn check(path: &Path, json: bool) -> Result<(), Failure> {
    let report = store::check(path).map_err(failed(path))?;
    output::print(&if json { json_line(&report) } else { text(&report) })?;
    match report.findings.len() {
        0 => Ok(()),
        count => Err(Failure::request(
            format!("store {}", path.display()),
            format!("{count} findings: run `headcount store repair` to keep what can be read"),
        )),
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        match finding.channel.is_empty() {
            true => text += &format!("{}\n", finding.what),
            false => text += &format!("{}: {}\n", finding.channel, finding.what),
        }
    }
    let verdict = if report.findings.is_empty() { "ok" } else { "damaged" };
    let Report { channels, messages, document_rows, .. } = report;
    text + &format!(
        "{verdict}: {channels} channels, {messages} messages, {document_rows} rows of documents\n"
    )
}

fn json_line(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

fn stats(path: &Path, json: bool) -> Result<(), Failure> {
    let stats = store::stats(path).map_err(failed(path))?;
    output::print(&match json {
        true => json_line(&stats),
        false => format!(
            "format          {}\nchannels        {}\nmessages        {}\nmessage bytes   {}\n\
             document rows   {}\ndocument bytes  {}\ndisk bytes      {}\n",
            stats.format,
            stats.channels,
            stats.messages,
            stats.message_bytes,
            stats.document_rows,
            stats.document_bytes,
            stats.disk_bytes
        ),
    })
}

fn export(path: &Path) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let unreadable = store::export(path, &mut out).map_err(failed(path))?;
    io::Write::flush(&mut out)?;
    match unreadable {
        0 => Ok(()),
        count => Err(Failure::request(
            format!("store {}", path.display()),
            format!("{count} messages cannot be read: `headcount store check` says which"),
        )),
    }
}

fn repair(idle: &Idle) -> Result<(), Failure> {
    let path = &idle.path;
    let repaired = store::repair(path, idle.data_dir.serial_base()).map_err(failed(path))?;
    output::print(&match repaired {
        None => "nothing to repair\n".to_owned(),
        Some((set_aside, report)) => {
            format!(
                "{}repaired; the damaged one is kept in {}\n",
                text(&report),
                set_aside.display()
            )
        }
    })
}
