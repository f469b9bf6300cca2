//! The load generator against a small Redis whose faults are known.

mod fake_redis;

use std::time::Duration;

use headcount::bench::client::Transport;
use headcount::bench::options::{
    Base, ChurnOptions, Common, Dialect, FanoutOptions, IdleOptions, LatencyOptions, Scenario,
    Span, Time,
};
use headcount::bench::scenarios::{self, Server};
use headcount::bench::{
    Addresses, BenchError, LatencySummary, Metric, Peer, Progress, Report, Wait,
};
use headcount_peer_redis::Resp;

const DURATION: Span = Span(Duration::from_millis(500));
const WARM_UP: Span = Span(Duration::from_millis(100));
const TIME: Time = Time { duration: DURATION, warm_up: WARM_UP };

/// Sleeping, because the server shares our CPUs.
fn base() -> Base {
    let common = LatencyOptions::default().base.common;
    let common = Common { transport: Transport::Ws, wait: Wait::Sleep, ..common };
    Base { dialect: Dialect::Peer, time: TIME, common }
}

fn fanout() -> FanoutOptions {
    FanoutOptions { subscribers: 5, window: 4, base: base(), ..FanoutOptions::default() }
}

fn run(scenario: Scenario, fault: fake_redis::Fault) -> Result<Report, BenchError> {
    let peer = Some(Peer { address: fake_redis::start(fault), protocol: &Resp });
    let addresses = Addresses::default();
    let server = Server { addresses, pid: Some(std::process::id()), peer };
    scenarios::run(&scenario, &server, &Progress::hidden())
}

fn metric(report: &Report, metric: Metric) -> f64 {
    *report.metrics.get(&metric).unwrap_or_else(|| panic!("no {metric:?}: {report:?}"))
}

fn delay(report: &Report, name: &str) -> LatencySummary {
    let found = report.latencies.iter().find(|latency| latency.name == name);
    found.unwrap_or_else(|| panic!("no {name}: {report:?}")).clone()
}

fn assert_faultless(report: &Report) {
    use Metric::{Disconnected, Duplicated, Lost, Reordered};
    for fault in [Lost, Duplicated, Reordered, Disconnected] {
        assert_eq!(metric(report, fault), 0.0, "{fault:?}: {}", report.table());
    }
}

#[test]
fn a_redis_is_measured_with_the_same_load() {
    let cpu = core_affinity::get_core_ids().unwrap()[0].id;
    for (channels, publishers, threads) in [(1, 1, 1), (1, 3, 2), (6, 2, 1)] {
        let mut options = FanoutOptions { channels, publishers, ..fanout() };
        options.base.common.client_cpus = vec![cpu; threads];
        let report = run(Scenario::Fanout(options), fake_redis::Fault::None).unwrap();
        assert_faultless(&report);
        let (published, delivered) =
            (metric(&report, Metric::PublishesPerS), metric(&report, Metric::DeliveredPerS));
        assert!(published > 100.0, "{}", report.table());
        assert!((delivered / published / 5.0 - 1.0).abs() < 0.1, "{}", report.table());
        assert!(delay(&report, "acknowledgement").count > 50, "{}", report.table());
        assert!(delay(&report, "delivery").count > 10, "{}", report.table());
    }
}

#[test]
fn what_a_bad_redis_does_is_counted() {
    use fake_redis::Fault;
    let options = fanout();
    for (fault, expected) in
        [(Fault::SkipAt(50), Metric::Lost), (Fault::RepeatAt(50), Metric::Duplicated)]
    {
        let report = run(Scenario::Fanout(options.clone()), fault).unwrap();
        assert_eq!(metric(&report, expected), 5.0, "{fault:?}: {}", report.table());
    }
    let told = run(Scenario::Fanout(options), Fault::RefuseAt(50)).unwrap_err();
    assert!(told.to_string().contains("ERR no"), "{told}");
}

#[test]
fn connections_are_weighed_step_by_step() {
    let options = IdleOptions {
        connections: 100,
        heartbeat: Span(Duration::from_millis(100)),
        base: base(),
        ..IdleOptions::default()
    };
    let report = run(Scenario::Idle(options), fake_redis::Fault::None).unwrap();
    assert_eq!(metric(&report, Metric::Disconnected), 0.0, "{}", report.table());
    for step in
        [Metric::ServerBytesPerOpen, Metric::ServerBytesPerGreeted, Metric::ServerBytesPerMember]
    {
        assert!(metric(&report, step).is_finite(), "{}", report.table());
    }
    assert!(metric(&report, Metric::ServerNsPerIdleSecond) > 0.0, "{}", report.table());
}

#[test]
fn connections_come_and_go() {
    for rate in [None, Some(100.0)] {
        let options =
            ChurnOptions { concurrency: 4, base: base(), rate, ..ChurnOptions::default() };
        let report = run(Scenario::Churn(options), fake_redis::Fault::None).unwrap();
        assert_eq!(metric(&report, Metric::Disconnected), 0.0, "{}", report.table());
        let per_second = metric(&report, Metric::CyclesPerS);
        assert!(per_second > 20.0, "{}", report.table());
        assert!(rate.is_none_or(|rate| per_second < rate * 1.2), "{}", report.table());
        let (greeting, cycle) = (delay(&report, "connect + greet"), delay(&report, "whole cycle"));
        assert!(greeting.p50_us < cycle.p50_us, "{}", report.table());
    }
}
