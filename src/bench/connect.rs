//! Sockets from chosen source addresses.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU32, Ordering};

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

/// Source addresses on loopback.
const SOURCES: u32 = 253;
/// Source ports are chosen here: after a hundred thousand short connections the kernel takes
/// milliseconds to find one that is free on an address. They lie below those that it gives out
/// itself, 32,768 and up: a port that was chosen, on whatever address, is not given to anything
/// else until a minute after its connection has ended.
const FIRST_PORT: u16 = 10_001;
const PORTS: u32 = 22_000;
/// Ports that are tried for one connection.
const PORTS_TRIED_MAX: usize = 1_000;

/// Begins to connect and does not wait. To loopback from 127.0.0.2 .. 127.0.0.254 in turn, by the
/// number of the connection: ports of closed connections wait in TIME_WAIT. To any other host the
/// kernel chooses the source.
pub fn connect(address: SocketAddr, number: u32) -> io::Result<TcpStream> {
    let Some(source) = source_of(address, number) else { return connect_from(address, None) };
    let mut tried = 0;
    loop {
        let from = SocketAddrV4::new(source, next_port());
        match connect_from(address, Some(from)) {
            Err(error) if is_taken(&error) && tried < PORTS_TRIED_MAX => tried += 1,
            other => return other,
        }
    }
}

fn source_of(server: SocketAddr, number: u32) -> Option<Ipv4Addr> {
    let is_loopback = matches!(server.ip(), IpAddr::V4(ip) if ip.is_loopback());
    is_loopback.then(|| Ipv4Addr::new(127, 0, 0, 2 + (number % SOURCES) as u8))
}

/// One after the other, whatever the source address: the same pair comes again late.
fn next_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
    // Another run, of another process, begins elsewhere.
    let from = std::process::id().wrapping_mul(257);
    FIRST_PORT + (from.wrapping_add(taken) % PORTS) as u16
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable)
}

fn connect_from(address: SocketAddr, source: Option<SocketAddrV4>) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        // Connections that are over keep their ports for a minute.
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from(source).into())?;
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
    fn loopback_sources_take_turns() {
        let server = "127.0.0.1:7400".parse().unwrap();
        let last_octets =
            [0, 252, 253].map(|number| source_of(server, number).unwrap().octets()[3]);
        assert_eq!(last_octets, [2, 254, 2]);
    }

    #[test]
    fn a_port_that_is_taken_is_passed_over() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, source) = (server.local_addr().unwrap(), Ipv4Addr::new(127, 0, 0, 77));
        let port_of = |stream: &TcpStream| stream.local_addr().unwrap().port();
        let first = connect(address, 75).unwrap();
        // The ports that come next, as long as no other test takes some.
        let others: Vec<_> = (1..200)
            .filter_map(|step| port_of(&first).checked_add(step))
            .filter_map(|port| std::net::TcpListener::bind((source, port)).ok())
            .collect();
        let second = connect(address, 75).unwrap();
        assert!(others.iter().all(|taken| taken.local_addr().unwrap().port() != port_of(&second)));
        assert_ne!(port_of(&first), port_of(&second));
    }

    #[test]
    fn the_kernel_chooses_towards_other_hosts() {
        for server in ["192.0.2.1:7400", "[::1]:7400"] {
            assert_eq!(source_of(server.parse().unwrap(), 1), None);
        }
    }
}
