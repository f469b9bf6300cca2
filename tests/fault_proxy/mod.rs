//! A TCP proxy of one client that cuts connections, stalls them and delays new ones.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

/// Small, so that a cut between two reads is within a message.
const READ_BYTES: usize = 512;

/// One way through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// What becomes of new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// They are accepted, and nothing is forwarded before the gate opens.
    Holds,
    /// They are accepted and closed.
    Refuses,
}

/// Forwards connections to a server. Ends them with its value.
pub struct Proxy {
    pub url: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    server: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    gate: Gate,
    /// What happens to the next connection.
    next: Faults,
    links: Vec<Arc<Link>>,
    is_over: bool,
}

/// One connection: both sockets, and what is done to it.
struct Link {
    client: TcpStream,
    server: TcpStream,
    faults: Mutex<Faults>,
    changed: Condvar,
}

#[derive(Default)]
struct Faults {
    is_stalled: bool,
    is_cut: bool,
    /// Bytes of one way until the cut.
    cut_after: Option<(Way, usize)>,
    /// Bytes of one way until that way is stalled.
    stall_after: Option<(Way, usize)>,
}

impl Proxy {
    pub fn start(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state =
            State { gate: Gate::Open, next: Faults::default(), links: Vec::new(), is_over: false };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let shared = Arc::new(Shared { server, state, changed });
        let accepting = Arc::clone(&shared);
        let acceptor = Some(thread::spawn(move || accepting.accept(&listener)));
        Proxy { url: format!("ws://{address}"), address, shared, acceptor }
    }

    /// Cuts all connections at once.
    pub fn cut(&self) {
        self.each_link(Link::cut);
    }

    /// Cuts all connections after so many more bytes of one way.
    pub fn cut_after(&self, way: Way, bytes: usize) {
        self.each_link(|link| link.change(|faults| faults.cut_after = Some((way, bytes))));
    }

    /// Cuts the next connection after its first bytes of one way.
    pub fn cut_next_after(&self, way: Way, bytes: usize) {
        self.shared.lock().next = Faults { cut_after: Some((way, bytes)), ..Faults::default() };
    }

    /// Stalls the next connection, one way of it, after its first bytes.
    pub fn stall_next_after(&self, way: Way, bytes: usize) {
        self.shared.lock().next = Faults { stall_after: Some((way, bytes)), ..Faults::default() };
    }

    /// Forwards nothing of the present connections, in both ways; new ones are not affected.
    pub fn stall(&self) {
        self.each_link(|link| link.change(|faults| faults.is_stalled = true));
    }

    /// Forwards what was held back, and goes on.
    pub fn go_on(&self) {
        self.each_link(|link| {
            link.change(|faults| (faults.is_stalled, faults.stall_after) = (false, None));
        });
    }

    pub fn set_gate(&self, gate: Gate) {
        self.shared.lock().gate = gate;
        self.shared.changed.notify_all();
    }

    /// How many connections were forwarded so far.
    pub fn links(&self) -> usize {
        self.shared.lock().links.len()
    }

    fn each_link(&self, change: impl Fn(&Link)) {
        self.shared.lock().links.iter().for_each(|link| change(link));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
        self.cut();
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panicked")
    }

    fn accept(&self, listener: &TcpListener) {
        let mut pumps = Vec::new();
        for client in listener.incoming() {
            let mut state = self.lock();
            while state.gate == Gate::Holds && !state.is_over {
                state = self.changed.wait(state).expect("no thread panicked");
            }
            if state.is_over {
                break;
            }
            let Ok(client) = client else { continue };
            if state.gate == Gate::Refuses {
                continue;
            }
            // A server that is being started again refuses.
            let Ok(server) = TcpStream::connect(self.server) else { continue };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let faults = Mutex::new(std::mem::take(&mut state.next));
            let link = Arc::new(Link { client, server, faults, changed: Condvar::new() });
            state.links.push(Arc::clone(&link));
            drop(state);
            for way in [Way::ToServer, Way::ToClient] {
                let link = Arc::clone(&link);
                pumps.push(thread::spawn(move || link.pump(way)));
            }
        }
        self.lock().links.iter().for_each(|link| link.cut());
        pumps.into_iter().for_each(|pump| pump.join().expect("no pump panicked"));
    }
}

impl Link {
    fn pump(&self, way: Way) {
        let (mut from, mut to) = match way {
            Way::ToServer => (&self.client, &self.server),
            Way::ToClient => (&self.server, &self.client),
        };
        let mut bytes = [0; READ_BYTES];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            let mut passed = 0;
            while passed < read {
                let Some(next) = self.pass(way, read - passed) else { return self.cut() };
                if to.write_all(&bytes[passed..passed + next]).is_err() {
                    return;
                }
                passed += next;
            }
        }
        // The end comes after what was held back.
        self.pass(way, 0);
        let _ = to.shutdown(Shutdown::Write);
    }

    /// Waits until bytes may be forwarded; returns how many of them, or none when the connection is
    /// to be cut.
    fn pass(&self, way: Way, bytes: usize) -> Option<usize> {
        let mut faults = self.faults.lock().expect("no thread panicked");
        while faults.is_stalled(way) && !faults.is_cut {
            faults = self.changed.wait(faults).expect("no thread panicked");
        }
        let Faults { cut_after, stall_after, is_cut, .. } = &mut *faults;
        let limits = [cut_after, stall_after].into_iter().flatten();
        let mut limits: Vec<_> = limits.filter(|limit| limit.0 == way).collect();
        let passed = limits.iter().map(|limit| limit.1).fold(bytes, usize::min);
        limits.iter_mut().for_each(|limit| limit.1 -= passed);
        (!*is_cut && (passed > 0 || bytes == 0)).then_some(passed)
    }

    fn cut(&self) {
        self.change(|faults| faults.is_cut = true);
        let _ = (self.client.shutdown(Shutdown::Both), self.server.shutdown(Shutdown::Both));
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.lock().expect("no thread panicked"));
        self.changed.notify_all();
    }
}

impl Faults {
    fn is_stalled(&self, way: Way) -> bool {
        self.is_stalled || self.stall_after == Some((way, 0))
    }
}
