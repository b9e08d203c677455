//! Which connections are accepted, and how many of them one address may have.
//!
//! Policy only: the reactor asks before it accepts a connection, and reports each one
//! that it accepts, that has its first frame pass, and that ends.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnet::IpNet;

use crate::network::{Network, Site};

/// The least share of newcomers: below it, a share would refuse a handful of agents that
/// connect at the same time.
const LEAST_NEWCOMERS: u32 = 16;

/// Which connections are accepted.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Only addresses within these; all, if it is empty.
    pub allow: Vec<IpNet>,
    /// No address within these, even if it is allowed.
    pub deny: Vec<IpNet>,
    /// The most connections of one [`Network`].
    pub per_ip: Option<NonZeroU32>,
    /// The most connections of one IPv6 [`Site`].
    pub per_site: Option<NonZeroU32>,
    /// The most newcomers of one [`Network`] while the server is crowded. A newcomer is a
    /// connection on which no frame has passed yet.
    pub newcomers: Option<NonZeroU32>,
}

impl Rules {
    /// Limits each network to `per_ip` connections, by default half of `max_connections`; a
    /// site to three quarters of them; and the newcomers of a network to an eighth of its
    /// connections.
    #[must_use]
    pub fn share(self, max_connections: usize, per_ip: Option<NonZeroU32>) -> Self {
        let all = u32::try_from(max_connections).unwrap_or(u32::MAX);
        let per_ip = per_ip.map_or(all.div_ceil(2), NonZeroU32::get);
        let per_site = per_ip.max(all - all / 4);
        let newcomers = LEAST_NEWCOMERS.max(per_ip / 8);
        Self {
            per_ip: NonZeroU32::new(per_ip),
            per_site: NonZeroU32::new(per_site),
            newcomers: NonZeroU32::new(newcomers),
            ..self
        }
    }
}

/// What one network or site may have a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// The connections of a network.
    Connections,
    /// The connections of a site.
    Site,
    /// The newcomers of a network.
    Newcomers,
}

impl Share {
    /// As the log has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Site => "site",
            Self::Newcomers => "newcomers",
        }
    }
}

/// A network or site that has just reached 80 % of one of its shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearing {
    /// Which share.
    pub share: Share,
    /// The address, network or site that has this share, as logged.
    pub whose: String,
    /// How much of it is in use.
    pub used: u32,
    /// The whole share.
    pub limit: NonZeroU32,
}

/// The decision about a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is accepted.
    Welcome,
    /// Its address may not connect at all.
    NotAllowed,
    /// Its network or site has used up this share, of which it has so much.
    TooMany(Share, NonZeroU32),
}

/// Applies the rules, and counts connections.
#[derive(Debug)]
pub struct Admission {
    rules: Rules,
    /// Connections by network; empty if the rules have no shares.
    networks: HashMap<Network, Count>,
    /// Connections by site, likewise.
    sites: HashMap<Site, u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    connections: u32,
    /// Connections on which no frame has passed.
    newcomers: u32,
}

