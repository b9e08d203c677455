//! Who may connect, and how many connections one address may have.
//!
//! Policy only: the reactor asks at each newcomer, and tells of each that comes
//! and goes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;

use ipnet::IpNet;

/// Bits of an IPv6 address that belong to a site's one network, which gives its
/// machines as many addresses as they like (RFC 4291, section 2.5.4; RFC 6177).
const IPV6_PREFIX: u32 = 64;

/// Who may connect.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Only addresses within these; all, if there is none.
    pub allow: Vec<IpNet>,
    /// No address within these, whatever else is said of it.
    pub deny: Vec<IpNet>,
    /// Connections of one IPv4 address, or one IPv6 network of 64 bits, at most.
    pub per_ip: Option<NonZeroU32>,
}

/// What is to become of a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may stay.
    Welcome,
    /// Its address may not connect at all.
    NotAllowed,
    /// Its address has as many connections as it may have.
    TooMany,
}

/// Applies the rules, and counts.
#[derive(Debug)]
pub struct Admission {
    rules: Rules,
    /// Connections by address; empty if nobody is counted.
    counts: HashMap<IpAddr, u32>,
}

impl Admission {
    /// Under these rules, with nobody connected.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            counts: HashMap::new(),
        }
    }

    /// What is to become of a newcomer from `address`.
    #[must_use]
    pub fn judge(&self, address: IpAddr) -> Verdict {
        let address = address.to_canonical();
        let Rules {
            allow,
            deny,
            per_ip,
        } = &self.rules;
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        if within(deny) || !(allow.is_empty() || within(allow)) {
            return Verdict::NotAllowed;
        }
        match per_ip {
            Some(most) if self.count(address) >= most.get() => Verdict::TooMany,
            _ => Verdict::Welcome,
        }
    }

    /// A connection from `address` was taken in.
    pub fn enter(&mut self, address: IpAddr) {
        if self.rules.per_ip.is_some() {
            *self.counts.entry(counted_as(address)).or_insert(0) += 1;
        }
    }

    /// A connection from `address` that was taken in has ended.
    pub fn leave(&mut self, address: IpAddr) {
        let address = counted_as(address);
        if let Some(count) = self.counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&address);
            }
        }
    }

    /// Connections at most of one address, if there is a limit.
    #[must_use]
    pub const fn per_ip(&self) -> Option<NonZeroU32> {
        self.rules.per_ip
    }

    fn count(&self, address: IpAddr) -> u32 {
        let count = self.counts.get(&counted_as(address));
        count.copied().unwrap_or(0)
    }
}

/// Whom an address stands for: itself, or its network of 64 bits.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let network = u128::MAX << (Ipv6Addr::BITS - IPV6_PREFIX);
            Ipv6Addr::from_bits(address.to_bits() & network).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn judge(admission: &Admission, address: &str) -> Verdict {
        admission.judge(address.parse().unwrap())
    }

    #[test]
    fn without_rules_everybody_is_welcome() {
        let admission = Admission::new(Rules::default());
        for address in ["10.0.0.7", "::1", "::ffff:10.0.0.7"] {
            assert_eq!(judge(&admission, address), Verdict::Welcome);
        }
    }

    #[test]
    fn what_is_denied_is_not_allowed_whatever_else_is_said() {
        let admission = Admission::new(Rules {
            allow: nets(&["10.0.0.0/8", "fd00::/8"]),
            deny: nets(&["10.6.0.0/16", "fd00::7/128"]),
            per_ip: None,
        });
        for address in ["10.0.0.7", "::ffff:10.0.0.7", "fd00::8"] {
            assert_eq!(judge(&admission, address), Verdict::Welcome, "{address}");
        }
        for address in ["10.6.0.7", "11.0.0.1", "fd00::7", "::1", "::ffff:10.6.1.1"] {
            assert_eq!(judge(&admission, address), Verdict::NotAllowed, "{address}");
        }
        let denied = Admission::new(Rules {
            deny: nets(&["0.0.0.0/0"]),
            ..Rules::default()
        });
        assert_eq!(judge(&denied, "10.0.0.7"), Verdict::NotAllowed);
        assert_eq!(judge(&denied, "::1"), Verdict::Welcome);
    }

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let mut admission = Admission::new(Rules {
            per_ip: NonZeroU32::new(2),
            ..Rules::default()
        });
        let address: IpAddr = "10.0.0.7".parse().unwrap();
        admission.enter(address);
        // The same one, on a socket for both families.
        admission.enter("::ffff:10.0.0.7".parse().unwrap());
        assert_eq!(admission.judge(address), Verdict::TooMany);
        assert_eq!(judge(&admission, "10.0.0.8"), Verdict::Welcome);
        admission.leave(address);
        assert_eq!(admission.judge(address), Verdict::Welcome);
        admission.leave(address);
        assert!(admission.counts.is_empty(), "nothing is left behind");
        admission.leave(address);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let mut admission = Admission::new(Rules {
            per_ip: NonZeroU32::new(1),
            ..Rules::default()
        });
        admission.enter("fd00:0:0:1::7".parse().unwrap());
        assert_eq!(judge(&admission, "fd00:0:0:1:ffff::8"), Verdict::TooMany);
        assert_eq!(judge(&admission, "fd00:0:0:2::7"), Verdict::Welcome);
    }
}
