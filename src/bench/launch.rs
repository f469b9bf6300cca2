//! A server of our own: this program again, as `serve`, on ports that it chooses.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::{NamedTempFile, TempDir};
use toml::{Table, Value};

use super::error::BenchError;
use super::options::Addresses;
use crate::config::dev_key;
use crate::policy::Durability;

const READY_WITHIN: Duration = Duration::from_secs(10);
const EXIT_WITHIN: Duration = Duration::from_secs(10);
/// The most that a configuration permits: a benchmark measures the server, not its limits.
const UPDATES_PER_SECOND_MAX: i64 = 10_000_000;

/// A server that ends with this value.
pub struct Launched {
    pub child: Child,
    /// Its configuration, with its key, and its data: removed after it has ended.
    _config: NamedTempFile,
    _data: Option<TempDir>,
    pub addresses: Addresses,
    /// What it was configured with, in TOML, without its keys.
    pub shown_config: String,
}

/// An API key, `app.keyId:secret`, made for this run.
pub fn fresh_key() -> Result<String, BenchError> {
    let key = dev_key::generate().map_err(|error| BenchError::Launch(error.to_string()))?;
    Ok(key.text)
}

/// How a server is started.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// A configuration to start from.
    pub config: Option<&'a Path>,
    /// One shard on each, or as configured when empty.
    pub cpus: &'a [usize],
    /// An API key for everything.
    pub key: &'a str,
    /// Where messages of all channels are stored; as configured without it.
    pub durability: Option<Durability>,
}

impl Launched {
    /// Starts `binary serve` and waits until it is ready.
    pub fn start(binary: &Path, launch: Launch<'_>) -> Result<Launched, BenchError> {
        let config = launch.config;
        let base = config.map(read_config).transpose()?.unwrap_or_default();
        let text = adapt(base, launch).map_err(BenchError::Launch)?;
        let data = match launch.durability {
            Some(Durability::Disk) => Some(
                tempfile::Builder::new()
                    .prefix(".headcount-bench-data-")
                    .tempdir_in(".")
                    .map_err(|error| BenchError::file(Path::new("."), error))?,
            ),
            _ => None,
        };
        // Beside the one to start from: its paths are relative to its folder.
        let folder = config.and_then(Path::parent).map_or_else(std::env::temp_dir, Path::to_owned);
        let failed = |why: String| BenchError::Launch(format!("{}: {why}", binary.display()));
        let mut builder = tempfile::Builder::new();
        let file = builder.prefix(".headcount-bench-").suffix(".toml").tempfile_in(&folder);
        let file = file.and_then(|mut file| file.write_all(text.as_bytes()).map(|()| file));
        let file = file.map_err(|error| BenchError::file(&folder, error))?;
        let data_dir = data.as_ref().map_or(Path::new(""), TempDir::path);
        let child =
            spawn(binary, file.path(), data_dir).map_err(|error| failed(error.to_string()))?;
        let mut launched = Launched {
            child,
            _config: file,
            _data: data,
            addresses: Addresses::default(),
            shown_config: without_keys(&text),
        };
        launched.addresses = await_ready(&mut launched.child).map_err(failed)?;
        Ok(launched)
    }
}

