//! The load generator against a small server whose faults are known.
#![cfg(feature = "server")]

mod fake_foony;
mod fake_server;

use std::path::PathBuf;
use std::time::Duration;

use fake_server::{FakeServer, Fault};
use headcount::bench::client::Transport;
use headcount::bench::compare::{Verdict, compare};
use headcount::bench::options::{
    Base, ChurnOptions, Common, Dialect, FanoutOptions, IdleOptions, LatencyOptions, Leave,
    MixedOptions, PresenceOptions, PublishForm, Publishing, Scenario, Span, Spread, Time,
    WindowCounts,
};
use headcount::bench::scenarios::{self, Server};
use headcount::bench::{Addresses, BenchError, FloodKind, Metric, Progress, Report, Wait, plot};

const DURATION: Span = Span(Duration::from_millis(500));
const WARM_UP: Span = Span(Duration::from_millis(100));
const TIME: Time = Time { duration: DURATION, warm_up: WARM_UP };

fn run(scenario: Scenario, fault: Fault) -> Result<Report, BenchError> {
    let fake = FakeServer::start(fault);
    let addresses = Addresses { http: Some(fake.http), sync_tcp: Some(fake.sync_tcp) };
    let server = Server { addresses, pid: Some(std::process::id()), peer: None };
    scenarios::run(&scenario, &server, &Progress::hidden())
}

/// Sleeping, because the server shares our CPUs.
fn common(transport: Transport) -> Common {
    Common { transport, wait: Wait::Sleep, ..LatencyOptions::default().base.common }
}

fn base(common: Common) -> Base {
    Base { dialect: Dialect::Sync, time: TIME, common }
}

fn latency() -> LatencyOptions {
    LatencyOptions { rate: 400.0, base: base(common(Transport::Ws)), ..LatencyOptions::default() }
}

fn metric(report: &Report, metric: Metric) -> f64 {
    *report.metrics.get(&metric).unwrap_or_else(|| panic!("no {metric:?}: {report:?}"))
}

fn delay(report: &Report, name: &str) -> headcount::bench::LatencySummary {
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
fn every_update_of_a_good_server_is_measured_once_per_receiver() {
    for transport in [Transport::Ws, Transport::Tcp] {
        let options = LatencyOptions {
            publishers: 2,
            watchers: 3,
            base: base(common(transport)),
            ..latency()
        };
        let report = run(Scenario::Latency(options), Fault::None).unwrap();
        assert_faultless(&report);
        // 2 publishers, each seen by 3 watchers and the other publisher.
        let seen = delay(&report, "update").count as f64 + metric(&report, Metric::Conflated);
        assert_eq!(seen, 2.0 * 200.0 * 4.0, "{transport:?}: {}", report.table());
        assert_eq!(metric(&report, Metric::UpdatesPerS), 800.0);
        assert!(metric(&report, Metric::BytesPerS) > 800.0 * 4.0 * 64.0);
        assert!(metric(&report, Metric::ServerNsPerDelivery) > 0.0);
    }
}

#[test]
fn a_delay_can_be_measured_with_one_update_under_way() {
    let options = LatencyOptions { window: Some(1), ..latency() };
    let report = run(Scenario::Latency(options.clone()), Fault::None).unwrap();
    assert_faultless(&report);
    assert!(metric(&report, Metric::UpdatesPerS) > 500.0, "{}", report.table());
    let options = LatencyOptions { base: fanout().base, ..options };
    let report = run_foony(Scenario::Latency(options), fake_foony::Fault::None).unwrap();
    assert_faultless(&report);
    assert!(metric(&report, Metric::PublishesPerS) > 500.0, "{}", report.table());
}

#[test]
fn several_threads_measure_together() {
    let mut options = LatencyOptions { publishers: 2, watchers: 4, ..latency() };
    let cpus = core_affinity::get_core_ids().unwrap();
    options.base.common.client_cpus = vec![cpus[0].id, cpus[0].id];
    let report = run(Scenario::Latency(options), Fault::None).unwrap();
    assert_faultless(&report);
    let seen = delay(&report, "update").count as f64 + metric(&report, Metric::Conflated);
    assert_eq!(seen, 2.0 * 200.0 * 5.0, "{}", report.table());
}

/// 200 ms of silence at 400/s delay 80 of 200 updates, most of them by more than 40 ms. A
/// generator that waits for the server before it sends the next one would see a single long delay.
#[test]
fn a_stall_of_the_server_shows_in_every_update_that_it_delayed() {
    let stall = Fault::StallAt { sequence: 100, for_ms: 200 };
    let report = run(Scenario::Latency(latency()), stall).unwrap();
    assert_faultless(&report);
    let delays = delay(&report, "update");
    assert!(delays.max_us > 190_000.0, "{}", report.table());
    let whole = delays.latencies().unwrap();
    assert!(whole.at_us(70.0) > 40_000.0, "{}", report.table());
    assert!(whole.at_us(40.0) < 40_000.0, "{}", report.table());
}

#[test]
fn what_a_bad_server_does_is_counted() {
    let cases = [
        (Fault::RepeatEveryFrame, Metric::Duplicated),
        (Fault::ShowOlderStateAt { sequence: 100 }, Metric::Reordered),
        (Fault::SilentFrom { sequence: 100 }, Metric::Lost),
        (Fault::DisconnectWatcherAt { sequence: 100 }, Metric::Disconnected),
    ];
    for (fault, expected) in cases {
        let report = run(Scenario::Latency(latency()), fault).unwrap();
        assert!(metric(&report, expected) > 0.0, "{fault:?}: {}", report.table());
    }
}

#[test]
fn skipped_states_are_conflated_not_lost() {
    let report = run(Scenario::Latency(latency()), Fault::ShowEverySecond).unwrap();
    assert_faultless(&report);
    // The odd sequences below 200; those before 41 belong to the warm-up.
    assert_eq!(metric(&report, Metric::Conflated), 80.0, "{}", report.table());
}

#[test]
fn a_refused_handshake_is_told_with_its_reason() {
    let error = run(Scenario::Latency(latency()), Fault::RefuseHandshake).unwrap_err();
    let told = error.to_string();
    assert!(told.contains("invalid bearer token"), "{told}");
}

#[test]
fn nobody_listening_is_told_with_the_address() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let addresses = Addresses { http: Some(unused), sync_tcp: None };
    let server = Server { addresses, pid: None, peer: None };
    let scenario = Scenario::Latency(latency());
    let error = scenarios::run(&scenario, &server, &Progress::hidden()).unwrap_err();
    assert!(error.to_string().contains(&unused.to_string()), "{error}");
}

