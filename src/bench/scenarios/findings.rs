//! Numbers of one run on their way into a report.

use std::collections::BTreeMap;

use super::super::engine::Wait;
use super::super::latencies::{Delay, Delays, Latencies, LatencySummary};
use super::super::metric::Metric;
use super::super::process::resident_bytes;
use super::super::signals::{Counter, Totals};
use super::super::workers::{Run, Window};

/// Share of the asked rate below which a note reports that it was not reached.
const RATE_REACHED: f64 = 0.98;

pub(super) struct Findings {
    pub(super) window: Window,
    /// Of the whole run.
    pub(super) totals: Totals,
    pub(super) metrics: BTreeMap<Metric, f64>,
    pub(super) latencies: Vec<LatencySummary>,
    pub(super) notes: Vec<String>,
}

impl Findings {
    /// `turns`: how long those of the generator took.
    pub(super) fn of(window: Window, turns: &Latencies, run: &Run<'_>) -> Findings {
        let mut findings = Findings {
            window,
            totals: run.signals.totals(),
            metrics: BTreeMap::new(),
            latencies: Vec::new(),
            notes: Vec::new(),
        };
        findings.set_total(Metric::Disconnected, Counter::Disconnected);
        findings.set_rate(Metric::FramesPerS, Counter::Frames);
        findings.set_rate(Metric::BytesPerS, Counter::BytesIn);
        findings.add_server_cpu();
        if let Some(bytes) = run.server.pid.and_then(resident_bytes) {
            findings.set(Metric::ServerRssBytes, bytes as f64);
        }
        let total_ns = findings.totals[Counter::TotalNs].max(1) as f64;
        let shares = [
            (Metric::GeneratorBusyPercent, Counter::BusyNs),
            (Metric::GeneratorWaitedPercent, Counter::WaitedNs),
        ];
        for (metric, counter) in shares {
            findings.set(metric, 100.0 * findings.totals[counter] as f64 / total_ns);
        }
        findings.set(Metric::GeneratorTurnP999Us, turns.at_us(99.9));
        findings.note_circumstances(run);
        findings
    }

    fn add_server_cpu(&mut self) {
        let Some(cpu) = self.window.cpu else { return };
        let percent = |ns: u64| ns as f64 / (self.window.seconds * 1e9) * 100.0;
        let (used, waited) = (percent(cpu.ns), cpu.waited_ns.map(percent));
        self.set(Metric::ServerCpuPercent, used);
        if let Some(waited) = waited {
            self.set(Metric::ServerWaitedPercent, waited);
        }
        if let Some(share) = cpu.user_share {
            self.set(Metric::ServerUserPercent, used * share);
            self.set(Metric::ServerSystemPercent, used * (1.0 - share));
            self.set(Metric::ServerUserSharePercent, share * 100.0);
        }
    }

    pub(super) fn get(&self, metric: Metric) -> Option<f64> {
        self.metrics.get(&metric).copied()
    }

    /// Keeps three decimals, which survive any reader of JSON unchanged.
    pub(super) fn set(&mut self, metric: Metric, value: f64) {
        self.metrics.insert(metric, (value * 1e3).round() / 1e3);
    }

    /// What was counted in the whole run.
    pub(super) fn set_total(&mut self, metric: Metric, counter: Counter) {
        self.set(metric, self.totals[counter] as f64);
    }

    /// What was counted per second of the measured time.
    pub(super) fn set_rate(&mut self, metric: Metric, counter: Counter) {
        self.set(metric, self.window.per_second(counter));
    }

    /// CPU time of the server for each of `count` things.
    pub(super) fn set_cpu_per(&mut self, metric: Metric, count: u64) {
        if let (Some(cpu), 1..) = (self.window.cpu, count) {
            self.set(metric, cpu.ns as f64 / count as f64);
        }
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Merges the delays of all threads. Leaves out what nothing was measured of.
    pub(super) fn add_delays<'d>(&mut self, threads: impl Iterator<Item = &'d Delays>) {
        let mut all = Delays::default();
        for delays in threads {
            delays.iter().for_each(|(kind, delays)| all[kind].merge(delays));
        }
        let measured = all.iter().filter(|(_, delays)| delays.count() > 0);
        let summary = |(kind, delays): (Delay, &Latencies)| delays.summary(kind.into());
        self.latencies.extend(measured.map(summary));
    }

    /// Notes when less than what was asked was done, both per second.
    pub(super) fn note_pace(&mut self, asked: Option<f64>, done: f64, what: &str) {
        if let Some(asked) = asked.filter(|asked| done < asked * RATE_REACHED) {
            self.note(format!("{done:.0} of {asked:.0} {what}/s were reached: overload"));
        }
    }

    fn note_circumstances(&mut self, run: &Run<'_>) {
        let common = run.common;
        if run.server.pid.is_none() {
            self.note("the server's CPU and memory were not measured; name its process with --pid");
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        if common.wait == Wait::Spin && common.threads() >= cpus {
            self.note("the generator spins on every CPU of the server: use --wait sleep");
        }
        if common.client_cpus.iter().any(|cpu| common.server_cpus.contains(cpu)) {
            self.note("server and generator share a CPU");
        }
    }
}
