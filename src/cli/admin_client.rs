//! Blocking requests to the admin address of a server.

use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;

use serde_json::Value;
use ureq::{Agent, Body, BodyReader, http::Response};

use super::address::Address;
use super::failure::Failure;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Longest silence of a server before its response.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Longest silence of a stream, which has a line at least every 15 s: two of them may be late.
const LINE_WITHIN: Duration = Duration::from_secs(40);

/// Bound the memory that a foreign server can make this process use.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Characters of a refusal that are shown.
const REASON_CHARS_MAX: usize = 200;

/// A client of one server.
#[derive(Debug)]
pub(super) struct AdminClient {
    agent: Agent,
    address: Address,
    authorization: Option<String>,
}

impl AdminClient {
    /// A client of the server at an address. `authorization`: the value of the header.
    pub fn new(address: &Address, authorization: Option<String>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A proxy that the environment names is for the web, not for this host's own server.
            .proxy(None)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_per_write(Some(ANSWER_WITHIN))
            .build();
        AdminClient { agent: config.new_agent(), address: address.clone(), authorization }
    }

    /// The whole response.
    pub fn text(&self, path: &str) -> Result<String, Failure> {
        let mut body = self.get(path, ANSWER_WITHIN)?.into_body();
        let text = body.with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        text.map_err(|error| self.failure(&error))
    }

    /// The response line by line, while it arrives.
    pub fn lines(&self, path: &str) -> Result<Lines, Failure> {
        let body = self.get(path, LINE_WITHIN)?.into_body();
        Ok(Lines { reader: BufReader::new(body.into_reader()), address: self.address.clone() })
    }

    fn get(&self, path: &str, silence_max: Duration) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(format!("http://{}{path}", self.address));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let request = request.config().timeout_per_read(Some(silence_max)).build();
        let mut response = request.call().map_err(|error| self.failure(&error))?;
        if response.status() == 200 {
            return Ok(response);
        }
        let reason = reason(response.body_mut());
        let (address, status) = (&self.address, response.status());
        let advice = match status.as_u16() {
            401 | 403 => {
                "; give a key that allows `admin` with --key, or the admin token with --token"
            }
            404 if reason.contains("presence history") => "",
            _ => "; is this the admin address of a headcount server?",
        };
        Err(Failure::request(
            format_args!("the server at {address} answered {status}"),
            format_args!("{reason}{advice}"),
        ))
    }

    fn failure(&self, error: &ureq::Error) -> Failure {
        let address = &self.address;
        let advice = "start one with `headcount serve` or name its address with --admin";
        let no_server = |why: &str| {
            Failure::request(
                format_args!("no server at {address}"),
                format_args!("{why}: {advice}"),
            )
        };
        match error {
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                no_server("connection refused")
            }
            ureq::Error::HostNotFound => no_server("host not found"),
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                no_server("no connection within 5 s")
            }
            ureq::Error::Timeout(_) => Failure::request(
                format_args!("no answer from {address}"),
                "silent for too long; is this the admin address of a headcount server?",
            ),
            error => Failure::request(format_args!("cannot ask {address}"), error),
        }
    }
}

/// The message of a refusal, or its first line, shortened.
fn reason(body: &mut Body) -> String {
    let text = body.with_config().limit(64 * 1024).lossy_utf8(true).read_to_string();
    let text = text.unwrap_or_default();
    let parsed: Option<Value> = serde_json::from_str(&text).ok();
    let message = parsed.as_ref().and_then(|answer| answer["error"]["message"].as_str());
    let line = message.unwrap_or(&text).lines().next().unwrap_or_default().trim();
    match line {
        "" => "no reason given".to_owned(),
        line => line.chars().take(REASON_CHARS_MAX).collect(),
    }
}

/// A stream of lines that the server does not end while it runs.
pub(super) struct Lines {
    reader: BufReader<BodyReader<'static>>,
    address: Address,
}

impl Lines {
    /// Waits for the next line that is not empty; without its line end.
    ///
    /// # Errors
    /// The stream ended; only this process ends it regularly.
    pub fn next(&mut self) -> Result<String, Failure> {
        loop {
            let line = self.read_line().map_err(|error| {
                let address = &self.address;
                Failure::request(format_args!("lost the server at {address}"), why(&error))
            })?;
            if !line.is_empty() {
                return Ok(line);
            }
        }
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.pop_if(|last| *last == b'\n').is_none() {
            return Err(match line.len() as u64 {
                LINE_BYTES_MAX => io::Error::other("a line of more than 16 MiB"),
                _ => io::ErrorKind::UnexpectedEof.into(),
            });
        }
        line.pop_if(|last| *last == b'\r');
        String::from_utf8(line).map_err(io::Error::other)
    }
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the stream".to_owned(),
        io::ErrorKind::TimedOut => format!("silent for {} s", LINE_WITHIN.as_secs()),
        _ => error.to_string(),
    }
}