#[test]
fn options_without_sense_are_refused() {
    let senseless = [
        LatencyOptions { watchers: 0, ..latency() },
        LatencyOptions { rate: 0.0, ..latency() },
        LatencyOptions { rate: f64::NAN, ..latency() },
        LatencyOptions { state_bytes: 8, ..latency() },
    ];
    for options in senseless {
        let refused = run(Scenario::Latency(options.clone()), Fault::None);
        assert!(matches!(refused, Err(BenchError::Options(_))), "{options:?}");
    }
}

#[test]
fn a_closed_loop_waits_for_the_slowest_receiver() {
    for (threads, window) in [(1, 1), (1, 8), (2, 4)] {
        let mut common = common(Transport::Ws);
        let cpu = core_affinity::get_core_ids().unwrap()[0].id;
        common.client_cpus = vec![cpu; threads];
        let options = PresenceOptions {
            members: 5,
            window,
            base: base(common),
            ..PresenceOptions::default()
        };
        let report = run(Scenario::Presence(options), Fault::None).unwrap();
        assert_faultless(&report);
        let (sent, seen) =
            (metric(&report, Metric::UpdatesPerS), metric(&report, Metric::DeliveredPerS));
        assert!(sent > 200.0, "{}", report.table());
        let conflated = metric(&report, Metric::Conflated) / DURATION.0.as_secs_f64();
        assert!((seen + conflated - sent * 5.0).abs() < 1.0, "{}", report.table());
    }
}

/// A server that never shows an update must stop a closed loop after its window.
#[test]
fn a_closed_loop_sends_no_more_than_its_window() {
    let options = PresenceOptions {
        members: 2,
        window: 7,
        base: Base {
            time: Time { warm_up: Span(Duration::ZERO), ..TIME },
            ..base(common(Transport::Tcp))
        },
        ..PresenceOptions::default()
    };
    let report = run(Scenario::Presence(options), Fault::SilentFrom { sequence: 1 }).unwrap();
    assert_eq!(metric(&report, Metric::UpdatesPerS) * DURATION.0.as_secs_f64(), 7.0);
    assert_eq!(metric(&report, Metric::Lost), 2.0);
}

