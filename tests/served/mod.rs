//! The real binary as a server that is ready, and ends with its value.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;

#[derive(Debug)]
pub struct Served {
    pub child: Child,
    pub http: SocketAddr,
    pub sync_tcp: SocketAddr,
    pub admin: SocketAddr,
}

impl Served {
    /// Starts it and waits for its ready line.
    ///
    /// # Errors
    /// What it said on standard error, if that is piped, when it ended instead.
    pub fn start(command: &mut Command) -> Result<Served, String> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.find_map(|line| line.ok().filter(|line| line.starts_with("ready ")));
        let Some(ready) = ready else {
            let mut said = String::new();
            child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
            child.wait().unwrap();
            return Err(said);
        };
        thread::spawn(move || lines.for_each(drop));
        let address = |name: &str| {
            let word = ready.split_whitespace().find_map(|word| word.strip_prefix(name));
            word.unwrap_or_else(|| panic!("no {name} in {ready:?}")).parse().unwrap()
        };
        let (http, sync_tcp, admin) = (address("http="), address("sync_tcp="), address("admin="));
        Ok(Served { child, http, sync_tcp, admin })
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.kill();
    }
}
