//! A service of the operator that takes signed requests: an admission hook, or webhooks.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;

pub const SECRET: &str = "wh_sécret";

/// A request that the service received.
#[derive(Clone, Debug)]
pub struct Asked {
    pub signature: String,
    pub body: String,
    pub json: Value,
}

impl Asked {
    /// Checks that it was signed just now with [`SECRET`].
    pub fn check_signature(&self) {
        let Asked { signature, body, .. } = self;
        let (time, mac) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(time.parse::<u64>().unwrap().abs_diff(now_s) < 60, "{signature}");
        let mut expected = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        expected.update(format!("{time}.{body}").as_bytes());
        let expected = expected.finalize().into_bytes();
        let hex: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(mac, hex);
    }
}

/// A service whose answers a function decides; `None` hangs for longer than anybody waits.
pub struct Service {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Service {
    /// Lives until the process ends.
    pub fn start(decide: impl Fn(&Value) -> Option<(u16, Value)> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, decide) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::new(decide));
        let noted = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (noted, decide) = (Arc::clone(&noted), Arc::clone(&decide));
                thread::spawn(move || serve(stream.unwrap(), &noted, &*decide));
            }
        });
        Service { address, asked }
    }

    /// One that nobody runs.
    pub fn gone(address: SocketAddr) -> Self {
        Service { address, asked: Arc::default() }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    noted: &Mutex<Vec<Asked>>,
    decide: &dyn Fn(&Value) -> Option<(u16, Value)>,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut length, mut signature) = (String::new(), 0, String::new());
        reader.read_line(&mut line).ok().filter(|&count| count > 0)?;
        assert_eq!(line, "POST /admit HTTP/1.1\r\n");
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let Some((name, value)) = header.trim().split_once(": ") else { break };
            match &*name.to_ascii_lowercase() {
                "content-length" => length = value.parse().unwrap(),
                "headcount-signature" => value.clone_into(&mut signature),
                "content-type" => assert_eq!(value, "application/json"),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body = String::from_utf8(body).unwrap();
        let json: Value = serde_json::from_str(&body).unwrap();
        noted.lock().unwrap().push(Asked { signature, body, json: json.clone() });
        let Some((status, answer)) = decide(&json) else {
            thread::sleep(Duration::from_secs(3600));
            return None;
        };
        let answer = answer.to_string();
        let length = answer.len();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n");
        reader.get_mut().write_all((head + &answer).as_bytes()).ok()?;
    }
}
