//! Listening sockets: one per shard and address, so that the kernel distributes new connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::shard::Listener;

/// Accept queue of one listener, connections; `net.core.somaxconn` is an upper bound.
const BACKLOG: i32 = 65_535;

/// TCP keep-alive: idle time before the first probe.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 4;

/// Whether the address may be shared with another process that listens on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// An address in use is an error.
    Refused,
    /// The other process is about to drain.
    Allowed,
}

/// When connections are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    AtOnce,
    /// When data has arrived, or after a second without (`TCP_DEFER_ACCEPT`). Silent connections
    /// use no descriptor until then, and the others cost one wake-up less.
    WithData,
}

/// Seconds after which a silent connection is accepted. Linux rounds it to retransmissions of the
/// SYN-ACK: this is the first.
const SILENT_S: libc::c_int = 1;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {reason}")]
pub struct ListenError {
    address: SocketAddr,
    reason: String,
}

impl ListenError {
    fn new(address: SocketAddr, error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "the port is taken: stop what uses it, choose another port \
                 in [listen], or pass --takeover to share it with a server that is about to drain"
                    .to_string()
            }
            io::ErrorKind::AddrNotAvailable => {
                "no interface of this host has the address: correct it in [listen]".to_string()
            }
            io::ErrorKind::PermissionDenied => {
                "permission denied: use a port above 1023 in [listen]".to_string()
            }
            _ => error.to_string(),
        };
        ListenError { address, reason }
    }
}

/// The listening sockets of one shard.
#[derive(Debug, Default)]
pub struct ShardListeners {
    http: Option<OwnedFd>,
    sync_tcp: Option<OwnedFd>,
}

impl ShardListeners {
    /// Clears `TCP_QUICKACK`: the first reply piggybacks the ACK of a client's first bytes, which
    /// saves a segment per connection. Without a reply, `turn/receive.rs` has the ACK sent at once.
    /// Accepted sockets inherit the option, which `listen` resets: so it is set here.
    pub fn new(http: OwnedFd, sync_tcp: OwnedFd) -> Self {
        for listener in [&http, &sync_tcp] {
            // Without it each connection costs one more segment.
            let _ = SockRef::from(listener).set_tcp_quickack(false);
        }
        ShardListeners { http: Some(http), sync_tcp: Some(sync_tcp) }
    }

    /// The descriptor of a listener; `None` when it is closed.
    pub fn fd(&self, listener: Listener) -> Option<RawFd> {
        let fd = match listener {
            Listener::Http => &self.http,
            Listener::SyncTcp => &self.sync_tcp,
        };
        fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Whether the listeners are closed.
    pub fn are_closed(&self) -> bool {
        self.http.is_none() && self.sync_tcp.is_none()
    }

    /// Closes the listeners, and returns the connections of their accept queues, which would be
    /// reset. The ring's accept entries complete when their sockets are shut down.
    pub fn close(&mut self) -> Vec<(Listener, OwnedFd)> {
        let mut accepted = Vec::new();
        for (listener, fd) in
            [(Listener::Http, self.http.take()), (Listener::SyncTcp, self.sync_tcp.take())]
        {
            let Some(socket) = fd.map(Socket::from) else { continue };
            accepted.extend(accept_queue(&socket).into_iter().map(|fd| (listener, fd)));
            // Fails only for sockets that do not listen.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        accepted
    }
}

/// Takes the connections of an accept queue, at most its capacity.
fn accept_queue(listener: &Socket) -> Vec<OwnedFd> {
    if listener.set_nonblocking(true).is_err() {
        return Vec::new();
    }
    let accepted = (0..BACKLOG).map_while(|_| listener.accept().ok());
    accepted.map(|(socket, _)| OwnedFd::from(socket)).collect()
}

/// The sockets that this process has bound to an address which another process may bind as well.
#[derive(Debug)]
pub struct SharedAddress {
    socket: OwnedFd,
    count: u32,
}

impl SharedAddress {
    /// `sockets`: all that this process has bound to the address.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(sockets: &[OwnedFd]) -> io::Result<Option<Self>> {
        let Some(first) = sockets.first() else { return Ok(None) };
        Ok(Some(SharedAddress { socket: first.try_clone()?, count: sockets.len() as u32 }))
    }

    /// Directs new connections to the process that took the address over, if any: those that the
    /// kernel queues here would be reset when the socket is closed. The program returns an index
    /// into the sockets of the address, which the kernel numbers in the order of `bind`; with an
    /// index out of range it distributes connections as before.
    pub fn leave_to_next(&self) {
        let return_index = (libc::BPF_RET | libc::BPF_K) as u16;
        let mut filter = [libc::sock_filter { code: return_index, jt: 0, jf: 0, k: self.count }];
        let program = libc::sock_fprog { len: 1, filter: filter.as_mut_ptr() };
        let bytes = size_of::<libc::sock_fprog>() as libc::socklen_t;
        let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF);
        let value = (&raw const program).cast();
        // Without it some clients have to connect again.
        // SAFETY: the kernel copies a program of `bytes` bytes and the one instruction that it
        // points to, which both live longer than the call.
        unsafe { libc::setsockopt(self.socket.as_raw_fd(), level, name, value, bytes) };
    }
}

/// Binds `count` sockets to one address; the first one resolves port 0. Returns the address.
///
/// # Errors
/// The address and what to do about it.
pub fn bind(
    address: SocketAddr,
    count: usize,
    takeover: Takeover,
    accept: Accept,
) -> Result<(SocketAddr, Vec<OwnedFd>), ListenError> {
    if takeover == Takeover::Refused && address.port() != 0 {
        check_free(address).map_err(|error| ListenError::new(address, &error))?;
    }
    let mut bound = address;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = listen(bound, accept).map_err(|error| ListenError::new(address, &error))?;
        bound = local_address(&socket).map_err(|error| ListenError::new(address, &error))?;
        sockets.push(OwnedFd::from(socket));
    }
    Ok((bound, sockets))
}

/// How long binding a port in use is retried: the kernel closes the listeners of a process some
/// milliseconds after its exit.
const FREE_WITHIN: Duration = Duration::from_secs(1);
const FREE_EVERY: Duration = Duration::from_millis(20);

/// Binds without SO_REUSEPORT first, which fails when another server uses the port.
fn check_free(address: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + FREE_WITHIN;
    loop {
        match TcpListener::bind(address).map(drop) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(FREE_EVERY);
            }
            result => return result,
        }
    }
}

fn listen(address: SocketAddr, accept: Accept) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit these from the listener.
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.bind(&address.into())?;
    if accept == Accept::WithData {
        defer_accept(&socket)?;
    }
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn defer_accept(socket: &Socket) -> io::Result<()> {
    let (seconds, bytes) = (SILENT_S, size_of::<libc::c_int>() as libc::socklen_t);
    let (level, name) = (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT);
    let value = (&raw const seconds).cast();
    // SAFETY: the kernel reads an integer of `bytes` bytes, which lives longer than the call.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, bytes) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}