fn joins() -> PresenceOptions {
    PresenceOptions {
        members: 3,
        joins: Some(40),
        within: Span(Duration::from_millis(200)),
        state_bytes: 1000,
        base: base(common(Transport::Ws)),
        ..PresenceOptions::default()
    }
}

#[test]
fn joins_are_measured_until_everybody_sees_everybody() {
    let cpu = core_affinity::get_core_ids().unwrap()[0].id;
    for (transport, threads) in [(Transport::Ws, 1), (Transport::Tcp, 2)] {
        let mut options = PresenceOptions { base: base(common(transport)), ..joins() };
        options.base.common.client_cpus = vec![cpu; threads];
        let report = run(Scenario::Presence(options), Fault::None).unwrap();
        for fault in [Metric::Lost, Metric::Reordered, Metric::Disconnected] {
            assert_eq!(metric(&report, fault), 0.0, "{fault:?}: {}", report.table());
        }
        // The fake shows every join to every member.
        assert_eq!(metric(&report, Metric::FramesPerWatcher), 40.0, "{}", report.table());
        assert_eq!(metric(&report, Metric::FramesPerJoiner), 20.5, "{}", report.table());
        // Sets of 4 to 43 members, 40 of which have a state.
        let bytes = metric(&report, Metric::BytesPerWatcher);
        assert!((820.0..=860.0).contains(&(bytes / 1000.0)), "{}", report.table());
        assert_eq!(delay(&report, "join to watcher").count, 3 * 40, "{}", report.table());
        assert!(report.measured_s >= 0.19, "{}", report.table());
        assert!(metric(&report, Metric::WatchersCompleteMs) < 500.0, "{}", report.table());
    }
}

#[test]
fn presence_is_measured_on_the_foony_protocol() {
    for (window, rate) in [(1, None), (8, None), (2, Some(100.0))] {
        let options = PresenceOptions {
            publishers: 2,
            members: 5,
            window,
            rate,
            base: fanout().base,
            ..PresenceOptions::default()
        };
        let report = run_foony(Scenario::Presence(options), fake_foony::Fault::None).unwrap();
        assert_faultless(&report);
        let (sent, seen) =
            (metric(&report, Metric::UpdatesPerS), metric(&report, Metric::DeliveredPerS));
        assert!(sent > 150.0, "{}", report.table());
        assert!((seen / sent / 5.0 - 1.0).abs() < 0.01, "{}", report.table());
        assert!(delay(&report, "update").count > 300, "{}", report.table());
    }
    let senseless = [
        PresenceOptions {
            base: Base { dialect: Dialect::Peer, ..fanout().base },
            ..PresenceOptions::default()
        },
        PresenceOptions { base: fanout().base, joins: Some(5), ..joins() },
        PresenceOptions { base: fanout().base, state_bytes: 33, ..PresenceOptions::default() },
    ];
    for options in senseless {
        let refused = run(Scenario::Presence(options.clone()), Fault::None);
        assert!(matches!(refused, Err(BenchError::Options(_))), "{options:?}");
    }
}

#[test]
fn who_never_sees_everybody_is_lost() {
    let report = run(Scenario::Presence(joins()), Fault::SilentFrom { sequence: 1 }).unwrap();
    assert_eq!(metric(&report, Metric::Lost), 43.0, "{}", report.table());
    assert!(report.notes.iter().any(|note| note.starts_with("3 of 3 watchers")), "{report:?}");
}

#[test]
fn idle_connections_are_weighed() {
    let options = IdleOptions {
        connections: 60,
        channels: Some(6),
        heartbeat: Span(Duration::from_millis(100)),
        base: base(common(Transport::Ws)),
        ..IdleOptions::default()
    };
    let report = run(Scenario::Idle(options), Fault::None).unwrap();
    assert_eq!(metric(&report, Metric::Disconnected), 0.0);
    assert!(metric(&report, Metric::ServerBytesPerMember) > 0.0, "{}", report.table());
    assert!(metric(&report, Metric::ServerCpuPercent) > 0.0, "{}", report.table());
}

