//! `headcount bench`: arguments, a server to measure, what is printed and kept.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::compare::compare;
use super::error::BenchError;
use super::interrupt;
use super::launch::{self, Addresses, Launched};
use super::options::{
    ChurnOptions, Dialect, FanoutOptions, IdleOptions, LatencyOptions, MixedOptions,
    PresenceOptions, Scenario,
};
use super::peer::Protocol;
use super::plot::plot;
use super::progress::Progress;
use super::report::Report;
use super::scenarios::{self, Server};
use super::series;

/// Measure a server, or compare earlier measurements
///
/// Without an address it starts a server of its own, in memory and on loopback, measures that and
/// ends it.
#[derive(Debug, Args)]
#[command(after_help = "Example: headcount bench latency --server-cpus 0 --client-cpus 1")]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Delay of presence updates sent at a fixed rate, from when each should have been sent
    #[command(after_help = "Example: headcount bench latency --watchers 100 --plot delay.svg")]
    Latency(Run<LatencyOptions>),
    /// Messages per second that reach all subscribers of their channels
    #[command(after_help = "Example: headcount bench fanout --subscribers 1000 --window 256 \
                            --server-cpus 0 --client-cpus 1")]
    Fanout(Run<FanoutOptions>),
    /// Most presence updates per second that every member of a channel sees
    #[command(after_help = "Example: headcount bench presence --members 1000 --window 32")]
    Presence(Run<PresenceOptions>),
    /// Memory and CPU of connections that do nothing
    #[command(after_help = "Example: headcount bench idle --connections 10000")]
    Idle(Run<IdleOptions>),
    /// Connections per second that connect, greet, enter a channel and close
    #[command(after_help = "Example: headcount bench churn --concurrency 200 --transport tcp")]
    Churn(Run<ChurnOptions>),
    /// Delays of polite clients beside clients that send as fast as they can
    #[command(after_help = "Example: headcount bench mixed --flooders 2 --flood updates")]
    Mixed(Run<MixedOptions>),
    /// Tell whether one set of records is better than another
    #[command(after_help = "Example: headcount bench compare --before a1.json a2.json a3.json \
                            --after b1.json b2.json b3.json\n         \
                            headcount bench compare a.json b.json")]
    Compare(CompareArgs),
}

/// A scenario, the server to run it against, and what to keep.
#[derive(Debug, Args)]
struct Run<O: Args> {
    #[command(flatten)]
    options: O,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Place {
    /// HTTP address of a running server, for WebSockets [default: start one]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Sync TCP address of a running server, for --transport tcp [default: start one]
    #[arg(long, value_name = "ADDR")]
    sync_tcp: Option<SocketAddr>,
    /// Configuration of the server that is started
    #[arg(long, value_name = "FILE", conflicts_with_all = ["http", "sync_tcp"])]
    config: Option<PathBuf>,
    /// Write the whole result as JSON, replacing the file
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Draw delay against percentile, or what --windows asks for, replacing the file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// A record from before a change, and one from after it
    #[arg(num_args = 2, value_names = ["BEFORE", "AFTER"], required_unless_present = "before")]
    pair: Vec<PathBuf>,
    /// Records of several runs before a change; three or more show the spread
    #[arg(long, num_args = 1.., requires = "after", conflicts_with = "pair", value_name = "FILE")]
    before: Vec<PathBuf>,
    /// Records of several runs after it
    #[arg(long, num_args = 1.., requires = "before", value_name = "FILE")]
    after: Vec<PathBuf>,
}

impl CompareArgs {
    /// The records of both sides.
    fn sides(&self) -> (&[PathBuf], &[PathBuf]) {
        match self.pair.split_first() {
            Some((before, after)) => (std::slice::from_ref(before), after),
            None => (&self.before, &self.after),
        }
    }
}

/// A peer that speaks a protocol of its own.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    pub protocol: &'static dyn Protocol,
}

/// Does what `headcount bench ...` asks for. Results go to standard output, progress to standard
/// error.
///
/// # Errors
/// Each is one line, to be shown after `error: `.
pub fn run(args: BenchArgs) -> Result<(), BenchError> {
    run_against(args, None)
}

