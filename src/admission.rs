//! Which connections are accepted, and how many connections one address may have.
//!
//! Owns the rules and the counts of connections by network. Must not know sockets: the reactor
//! asks [`Admission::judge`] about each connection, and reports when a connection is accepted,
//! has its first frame and ends. Start with [`Rules`].

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnet::IpNet;

use crate::network::{Network, Site};

/// The minimum of [`Rules::new_connections`]: a smaller number would refuse a handful of agents
/// that connect at the same time.
const LEAST_NEW_CONNECTIONS: u32 = 16;

/// The rules by which connections are accepted.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The networks from which connections are accepted; empty: all networks.
    pub allow: Vec<IpNet>,
    /// The networks from which no connection is accepted, even if they are allowed.
    pub deny: Vec<IpNet>,
    /// Maximum number of connections of one [`Network`]; `None`: no maximum.
    pub per_ip: Option<NonZeroU32>,
    /// Maximum number of connections of one IPv6 [`Site`]; `None`: no maximum.
    pub per_site: Option<NonZeroU32>,
    /// Maximum number of new connections, on which no frame has passed yet, of one [`Network`]
    /// while the server is crowded; `None`: no maximum.
    pub new_connections: Option<NonZeroU32>,
}

impl Rules {
    /// Limits each network to `per_ip` connections, by default half of `max_connections`; a
    /// site to three quarters of them; and the new connections of a network to an eighth of its
    /// limit.
    #[must_use]
    pub fn share(self, max_connections: usize, per_ip: Option<NonZeroU32>) -> Self {
        let all = u32::try_from(max_connections).unwrap_or(u32::MAX);
        let per_ip = per_ip.map_or(all.div_ceil(2), NonZeroU32::get);
        let per_site = per_ip.max(all - all / 4);
        let new_connections = LEAST_NEW_CONNECTIONS.max(per_ip / 8);
        Self {
            per_ip: NonZeroU32::new(per_ip),
            per_site: NonZeroU32::new(per_site),
            new_connections: NonZeroU32::new(new_connections),
            ..self
        }
    }
}

/// A limited number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// The connections of a network.
    Connections,
    /// The connections of a site.
    Site,
    /// The new connections of a network, on which no frame has passed yet.
    NewConnections,
}

impl Share {
    /// Returns the word for log lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Site => "site",
            Self::NewConnections => "newcomers",
        }
    }
}

/// A network or site that has just reached 80 % of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearing {
    /// The kind of limit.
    pub share: Share,
    /// The address, network or site, in the form for log lines.
    pub holder: String,
    /// Number of its connections of this kind.
    pub used: u32,
    /// The limit.
    pub limit: NonZeroU32,
}

/// The decision about a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Accept the connection.
    Accept,
    /// The rules exclude its address.
    NotAllowed,
    /// Its network or site has reached this limit.
    TooMany(Share, NonZeroU32),
}

/// Applies the rules, and counts connections.
#[derive(Debug)]
pub struct Admission {
    rules: Rules,
    /// Connections by network; empty if the rules have no shares.
    networks: HashMap<Network, Count>,
    /// Connections by site; empty if the rules have no shares.
    sites: HashMap<Site, u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    connections: u32,
    /// Connections on which no frame has passed.
    new: u32,
}

