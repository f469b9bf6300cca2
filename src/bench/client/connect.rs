//! Sockets from chosen source addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections per source address. Linux has 28,232 ephemeral ports per address and peer by
/// default; searching for the last free ones takes long.
const CONNECTIONS_PER_SOURCE: usize = 10_000;

/// Source addresses in turn.
#[derive(Clone, Debug)]
pub struct Sources {
    addresses: Vec<Ipv4Addr>,
    next: usize,
}

impl Sources {
    /// Enough of 127.0.0.2 .. 127.0.0.254 for `connections` that stay open. To any other host the
    /// kernel chooses the source.
    pub fn for_connections(server: SocketAddr, connections: usize) -> Self {
        Self::several(server, connections.div_ceil(CONNECTIONS_PER_SOURCE))
    }

    /// As [`Sources::for_connections`]; without an address there are none.
    pub fn for_members(server: Option<SocketAddr>, connections: usize) -> Self {
        let none = Sources { addresses: Vec::new(), next: 0 };
        server.map_or(none, |server| Self::for_connections(server, connections))
    }

    /// As many as there are: for connections that come and go, whose ports wait in TIME_WAIT.
    pub fn for_churn(server: SocketAddr) -> Self {
        Self::several(server, usize::MAX)
    }

    fn several(server: SocketAddr, count: usize) -> Self {
        let local = matches!(server.ip(), IpAddr::V4(ip) if ip.is_loopback());
        let last_octets = 2..=254_u8;
        let addresses = last_octets.map(|octet| Ipv4Addr::new(127, 0, 0, octet));
        Sources { addresses: addresses.take(if local { count } else { 0 }).collect(), next: 0 }
    }
}

impl Iterator for Sources {
    type Item = Option<Ipv4Addr>;

    /// `None` inside: the kernel chooses.
    fn next(&mut self) -> Option<Self::Item> {
        self.next = self.next.wrapping_add(1);
        let count = self.addresses.len().max(1);
        Some(self.addresses.get(self.next % count).copied())
    }
}

/// Begins to connect and does not wait.
///
/// # Errors
/// Those of the system: no descriptors, no free port, nobody listening.
pub fn connect(address: SocketAddr, source: Option<Ipv4Addr>) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_sources_take_turns_and_suffice() {
        let server = "127.0.0.1:7400".parse().unwrap();
        let two: Vec<_> = Sources::for_connections(server, 10_001).take(4).flatten().collect();
        let [a, b] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];
        assert_eq!(two, [b, a, b, a]);
        assert_eq!(Sources::for_churn(server).addresses.len(), 253);
    }

    #[test]
    fn the_kernel_chooses_towards_other_hosts() {
        for server in ["192.0.2.1:7400", "[::1]:7400"] {
            let mut sources = Sources::for_churn(server.parse().unwrap());
            assert_eq!(sources.next(), Some(None));
        }
    }
}
