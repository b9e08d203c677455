//! The roster's state of one agent.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::clones::CloneDetector;
use super::places::Tenant;
use super::presence::{JudgedBy, Presence};
use super::{AgentKey, AgentState, Identity, PresenceState};
use crate::interval::Interval;
use crate::network::Network;
use hawk_time::{Moment, UnixNanos};

/// Bytes of an agent's version that are stored: as many as its name may have. On the wire only
/// the length of a frame limits it, and there may be many agents.
pub const MAX_VERSION: usize = 128;

/// Number of different hours with packets that make an agent established.
pub const ESTABLISHED_HOURS: u32 = 3;

/// An hour, in nanoseconds.
const HOUR: i64 = 3_600_000_000_000;

/// An agent.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name it gave itself.
    pub name: Option<Rc<str>>,
    /// The source address of its last packet.
    pub address: IpAddr,
    /// The first [`MAX_VERSION`] bytes of the version in its last heartbeat; empty before the
    /// first.
    pub version: Box<str>,
    /// The time of its first packet.
    pub first_seen: UnixNanos,
    /// The time of its last packet.
    pub last_seen: UnixNanos,
    /// An unwatched agent is never online.
    pub online: bool,
    /// The last change of `online`.
    pub changed_at: UnixNanos,
    /// Its silence makes it offline.
    pub watched: bool,
    pub(super) presence: Presence,
    pub(super) clones: CloneDetector,
    /// Number of its sessions.
    pub(super) sessions: u32,
    /// The copy in another process is up to date: the next change must be recorded.
    pub(super) is_copied: bool,
    /// Distinguishes successive agents of one slot.
    pub(super) generation: u32,
    /// Number of different hours with packets, from 1 to [`ESTABLISHED_HOURS`].
    hours: u32,
    /// The last of these hours, counted from 1970.
    last_hour: i64,
    /// The network of its first packet in this process.
    network: Network,
}

/// What earlier processes learnt of an agent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Learnt {
    /// Its own packets show when it is silent for too long.
    pub is_judged: bool,
    /// The interval between its heartbeats; zero if unknown.
    pub interval: Duration,
    /// The interval between its reports; zero if they do not count.
    pub report_interval: Duration,
    /// The last detection of a clone.
    pub cloned_at: Option<UnixNanos>,
}

impl Entry {
    /// Returns an agent before its first packet.
    #[must_use]
    pub fn new(identity: Identity<'_>, address: IpAddr, now: Moment, wall: UnixNanos) -> Self {
        Self {
            name: match identity {
                Identity::Name(name) => Some(name.into()),
                Identity::Address(_) => None,
            },
            address,
            version: Box::default(),
            first_seen: wall,
            last_seen: wall,
            online: false,
            changed_at: wall,
            watched: false,
            presence: Presence::new(now),
            clones: CloneDetector::default(),
            sessions: 0,
            is_copied: false,
            generation: 0,
            hours: 1,
            last_hour: hour_of(wall),
            network: Network::of(address),
        }
    }

    /// Returns the agent that `state` describes.
    pub(super) fn rebuild(state: AgentState) -> Self {
        Self {
            name: state.name.as_deref().map(Rc::from),
            address: state.address,
            version: beginning(&state.version).into(),
            first_seen: state.first_seen,
            last_seen: state.last_seen,
            online: state.online,
            changed_at: state.changed_at,
            watched: false,
            sessions: state.sessions,
            is_copied: false,
            generation: 0,
            hours: match state.hours {
                0 if looks_established(state.first_seen, state.last_seen) => ESTABLISHED_HOURS,
                hours => hours.clamp(1, ESTABLISHED_HOURS),
            },
            last_hour: state.last_hour,
            network: Network::of(state.address),
            clones: CloneDetector::new(state.presence.cloned_at),
            presence: state.into_presence(),
        }
    }

    /// Returns its state on the monotonic clock, which is ahead of the roster's by `lead`.
    pub(super) fn state(&self, lead: Duration) -> AgentState {
        let presence = self.presence.clone().on_clock_ahead(lead);
        AgentState {
            name: self.name.as_deref().map(str::to_owned),
            address: self.address,
            version: self.version.as_ref().to_owned(),
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            online: self.online,
            changed_at: self.changed_at,
            sessions: self.sessions,
            seen_at: presence.seen_at,
            last_heartbeat: presence.heartbeats.last,
            intervals: [presence.heartbeats.interval.as_millis(); 2],
            presence: PresenceState {
                cloned_at: self.clones.cloned_at,
                absence: presence.absence.as_millis(),
                came_at: presence.came_at,
                judged_by: presence.judged_by,
                paused: presence.paused,
                paused_since: presence.paused_since,
                last_report: presence.reports.last,
                report_interval: presence.reports.interval.as_millis(),
                alike: presence.run.gaps,
                alike_since: presence.run.since,
                alike_range: [presence.run.shortest, presence.run.longest].map(Interval::as_millis),
            },
            hours: self.hours,
            last_hour: self.last_hour,
        }
    }