#[test]
fn connections_come_and_go() {
    for (transport, leave) in [
        (Transport::Ws, Leave::Goodbye),
        (Transport::Ws, Leave::HangUp),
        (Transport::Tcp, Leave::Goodbye),
        (Transport::Tcp, Leave::HangUp),
    ] {
        let options = ChurnOptions {
            leave,
            concurrency: 4,
            base: base(common(transport)),
            ..ChurnOptions::default()
        };
        let report = run(Scenario::Churn(options), Fault::None).unwrap();
        assert!(metric(&report, Metric::CyclesPerS) > 20.0, "{}", report.table());
        assert_eq!(metric(&report, Metric::Disconnected), 0.0, "{}", report.table());
        let (greeting, cycle) = (delay(&report, "connect + greet"), delay(&report, "whole cycle"));
        assert!(greeting.p50_us < cycle.p50_us, "{}", report.table());
    }
}

#[test]
fn polite_clients_are_measured_beside_flooders() {
    for flood in [FloodKind::Pings, FloodKind::Updates] {
        let options = MixedOptions {
            polite: 3,
            flooders: 1,
            flood,
            base: base(common(Transport::Ws)),
            ..MixedOptions::default()
        };
        let report = run(Scenario::Mixed(options), Fault::None).unwrap();
        assert_faultless(&report);
        // 20/s for half a second: 10 updates of 3 members, each seen by the 2 others.
        let seen = delay(&report, "update").count as f64 + metric(&report, Metric::Conflated);
        assert_eq!((seen, delay(&report, "ping").count), (60.0, 30), "{}", report.table());
        let pongs = metric(&report, Metric::FloodPongsPerS);
        assert_eq!(pongs > 1_000.0, flood == FloodKind::Pings, "{}", report.table());
    }
}

#[test]
fn polite_publishers_are_measured_beside_flooders() {
    for flood in [FloodKind::Pings, FloodKind::Updates] {
        let options = MixedOptions {
            polite: 3,
            flooders: 1,
            flood,
            base: fanout().base,
            ..MixedOptions::default()
        };
        let report = run_foony(Scenario::Mixed(options), fake_foony::Fault::None).unwrap();
        assert_faultless(&report);
        // 20/s for half a second: 10 messages of 3 publishers, each to 3 subscribers.
        let (heard, done) = (delay(&report, "delivery"), delay(&report, "acknowledgement"));
        assert_eq!((heard.count, done.count), (90, 30), "{}", report.table());
        let pongs = metric(&report, Metric::FloodPongsPerS);
        assert_eq!(pongs > 1_000.0, flood == FloodKind::Pings, "{}", report.table());
    }
}

fn fanout() -> FanoutOptions {
    let mut common = common(Transport::Ws);
    common.key = Some("demo.kid_main:sk_main_secret".to_owned());
    let base = Base { dialect: Dialect::Foony, ..base(common) };
    FanoutOptions { subscribers: 5, window: 4, base, ..FanoutOptions::default() }
}

fn run_foony(scenario: Scenario, fault: fake_foony::Fault) -> Result<Report, BenchError> {
    let addresses = Addresses { http: Some(fake_foony::start(fault)), sync_tcp: None };
    let server = Server { addresses, pid: Some(std::process::id()), peer: None };
    scenarios::run(&scenario, &server, &Progress::hidden())
}

#[test]
fn every_message_of_a_good_server_is_heard_once_by_every_subscriber() {
    let cpu = core_affinity::get_core_ids().unwrap()[0].id;
    let shapes = [
        (1, 1, Spread::All, 1),
        (1, 3, Spread::All, 2),
        (6, 2, Spread::All, 1),
        (3, 2, Spread::One, 2),
    ];
    for (channels, publishers, spread, threads) in shapes {
        let mut options = FanoutOptions { channels, publishers, spread, ..fanout() };
        options.base.common.client_cpus = vec![cpu; threads];
        let report = run_foony(Scenario::Fanout(options), fake_foony::Fault::None).unwrap();
        assert_faultless(&report);
        let (published, delivered) =
            (metric(&report, Metric::PublishesPerS), metric(&report, Metric::DeliveredPerS));
        assert!(published > 100.0, "{}", report.table());
        // What is on its way when the measurement begins and ends.
        assert!((delivered / published / 5.0 - 1.0).abs() < 0.1, "{}", report.table());
        assert!(metric(&report, Metric::PublishesMin) > 0.0, "{}", report.table());
        assert!(delay(&report, "acknowledgement").count > 50, "{}", report.table());
        assert!(delay(&report, "delivery").count > 10, "{}", report.table());
        assert!(report.notes.iter().all(|note| !note.contains("serials")), "{}", report.table());
    }
}