/// Asks it to end; one that does not is killed.
impl Drop for Launched {
    fn drop(&mut self) {
        let asked = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + EXIT_WITHIN;
        while asked.is_ok() && Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_config(path: &Path) -> Result<Table, BenchError> {
    let text = fs::read_to_string(path).map_err(|error| BenchError::file(path, error))?;
    text.parse().map_err(|error| BenchError::file(path, error))
}

/// The configuration with what a benchmark needs, unless it sets it.
fn adapt(mut config: Table, launch: Launch<'_>) -> Result<String, String> {
    let Launch { cpus, key, durability, .. } = launch;
    let (name, secret) = key.split_once(':').ok_or("a key without a secret")?;
    if !cpus.is_empty() {
        let pins: Vec<Value> = cpus.iter().map(|&cpu| Value::from(cpu as i64)).collect();
        let cores = section(&mut config, "cores")?;
        cores.insert("shards".to_owned(), Value::from(pins.len() as i64));
        cores.insert("pin".to_owned(), pins.into());
    }
    // The load generator connects to the server itself.
    section(&mut config, "listen")?.remove("proxy_protocol");
    if let Some(durability) = durability {
        let durability = Value::try_from(durability).map_err(|error| error.to_string())?;
        let all = [("match", Value::from("*")), ("durability", durability)];
        let all = all.map(|(field, value)| (field.to_owned(), value));
        let namespaces = vec![Value::Table(all.into_iter().collect())];
        config.insert("namespace".to_owned(), Value::Array(namespaces));
    }
    let limits = section(&mut config, "limits")?;
    limits.entry("updates_per_second_max").or_insert(UPDATES_PER_SECOND_MAX.into());
    let auth = section(&mut config, "auth")?;
    auth.entry("anonymous").or_insert(true.into());
    let keys = auth.entry("key").or_insert(Value::Array(Vec::new()));
    let keys = keys.as_array_mut().ok_or("`auth.key` is not an array")?;
    let entry =
        [("name", name), ("secret", secret)].map(|(field, text)| (field.into(), text.into()));
    keys.push(Value::Table(entry.into_iter().collect()));
    Ok(config.to_string())
}

fn without_keys(config: &str) -> String {
    let mut shown: Table = config.parse().unwrap_or_default();
    if let Some(Value::Table(auth)) = shown.get_mut("auth") {
        auth.remove("key");
    }
    shown.to_string()
}

fn section<'t>(config: &'t mut Table, name: &str) -> Result<&'t mut Table, String> {
    let section = config.entry(name).or_insert_with(|| Value::Table(Table::new()));
    section.as_table_mut().ok_or_else(|| format!("`{name}` is not a table"))
}

fn spawn(binary: &Path, config: &Path, data_dir: &Path) -> io::Result<Child> {
    let any_port = "127.0.0.1:0";
    Command::new(binary)
        .args(["serve", "--http", any_port, "--sync-tcp", any_port, "--admin", any_port])
        .arg("--data-dir")
        .arg(data_dir)
        .args(["--quiet", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
}

/// Reads standard output up to the ready line, and ever after so that the pipe never fills.
fn await_ready(child: &mut Child) -> Result<Addresses, String> {
    let output = child.stdout.take().ok_or("its output is not piped")?;
    let (sender, ready) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Nothing receives after the ready line.
            parse_ready(&line).map(|addresses| sender.send(addresses));
        }
    });
    ready.recv_timeout(READY_WITHIN).map_err(|error| match error {
        RecvTimeoutError::Timeout => format!("no ready line within {} s", READY_WITHIN.as_secs()),
        RecvTimeoutError::Disconnected => {
            "it ended before it was ready; its message is above".to_owned()
        }
    })
}

