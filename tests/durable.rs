//! Messages on disk: what is acknowledged is there after a crash, numbered as before.
//!
//! `HEADCOUNT_KILLS=200 cargo test --test durable kills -- --nocapture` kills longer.
#![cfg(feature = "server")]

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use headcount::client::prelude::*;
use peers::{Server, WITHIN, collected};
use serde_json::Value;

mod command;
mod peers;
mod served;
mod tempdir;

/// Everything in channels `log:*` is kept.
const ON_DISK: &str = "[[namespace]]\nmatch = \"log:*\"\ndurability = \"disk\"\n\
                       history_messages = 1000000\nhistory_bytes = 1000000000\n";

/// How often the server is killed under load, unless `HEADCOUNT_KILLS` is set.
const KILLS: usize = 20;

fn pages(channel: &Channel) -> Vec<Message> {
    let mut pages = Vec::new();
    let mut query = Some(HistoryQuery::default().limit(500));
    while let Some(next) = query {
        let page = channel.history(next).wait_timeout(WITHIN).expect("a page");
        query = page.next;
        pages.push(page.messages);
    }
    pages.into_iter().rev().flatten().collect()
}

fn serials(messages: &[Message]) -> Vec<u64> {
    messages.iter().filter_map(|message| message.serial).collect()
}

fn next_data(received: &mpsc::Receiver<Delivery>) -> Option<Value> {
    match received.recv_timeout(WITHIN).expect("a delivery") {
        Delivery::Message(message) => Some(message.data),
        _ => None,
    }
}

fn store(arguments: &[&str], data_dir: &Path) -> (bool, String) {
    let mut command = command::headcount(&["store"]);
    let output = command.args(arguments).arg("--data-dir").arg(data_dir).output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// The newest journal, and where its last byte is.
fn journal(server: &Server) -> (PathBuf, usize) {
    let engine = server.data_dir().join("store/engine");
    let files =
        fs::read_dir(engine).expect("the engine").map(|entry| entry.expect("a file").path());
    let journals = files.filter(|path| path.extension().is_some_and(|e| e == "jnl"));
    let path = journals.max_by_key(|path| path.as_os_str().len()).expect("a journal");
    let bytes = fs::read(&path).expect("its bytes");
    (path, bytes.iter().rposition(|byte| *byte != 0).expect("some") + 1)
}

/// Flips a bit in the middle of the journal.
fn damage(server: &Server) {
    let (path, end) = journal(server);
    let mut bytes = fs::read(&path).expect("its bytes");
    bytes[end / 2] ^= 0x10;
    fs::write(path, bytes).expect("they are written");
}

#[test]
fn what_is_acknowledged_survives_kills_under_load() {
    const CLIENTS: usize = 6;
    let kills = std::env::var("HEADCOUNT_KILLS").ok();
    let kills = kills.map_or(KILLS, |text| text.parse().expect("a number"));
    let mut server = Server::start(ON_DISK);
    let clients: Vec<Client> = (0..CLIENTS).map(|n| server.client(&format!("c{n}"))).collect();
    let stop = AtomicBool::new(false);
    // Channel, serial, data of each acknowledgement.
    let acknowledged: Vec<(usize, u64, String)> = thread::scope(|scope| {
        let publishers: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(number, client)| {
                let stop = &stop;
                scope.spawn(move || publish_until(client, number, stop))
            })
            .collect();
        for round in 0..kills {
            thread::sleep(Duration::from_millis(30 + (round as u64 * 37) % 150));
            server.kill();
            server.run();
        }
        thread::sleep(Duration::from_millis(100));
        stop.store(true, Ordering::SeqCst);
        publishers.into_iter().flat_map(|publisher| publisher.join().expect("no panic")).collect()
    });
    eprintln!("{kills} kills, {} publishes acknowledged", acknowledged.len());
    assert!(acknowledged.len() > kills * CLIENTS, "{} acknowledged", acknowledged.len());
    drop(clients);
    server.kill();
    server.run();
    let reader = server.client("reader");
    let mut stored = HashMap::new();
    for channel in 0..CLIENTS / 2 {
        let messages = pages(&reader.channel(format!("log:{channel}")));
        let dense: Vec<u64> = (1..=messages.len() as u64).collect();
        assert_eq!(serials(&messages), dense, "log:{channel}");
        let data: HashSet<String> = messages.iter().map(|m| m.data.to_string()).collect();
        assert_eq!(data.len(), messages.len(), "log:{channel} has something twice");
        let by_serial = messages.into_iter().map(|m| ((channel, m.serial.unwrap()), m.data));
        stored.extend(by_serial);
    }
    for (channel, serial, data) in acknowledged {
        let found = stored.get(&(channel, serial)).map(Value::to_string);
        assert_eq!(found.as_ref(), Some(&data), "serial {serial} of log:{channel}");
    }
    server.kill();
    let (is_ok, said) = store(&["check"], &server.data_dir());
    assert!(is_ok, "{said}");
}

