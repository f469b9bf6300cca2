//! `docs/refusals.md` has a row for every reason that the server counts, no other, and the codes of
//! the code.
#![cfg(feature = "server")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use enum_map::Enum;
use headcount::auth::{CredentialError, Denied};
use headcount::counters::Counters;
use headcount::error::{Disconnect, FrameError, Reject, Retry};
use headcount::session::foony::denied_code;
use headcount::wire::foony::ErrorCode;
use headcount::wire::http::HeadError;

use command::headcount;
use markdown::{Page, Table, page};
use served::Served;

mod command;
mod markdown;
mod served;

fn refusals() -> Page {
    page("docs/refusals.md")
}

/// Every variant of an enum of reasons.
fn all<E: Enum>() -> impl Iterator<Item = E> {
    (0..E::LENGTH).map(E::from_usize)
}

fn sorted(names: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().map(Into::into).collect();
    names.sort();
    names
}

fn metrics(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer
}

/// The metrics of a server that has done nothing but to show them.
fn first_metrics() -> String {
    let arguments = ["serve", "--quiet", "--data-dir", "", "--shards", "1"];
    let ports = ["--http", "127.0.0.1:0", "--sync-tcp", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut command = headcount(&[&arguments[..], &ports].concat());
    let server = Served::start(&mut command).unwrap();
    // Responses are counted by a status when the first one had it.
    metrics(server.admin);
    metrics(server.admin)
}

/// The values of a label in the samples of a metric.
fn labels(metrics: &str, name: &str, label: &str) -> BTreeSet<String> {
    let samples = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    let value = |line: &str| {
        let (_, rest) = line.split_once(&format!("{label}=\""))?;
        Some(rest.split('"').next()?.to_owned())
    };
    samples.map(|line| value(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

#[test]
fn every_reason_has_a_row_and_every_row_a_reason() {
    let (page, counters) = (refusals(), Counters::default());
    let names = |heading: &str, first: &str| page.table(heading, first).texts(first);
    let ended: Vec<_> = counters.disconnects().map(|(label, _)| label).collect();
    assert_eq!(names("Connections ended", "name"), ended);
    let ignored = ["Malformed frames", "Requests refused", "Input without effect"];
    let ignored: Vec<String> =
        ignored.into_iter().flat_map(|heading| names(heading, "name")).collect();
    assert_eq!(sorted(ignored), sorted(counters.ignored().map(|(label, _)| label)));
    let dropped = page.table("Not delivered as it was", "what");
    let dropped: Vec<_> = dropped.texts("what").into_iter().zip(dropped.texts("reason")).collect();
    let counted: Vec<_> = counters
        .dropped()
        .map(|((what, reason), _)| (what.to_owned(), reason.to_owned()))
        .collect();
    assert_eq!(dropped, counted);
    let conflated: Vec<_> = counters.conflated().map(|(label, _)| label).collect();
    assert_eq!(names("Conflated", "name"), conflated);
    let causes: Vec<_> = all::<CredentialError>().map(CredentialError::label).collect();
    assert_eq!(names("Credentials refused", "cause"), causes);
}

#[test]
fn the_metrics_of_a_server_have_these_names() {
    let (page, metrics) = (refusals(), first_metrics());
    for (heading, first, metric, label) in [
        ("Connections ended", "name", "headcount_disconnects_total", "reason"),
        ("Conflated", "name", "headcount_conflated_total", "reason"),
        ("Not delivered as it was", "what", "headcount_dropped_total", "what"),
        ("Credentials refused", "cause", "headcount_token_refusals_total", "cause"),
        ("Admission hook", "outcome", "headcount_admission_requests_total", "outcome"),
    ] {
        let rows: BTreeSet<String> = page.table(heading, first).texts(first).into_iter().collect();
        assert_eq!(rows, labels(&metrics, metric, label), "{metric}");
    }
    let is_metric = |code: &str| code.starts_with("headcount_") && code != "headcount_";
    let pages = markdown::pages("docs").into_iter().chain([markdown::page("README.md")]);
    for page in pages {
        for code in page.codes().iter().filter(|code| is_metric(code)) {
            let name = code.split('{').next().unwrap();
            let is_there = metrics.lines().any(|line| line.starts_with(&format!("# TYPE {name} ")));
            assert!(is_there, "{}: no metric {name}", page.path.display());
        }
    }
}

#[test]
fn close_codes_texts_and_retries_are_those_that_are_sent() {
    let table = refusals().table("Connections ended", "name");
    for reason in all::<Disconnect>() {
        let cell = |column| table.cell(reason.label(), column).text.as_str();
        // The server does not send a Close of its own then.
        let is_echoed = matches!(reason, Disconnect::Clean | Disconnect::Lost);
        let code = reason.close_code().to_string();
        assert_eq!(cell("close code"), if is_echoed { "-" } else { code.as_str() }, "{reason:?}");
        let text = reason.to_string();
        assert_eq!(cell("text"), if is_echoed { "-" } else { text.as_str() }, "{reason:?}");
        let retry = match reason.retry() {
            Retry::Now => "now",
            Retry::Later => "later",
            Retry::Never => "never",
        };
        // A peer that has left by itself may always come back.
        assert!(cell("retry").starts_with(retry), "{reason:?}: {}", cell("retry"));
    }
}

/// The numbers of five digits in a cell.
fn codes(text: &str) -> Vec<u32> {
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|number| number.len() == 5);
    numbers.map(|number| number.parse().unwrap()).collect()
}

#[test]
fn the_codes_of_refused_requests_are_those_of_the_code() {
    let table = refusals().table("Requests refused", "name");
    let denied = [Denied::NoPattern, Denied::NotThisOperation].map(denied_code);
    for reject in all::<Reject>() {
        let label: &str = reject.into();
        let foony = codes(&table.cell(label, "Foony err").text);
        let expected: Vec<ErrorCode> = match reject {
            Reject::Forbidden => denied.to_vec(),
            // Of a request, and of a connection.
            Reject::Denied => vec![reject.into(), ErrorCode::BadAuth],
            _ => vec![reject.into()],
        };
        let sent: Vec<u32> = expected.iter().map(|code| code.code()).collect();
        assert_eq!(foony, sent, "{label}");
        let rest = table.cell(label, "REST").text.as_str();
        if rest == "-" {
            continue;
        }
        let rest: Vec<String> = rest
            .split(", ")
            .filter(|part| part.starts_with(|c: char| c.is_ascii_digit()))
            .map(str::to_owned)
            .collect();
        let over_http = match reject {
            Reject::Denied => &expected[..1],
            _ => &expected[..],
        };
        let answered: Vec<String> =
            over_http.iter().map(|code| format!("{} {}", code.status(), code.code())).collect();
        assert_eq!(rest, answered, "{label}");
    }
}

#[test]
fn malformed_frames_end_connections_with_these_codes() {
    let table = refusals().table("Malformed frames", "name");
    for error in all::<FrameError>() {
        let label: &str = error.into();
        let ended = Disconnect::from(error);
        let expected = format!("{} {}", ended.close_code(), ended.label());
        assert_eq!(table.cell(label, "if it ends the connection").text, expected, "{label}");
    }
}

#[test]
fn refused_credentials_have_these_reasons_and_codes() {
    let table = refusals().table("Credentials refused", "cause");
    for cause in all::<CredentialError>() {
        let code = ErrorCode::from(Reject::from(cause)).code().to_string();
        assert_eq!(table.cell(cause.label(), "code").text, code, "{cause:?}");
        assert_eq!(table.cell(cause.label(), "reason").text, cause.reason(), "{cause:?}");
    }
}

#[test]
fn shards_answer_heads_with_these_statuses() {
    let page = refusals();
    let is_of_shards = |table: &Table| table.columns == ["status", "when", "counted as", "retry"];
    let table = page.tables().into_iter().find(is_of_shards).unwrap();
    let rows: Vec<_> = table.texts("status").into_iter().zip(table.texts("counted as")).collect();
    let errors = [
        HeadError::Bad(""),
        HeadError::Method,
        HeadError::Timeout,
        HeadError::WebSocketVersion,
        HeadError::TooLarge,
        HeadError::ConnectionLimit,
        HeadError::ShuttingDown,
        HeadError::HttpVersion,
    ];
    let row = |error: HeadError| {
        let counted = Disconnect::from(error).label().to_owned();
        (error.status().to_string(), counted)
    };
    assert_eq!(rows, errors.map(row));
}

#[test]
fn bounds_are_keys_of_the_configuration() {
    let reference = page("docs/configuration.md").text;
    let tables = refusals().tables().into_iter();
    for table in tables.filter(|table| table.columns.iter().any(|column| column == "bound")) {
        for key in table.column("bound").into_iter().flat_map(|cell| &cell.codes) {
            // Of the host.
            if key.ends_with('=') || key.starts_with("net.") {
                continue;
            }
            let key = key.split(' ').next().unwrap().rsplit('.').next().unwrap();
            let row = format!("\n| `{key}` | ");
            assert!(reference.contains(&row), "{}: no key {key}", table.heading);
        }
    }
}
