//! Numbers of one run on their way into a report.

use std::collections::BTreeMap;

use super::super::engine::{Usage, Wait};
use super::super::latencies::{Latencies, LatencySummary};
use super::super::metric::Metric;
use super::super::options::Common;
use super::super::process::resident_bytes;
use super::super::room::Tally;
use super::super::workers::Window;
use super::{RATE_REACHED, Server};

/// Busy share of the generator in percent from which it is suspected to be the bottleneck.
const BUSY_SUSPECT_PERCENT: f64 = 90.0;

/// Share of the time in percent that threads waited for a CPU, from which a run is suspect.
const WAITED_SUSPECT_PERCENT: f64 = 3.0;

/// Length of the generator's turns in microseconds from which delays are suspected to be its own.
const TURN_SUSPECT_US: f64 = 2_000.0;

#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) seconds: f64,
    pub(super) metrics: BTreeMap<Metric, f64>,
    pub(super) latencies: Vec<LatencySummary>,
    pub(super) notes: Vec<String>,
}

impl Findings {
    pub(super) fn of(
        window: &Window,
        usage: &Usage,
        disconnected: u64,
        server: &Server,
    ) -> Findings {
        let mut findings = Findings { seconds: window.seconds, ..Findings::default() };
        findings.set(Metric::Disconnected, disconnected as f64);
        findings.set(Metric::FramesPerS, window.per_second(|totals| totals.frames));
        findings.set(Metric::BytesPerS, window.per_second(|totals| totals.bytes_in));
        if let Some(cpu_ns) = window.server_cpu_ns {
            let percent = cpu_ns as f64 / (window.seconds * 1e9) * 100.0;
            findings.set(Metric::ServerCpuPercent, percent);
        }
        findings.set_split(window);
        if let Some(waited_ns) = window.server_waited_ns {
            let percent = waited_ns as f64 / (window.seconds * 1e9) * 100.0;
            findings.set(Metric::ServerWaitedPercent, percent);
        }
        if let Some(bytes) = server.pid.and_then(resident_bytes) {
            findings.set(Metric::ServerRssBytes, bytes as f64);
        }
        let busy = 100.0 * usage.busy_ns as f64 / usage.total_ns.max(1) as f64;
        findings.set(Metric::GeneratorBusyPercent, busy);
        let waited = 100.0 * usage.waited_ns as f64 / usage.total_ns.max(1) as f64;
        findings.set(Metric::GeneratorWaitedPercent, waited);
        findings.set(Metric::GeneratorTurnP999Us, usage.turns.at_us(99.9));
        findings
    }

    fn set_split(&mut self, window: &Window) {
        let Some((cpu_ns, share)) = window.server_cpu_ns.zip(window.server_user_share) else {
            return;
        };
        let percent = cpu_ns as f64 / (window.seconds * 1e9) * 100.0;
        self.set(Metric::ServerUserPercent, percent * share);
        self.set(Metric::ServerSystemPercent, percent * (1.0 - share));
        self.set(Metric::ServerUserSharePercent, share * 100.0);
    }

    /// Keeps three decimals, which survive any reader of JSON unchanged.
    pub(super) fn set(&mut self, metric: Metric, value: f64) {
        self.metrics.insert(metric, (value * 1e3).round() / 1e3);
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Leaves out what nothing was measured of.
    pub(super) fn add_latency(&mut self, name: &str, latencies: &Latencies) {
        if latencies.count() > 0 {
            self.latencies.push(latencies.summary(name));
        }
    }

    /// What members saw. `seconds`: time in which the counted updates were due.
    pub(super) fn add_tally(&mut self, tally: &Tally, seconds: f64) {
        self.set(Metric::UpdatesPerS, tally.updates as f64 / seconds);
        self.set(Metric::DeliveredPerS, tally.delivered as f64 / seconds);
        let counts = [
            (Metric::Lost, tally.lost),
            (Metric::Duplicated, tally.duplicated),
            (Metric::Reordered, tally.reordered),
            (Metric::Conflated, tally.conflated),
        ];
        counts.into_iter().for_each(|(metric, count)| self.set(metric, count as f64));
        self.add_latency("update", &tally.update_delay);
        self.add_latency("ping", &tally.ping_delay);
    }

    /// CPU time of the server for each of `count` things.
    pub(super) fn add_cpu_per(&mut self, metric: Metric, window: &Window, count: u64) {
        if let Some(cpu_ns) = window.server_cpu_ns
            && count > 0
        {
            self.set(metric, cpu_ns as f64 / count as f64);
        }
    }

    /// For loads that send as much as the server takes. Not for floods, which are to be busy.
    pub(super) fn note_bottleneck(&mut self) {
        let busy = self.metrics.get(&Metric::GeneratorBusyPercent).copied().unwrap_or_default();
        if busy > BUSY_SUSPECT_PERCENT {
            self.note("the generator was busy all the time: the server may be faster than this");
        }
    }

    /// Notes when less than what was asked was sent, both per second.
    pub(super) fn note_overload(&mut self, sent: f64, asked: f64, what: &str) {
        if sent < asked * RATE_REACHED {
            self.note(format!("{sent:.0} of {asked:.0} {what}/s were sent: overload"));
        }
    }

    pub(super) fn note_circumstances(&mut self, common: &Common, server: &Server) {
        if server.pid.is_none() {
            self.note("the server's CPU and memory were not measured; name its process with --pid");
        }
        let waited = [Metric::ServerWaitedPercent, Metric::GeneratorWaitedPercent];
        let waited = waited.iter().filter_map(|metric| self.metrics.get(metric));
        if waited.copied().fold(0.0, f64::max) > WAITED_SUSPECT_PERCENT {
            self.note("something else took CPUs from this run: repeat it on a quiet machine");
        }
        let turn_us = self.metrics.get(&Metric::GeneratorTurnP999Us).copied();
        if turn_us.is_some_and(|turn_us| turn_us > TURN_SUSPECT_US) {
            self.note("turns of the generator were long: tails may be its own or the machine's");
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        if common.wait == Wait::Spin && common.threads() >= cpus {
            self.note(
                "the generator spins on every CPU and takes them from the server: use \
                       --wait sleep",
            );
        }
        if common.client_cpus.iter().any(|cpu| common.server_cpus.contains(cpu)) {
            self.note("server and generator share a CPU");
        }
    }
}