#[test]
fn what_a_bad_foony_server_does_is_counted() {
    use fake_foony::Fault;
    let cases = [
        (Fault::SkipAt(50), Metric::Lost, 5.0),
        (Fault::RepeatAt(50), Metric::Duplicated, 5.0),
        (Fault::SwapAt(50), Metric::Reordered, 5.0),
        (Fault::NeverAcknowledge(50), Metric::Lost, 1.0),
        (Fault::WrongContentAt(50), Metric::Duplicated, 1.0),
        (Fault::WrongContentAt(50), Metric::Lost, 1.0),
    ];
    for (fault, expected, count) in cases {
        let report = run_foony(Scenario::Fanout(fanout()), fault).unwrap();
        assert!(metric(&report, expected) >= count, "{fault:?}: {}", report.table());
    }
}

fn published(options: &FanoutOptions, fault: fake_foony::Fault) -> f64 {
    let mut options = options.clone();
    options.base.time.warm_up = Span(Duration::ZERO);
    let report = run_foony(Scenario::Fanout(options), fault).unwrap();
    metric(&report, Metric::PublishesPerS) * DURATION.0.as_secs_f64()
}

#[test]
fn a_window_counts_deliveries_unless_it_is_to_count_acknowledgements() {
    use fake_foony::Fault::AcknowledgesOnly;
    for publishers in [1, 3] {
        let options = FanoutOptions { publishers, window: 7, ..fanout() };
        let sent = published(&options, AcknowledgesOnly);
        assert!((sent - 7.0 * publishers as f64).abs() < 1.0, "{sent}");
    }
    let publishing = Publishing { window_counts: WindowCounts::Acks, ..fanout().publishing };
    let of_acks = FanoutOptions { publishing, ..fanout() };
    let sent = published(&of_acks, AcknowledgesOnly);
    assert!(sent > 100.0, "{sent}");
    let recorded = serde_json::to_value(Scenario::Fanout(of_acks)).unwrap();
    assert_eq!(recorded["options"]["window_counts"], "acks");
    let on_the_sync_wire =
        FanoutOptions { publishing, base: base(common(Transport::Ws)), ..fanout() };
    let refused = run(Scenario::Fanout(on_the_sync_wire), Fault::None);
    assert!(matches!(refused, Err(BenchError::Options(_))), "{refused:?}");
}

/// The slow one of two threads holds the publisher of the other one back.
#[test]
fn a_window_of_deliveries_waits_for_subscribers_of_every_thread() {
    let cpu = core_affinity::get_core_ids().unwrap()[0].id;
    let mut options = FanoutOptions { subscribers: 9, window: 3, ..fanout() };
    options.base.common.client_cpus = vec![cpu; 3];
    let sent = published(&options, fake_foony::Fault::AcknowledgesOnly);
    assert!((sent - 3.0).abs() < 1.0, "{sent}");
    assert!(published(&options, fake_foony::Fault::None) > 100.0);
}

#[test]
fn publishes_have_the_form_of_an_sdk_unless_told_otherwise() {
    use fake_foony::Fault::RefuseOtherForms;
    assert!(published(&fanout(), RefuseOtherForms) > 100.0);
    let publishing = Publishing { publish_form: PublishForm::Single, ..fanout().publishing };
    let single = Scenario::Fanout(FanoutOptions { publishing, ..fanout() });
    let refused = run_foony(single, RefuseOtherForms).unwrap_err();
    assert!(refused.to_string().contains("another form"), "{refused}");
}

#[test]
fn a_client_that_comes_and_goes_awaits_the_answer_to_its_credentials() {
    let churn = |pipelined| {
        let options = ChurnOptions {
            concurrency: 4,
            base: fanout().base,
            pipelined,
            ..ChurnOptions::default()
        };
        run_foony(Scenario::Churn(options), fake_foony::Fault::RefusePipelined)
    };
    assert!(metric(&churn(false).unwrap(), Metric::CyclesPerS) > 20.0);
    let refused = churn(true).unwrap_err();
    assert!(refused.to_string().contains("pipelined"), "{refused}");
}

#[test]
fn messages_are_measured_at_a_rate_from_when_they_should_have_been_sent() {
    let options = LatencyOptions { publishers: 2, watchers: 3, base: fanout().base, ..latency() };
    let report = run_foony(Scenario::Latency(options), fake_foony::Fault::None).unwrap();
    assert_faultless(&report);
    assert_eq!(delay(&report, "delivery").count, 2 * 200 * 3, "{}", report.table());
    assert_eq!(delay(&report, "acknowledgement").count, 2 * 200, "{}", report.table());
}

