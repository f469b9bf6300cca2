//! A member on the sync wire, in the same channels: its updates, and the sets that it is shown.

use std::collections::BTreeMap;

use headcount::shard::Listener;
use headcount::wire::msgpack;
use headcount::wire::sync::Layout;
use headcount::wire::websocket::{Opcode, close_body};

use super::super::profile::{APPS, token};
use super::super::rng::Rng;
use super::super::wire::{Carrier, Heard, Wire};
use super::super::world::{Ending, World};

#[derive(Debug)]
pub struct SyncMember {
    id: usize,
    pub app: &'static str,
    pub user: String,
    carrier: Carrier,
    conn: Option<(Wire, usize)>,
    states: u64,
    /// Its newest state, by channel.
    pub present: BTreeMap<&'static str, String>,
    /// What it was last shown: user and state of everybody.
    pub sets: BTreeMap<String, Vec<(String, String)>>,
}

impl SyncMember {
    pub fn new(rng: &mut Rng, id: usize) -> Self {
        SyncMember {
            id,
            app: APPS[0],
            user: format!("s{id}"),
            carrier: *rng.pick(&[Carrier::WebSocket, Carrier::Tcp]),
            conn: None,
            states: 0,
            present: BTreeMap::new(),
            sets: BTreeMap::new(),
        }
    }

    pub fn socket(&self) -> Option<usize> {
        self.conn.as_ref().map(|(_, socket)| *socket)
    }

    pub fn act(&mut self, world: &mut World, rng: &mut Rng, channel: &'static str) {
        match rng.below(10) {
            _ if self.conn.is_none() => self.connect(world, rng),
            0..6 => self.update(world, channel),
            6..8 => self.leave(world, channel),
            8 => self.close(world),
            _ => {}
        }
    }

    fn connect(&mut self, world: &mut World, rng: &mut Rng) {
        let listener = match self.carrier {
            Carrier::WebSocket => Listener::Http,
            Carrier::Tcp => Listener::SyncTcp,
        };
        let shard = rng.below(world.count());
        let Some(socket) = world.open(shard, listener) else { return };
        let mut wire = Wire::new(self.carrier, Layout::V0_6);
        let mut bytes = wire.opening("/");
        bytes.extend(wire.handshake(&token(self.app, &self.user, world.now.wall_ms, 1 << 40), ""));
        world.send(socket, &bytes);
        self.conn = Some((wire, socket));
    }

    fn update(&mut self, world: &mut World, channel: &'static str) {
        let Some((wire, socket)) = &mut self.conn else { return };
        self.states += 1;
        let state = format!("{}/s{}/{channel}/{}", self.app, self.id, self.states);
        let mut packed = Vec::new();
        msgpack::write_str(&mut packed, &state);
        world.send(*socket, &wire.update(channel, &packed));
        self.present.insert(channel, state);
    }

    fn leave(&mut self, world: &mut World, channel: &'static str) {
        let Some((wire, socket)) = &mut self.conn else { return };
        if self.present.remove(channel).is_some() {
            world.send(*socket, &wire.leave(channel));
        }
    }

    pub fn close(&mut self, world: &mut World) {
        let Some((mut wire, socket)) = self.conn.take() else { return };
        if self.carrier == Carrier::WebSocket {
            world.send(socket, &wire.websocket(Opcode::Close, &close_body(1000, "bye")));
        }
        world.sockets[socket].ending = Some(Ending::Eof);
        self.present.clear();
        self.sets.clear();
    }

    pub fn read(&mut self, world: &mut World) {
        let Some((wire, socket)) = &mut self.conn else { return };
        let bytes = std::mem::take(&mut world.sockets[*socket].outbound);
        for (_, heard) in wire.read(&bytes) {
            if let Heard::Set { channel, peers } = heard {
                let text = |state: &[u8]| {
                    msgpack::Reader::new(state).str().expect("a state of the simulation").to_owned()
                };
                let set = peers.iter().map(|peer| (peer.user.clone(), text(&peer.state)));
                self.sets.insert(channel, set.collect());
            } else if let Heard::Left { channel, user } = heard {
                let set = self.sets.entry(channel).or_default();
                set.retain(|(present, _)| *present != user);
            } else if let Heard::WebSocketPing(body) = heard {
                world.send(*socket, &wire.websocket(Opcode::Pong, &body));
            }
        }
        if world.sockets[*socket].shut {
            world.sockets[*socket].ending = Some(Ending::Eof);
            self.conn = None;
            self.present.clear();
            self.sets.clear();
        }
    }
}