/// Two clients publish to each channel, each with up to 20 publishes that are not acknowledged.
fn publish_until(client: &Client, number: usize, stop: &AtomicBool) -> Vec<(usize, u64, String)> {
    let channel = number / 2;
    let name = format!("log:{channel}");
    let mut acknowledged = Vec::new();
    let mut sent = 0;
    while !stop.load(Ordering::SeqCst) {
        let batch: Vec<(String, Pending<Published>)> = (0..20)
            .map(|_| {
                sent += 1;
                let data = format!("{number}/{sent}");
                let pending = client.channel(&name).publish("n", &data);
                (Value::from(data).to_string(), pending)
            })
            .collect();
        for (data, pending) in batch {
            let published = pending.wait_timeout(WITHIN).expect("an acknowledgement");
            acknowledged.push((channel, published.serial, data));
        }
    }
    acknowledged
}

#[test]
fn history_cursors_and_repetitions_go_on_after_a_restart() {
    let mut server = Server::start(ON_DISK);
    let ann = server.client("ann");
    let channel = ann.channel("log:1");
    // More than a server keeps in memory of a channel on disk when it opens it.
    let padding = "x".repeat(1000);
    for chunk in 0..10 {
        let sent: Vec<_> = (0..100)
            .map(|n| channel.publish("n", &format!("{}{padding}", chunk * 100 + n)))
            .collect();
        sent.into_iter().for_each(|sent| drop(sent.wait_timeout(WITHIN).expect("stored")));
    }
    let publish = |server: &Server, data: &str| {
        let mut command = command::headcount(&["publish", "log:2", data, "--id", "m-1"]);
        command.args(["--client-id", "bob", "--key", peers::KEY, "--http"]);
        let output = command.arg(server.url.trim_start_matches("ws://")).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(publish(&server, "1"), "1");
    for restart in 0..2 {
        if restart > 0 {
            server.kill();
            server.run();
        }
        assert_eq!(publish(&server, "2"), "1", "a repetition");
        let reader = server.client("reader");
        let channel = reader.channel("log:1");
        let messages = pages(&channel);
        assert_eq!(serials(&messages), (1..=1000).collect::<Vec<_>>());
        // From memory, and from disk.
        for from in [990, 3] {
            let (callback, received) = collected();
            let _subscription = channel.subscribe_from(from, callback);
            for n in from..1000 {
                let data = next_data(&received).unwrap_or_else(|| panic!("a gap from {from}"));
                assert_eq!(data, format!("{n}{padding}"), "from {from}");
            }
        }
    }
    let published = channel.publish("n", &"last").wait_timeout(WITHIN).expect("stored");
    assert_eq!(published.serial, 1001);
}

#[test]
fn a_subscriber_at_a_cursor_misses_nothing_while_others_publish() {
    // A slow callback of the client may miss some when more than 1,024 wait.
    const MESSAGES: u64 = 1000;
    let mut server = Server::start(ON_DISK);
    let publish = |server: &Server, from: u64| {
        let client = server.client("ann");
        for first in (from..MESSAGES).step_by(100) {
            let sent: Vec<_> =
                (first..first + 100).map(|n| client.channel("log:1").publish("n", &n)).collect();
            sent.into_iter().for_each(|sent| drop(sent.wait_timeout(WITHIN).expect("stored")));
            if first + 100 == MESSAGES / 2 && from == 0 {
                return;
            }
        }
    };
    publish(&server, 0);
    server.kill();
    server.run();
    thread::scope(|scope| {
        let server = &server;
        let publisher = scope.spawn(move || publish(server, MESSAGES / 2));
        let readers: Vec<_> = (0..10u64)
            .map(|n| {
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(n * 7));
                    let client = server.client(&format!("r{n}"));
                    let (callback, received) = collected();
                    let _subscription =
                        client.channel("log:1").subscribe_from(n * 20 + 1, callback);
                    for expected in n * 20 + 1..MESSAGES {
                        assert_eq!(next_data(&received), Some(expected.into()), "reader {n}");
                    }
                })
            })
            .collect();
        publisher.join().expect("published");
        readers.into_iter().for_each(|reader| reader.join().expect("everything in order"));
    });
}