#[test]
fn a_key_is_needed_and_its_refusal_is_told() {
    let told = run_foony(Scenario::Fanout(fanout()), fake_foony::Fault::RefuseKey).unwrap_err();
    assert!(told.to_string().contains("no such key (40101)"), "{told}");
    let keyless = |transport| FanoutOptions {
        base: Base { dialect: Dialect::Foony, ..base(common(transport)) },
        ..fanout()
    };
    let senseless = [
        keyless(Transport::Ws),
        keyless(Transport::Tcp),
        FanoutOptions { subscribers: 0, ..fanout() },
        FanoutOptions { window: 0, ..fanout() },
        FanoutOptions { rate: Some(f64::NAN), ..fanout() },
        FanoutOptions { payload: 33, ..fanout() },
    ];
    for options in senseless {
        let refused = run_foony(Scenario::Fanout(options.clone()), fake_foony::Fault::None);
        assert!(matches!(refused, Err(BenchError::Options(_))), "{options:?}");
    }
}

/// The real binary starts another one, gives it a key and measures it.
#[test]
fn the_command_measures_a_server_of_its_own() {
    let folder = Folder::new("fanout");
    let record = folder.0.join("fanout.json");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_headcount"))
        .args("bench fanout --subscribers 20 --channels 2 --publishers 3 --window 8".split(' '))
        .args("--duration 300ms --warm-up 100ms --wait sleep --record".split(' '))
        .arg(&record)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = Report::load(&record).unwrap();
    assert_faultless(&report);
    assert!(metric(&report, Metric::DeliveredPerS) > 1_000.0, "{}", report.table());
    assert!(!std::fs::read_to_string(&record).unwrap().contains("sk_"), "the key is not kept");
}

fn idle(dialect: Dialect) -> Scenario {
    let common = fanout().base.common;
    Scenario::Idle(IdleOptions {
        connections: 100,
        heartbeat: Span(Duration::from_millis(100)),
        base: Base { dialect, ..base(common) },
        ..IdleOptions::default()
    })
}

#[test]
fn connections_are_weighed_step_by_step_whatever_they_speak() {
    let reports = [
        run(idle(Dialect::Sync), Fault::None).unwrap(),
        run_foony(idle(Dialect::Foony), fake_foony::Fault::None).unwrap(),
    ];
    for report in reports {
        assert_eq!(metric(&report, Metric::Disconnected), 0.0, "{}", report.table());
        // Every step is reported. How much it weighs is not compared: the fakes share a process,
        // and so its memory, with the tests that run at the same time.
        for step in [
            Metric::ServerBytesPerOpen,
            Metric::ServerBytesPerGreeted,
            Metric::ServerBytesPerMember,
        ] {
            assert!(metric(&report, step).is_finite(), "{}", report.table());
        }
        assert!(metric(&report, Metric::ServerNsPerIdleSecond) > 0.0, "{}", report.table());
    }
}

#[test]
fn connections_come_and_go_whatever_they_speak() {
    for rate in [None, Some(100.0)] {
        let options =
            ChurnOptions { concurrency: 4, rate, base: fanout().base, ..ChurnOptions::default() };
        let scenario = Scenario::Churn(options);
        let report = run_foony(scenario, fake_foony::Fault::None).unwrap();
        assert_eq!(metric(&report, Metric::Disconnected), 0.0, "{}", report.table());
        let per_second = metric(&report, Metric::CyclesPerS);
        assert!(per_second > 20.0, "{}", report.table());
        assert!(rate.is_none_or(|rate| per_second < rate * 1.2), "{}", report.table());
        let (greeting, cycle) = (delay(&report, "connect + greet"), delay(&report, "whole cycle"));
        assert!(greeting.p50_us < cycle.p50_us, "{}", report.table());
    }
}

