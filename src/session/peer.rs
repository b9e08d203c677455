//! Where a connection comes from, in the room that there is in a session.

use std::net::{IpAddr, SocketAddr};

/// An address and a port: what a [`SocketAddr`] says, in 24 bytes instead of 32.
///
/// Only the flow label of IPv6 is not in it. The kernel tells it to nobody who has not
/// asked for it (`IPV6_FLOWINFO_SEND`, `ipv6(7)`), and no agent is known by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    ip: IpAddr,
    port: u16,
    /// The link on which an IPv6 address is to be found (RFC 4007, section 6); 0 where
    /// the address says it all.
    scope: u32,
}

/// There is one in every session.
const _: () = assert!(size_of::<Peer>() == 24);

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self {
            ip: address.ip(),
            port: address.port(),
            scope: match address {
                SocketAddr::V4(_) => 0,
                SocketAddr::V6(address) => address.scope_id(),
            },
        }
    }
}

impl From<Peer> for SocketAddr {
    #[inline]
    fn from(Peer { ip, port, scope }: Peer) -> Self {
        let mut address = Self::new(ip, port);
        if let Self::V6(address) = &mut address {
            address.set_scope_id(scope);
        }
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_out_as_it_went_in() {
        for text in [
            "192.0.2.7:41216",
            "[2001:db8::7]:65535",
            "[::ffff:192.0.2.7]:1",
            "[fe80::7%4294967295]:41216",
        ] {
            let address: SocketAddr = text.parse().unwrap();
            let out = SocketAddr::from(Peer::from(address));
            assert_eq!((out, out.to_string().as_str()), (address, text));
        }
    }
}