impl Admission {
    /// Returns an admission without connections.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            networks: HashMap::new(),
            sites: HashMap::new(),
        }
    }

    /// Decides about a connection from `address`. The server `is_crowded` when more than half of
    /// all connections are in use.
    #[must_use]
    pub fn judge(&self, address: IpAddr, is_crowded: bool) -> Verdict {
        let address = address.to_canonical();
        let Rules { allow, deny, .. } = &self.rules;
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        if within(deny) || !(allow.is_empty() || within(allow)) {
            return Verdict::NotAllowed;
        }
        let network = Network::of(address);
        let count = self.networks.get(&network).copied().unwrap_or_default();
        let site = network.site().and_then(|site| self.sites.get(&site));
        let new = if is_crowded { count.new } else { 0 };
        let shares = [
            (Share::Connections, self.rules.per_ip, count.connections),
            (Share::Site, self.rules.per_site, site.copied().unwrap_or(0)),
            (Share::NewConnections, self.rules.new_connections, new),
        ];
        for (share, limit, used) in shares {
            if let Some(limit) = limit
                && used >= limit.get()
            {
                return Verdict::TooMany(share, limit);
            }
        }
        Verdict::Accept
    }

    /// Counts an accepted connection from `address`. Returns a limit of which this connection
    /// makes 80 %.
    pub fn add(&mut self, address: IpAddr, is_crowded: bool) -> Option<Nearing> {
        let rules = &self.rules;
        if [rules.per_ip, rules.per_site, rules.new_connections] == [None; 3] {
            return None;
        }
        let network = Network::of(address);
        let count = self.networks.entry(network).or_default();
        count.connections += 1;
        count.new += 1;
        let count = *count;
        let mut nearing = nearing(
            Share::Connections,
            rules.per_ip,
            count.connections,
            &network,
        );
        if let Some(site) = network.site() {
            let count = self.sites.entry(site).or_insert(0);
            *count += 1;
            let site = self::nearing(Share::Site, rules.per_site, *count, &site);
            nearing = nearing.or(site);
        }
        if is_crowded {
            let limit = rules.new_connections;
            let new = self::nearing(Share::NewConnections, limit, count.new, &network);
            nearing = nearing.or(new);
        }
        nearing
    }

    /// Counts a connection from `address` as new no more: its first frame has passed.
    pub fn first_frame_passed(&mut self, address: IpAddr) {
        if let Some(count) = self.networks.get_mut(&Network::of(address)) {
            count.new = count.new.saturating_sub(1);
        }
    }

    /// Removes a connection from `address` that was [added](Self::add) and has ended.
    pub fn remove(&mut self, address: IpAddr, was_new: bool) {
        let network = Network::of(address);
        if let Some(count) = self.networks.get_mut(&network) {
            count.connections = count.connections.saturating_sub(1);
            count.new = count.new.saturating_sub(u32::from(was_new));
            if count.connections == 0 {
                remove(&mut self.networks, &network);
            }
        }
        if let Some(site) = network.site()
            && let Some(count) = self.sites.get_mut(&site)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                remove(&mut self.sites, &site);
            }
        }
    }
}

/// Removes `key`, and shrinks the map once most of its entries are gone.
fn remove<K: Hash + Eq, V>(map: &mut HashMap<K, V>, key: &K) {
    map.remove(key);
    if map.capacity() > 1024 && map.len() < map.capacity() / 8 {
        map.shrink_to(2 * map.len());
    }
}

