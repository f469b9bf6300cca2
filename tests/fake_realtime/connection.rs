//! One connection of the fake server.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use headcount::limits::REQUEST_HEAD_BYTES_MAX;
use headcount::wire::foony::binary::records;
use headcount::wire::foony::{Action, Content, Cursor, Delivery, Event, Member, Request};
use headcount::wire::foony::{Auth, ErrorCode, Publish};
use headcount::wire::http;
use headcount::wire::websocket::{self, Decoder, Incoming, MessageLimits, Role};

use super::{KEY, Log, Peer, World, delivery, send};

const LIMITS: MessageLimits = MessageLimits { message_bytes_max: 1 << 22, fragments_max: 1 };

pub struct Connection {
    id: u64,
    client_id: String,
    stream: TcpStream,
    world: Arc<Mutex<World>>,
    bytes: Vec<u8>,
}

impl Connection {
    pub(super) fn serve(stream: TcpStream, world: Arc<Mutex<World>>) {
        let mut shared = world.lock().unwrap();
        shared.connections += 1;
        let id = shared.connections;
        drop(shared);
        let (bytes, client_id) = (Vec::new(), String::new());
        let mut connection = Connection { id, client_id, stream, world, bytes };
        // A connection that broke is one that ended.
        let _ = connection.run();
        connection.world().peers.remove(&id);
        let _ = connection.stream.shutdown(Shutdown::Both);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn run(&mut self) -> Option<()> {
        self.upgrade()?;
        let mut decoder = Decoder::new(Role::Server);
        loop {
            while self.step(&mut decoder)? {}
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Option<()> {
        let mut buffer = [0; 4096];
        let got = self.stream.read(&mut buffer).ok().filter(|&got| got > 0)?;
        self.bytes.extend_from_slice(&buffer[..got]);
        Some(())
    }

    fn upgrade(&mut self) -> Option<()> {
        loop {
            if let http::Parsed::Upgrade(upgrade) =
                http::parse(&self.bytes, REQUEST_HEAD_BYTES_MAX).ok()?
            {
                let response = http::switching_protocols(&upgrade.key, None);
                let head_bytes = upgrade.head_bytes;
                self.bytes.drain(..head_bytes);
                return self.stream.write_all(&response).ok();
            }
            self.fill()?;
        }
    }

    /// `Some(false)`: no whole frame; `None`: the end.
    fn step(&mut self, decoder: &mut Decoder) -> Option<bool> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let decoded = decoder.decode(&mut bytes, &LIMITS).ok()?;
        match decoded.incoming {
            Some(Incoming::Message { payload, .. }) => {
                for record in records(&payload) {
                    self.take(record.ok()?.request().ok()?)?;
                }
            }
            Some(Incoming::Pong(body)) => {
                let body = String::from_utf8_lossy(body);
                self.world().requests.push(format!("pong {body}"));
            }
            Some(Incoming::Close { .. }) => {
                self.world().requests.push("close".to_owned());
                let mut reply = Vec::new();
                websocket::append_close(&mut reply, 1000, "");
                self.stream.write_all(&reply).ok()?;
                return None;
            }
            _ => {}
        }
        let used = decoded.consumed;
        bytes.drain(..used);
        self.bytes = bytes;
        Some(used > 0)
    }

    fn take(&mut self, request: Request<'_>) -> Option<()> {
        let shared = self.world.clone();
        let mut world = shared.lock().unwrap();
        let short = short(&request);
        let refusal = world.refusals.iter().find(|(start, _)| short.starts_with(*start));
        let refusal = refusal.map(|(_, refusal)| refusal.clone());
        let is_ignored = world.ignored.iter().any(|start| short.starts_with(start));
        let answered = match refusal {
            _ if is_ignored => Some(()),
            Some((code, message)) => {
                self.say(&Event::Error { id: request.id(), code, message: message.into() });
                Some(())
            }
            None => self.answer(&mut world, request),
        };
        // Known to the test once it is answered.
        world.requests.push(short);
        answered
    }

    fn answer(&mut self, world: &mut World, request: Request<'_>) -> Option<()> {
        match request {
            Request::Auth(auth) => return self.greet(world, &auth),
            Request::Ping => self.say(&Event::Pong),
            Request::Publish(publish) => return self.publish(world, &publish),
            Request::Subscribe { id, channel, cursor } => {
                self.subscribe(world, id, &channel, &cursor);
            }
            Request::PresenceSubscribe { id, channel } => {
                let member = Member {
                    action: Action::Enter,
                    timestamp_ms: 7,
                    channel,
                    client_id: "alice".into(),
                    connection_id: "conn-0".into(),
                    data: b"{\"x\":1}",
                    encoding: "".into(),
                };
                self.say(&Event::Member(member));
                self.ack(id, None);
            }
            Request::History { id, channel, limit, before } => {
                self.history(world, id, &channel, (limit, before));
            }
            Request::Fetch { id, channel, from_serial } => {
                let page_max = world.page_max.unwrap_or(usize::MAX);
                let log = world.channels.entry(channel.to_string()).or_default();
                let (messages, resumed) = match log.after(&channel, from_serial) {
                    Some(messages) => (messages.into_iter().take(page_max).collect(), true),
                    None => (Vec::new(), false),
                };
                self.say(&Event::Fetched { id, channel: channel.clone(), messages, resumed });
            }
            _ => {}
        }
        Some(())
    }

    fn greet(&mut self, world: &mut World, auth: &Auth<'_>) -> Option<()> {
        let is_key = auth.key == KEY;
        if !is_key && auth.token != "good" {
            let (code, message) = (ErrorCode::BadAuth, "unknown key or token".into());
            self.say(&Event::Error { id: 0, code, message });
            return None;
        }
        let assigned = format!("client-{}", self.id);
        self.client_id = match (is_key, &*auth.client_id) {
            (true, "") => assigned,
            (true, chosen) => chosen.to_owned(),
            (false, _) => "subject".to_owned(),
        };
        let connection_id = match &*auth.resume_connection_id {
            "" => format!("conn-{}", self.id),
            resumed => resumed.to_owned(),
        };
        let stream = self.stream.try_clone().unwrap();
        world.peers.insert(self.id, Peer { stream, channels: BTreeSet::new() });
        self.say(&Event::Connected {
            connection_id: connection_id.into(),
            keep_alive_ms: world.keep_alive_ms,
            client_id: (&*self.client_id).into(),
        });
        Some(())
    }

    fn publish(&mut self, world: &mut World, publish: &Publish<'_>) -> Option<()> {
        let Content::One(message) = &publish.content else { return None };
        let mut serial = 0;
        if publish.ephemeral {
            world.deliver(&Delivery {
                channel: publish.channel.clone(),
                message_id: publish.message_id.clone(),
                client_id: (&*self.client_id).into(),
                timestamp_ms: 1,
                serial: 0,
                ephemeral: true,
                content: publish.content.clone(),
            });
        } else {
            let (id, channel) = (&publish.message_id, &publish.channel);
            serial = world.publish(&self.client_id, id, channel, &message.name, message.data);
        }
        if let Some(left) = &mut world.cut_after {
            *left -= 1;
            if *left == 0 {
                world.cut_after = None;
                return None;
            }
        }
        self.say(&Event::Ack { id: publish.id, serial, resumed: None });
        Some(())
    }

    fn subscribe(&self, world: &mut World, id: u64, channel: &str, cursor: &Cursor<'_>) {
        let log = world.channels.entry(channel.to_owned()).or_default();
        let resumed = match cursor {
            Cursor::Serial(serial) => match log.after(channel, *serial) {
                Some(missed) => {
                    missed.into_iter().for_each(|one| self.say(&Event::Delivery(one)));
                    Some(true)
                }
                None => Some(false),
            },
            _ => None,
        };
        self.ack(id, resumed);
        world.peers.get_mut(&self.id).unwrap().channels.insert(channel.to_owned());
    }

    fn history(
        &self,
        world: &mut World,
        id: u64,
        channel: &str,
        (limit, before): (u64, Cursor<'_>),
    ) {
        let page_max = world.page_max.unwrap_or(usize::MAX).min(limit as usize);
        let log = world.channels.entry(channel.to_owned()).or_default();
        let end = if let Cursor::Serial(serial) = before { serial } else { u64::MAX };
        let older: Vec<_> = log.kept.iter().filter(|stored| stored.serial < end).collect();
        let from = older.len().saturating_sub(page_max);
        let messages = older[from..].iter().map(|stored| delivery(channel, stored)).collect();
        self.say(&Event::History { id, channel: channel.into(), messages, more: from > 0 });
    }

    fn ack(&self, id: u64, resumed: Option<bool>) {
        self.say(&Event::Ack { id, serial: 0, resumed });
    }

    fn say(&self, event: &Event<'_>) {
        send(&self.stream, event);
    }
}

impl Log {
    /// Everything after a serial, if it is all there.
    fn after<'a>(&'a self, channel: &'a str, serial: u64) -> Option<Vec<Delivery<'a>>> {
        let first = self.kept.first().map_or(self.head + 1, |stored| stored.serial);
        if !(first - 1..=self.head).contains(&serial) {
            return None;
        }
        let later = self.kept.iter().filter(|stored| stored.serial > serial);
        Some(later.map(|stored| delivery(channel, stored)).collect())
    }
}

/// A request in a few words.
fn short(request: &Request<'_>) -> String {
    match request {
        Request::Auth(auth) => {
            let (client, resumed) = (&auth.client_id, &auth.resume_connection_id);
            format!("auth client={client} resume={resumed}")
        }
        Request::Subscribe { channel, cursor: Cursor::Serial(serial), .. } => {
            format!("subscribe {channel} {serial}")
        }
        Request::Subscribe { channel, .. } => format!("subscribe {channel} fresh"),
        Request::Publish(publish) => {
            let Content::One(message) = &publish.content else { return "batch".to_owned() };
            let data = String::from_utf8_lossy(message.data);
            let ephemeral = if publish.ephemeral { " ephemeral" } else { "" };
            format!("publish{ephemeral} {} {} {data}", publish.channel, message.name)
        }
        Request::PresenceSubscribe { channel, .. } => format!("presence {channel}"),
        Request::History { channel, limit, .. } => format!("history {channel} {limit}"),
        Request::Fetch { channel, from_serial, .. } => format!("fetch {channel} {from_serial}"),
        Request::Ping => "ping".to_owned(),
        other => format!("{other:?}"),
    }
}