/// As [`run`], against a peer if there is one.
///
/// # Errors
/// Those of [`run`].
pub fn run_against(args: BenchArgs, peer: Option<Peer>) -> Result<(), BenchError> {
    let job = |scenario, place| Job { scenario, place, peer };
    let (scenario, place) = match args.command {
        BenchCommand::Latency(run) => (Scenario::Latency(run.options), run.place),
        BenchCommand::Fanout(mut run) if !run.options.windows.is_empty() => {
            let windows = std::mem::take(&mut run.options.windows);
            return curve(windows, job(Scenario::Fanout(run.options), run.place));
        }
        BenchCommand::Fanout(run) => (Scenario::Fanout(run.options), run.place),
        BenchCommand::Presence(run) => (Scenario::Presence(run.options), run.place),
        BenchCommand::Idle(run) => (Scenario::Idle(run.options), run.place),
        BenchCommand::Churn(run) => (Scenario::Churn(run.options), run.place),
        BenchCommand::Mixed(run) => (Scenario::Mixed(run.options), run.place),
        BenchCommand::Compare(args) => {
            let load = |paths: &[PathBuf]| paths.iter().map(|path| Report::load(path)).collect();
            let (before, after) = args.sides();
            let (before, after): (Result<Vec<_>, _>, Result<Vec<_>, _>) =
                (load(before), load(after));
            return print(&compare(&before?, &after?)?.table());
        }
    };
    measure(job(scenario, place))
}

/// A run whose options are known to be those of one scenario.
struct Job {
    scenario: Scenario,
    place: Place,
    peer: Option<Peer>,
}

fn measure(mut job: Job) -> Result<(), BenchError> {
    let report = play(&mut job)?;
    print(&report.table())?;
    if let Some(path) = &job.place.record {
        report.record(path)?;
    }
    if let Some(path) = &job.place.plot {
        plot(&report, path)?;
    }
    Ok(())
}

/// One run per window.
fn curve(windows: Vec<u64>, mut job: Job) -> Result<(), BenchError> {
    let mut reports = Vec::new();
    for window in windows {
        let Scenario::Fanout(options) = &mut job.scenario else { break };
        options.window = window;
        let report = play(&mut job)?;
        if let Some(path) = &job.place.record {
            report.record(&series::path_of(path, window))?;
        }
        print(&series::line(&report, window, reports.is_empty()))?;
        reports.push((window, report));
    }
    print(&series::fall(&reports))?;
    match &job.place.plot {
        Some(path) => series::plot(&reports, path),
        None => Ok(()),
    }
}

fn play(job: &mut Job) -> Result<Report, BenchError> {
    interrupt::listen()?;
    let (common, dialect) = job.scenario.parts_mut();
    let (Place { http, sync_tcp, config, .. }, peer) = (&job.place, job.peer);
    let addresses =
        Addresses { http: *http, sync_tcp: *sync_tcp, peer: peer.map(|peer| peer.address) };
    let mut server =
        Server { addresses, pid: common.pid, protocol: peer.map(|peer| peer.protocol) };
    let mut launched = None;
    if peer.is_some() {
        *dialect = Dialect::Peer;
    } else if http.is_none() && sync_tcp.is_none() {
        common.key = launch::fresh_key()?;
        let binary = std::env::current_exe()?;
        let started = Launched::start(&binary, config.as_deref(), &common.server_cpus, &common.key);
        interrupt::check()?;
        let started = launched.insert(started?);
        (server.addresses, server.pid) = (started.addresses, Some(started.pid()));
    }
    let mut report = scenarios::run(&job.scenario, &server, &Progress::on_standard_error())?;
    report.config = launched.map(|launched| launched.shown_config.clone());
    Ok(report)
}

fn print(text: &str) -> Result<(), BenchError> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        // A reader that has seen enough is no reason not to keep the record.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(BenchError::Output),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Mounted {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<Mounted, clap::Error> {
        Mounted::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn arguments_are_consistent() {
        Mounted::command().debug_assert();
    }

    #[test]
    fn a_scenario_takes_its_own_options_and_the_common_ones() {
        let line = "bench latency --watchers 5 --duration 2s --client-cpus 1,2 --transport tcp";
        let BenchCommand::Latency(run) = parse(line).unwrap().bench.command else {
            panic!("not latency");
        };
        assert_eq!((run.options.watchers, run.options.publishers), (5, 1));
        assert_eq!(run.options.common.client_cpus, [1, 2]);
    }

    #[test]
    fn a_running_server_has_its_configuration_already() {
        assert!(parse("bench idle --http 127.0.0.1:1 --config x.toml").is_err());
        assert!(parse("bench compare --before a.json").is_err());
        assert!(parse("bench compare --before a b --after c").is_ok());
        assert!(parse("bench compare a --before b --after c").is_err());
        let BenchCommand::Compare(pair) = parse("bench compare a b").unwrap().bench.command else {
            panic!("not compare");
        };
        assert_eq!(pair.sides(), (&["a".into()][..], &["b".into()][..]));
    }
}