impl Admission {
    /// Under these rules, without any connection.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            networks: HashMap::new(),
            sites: HashMap::new(),
        }
    }

    /// Decides about a new connection from `address`. The server `is_crowded` when more than
    /// half of all connections are in use.
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
        let newcomers = if is_crowded { count.newcomers } else { 0 };
        let shares = [
            (Share::Connections, self.rules.per_ip, count.connections),
            (Share::Site, self.rules.per_site, site.copied().unwrap_or(0)),
            (Share::Newcomers, self.rules.newcomers, newcomers),
        ];
        for (share, limit, used) in shares {
            if let Some(limit) = limit
                && used >= limit.get()
            {
                return Verdict::TooMany(share, limit);
            }
        }
        Verdict::Welcome
    }

    /// Counts an accepted connection from `address` as a newcomer. Returns a share if this
    /// connection makes its use reach 80 %.
    pub fn enter(&mut self, address: IpAddr, is_crowded: bool) -> Option<Nearing> {
        if !self.counts() {
            return None;
        }
        let network = Network::of(address);
        let count = self.networks.entry(network).or_default();
        count.connections += 1;
        count.newcomers += 1;
        let count = *count;
        let rules = &self.rules;
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
            let limit = rules.newcomers;
            let newcomers = self::nearing(Share::Newcomers, limit, count.newcomers, &network);
            nearing = nearing.or(newcomers);
        }
        nearing
    }

    /// A newcomer from `address` has had its first frame pass.
    pub fn heard(&mut self, address: IpAddr) {
        if let Some(count) = self.networks.get_mut(&Network::of(address)) {
            count.newcomers = count.newcomers.saturating_sub(1);
        }
    }

    /// A connection from `address` that was [entered](Self::enter) has ended.
    pub fn leave(&mut self, address: IpAddr, was_newcomer: bool) {
        let network = Network::of(address);
        if let Some(count) = self.networks.get_mut(&network) {
            count.connections = count.connections.saturating_sub(1);
            count.newcomers = count.newcomers.saturating_sub(u32::from(was_newcomer));
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

    /// Whether there are shares to count for.
    const fn counts(&self) -> bool {
        let Rules {
            per_ip,
            per_site,
            newcomers,
            ..
        } = &self.rules;
        per_ip.is_some() || per_site.is_some() || newcomers.is_some()
    }
}

/// Removes `key`, and gives memory back once a crowd of other keys is gone.
fn remove<K: Hash + Eq, V>(map: &mut HashMap<K, V>, key: &K) {
    map.remove(key);
    if map.capacity() > 1024 && map.len() < map.capacity() / 8 {
        map.shrink_to(2 * map.len());
    }
}

/// A share that is limited to `limit`, if `used` is the first number to reach 80 % of it.
/// The smallest shares are left out: they are in use as a rule.
fn nearing(
    share: Share,
    limit: Option<NonZeroU32>,
    used: u32,
    whose: &dyn ToString,
) -> Option<Nearing> {
    let limit = limit.filter(|limit| limit.get() >= 5)?;
    let mark = limit.get() - limit.get() / 5;
    (used == mark).then(|| Nearing {
        share,
        whose: whose.to_string(),
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

    fn enter(admission: &mut Admission, text: &str) -> Option<Nearing> {
        admission.enter(address(text), false)
    }

    fn limit(limit: u32) -> NonZeroU32 {
        NonZeroU32::new(limit).unwrap()
    }

    #[test]
    fn without_rules_every_address_is_welcome() {
        let mut admission = Admission::new(Rules::default());
        for address in ["10.0.0.7", "::1", "::ffff:10.0.0.7"] {
            assert_eq!(judge(&admission, address), Verdict::Welcome);
            assert_eq!(enter(&mut admission, address), None);
        }
        assert!(admission.networks.is_empty());
    }

    #[test]
    fn what_is_denied_is_not_allowed_even_if_it_is_allowed() {
        let admission = Admission::new(Rules {
            allow: nets(&["10.0.0.0/8", "fd00::/8"]),
            deny: nets(&["10.6.0.0/16", "fd00::7/128"]),
            ..Rules::default()
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
    fn an_address_has_as_many_connections_as_its_limit_and_no_more() {
        let mut admission = Admission::new(Rules {
            per_ip: NonZeroU32::new(2),
            ..Rules::default()
        });
        let full = Verdict::TooMany(Share::Connections, limit(2));
        enter(&mut admission, "10.0.0.7");
        // The same one, on a socket for both families.
        enter(&mut admission, "::ffff:10.0.0.7");
        assert_eq!(judge(&admission, "10.0.0.7"), full);
        assert_eq!(judge(&admission, "10.0.0.8"), Verdict::Welcome);
        admission.leave(address("10.0.0.7"), true);
        assert_eq!(judge(&admission, "10.0.0.7"), Verdict::Welcome);
        admission.leave(address("10.0.0.7"), true);
        assert!(admission.networks.is_empty());
        admission.leave(address("10.0.0.7"), true);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address_and_its_site_has_a_limit_of_its_own() {
        let mut admission = Admission::new(Rules {
            per_ip: NonZeroU32::new(1),
            per_site: NonZeroU32::new(2),
            ..Rules::default()
        });
        enter(&mut admission, "fd00:0:0:1::7");
        let full = Verdict::TooMany(Share::Connections, limit(1));
        assert_eq!(judge(&admission, "fd00:0:0:1:ffff::8"), full);
        assert_eq!(judge(&admission, "fd00:0:0:2::7"), Verdict::Welcome);
        enter(&mut admission, "fd00:0:0:2::7");
        let full = Verdict::TooMany(Share::Site, limit(2));
        assert_eq!(judge(&admission, "fd00:0:0:3::7"), full);
        assert_eq!(judge(&admission, "fd00:0:1:3::7"), Verdict::Welcome);
        admission.leave(address("fd00:0:0:1::7"), true);
        assert_eq!(judge(&admission, "fd00:0:0:3::7"), Verdict::Welcome);
        admission.leave(address("fd00:0:0:2::7"), true);
        assert!(admission.networks.is_empty() && admission.sites.is_empty());
    }

    #[test]
    fn newcomers_of_an_address_have_a_limit_while_the_server_is_crowded() {
        let mut admission = Admission::new(Rules {
            newcomers: NonZeroU32::new(2),
            ..Rules::default()
        });
        (0..2).for_each(|_| drop(enter(&mut admission, "10.0.0.7")));
        let busy = Verdict::TooMany(Share::Newcomers, limit(2));
        let judge = |admission: &Admission, crowded| admission.judge(address("10.0.0.7"), crowded);
        assert_eq!(judge(&admission, true), busy);
        assert_eq!(judge(&admission, false), Verdict::Welcome);
        assert_eq!(admission.judge(address("10.0.0.8"), true), Verdict::Welcome);
        admission.heard(address("10.0.0.7"));
        assert_eq!(judge(&admission, true), Verdict::Welcome);
        enter(&mut admission, "10.0.0.7");
        assert_eq!(judge(&admission, true), busy);
        // One that was heard leaves, then one that was not.
        admission.leave(address("10.0.0.7"), false);
        assert_eq!(judge(&admission, true), busy);
        admission.leave(address("10.0.0.7"), true);
        assert_eq!(judge(&admission, true), Verdict::Welcome);
    }

    #[test]
    fn shares_are_half_of_all_connections_three_quarters_and_an_eighth_of_the_half() {
        let shares = |all, per_ip| {
            let rules = Rules::default().share(all, NonZeroU32::new(per_ip));
            [rules.per_ip, rules.per_site, rules.newcomers].map(|share| share.unwrap().get())
        };
        assert_eq!(shares(19_936, 0), [9_968, 14_952, 1_246]);
        assert_eq!(shares(1, 0), [1, 1, 16]);
        assert_eq!(shares(3, 0), [2, 3, 16]);
        assert_eq!(shares(1000, 5), [5, 750, 16]);
        assert_eq!(shares(1000, 1000), [1000, 1000, 125]);
    }

    #[test]
    fn a_share_is_named_once_when_80_percent_are_reached() {
        let mut admission = Admission::new(Rules {
            per_ip: NonZeroU32::new(10),
            ..Rules::default()
        });
        let told: Vec<_> = (0..10)
            .filter_map(|_| enter(&mut admission, "fd00:0:0:1::7"))
            .collect();
        let nearing = Nearing {
            share: Share::Connections,
            whose: "fd00:0:0:1::/64".into(),
            used: 8,
            limit: limit(10),
        };
        assert_eq!(told, [nearing]);
    }
}