/// A thread that spins reads them in turn, and stops at a few that were not answered.
#[test]
fn connections_that_wait_hold_up_no_others() {
    let options = ChurnOptions {
        concurrency: 8,
        base: Base { common: Common { wait: Wait::Spin, ..fanout().base.common }, ..fanout().base },
        ..ChurnOptions::default()
    };
    let (first, late_us) = (5, fake_foony::LATE.as_micros() as f64);
    let fault = fake_foony::Fault::LateFor(first);
    let report = run_foony(Scenario::Churn(options), fault).unwrap();
    assert_eq!(metric(&report, Metric::Disconnected), 0.0, "{}", report.table());
    assert!(metric(&report, Metric::CyclesPerS) > 20.0, "{}", report.table());
    assert!(delay(&report, "whole cycle").p50_us < late_us / 10.0, "{}", report.table());
}

#[test]
fn members_of_several_channels_see_their_own_channel_only() {
    for (channels, publishers, rate) in [(3, 2, None), (2, 5, None), (2, 2, Some(100.0))] {
        let options = FanoutOptions {
            channels,
            publishers,
            rate,
            base: base(common(Transport::Ws)),
            subscribers: 4,
            ..fanout()
        };
        let report = run(Scenario::Fanout(options), Fault::None).unwrap();
        assert_faultless(&report);
        let (sent, seen) =
            (metric(&report, Metric::UpdatesPerS), metric(&report, Metric::DeliveredPerS));
        assert!(sent > 100.0, "{}", report.table());
        // Four subscribers, and the other publishers of the channel.
        let conflated = metric(&report, Metric::Conflated) / DURATION.0.as_secs_f64();
        let others: usize = (0..publishers)
            .map(|publisher| (publisher % channels..publishers).step_by(channels).len() - 1)
            .sum();
        let each = 4.0 + others as f64 / publishers as f64;
        let seen_of_each = (seen + conflated) / sent;
        assert!((seen_of_each / each - 1.0).abs() < 0.1, "{each}: {}", report.table());
    }
}

/// Several windows are several runs, each with a record, and one curve.
#[test]
fn the_command_draws_a_curve_over_windows() {
    let folder = Folder::new("windows");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_headcount"))
        .args("bench fanout --subscribers 10 --windows 1,4,16 --wait sleep".split(' '))
        .args("--duration 200ms --warm-up 50ms --record a.json --plot a.svg".split(' '))
        .current_dir(&folder.0)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    for window in [1, 4, 16] {
        assert!(printed.contains(&format!("window {window}, ")), "{printed}");
        let report = Report::load(&folder.0.join(format!("a-w{window}.json"))).unwrap();
        assert_faultless(&report);
        assert!(report.config.unwrap().contains("anonymous = true"));
    }
    let svg = std::fs::read_to_string(folder.0.join("a.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("deliveries per second"), "{svg}");
    let progress = String::from_utf8(output.stderr).unwrap();
    assert!(progress.contains("s connecting") && progress.contains("s measuring"), "{progress}");
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("headcount-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_record_is_read_back_compared_and_drawn() {
    let folder = Folder::new("records");
    let report = run(Scenario::Latency(latency()), Fault::None).unwrap();
    let (record, curve) = (folder.0.join("a.json"), folder.0.join("a.svg"));
    report.record(&record).unwrap();
    let back = Report::load(&record).unwrap();
    assert_eq!(back, report);
    plot(&back, &curve).unwrap();
    let svg = std::fs::read_to_string(&curve).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("99.9"), "{svg}");

    let mut worse = report.clone();
    worse.metrics.insert(Metric::Lost, 3.0);
    worse.latencies[0].p99_us *= 2.0;
    let comparison = compare(&[report.clone(), report.clone()], &[worse]).unwrap();
    let verdict = |name: &str| {
        let row = comparison.rows.iter().find(|row| row.name == name);
        row.unwrap_or_else(|| panic!("{name} in {}", comparison.table())).verdict
    };
    assert_eq!(verdict("lost"), Verdict::Worse);
    assert_eq!(verdict("update p99, us"), Verdict::Worse);
    assert_eq!(verdict("update p50, us"), Verdict::Same);
    assert!(comparison.warnings.is_empty());
    assert!(compare(&[], &[report]).is_err());
}

#[test]
fn what_is_not_a_record_is_refused_by_name() {
    let folder = Folder::new("no-records");
    let path = folder.0.join("x.json");
    assert!(Report::load(&path).unwrap_err().to_string().contains("x.json"));
    for text in ["", "{}", "[1]"] {
        std::fs::write(&path, text).unwrap();
        let error = Report::load(&path).unwrap_err().to_string();
        assert!(error.contains("x.json: not a benchmark record"), "{error}");
    }
}
