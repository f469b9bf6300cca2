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
    ChurnOptions, FanoutOptions, IdleOptions, LatencyOptions, MixedOptions, PresenceOptions,
    Scenario,
};
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

/// A scenario, whom to run it against, and what to keep.
#[derive(Debug, Args)]
struct Run<O: Args> {
    #[command(flatten)]
    options: O,
    /// HTTP address of a running server, for WebSockets [default: start one]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Sync TCP address of a running server, for --transport tcp [default: start one]
    #[arg(long, value_name = "ADDR")]
    sync_tcp: Option<SocketAddr>,
    /// Address of a running Redis, for --dialect redis
    #[arg(long, value_name = "ADDR")]
    redis: Option<SocketAddr>,
    /// Configuration of the server that is started
    #[arg(long, value_name = "FILE", conflicts_with_all = ["http", "sync_tcp", "redis"])]
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

/// Does what `headcount bench ...` asks for. Results go to standard output, progress to standard
/// error.
///
/// # Errors
/// Each is one line, to be shown after `error: `.
pub fn run(args: BenchArgs) -> Result<(), BenchError> {
    match args.command {
        BenchCommand::Latency(run) => measure(run.map(Scenario::Latency)),
        BenchCommand::Fanout(run) if !run.options.windows.is_empty() => curve(run),
        BenchCommand::Fanout(run) => measure(run.map(Scenario::Fanout)),
        BenchCommand::Presence(run) => measure(run.map(Scenario::Presence)),
        BenchCommand::Idle(run) => measure(run.map(Scenario::Idle)),
        BenchCommand::Churn(run) => measure(run.map(Scenario::Churn)),
        BenchCommand::Mixed(run) => measure(run.map(Scenario::Mixed)),
        BenchCommand::Compare(args) => {
            let load = |paths: &[PathBuf]| paths.iter().map(|path| Report::load(path)).collect();
            let (before, after) = args.sides();
            let (before, after): (Result<Vec<_>, _>, Result<Vec<_>, _>) =
                (load(before), load(after));
            print(&compare(&before?, &after?)?.table())
        }
    }
}

/// A run whose options are known to be those of one scenario.
struct Job {
    scenario: Scenario,
    addresses: Addresses,
    config: Option<PathBuf>,
    record: Option<PathBuf>,
    plot: Option<PathBuf>,
}

impl<O: Args> Run<O> {
    fn map(self, scenario: impl FnOnce(O) -> Scenario) -> Job {
        Job {
            scenario: scenario(self.options),
            addresses: Addresses { http: self.http, sync_tcp: self.sync_tcp, redis: self.redis },
            config: self.config,
            record: self.record,
            plot: self.plot,
        }
    }
}

fn measure(mut job: Job) -> Result<(), BenchError> {
    let report = play(&mut job)?;
    print(&report.table())?;
    if let Some(path) = &job.record {
        report.record(path)?;
    }
    if let Some(path) = &job.plot {
        plot(&report, path)?;
    }
    Ok(())
}

/// One run per window.
fn curve(run: Run<FanoutOptions>) -> Result<(), BenchError> {
    let (record, plot, windows) =
        (run.record.clone(), run.plot.clone(), run.options.windows.clone());
    let mut job = run.map(Scenario::Fanout);
    let mut reports = Vec::new();
    for window in windows {
        let Scenario::Fanout(options) = &mut job.scenario else { break };
        (options.window, options.windows) = (window, Vec::new());
        let report = play(&mut job)?;
        if let Some(path) = &record {
            report.record(&series::path_of(path, window))?;
        }
        print(&series::line(&report, window, reports.is_empty()))?;
        reports.push((window, report));
    }
    print(&series::fall(&reports))?;
    match plot {
        Some(path) => series::plot(&reports, &path),
        None => Ok(()),
    }
}

fn play(job: &mut Job) -> Result<Report, BenchError> {
    interrupt::listen()?;
    let common = job.scenario.common_mut();
    let launched = match job.addresses {
        Addresses { http: None, sync_tcp: None, redis: None } => {
            let binary = std::env::current_exe()?;
            common.key = launch::fresh_key()?;
            let (config, cpus) = (job.config.as_deref(), &common.server_cpus);
            let launched = Launched::start(&binary, config, cpus, &common.key);
            interrupt::check()?;
            Some(launched?)
        }
        _ => None,
    };
    let server = match &launched {
        Some(launched) => Server { addresses: launched.addresses, pid: Some(launched.pid()) },
        None => Server { addresses: job.addresses, pid: common.pid },
    };
    let mut report = scenarios::run(&job.scenario, &server, &Progress::on_standard_error())?;
    report.config = launched.as_ref().map(|launched| launched.shown_config.clone());
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