#[test]
fn delivery_waits_for_the_disk_unless_told_otherwise() {
    for deliver in ["after_durable", "before_durable"] {
        let server = Server::start(&format!("{ON_DISK}deliver = \"{deliver}\"\n"));
        let (ann, bob) = (server.client("ann"), server.client("bob"));
        let (callback, received) = collected();
        let subscription = bob.channel("log:1").subscribe(callback);
        subscription.ready().wait_timeout(WITHIN).expect("subscribed");
        let channel = ann.channel("log:1");
        let sent: Vec<_> = (0..100).map(|n| channel.publish("n", &n)).collect();
        let serials: Vec<u64> =
            sent.into_iter().map(|s| s.wait_timeout(WITHIN).expect("stored").serial).collect();
        assert_eq!(serials, (1..=100).collect::<Vec<_>>());
        for n in 0..100 {
            assert_eq!(next_data(&received), Some(n.into()), "{deliver}");
        }
    }
}

#[test]
fn what_is_no_longer_retained_is_removed_and_serials_go_on() {
    let few = "[[namespace]]\nmatch = \"log:*\"\ndurability = \"disk\"\nhistory_messages = 10\n";
    let mut server = Server::start(few);
    for round in 0..2 {
        let ann = server.client("ann");
        for n in 0..500 {
            ann.channel("log:1").publish("n", &n).wait_timeout(WITHIN).expect("stored");
        }
        let messages = pages(&ann.channel("log:1"));
        let last = (round + 1) * 500 + round;
        assert_eq!(serials(&messages), (last - 9..=last).collect::<Vec<_>>());
        let (callback, received) = collected();
        let gap = ann.channel("log:1").subscribe_from(5, callback);
        gap.ready().wait_timeout(WITHIN).expect("subscribed");
        ann.channel("log:1").publish("n", &-1).wait_timeout(WITHIN).expect("stored");
        assert!(next_data(&received).is_none(), "a cursor that is too old has a gap");
        drop(ann);
        server.kill();
        server.run();
    }
}

#[test]
fn a_torn_tail_is_cut_and_damage_elsewhere_is_refused_and_repaired() {
    let mut server = Server::start(ON_DISK);
    let publish = |server: &Server, channel: &str| {
        let client = server.client("ann");
        let pending = client.channel(channel).publish("n", &"something");
        pending.wait_timeout(WITHIN).expect("stored").serial
    };
    for expected in 1..=50 {
        assert_eq!(publish(&server, "log:1"), expected);
    }
    server.kill();
    let (path, end) = journal(&server);
    File::options().write(true).open(path).unwrap().set_len(end as u64 - 7).unwrap();
    server.try_run().expect("a torn tail is no reason to refuse");
    assert_eq!(publish(&server, "log:1"), 50, "the last record was torn off");
    assert_eq!(publish(&server, "log:2"), 1);
    server.kill();
    damage(&server);
    let refused = server.try_run().expect_err("it is damaged");
    assert!(refused.contains("it is damaged") && refused.contains("store check"), "{refused}");
    let (is_ok, said) = store(&["check"], &server.data_dir());
    assert!(!is_ok && said.contains("damaged"), "{said}");
    let (is_ok, said) = store(&["repair"], &server.data_dir());
    assert!(is_ok, "{said}");
    let (is_ok, said) = store(&["check"], &server.data_dir());
    assert!(is_ok, "{said}");
    server.run();
    assert_eq!(publish(&server, "log:1"), 51, "its end was written after what is lost");
    assert_eq!(publish(&server, "log:2"), 2);
    let client = server.client("reader");
    let kept = serials(&pages(&client.channel("log:1")));
    assert!(kept.len() > 10 && kept.last() == Some(&51), "{kept:?}");
}

