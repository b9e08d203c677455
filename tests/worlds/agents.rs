//! Agents, most of which are not what a server would like them to be.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use hawk::interval::{BURST, REPORT_BURST};
use hawk::roster::Identity;
use hawk::session::Tag;

use super::plan::{HOUR, MINUTE, SECOND};
use hawk_testkit::worlds::Dice;

/// What an agent is like. Times are in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Sends heartbeats with a name or without, reports now and then, and is away at times.
    Steady { period: u64, named: bool },
    /// Several agents without a name behind one address, which are never away.
    Nat {
        period: u64,
        members: usize,
        together: bool,
    },
    /// Its heartbeats are held up on their way, and then come together.
    Bursts { period: u64 },
    /// Sends a report and leaves, at no regular time.
    Once,
    /// Sends reports at regular times, and no heartbeats.
    Reporter { period: u64 },
    /// Two machines with one name.
    Clone { period: u64 },
    /// Comes from another address now and then.
    Roamer { period: u64 },
    /// Invents a name for each packet.
    Flood { most: usize },
    /// Asks for the server's health.
    Probe,
}

impl Kind {
    pub fn of(number: usize, period: u64, dice: &mut Dice) -> Self {
        match number {
            0 => Self::Nat {
                period,
                members: dice.between(2, 5),
                together: dice.one_in(2),
            },
            1 => Self::Bursts { period },
            2 => Self::Once,
            3 => Self::Reporter { period },
            4 => Self::Clone { period },
            5 => Self::Roamer { period },
            6 => Self::Probe,
            _ => Self::Steady {
                period,
                named: !dice.one_in(3),
            },
        }
    }

    /// The time between its heartbeats, if it sends any regularly.
    pub fn period(self) -> Option<u64> {
        match self {
            Self::Steady { period, .. }
            | Self::Nat { period, .. }
            | Self::Bursts { period }
            | Self::Clone { period }
            | Self::Roamer { period } => Some(period),
            Self::Once | Self::Reporter { .. } | Self::Flood { .. } | Self::Probe => None,
        }
    }
}

/// A connection.
#[derive(Debug)]
pub struct Link {
    pub peer: SocketAddr,
    /// The name in force, as the handler has it.
    pub agent: Option<Rc<str>>,
    pub tag: Option<Tag>,
    /// The last packet that counts as a sign of life, and whether a heartbeat came.
    last_sign: Option<u64>,
    has_beaten: bool,
}

impl Link {
    pub const fn new(peer: SocketAddr) -> Self {
        Self {
            peer,
            agent: None,
            tag: None,
            last_sign: None,
            has_beaten: false,
        }
    }

    /// The time since the packet before, as sessions tell it to the handler.
    pub fn gap(&mut self, beats: bool, now: u64) -> Option<Duration> {
        let burst = match beats {
            true => BURST,
            false if self.has_beaten => return None,
            false => REPORT_BURST,
        };
        if beats && !self.has_beaten {
            (self.has_beaten, self.last_sign) = (true, None);
        }
        let gap = self.last_sign.map(|last| Duration::from_nanos(now - last));
        if gap.is_some_and(|gap| gap < burst) {
            return None;
        }
        self.last_sign = Some(now);
        gap
    }
}

/// An agent, or several that share an address or a name.
#[derive(Debug)]
pub struct Agent {
    pub kind: Kind,
    /// The name it gives, if it gives one and always the same.
    pub name: Option<String>,
    pub address: IpAddr,
    pub links: Vec<Link>,
    pub next_port: u16,
    /// When it does something next.
    pub next_at: u64,
    /// Heartbeats that were held up.
    pub queued: u32,
    /// When the server took a packet of its the last time, in this life of the server.
    pub heard_at: Option<u64>,
    /// Packets in its rhythm since it was last away for long, or the server began anew.
    pub rhythm: u32,
    /// Different hours in which it was heard, and the last of them, in this life of the
    /// server.
    pub hours: u32,
    pub last_hour: i64,
    /// Names that it has invented.
    pub invented: u64,
}

impl Agent {
    pub fn new(index: usize, kind: Kind, now: u64, dice: &mut Dice) -> Self {
        let named = match kind {
            Kind::Nat { .. } | Kind::Flood { .. } => false,
            Kind::Steady { named, .. } => named,
            Kind::Once | Kind::Reporter { .. } => dice.one_in(2),
            _ => true,
        };
        let address = IpAddr::from(Ipv4Addr::new(10, 0, index as u8, 1));
        Self {
            kind,
            name: named.then(|| format!("agent-{index}")),
            address,
            links: Vec::new(),
            next_port: 1,
            next_at: now + dice.below_u64(kind.period().unwrap_or(10 * SECOND)),
            queued: 0,
            heard_at: None,
            rhythm: 0,
            hours: 0,
            last_hour: i64::MIN,
            invented: 0,
        }
    }

    /// Whether it is established: it has been heard in three different hours, and one more
    /// since the hours of a row may be another file's.
    pub const fn is_established(&self) -> bool {
        self.hours > 3
    }

    /// Returns the name or address under which its reports are stored.
    pub fn owner(&self) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| self.address.to_string())
    }

    pub fn identity(&self) -> Identity<'_> {
        match &self.name {
            Some(name) => Identity::Name(name),
            None => Identity::Address(self.address),
        }
    }

    /// The silence after which an agent of its kind is offline, unless something interfered
    /// with its rhythm: three times the longest interval between its heartbeats, or between
    /// its returns from absences that are alike.
    pub fn beyond(&self) -> u64 {
        match self.kind {
            Kind::Steady { period, .. } | Kind::Roamer { period } if self.rhythm >= 6 => {
                (10 * period).clamp(7 * MINUTE, HOUR)
            }
            _ => HOUR,
        }
    }

    /// Silence for which no agent of its kind may be declared offline, if the server
    /// learns its rhythm.
    pub fn within(&self) -> u64 {
        const ALWAYS: u64 = 10 * SECOND;
        match self.kind.period() {
            // Three of its intervals, as docs/operations.md says, of at least nine tenths
            // of the period.
            Some(period) if self.rhythm >= 6 => ALWAYS.max(26 * period / 10).min(HOUR),
            _ => ALWAYS,
        }
    }

    /// When it does something again after what it has just done, and whether it was
    /// silent for long by then.
    pub fn pause(&mut self, dice: &mut Dice) -> (u64, bool) {
        let about = |period: u64, dice: &mut Dice| period * (90 + dice.below_u64(21)) / 100;
        match self.kind {
            Kind::Nat {
                period,
                members,
                together,
            } => {
                let gap = about(period, dice);
                (if together { gap } else { gap / members as u64 }, false)
            }
            Kind::Bursts { period } if dice.one_in(6) => {
                self.queued = 2;
                (period * 22 / 10, false)
            }
            Kind::Steady { period, .. } | Kind::Roamer { period } if dice.one_in(40) => {
                let away = [3 * period, 2 * MINUTE, 2 * HOUR];
                (*dice.pick(&away), true)
            }
            Kind::Steady { period, .. }
            | Kind::Bursts { period }
            | Kind::Reporter { period }
            | Kind::Roamer { period } => (about(period, dice), false),
            Kind::Clone { period } => (about(period, dice) / 2, false),
            // Each longer or shorter than the last by more than any rhythm would be.
            Kind::Once => (
                *dice.pick(&[SECOND, 20 * SECOND, 7 * MINUTE, 3 * HOUR]),
                true,
            ),
            Kind::Flood { .. } => (dice.below_u64(5 * SECOND), true),
            Kind::Probe => (dice.below_u64(MINUTE), true),
        }
    }
}
