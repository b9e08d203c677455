//! The unit in which addresses are counted: an IPv4 address, or an IPv6 network of 64 bits.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that count as one.
///
/// An IPv6 host chooses freely among the 2^64 addresses of its network (RFC 4291,
/// section 2.5.4), so these count together. An IPv4 address that is written as IPv6
/// (`::ffff:10.0.0.7`) is the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// An IPv4 address.
    V4([u8; 4]),
    /// The first 64 bits of IPv6 addresses.
    V6([u8; 8]),
}

/// The first 48 bits of IPv6 addresses. A provider usually assigns them to one site, which
/// divides them into 65,536 networks (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site([u8; 6]);

impl Network {
    /// Returns the network that contains `address`.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }

    /// Returns the site that contains an IPv6 network; IPv4 addresses have none.
    #[must_use]
    pub const fn site(self) -> Option<Site> {
        match self {
            Self::V4(_) => None,
            Self::V6([a, b, c, d, e, f, ..]) => Some(Site([a, b, c, d, e, f])),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4(octets) => Ipv4Addr::from(octets).fmt(f),
            Self::V6(octets) => write!(f, "{}/64", ipv6(&octets)),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/48", ipv6(&self.0))
    }
}

/// Returns the address that begins with `octets` and continues with zeros.
fn ipv6(octets: &[u8]) -> Ipv6Addr {
    let mut address = [0; 16];
    address[..octets.len()].copy_from_slice(octets);
    Ipv6Addr::from(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str) -> Network {
        Network::of(address.parse().unwrap())
    }

    #[test]
    fn an_ipv4_address_is_one_network_in_either_form() {
        assert_eq!(network("10.0.0.7"), network("::ffff:10.0.0.7"));
        assert_ne!(network("10.0.0.7"), network("10.0.0.8"));
        assert_eq!(network("10.0.0.7").site(), None);
        assert_eq!(network("::ffff:10.0.0.7").to_string(), "10.0.0.7");
    }

    #[test]
    fn ipv6_addresses_count_by_their_first_64_bits_and_sites_by_48() {
        assert_eq!(network("fd00:0:0:1::7"), network("fd00:0:0:1:ffff::8"));
        assert_ne!(network("fd00:0:0:1::7"), network("fd00:0:0:2::7"));
        assert_eq!(
            network("fd00:0:0:1::7").site(),
            network("fd00:0:0:ffff::7").site()
        );
        assert_ne!(
            network("fd00:0:0:1::7").site(),
            network("fd00:0:1:1::7").site()
        );
        let network = network("2001:db8:1:2:3::7");
        assert_eq!(network.to_string(), "2001:db8:1:2::/64");
        assert_eq!(network.site().unwrap().to_string(), "2001:db8:1::/48");
    }
}