/// `None`: another line.
fn parse_ready(line: &str) -> Option<Addresses> {
    let words = line.strip_prefix("ready ")?;
    let address = |name: &str| {
        words.split_whitespace().find_map(|word| word.strip_prefix(name)?.parse().ok())
    };
    Some(Addresses { http: address("http="), sync_tcp: address("sync_tcp=") })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const KEY: &str = "bench.kid_bench:sk_secret";

    fn launch(cpus: &[usize]) -> Launch<'_> {
        Launch { config: None, cpus, key: KEY, durability: None }
    }

    #[test]
    fn the_ready_line_gives_addresses() {
        let line = "ready http=127.0.0.1:1 sync_tcp=127.0.0.1:2 admin=127.0.0.1:3";
        let addresses = parse_ready(line).unwrap();
        assert_eq!(addresses.http.unwrap().port(), 1);
        assert_eq!(addresses.sync_tcp.unwrap().port(), 2);
        assert_eq!(parse_ready("listening"), None);
    }

    #[test]
    fn a_configuration_keeps_what_it_says() {
        let base = "[cores]\nspin_us = 5\n[limits]\nupdates_per_second_max = 7\n";
        let adapted: Table =
            adapt(base.parse().unwrap(), launch(&[0, 2])).unwrap().parse().unwrap();
        assert_eq!(adapted["cores"]["spin_us"].as_integer(), Some(5));
        assert_eq!(adapted["cores"]["shards"].as_integer(), Some(2));
        assert_eq!(adapted["limits"]["updates_per_second_max"].as_integer(), Some(7));
        assert_eq!(adapted["auth"]["anonymous"].as_bool(), Some(true));
        assert_eq!(adapted["auth"]["key"][0]["name"].as_str(), Some("bench.kid_bench"));
        let shown = without_keys(&adapted.to_string());
        assert!(shown.contains("spin_us = 5") && !shown.contains("sk_secret"), "{shown}");
        let proxied = "[listen]\nproxy_protocol = [\"http\"]\ndefer_accept = true\n";
        let adapted: Table = adapt(proxied.parse().unwrap(), launch(&[])).unwrap().parse().unwrap();
        assert_eq!(adapted["listen"].to_string(), "{ defer_accept = true }");
        for broken in ["cores = 1", "listen = 1", "auth = { key = 1 }"] {
            assert!(adapt(broken.parse().unwrap(), launch(&[0])).is_err(), "{broken}");
        }
        assert!(adapt(Table::new(), Launch { key: "no secret", ..launch(&[0]) }).is_err());
    }

    /// A script in place of a server. Another process writes it: were it open here, it would be
    /// open in every child that other tests fork meanwhile, and a file cannot be run that a process
    /// has open to write to.
    fn script(name: &str, body: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("{name}-{}.sh", std::process::id()));
        let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#;
        let written = Command::new("sh").args(["-c", write]).arg(&path).arg(body).status();
        assert!(written.unwrap().success());
        path
    }

    #[test]
    fn a_server_is_started_with_its_configuration_and_asked_to_end() {
        let base = std::env::temp_dir().join(format!("headcount-end-{}", std::process::id()));
        let ended = base.display();
        let server = script(
            "headcount-good",
            &format!(
                "trap 'echo ended > {ended}; exit 0' TERM\n\
                 echo ready http=127.0.0.1:1 sync_tcp=127.0.0.1:2 admin=127.0.0.1:3\n\
                 for last; do :; done; cp \"$last\" {ended}.toml\n\
                 while :; do sleep 0.05; done"
            ),
        );
        let launched = Launched::start(&server, launch(&[0])).unwrap();
        let copy = base.with_extension("toml");
        let deadline = Instant::now() + Duration::from_secs(5);
        while !copy.exists() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let config = launched._config.path().to_owned();
        drop(launched);
        assert!(!config.exists());
        assert_eq!(fs::read_to_string(&base).unwrap(), "ended\n");
        assert!(fs::read_to_string(&copy).unwrap().contains("anonymous = true"));
        [server, base, copy].iter().for_each(|path| fs::remove_file(path).unwrap());
    }

    #[test]
    fn a_server_that_ends_at_once_is_an_error() {
        let server = script("headcount-bad", "exit 78");
        let error = Launched::start(&server, launch(&[])).map(|_| ()).unwrap_err();
        fs::remove_file(&server).unwrap();
        assert!(error.to_string().contains("ended before it was ready"), "{error}");
    }

    #[test]
    fn what_is_adapted_is_a_valid_configuration() {
        let key = fresh_key().unwrap();
        let text = adapt(Table::new(), Launch { key: &key, ..launch(&[0]) }).unwrap();
        crate::config::Config::from_toml(&text, Path::new("bench.toml")).unwrap();
    }
}
