//! A server for the Rust client, and what tests of it wait for.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use headcount::client::prelude::*;

use crate::command::headcount;
use crate::served::Served;
use crate::tempdir::Dir;

pub const KEY: &str = "demo.main:sk_main";

/// How long a test waits for something that is expected.
pub const WITHIN: Duration = Duration::from_secs(20);

/// A server on ports that stay the same when it is started again.
pub struct Server {
    served: Option<Served>,
    config: PathBuf,
    pub url: String,
    data: PathBuf,
    _dir: Dir,
}

impl Server {
    pub fn start(more: &str) -> Server {
        let dir = Dir::new();
        Server::start_with(dir.path().join("data"), dir, more)
    }

    /// With its data in an existing folder.
    pub fn start_in(folder: &Path, more: &str) -> Server {
        Server::start_with(folder.join("data"), Dir::new(), more)
    }

    fn start_with(data: PathBuf, dir: Dir, more: &str) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = format!(
            "[cores]\nshards = 2\n[listen]\nhttp = \"127.0.0.1:{port}\"\n\
             sync_tcp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[data]\ndir = {:?}\n\
             [[auth.key]]\nname = \"demo.main\"\nsecret = \"sk_main\"\n\
             [[auth.key]]\nname = \"demo.chat\"\nsecret = \"sk_chat\"\n\
             capability = {{ \"chat:*\" = [\"publish\"] }}\n{more}",
            data,
        );
        let config = dir.path().join("headcount.toml");
        fs::write(&config, text).unwrap();
        let url = format!("ws://127.0.0.1:{port}");
        let mut server = Server { served: None, config, url, data, _dir: dir };
        server.run();
        server
    }

    pub fn run(&mut self) {
        let mut command = headcount(&["serve", "--quiet", "--config"]);
        let command = command.arg(&self.config).stderr(Stdio::inherit());
        self.served = Some(Served::start(command).unwrap());
    }

    /// Where the server keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.data.clone()
    }

    /// Starts it again; what it says when it refuses.
    pub fn try_run(&mut self) -> Result<(), String> {
        let mut command = headcount(&["serve", "--quiet", "--config"]);
        let command = command.arg(&self.config).stderr(Stdio::piped());
        self.served = Some(Served::start(command)?);
        Ok(())
    }

    /// Starts another one that shares the ports; returns the one before, which runs on.
    pub fn take_over(&mut self) -> Served {
        let mut command = headcount(&["serve", "--quiet", "--takeover", "--config"]);
        let new = Served::start(command.arg(&self.config).stderr(Stdio::inherit())).unwrap();
        self.served.replace(new).unwrap()
    }

    pub fn sync_tcp(&self) -> SocketAddr {
        self.served.as_ref().unwrap().sync_tcp
    }

    pub fn admin(&self) -> SocketAddr {
        self.served.as_ref().unwrap().admin
    }

    pub fn kill(&mut self) {
        self.served = None;
    }

    pub fn config(&self, client_id: &str) -> ClientConfig {
        let backoff = Backoff { first: Duration::from_millis(10), max: Duration::from_millis(200) };
        ClientConfig::new(&self.url).key(KEY).client_id(client_id).backoff(backoff)
    }

    pub fn client(&self, client_id: &str) -> Client {
        Client::connect(self.config(client_id)).unwrap()
    }

    pub fn joined(&self, client_id: &str, channel: &str) -> Client {
        Client::connect(self.config(client_id).join(channel)).unwrap()
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What a callback was called with.
pub fn collected<T: Clone + Send + 'static>()
-> (impl Fn(&T) + Send + Sync + 'static, mpsc::Receiver<T>) {
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    (move |value: &T| drop(sender.lock().unwrap().send(value.clone())), receiver)
}

pub fn names(client: &Client) -> Vec<String> {
    let graph = client.presence().graph();
    let mut names: Vec<String> =
        graph.remote_peers.iter().filter_map(|peer| peer.client_id().map(str::to_owned)).collect();
    names.sort();
    names
}