    /// Returns whether it is established, and so makes no room for new agents.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        self.hours >= ESTABLISHED_HOURS
    }

    /// Returns the number of different hours with packets, up to [`ESTABLISHED_HOURS`].
    #[must_use]
    pub const fn hours(&self) -> u32 {
        self.hours
    }

    /// Returns the last of these hours, counted from 1970.
    #[must_use]
    pub const fn last_hour(&self) -> i64 {
        self.last_hour
    }

    /// Resumes the count of hours with packets, the last being `last_hour`. `None`: an older
    /// build did not count them.
    pub fn resume_hours(&mut self, hours: Option<u32>, last_hour: i64) {
        self.hours = match hours {
            None if looks_established(self.first_seen, self.last_seen) => ESTABLISHED_HOURS,
            None => 1,
            Some(hours) => hours.clamp(1, ESTABLISHED_HOURS),
        };
        self.last_hour = last_hour;
    }

    /// Returns whether a packet at `wall` counts another hour. Only later hours count: a clock
    /// that is set back and forth makes no agent established.
    pub(super) const fn counts_hour(&self, wall: UnixNanos) -> bool {
        !self.is_established() && hour_of(wall) > self.last_hour
    }

    /// Counts the hour of `wall`, if it is another hour.
    pub(super) const fn count_hour(&mut self, wall: UnixNanos) {
        if self.counts_hour(wall) {
            self.hours += 1;
            self.last_hour = hour_of(wall);
        }
    }

    /// Returns what decides whether it makes room.
    pub(super) fn tenant(&self, key: AgentKey) -> Tenant {
        Tenant {
            slot: key.number(),
            established: self.is_established(),
            idle: self.sessions == 0,
            network: self.network,
            last_seen: self.last_seen,
        }
    }

    /// Returns its identity.
    #[must_use]
    pub fn identity(&self) -> Identity<'_> {
        match &self.name {
            Some(name) => Identity::Name(name),
            None => Identity::Address(self.address),
        }
    }

    /// Returns the learnt interval between its heartbeats; zero if unknown.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        self.presence.heartbeats.interval.get()
    }

    /// Returns the learnt interval between its reports; zero if they do not count.
    #[must_use]
    pub const fn report_interval(&self) -> Duration {
        match self.presence.judged_by {
            JudgedBy::Reports | JudgedBy::FormerReports => self.presence.reports.interval.get(),
            JudgedBy::Heartbeats | JudgedBy::Nothing => Duration::ZERO,
        }
    }

    /// Returns the time of the last detection of a clone.
    #[must_use]
    pub const fn cloned_at(&self) -> Option<UnixNanos> {
        self.clones.cloned_at
    }

    /// Sets its version to the first [`MAX_VERSION`] bytes of `version`.
    pub fn set_version(&mut self, version: &str) {
        let version = beginning(version);
        if *self.version != *version {
            self.version = version.into();
        }
    }

    /// Resumes from what earlier processes learnt.
    pub fn learn(&mut self, learnt: Learnt) {
        self.presence.heartbeats.interval = Interval::of(learnt.interval);
        self.presence.reports.interval = Interval::of(learnt.report_interval);
        self.presence.judged_by = match learnt.report_interval.is_zero() {
            _ if !learnt.is_judged => JudgedBy::Nothing,
            true => JudgedBy::Heartbeats,
            false => JudgedBy::Reports,
        };
        self.clones.cloned_at = learnt.cloned_at;
    }
}

const fn hour_of(wall: UnixNanos) -> i64 {
    wall.as_nanos().div_euclid(HOUR)
}

/// Returns whether an agent without a count of hours passes for established: its first and last
/// packets are two hours or more apart, which spans three different hours.
const fn looks_established(first_seen: UnixNanos, last_seen: UnixNanos) -> bool {
    last_seen.as_nanos().saturating_sub(first_seen.as_nanos()) >= 2 * HOUR
}

/// Returns the whole characters within the first [`MAX_VERSION`] bytes.
fn beginning(version: &str) -> &str {
    let mut fits = (0..=MAX_VERSION.min(version.len())).rev();
    let end = fits.find(|&end| version.is_char_boundary(end));
    &version[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_version_is_cut_between_characters() {
        assert_eq!(beginning("1.0"), "1.0");
        assert_eq!(beginning(&"x".repeat(1000)).len(), 128);
        assert_eq!(beginning(&"\u{fffd}".repeat(1000)).len(), 126);
    }
}
