//! A Redis of one thread per connection that knows SUBSCRIBE, PUBLISH and PING, and is faulty on
//! demand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the server does wrong with the publish of this number, counted over all channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Delivers it to nobody.
    SkipAt(u64),
    RepeatAt(u64),
    /// Answers with an error.
    RefuseAt(u64),
}

/// Lives until the process ends.
pub fn start(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let rooms = Arc::new(Mutex::new(Rooms { fault, published: 0, rooms: BTreeMap::new() }));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, rooms) = (Arc::new(stream.unwrap()), rooms.clone());
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                let mut requests = BufReader::new(&*stream);
                // A connection that broke is one that ended.
                while let Some(words) = request(&mut requests) {
                    rooms.lock().unwrap().carry_out(&stream, &words);
                }
                rooms.lock().unwrap().leave(&stream);
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

/// The words of the next request; `None`: the end.
fn request(from: &mut BufReader<&TcpStream>) -> Option<Vec<String>> {
    let count = number(from, '*')?;
    (0..count)
        .map(|_| {
            let mut word = vec![0; number(from, '$')? + 2];
            from.read_exact(&mut word).ok()?;
            word.truncate(word.len() - 2);
            String::from_utf8(word).ok()
        })
        .collect()
}

fn number(from: &mut BufReader<&TcpStream>, kind: char) -> Option<usize> {
    let mut line = String::new();
    from.read_line(&mut line).ok()?;
    line.trim_end().strip_prefix(kind)?.parse().ok()
}

struct Rooms {
    fault: Fault,
    published: u64,
    rooms: BTreeMap<String, Vec<Arc<TcpStream>>>,
}

impl Rooms {
    /// Every write happens under the lock, so that replies never mix.
    fn carry_out(&mut self, stream: &Arc<TcpStream>, words: &[String]) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let reply = match words[..] {
            ["SUBSCRIBE", channel] => {
                self.rooms.entry(channel.to_owned()).or_default().push(stream.clone());
                format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:1\r\n", channel.len())
            }
            ["PUBLISH", channel, payload] => self.publish(channel, payload),
            ["PING"] => "*2\r\n$4\r\npong\r\n$0\r\n\r\n".to_owned(),
            _ => "-ERR unknown command\r\n".to_owned(),
        };
        // One that left is told by its own thread.
        let _ = (&**stream).write_all(reply.as_bytes());
    }

    fn leave(&mut self, stream: &Arc<TcpStream>) {
        let subscribers = self.rooms.values_mut();
        subscribers.for_each(|all| all.retain(|other| !Arc::ptr_eq(other, stream)));
    }

    fn publish(&mut self, channel: &str, payload: &str) -> String {
        self.published += 1;
        let (channel_bytes, payload_bytes) = (channel.len(), payload.len());
        let message = format!(
            "*3\r\n$7\r\nmessage\r\n${channel_bytes}\r\n{channel}\r\n\
             ${payload_bytes}\r\n{payload}\r\n"
        );
        let times = match self.fault {
            Fault::RefuseAt(at) if at == self.published => return "-ERR no\r\n".to_owned(),
            Fault::SkipAt(at) if at == self.published => 0,
            Fault::RepeatAt(at) if at == self.published => 2,
            _ => 1,
        };
        let subscribers = self.rooms.entry(channel.to_owned()).or_default();
        for subscriber in subscribers.iter() {
            let _ = (&**subscriber).write_all(message.repeat(times).as_bytes());
        }
        format!(":{}\r\n", subscribers.len())
    }
}