/// Returns a limit if `used` is the first number to reach 80 % of it. Limits below 5 are left
/// out: they are usually reached.
fn nearing(
    share: Share,
    limit: Option<NonZeroU32>,
    used: u32,
    holder: &dyn ToString,
) -> Option<Nearing> {
    let limit = limit.filter(|limit| limit.get() >= 5)?;
    let mark = limit.get() - limit.get() / 5;
    (used == mark).then(|| Nearing {
        share,
        holder: holder.to_string(),
        used,
        limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn judge(admission: &Admission, text: &str) -> Verdict {
        admission.judge(address(text), false)
    }

    fn add(admission: &mut Admission, text: &str) -> Option<Nearing> {
        admission.add(address(text), false)
    }

    fn limit(limit: u32) -> NonZeroU32 {
        NonZeroU32::new(limit).unwrap()
    }

    #[test]
    fn without_rules_every_address_is_accepted() {
        let mut admission = Admission::new(Rules::default());
        for address in ["10.0.0.7", "::1", "::ffff:10.0.0.7"] {
            assert_eq!(judge(&admission, address), Verdict::Accept);
            assert_eq!(add(&mut admission, address), None);
        }
        assert!(admission.networks.is_empty());
    }

    #[test]
    fn deny_overrides_allow() {
        let admission = Admission::new(Rules {
            allow: nets(&["10.0.0.0/8", "fd00::/8"]),
            deny: nets(&["10.6.0.0/16", "fd00::7/128"]),
            ..Rules::default()
        });
        for address in ["10.0.0.7", "::ffff:10.0.0.7", "fd00::8"] {
            assert_eq!(judge(&admission, address), Verdict::Accept, "{address}");
        }
        for address in ["10.6.0.7", "11.0.0.1", "fd00::7", "::1", "::ffff:10.6.1.1"] {
            assert_eq!(judge(&admission, address), Verdict::NotAllowed, "{address}");
        }
        let denied = Admission::new(Rules {
            deny: nets(&["0.0.0.0/0"]),
            ..Rules::default()
        });
        assert_eq!(judge(&denied, "10.0.0.7"), Verdict::NotAllowed);
        assert_eq!(judge(&denied, "::1"), Verdict::Accept);
    }

    #[test]
    fn the_connections_of_an_address_are_limited() {
        let mut admission = Admission::new(Rules {
            per_ip: NonZeroU32::new(2),
            ..Rules::default()
        });
        let full = Verdict::TooMany(Share::Connections, limit(2));
        add(&mut admission, "10.0.0.7");
        // The same address, on a socket for both families.
        add(&mut admission, "::ffff:10.0.0.7");
        assert_eq!(judge(&admission, "10.0.0.7"), full);
        assert_eq!(judge(&admission, "10.0.0.8"), Verdict::Accept);
        admission.remove(address("10.0.0.7"), true);
        assert_eq!(judge(&admission, "10.0.0.7"), Verdict::Accept);
        admission.remove(address("10.0.0.7"), true);
        assert!(admission.networks.is_empty());
        admission.remove(address("10.0.0.7"), true);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address_and_its_site_has_its_own_limit() {
        let mut admission = Admission::new(Rules {
            per_ip: NonZeroU32::new(1),
            per_site: NonZeroU32::new(2),
            ..Rules::default()
        });
        add(&mut admission, "fd00:0:0:1::7");
        let full = Verdict::TooMany(Share::Connections, limit(1));
        assert_eq!(judge(&admission, "fd00:0:0:1:ffff::8"), full);
        assert_eq!(judge(&admission, "fd00:0:0:2::7"), Verdict::Accept);
        add(&mut admission, "fd00:0:0:2::7");
        let full = Verdict::TooMany(Share::Site, limit(2));
        assert_eq!(judge(&admission, "fd00:0:0:3::7"), full);
        assert_eq!(judge(&admission, "fd00:0:1:3::7"), Verdict::Accept);
        admission.remove(address("fd00:0:0:1::7"), true);
        assert_eq!(judge(&admission, "fd00:0:0:3::7"), Verdict::Accept);
        admission.remove(address("fd00:0:0:2::7"), true);
        assert!(admission.networks.is_empty() && admission.sites.is_empty());
    }

    #[test]
    fn new_connections_of_an_address_are_limited_while_the_server_is_crowded() {
        let mut admission = Admission::new(Rules {
            new_connections: NonZeroU32::new(2),
            ..Rules::default()
        });
        (0..2).for_each(|_| drop(add(&mut admission, "10.0.0.7")));
        let busy = Verdict::TooMany(Share::NewConnections, limit(2));
        let judge = |admission: &Admission, crowded| admission.judge(address("10.0.0.7"), crowded);
        assert_eq!(judge(&admission, true), busy);
        assert_eq!(judge(&admission, false), Verdict::Accept);
        assert_eq!(admission.judge(address("10.0.0.8"), true), Verdict::Accept);
        admission.first_frame_passed(address("10.0.0.7"));
        assert_eq!(judge(&admission, true), Verdict::Accept);
        add(&mut admission, "10.0.0.7");
        assert_eq!(judge(&admission, true), busy);
        // A connection with a frame ends, then a connection without.
        admission.remove(address("10.0.0.7"), false);
        assert_eq!(judge(&admission, true), busy);
        admission.remove(address("10.0.0.7"), true);
        assert_eq!(judge(&admission, true), Verdict::Accept);
    }

    #[test]
    fn shares_are_half_of_all_connections_three_quarters_and_an_eighth_of_the_half() {
        let shares = |all, per_ip| {
            let rules = Rules::default().share(all, NonZeroU32::new(per_ip));
            [rules.per_ip, rules.per_site, rules.new_connections].map(|share| share.unwrap().get())
        };
        assert_eq!(shares(19_936, 0), [9_968, 14_952, 1_246]);
        assert_eq!(shares(1, 0), [1, 1, 16]);
        assert_eq!(shares(3, 0), [2, 3, 16]);
        assert_eq!(shares(1000, 5), [5, 750, 16]);
        assert_eq!(shares(1000, 1000), [1000, 1000, 125]);
    }

    #[test]
    fn a_limit_is_returned_once_when_80_percent_are_reached() {
        let mut admission = Admission::new(Rules {
            per_ip: NonZeroU32::new(10),
            ..Rules::default()
        });
        let returned: Vec<_> = (0..10)
            .filter_map(|_| add(&mut admission, "fd00:0:0:1::7"))
            .collect();
        let nearing = Nearing {
            share: Share::Connections,
            holder: "fd00:0:0:1::/64".into(),
            used: 8,
            limit: limit(10),
        };
        assert_eq!(returned, [nearing]);
    }
}
