//! Load balancers: which listeners expect a PROXY header, and which addresses may send one.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use socket2::SockRef;

use crate::config::Listen;
use crate::ids::Listener;

/// Addresses that may connect to listeners behind a load balancer.
#[derive(Debug, Default)]
pub struct Proxies {
    listeners: Vec<Listener>,
    trusted: Vec<IpNet>,
}

impl Proxies {
    /// The rules of a configuration.
    pub fn new(listen: &Listen) -> Self {
        let (listeners, trusted) = (listen.proxy_protocol.clone(), listen.proxy_trusted.clone());
        Proxies { listeners, trusted }
    }

    /// Whether connections may come through a load balancer.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Whether an accepted connection may be served. One whose address cannot be read, as after a
    /// reset, may not: the data that it sent before could still be read.
    pub fn admit(&self, listener: Listener, socket: &OwnedFd) -> bool {
        if !self.listeners.contains(&listener) {
            return true;
        }
        let address = SockRef::from(socket).peer_addr();
        let peer = address.ok().and_then(|address| address.as_socket());
        let is_trusted = peer.is_some_and(|peer| self.trust(peer));
        if !is_trusted {
            tracing::debug!(?peer, ?listener, "closed: not in listen.proxy_trusted");
        }
        is_trusted
    }

    fn trust(&self, peer: SocketAddr) -> bool {
        let address: IpAddr = peer.ip().to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_trusted_by_network_whatever_socket_they_come_through() {
        let networks = ["10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32"];
        let trusted = networks.iter().map(|text| text.parse().unwrap()).collect();
        let proxies = Proxies { listeners: vec![Listener::Http], trusted };
        for (peer, expected) in [
            ("10.1.255.1:5", true),
            ("10.2.0.1:5", false),
            ("192.0.2.7:80", true),
            ("192.0.2.8:80", false),
            ("127.0.0.1:1", false),
            ("[::ffff:10.1.2.3]:5", true),
            ("[::ffff:10.2.2.3]:5", false),
            ("[2001:db8:1::1]:5", true),
            ("[2001:db9::1]:5", false),
        ] {
            assert_eq!(proxies.trust(peer.parse().unwrap()), expected, "{peer}");
        }
    }
}