#[test]
fn a_lost_log_begins_above_every_earlier_serial() {
    let mut server = Server::start(ON_DISK);
    let publish = |server: &Server| {
        let client = server.client("ann");
        client.channel("log:1").publish("n", &1).wait_timeout(WITHIN).expect("stored").serial
    };
    (1..=5).for_each(|expected| assert_eq!(publish(&server), expected));
    server.kill();
    let (path, _) = journal(&server);
    fs::remove_file(path).unwrap();
    let refused = server.try_run().expect_err("its journal is missing");
    assert!(refused.contains("missing"), "{refused}");
    let (is_ok, said) = store(&["repair"], &server.data_dir());
    assert!(is_ok, "{said}");
    server.run();
    let after_repair = publish(&server);
    assert!(after_repair > 5, "{after_repair}");
    server.kill();
    fs::remove_dir_all(server.data_dir().join("store")).unwrap();
    server.run();
    let after_loss = publish(&server);
    assert!(after_loss > after_repair, "{after_loss} after {after_repair}");
}

#[test]
fn a_server_that_takes_over_goes_on_when_the_other_one_has_ended() {
    let mut server = Server::start(ON_DISK);
    let publish = |server: &Server| {
        // What waits to be accepted by the old one is reset when that is killed.
        let client = Client::connect_lazy(server.config("ann")).expect("a client");
        client.channel("log:1").publish("n", &1).wait_timeout(WITHIN).map(|p| p.serial)
    };
    (1..=5).for_each(|expected| assert_eq!(publish(&server), Ok(expected)));
    let old = server.take_over();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| publish(&server));
        thread::sleep(Duration::from_millis(300));
        drop(old);
        assert_eq!(waiting.join().expect("no panic"), Ok(6));
    });
    assert_eq!(publish(&server), Ok(7));
}

#[test]
fn a_directory_of_another_format_or_in_use_is_refused() {
    let mut server = Server::start(ON_DISK);
    let (is_ok, said) = store(&["check"], &server.data_dir());
    assert!(!is_ok && said.contains("(process ") && said.contains("is using it"), "{said}");
    server.kill();
    fs::write(server.data_dir().join("store/format"), "7 0\n").unwrap();
    let refused = server.try_run().expect_err("another format");
    assert!(refused.contains("format 7") && refused.contains("move it away"), "{refused}");
}

#[test]
fn a_full_disk_refuses_publishes_and_service_resumes() {
    let dir = tempdir::Dir::new();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=96m", "headcount-test"])
        .arg(dir.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: a small file system cannot be mounted here (not root?)");
        return;
    }
    let _unmount = Unmount(dir.path().to_path_buf());
    let server = Server::start_in(dir.path(), ON_DISK);
    let client = server.client("ann");
    let publish = || client.channel("log:1").publish("n", &"x".repeat(1000)).wait_timeout(WITHIN);
    assert_eq!(publish().expect("stored").serial, 1);
    let filler = dir.path().join("filler");
    fs::write(&filler, vec![1; 40 << 20]).unwrap();
    while fs::OpenOptions::new()
        .append(true)
        .open(&filler)
        .is_ok_and(|mut file| std::io::Write::write_all(&mut file, &vec![1; 1 << 20]).is_ok())
    {}
    let refused = publish().expect_err("the disk is full");
    assert!(refused.to_string().contains("disk is full"), "{refused}");
    let memory = client.channel("memory").publish("n", &1).wait_timeout(WITHIN);
    memory.expect("channels in memory go on");
    assert_eq!(serials(&pages(&client.channel("log:1"))), [1], "reads go on");
    fs::remove_file(&filler).unwrap();
    peers::until("publishes are stored again", || publish().is_ok());
    let messages = pages(&client.channel("log:1"));
    assert_eq!(serials(&messages), (1..=messages.len() as u64).collect::<Vec<_>>());
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
