//! `headcount bench`: arguments, a server to measure, what is printed and kept.

use std::io::{self, Write};
use std::mem;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::compare::compare;
use super::error::BenchError;
use super::interrupt;
use super::launch::{self, Launch, Launched};
use super::options::{Addresses, Dialect, Place, Scenario};
use super::peer::Peer;
use super::plot::{plot, plot_windows};
use super::progress::Progress;
use super::report::{Report, path_of};
use super::scenarios::{self, Server};

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
    #[command(flatten)]
    Run(Box<Scenario>),
    /// Tell whether one set of records is better than another
    #[command(after_help = "Example: headcount bench compare --before a1.json a2.json a3.json \
                            --after b1.json b2.json b3.json\n         \
                            headcount bench compare a.json b.json")]
    Compare(CompareArgs),
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

/// Does what `headcount bench ...` asks for, against a peer if there is one. Results go to standard
/// output, progress to standard error.
///
/// # Errors
/// Each is one line, to be shown after `error: `.
pub fn run(args: BenchArgs, peer: Option<Peer>) -> Result<(), BenchError> {
    match args.command {
        BenchCommand::Compare(args) => {
            let (before, after) = args.sides();
            print(&compare(&load(before)?, &load(after)?)?.table())
        }
        BenchCommand::Run(mut scenario) => {
            if peer.is_some() {
                scenario.base_mut().dialect = Dialect::Peer;
            }
            measure(*scenario, peer)
        }
    }
}

fn load(paths: &[PathBuf]) -> Result<Vec<Report>, BenchError> {
    paths.iter().map(|path| Report::load(path)).collect()
}

/// One run, or one per window of --windows.
fn measure(mut scenario: Scenario, peer: Option<Peer>) -> Result<(), BenchError> {
    let windows = match &mut scenario {
        Scenario::Fanout(options) => mem::take(&mut options.windows),
        _ => Vec::new(),
    };
    let Place { record, plot: chart, .. } = scenario.base().common.place.clone();
    if windows.is_empty() {
        let report = measure_once(&mut scenario, peer, record)?;
        return chart.map_or(Ok(()), |path| plot(&report, &path));
    }
    let mut reports = Vec::new();
    for window in windows {
        if let Scenario::Fanout(options) = &mut scenario {
            options.window = window;
        }
        let record = record.as_ref().map(|path| path_of(path, window));
        reports.push(measure_once(&mut scenario, peer, record)?);
    }
    chart.map_or(Ok(()), |path| plot_windows(&reports, &path))
}

fn measure_once(
    scenario: &mut Scenario,
    peer: Option<Peer>,
    record: Option<PathBuf>,
) -> Result<Report, BenchError> {
    let report = play(scenario, peer)?;
    print(&report.table())?;
    record.map_or(Ok(()), |path| report.record(&path))?;
    Ok(report)
}

fn play(scenario: &mut Scenario, peer: Option<Peer>) -> Result<Report, BenchError> {
    interrupt::listen()?;
    let durability = match scenario {
        Scenario::Fanout(options) => options.durability,
        _ => None,
    };
    let common = &mut scenario.base_mut().common;
    let Place { addresses, config, .. } = &common.place;
    let mut server = Server { addresses: *addresses, pid: common.pid, peer };
    let mut launched = None;
    if server.addresses == Addresses::default() && peer.is_none() {
        let key = common.key.insert(launch::fresh_key()?);
        let binary = std::env::current_exe()?;
        let (config, cpus) = (config.as_deref(), &common.server_cpus);
        let started = Launched::start(&binary, Launch { config, cpus, key, durability });
        interrupt::check()?;
        let started = launched.insert(started?);
        (server.addresses, server.pid) = (started.addresses, Some(started.child.id()));
    }
    let mut report = scenarios::run(scenario, &server, &Progress::on_standard_error())?;
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
        let BenchCommand::Run(scenario) = parse(line).unwrap().bench.command else {
            panic!("not a run");
        };
        let Scenario::Latency(options) = *scenario else { panic!("not latency: {scenario:?}") };
        assert_eq!((options.watchers, options.publishers), (5, 1));
        assert_eq!(options.base.common.client_cpus, [1, 2]);
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
