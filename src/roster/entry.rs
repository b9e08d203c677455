//! One agent.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::places::Tenant;
use super::presence::{JudgedBy, Presence};
use super::turns::Turns;
use super::{AgentKey, AgentState, Identity, PresenceState};
use crate::interval::Interval;
use crate::network::Network;
use hawk_time::{Moment, UnixNanos};

/// Bytes of an agent's version that are remembered: as many as its name may have.
/// A frame is all that limits it on the wire, and there may be many agents.
pub const MAX_VERSION: usize = 128;

/// An agent is established once it has been heard in so many different hours.
pub const ESTABLISHED_HOURS: u32 = 3;

/// An hour, in nanoseconds.
const HOUR: i64 = 3_600_000_000_000;

/// What is known of an agent.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name it gave itself.
    pub name: Option<Rc<str>>,
    /// The address it was last heard from.
    pub address: IpAddr,
    /// The version in its last heartbeat, or the first [`MAX_VERSION`] bytes of it;
    /// empty before the first.
    pub version: Box<str>,
    /// When it was first heard.
    pub first_seen: UnixNanos,
    /// When it was last heard.
    pub last_seen: UnixNanos,
    /// Whether it is online.
    pub online: bool,
    /// Since when it is online or offline.
    pub changed_at: UnixNanos,
    /// Whether its silence is judged; one that is not is never online.
    pub watched: bool,
    pub(super) presence: Presence,
    pub(super) turns: Turns,
    /// Sessions that speak for it.
    pub(super) sessions: u32,
    /// A copy has it as it is: a change is to be noted.
    pub(super) shown: bool,
    /// Tells it from others that had the same slot.
    pub(super) generation: u32,
    /// Different hours in which it was heard, up to [`ESTABLISHED_HOURS`].
    hours: u32,
    /// The last of these hours, counted from 1970.
    last_hour: i64,
    /// The network that brought it.
    network: Network,
}

/// What was learnt of an agent before this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Learnt {
    /// Whether it is judged by its own packets.
    pub is_judged: bool,
    /// The interval between its heartbeats; zero if unknown.
    pub interval: Duration,
    /// The interval between its reports; zero if it is not judged by them.
    pub report_interval: Duration,
    /// When it was last found to be cloned.
    pub cloned_at: Option<UnixNanos>,
}

impl Entry {
    /// An agent that is about to be heard for the first time.
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
            turns: Turns::default(),
            sessions: 0,
            shown: false,
            generation: 0,
            hours: 1,
            last_hour: hour_of(wall),
            network: Network::of(address),
        }
    }

    /// The agent that `state` describes.
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
            shown: false,
            generation: 0,
            hours: match state.hours {
                0 if looks_established(state.first_seen, state.last_seen) => ESTABLISHED_HOURS,
                hours => hours.clamp(1, ESTABLISHED_HOURS),
            },
            last_hour: state.last_hour,
            network: Network::of(state.address),
            turns: Turns::known(state.presence.cloned_at),
            presence: state.into_presence(),
        }
    }

    /// It is now as `other`, the same agent, is said to be.
    pub(super) fn go_on_as(&mut self, other: Self) {
        let generation = self.generation;
        let name = self.name.take();
        *self = Self {
            name,
            generation,
            ..other
        };
    }

    /// All there is to know of it, on the monotonic clock, which is ahead of the roster's
    /// by `lead`.
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
            heard_at: presence.heard_at,
            last_heartbeat: presence.heartbeats.last,
            intervals: [presence.heartbeats.interval.as_millis(); 2],
            presence: PresenceState {
                cloned_at: self.turns.cloned_at,
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

    /// Whether it is established: only agents that are not make room for new ones.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        self.hours >= ESTABLISHED_HOURS
    }

    /// Different hours in which it was heard, up to [`ESTABLISHED_HOURS`].
    #[must_use]
    pub const fn hours(&self) -> u32 {
        self.hours
    }

    /// The last of these hours, counted from 1970.
    #[must_use]
    pub const fn last_hour(&self) -> i64 {
        self.last_hour
    }

    /// Resumes the count of hours in which the agent was heard, the last being
    /// `last_hour`. `None`: they were not counted.
    pub fn resume_hours(&mut self, hours: Option<u32>, last_hour: i64) {
        self.hours = match hours {
            None if looks_established(self.first_seen, self.last_seen) => ESTABLISHED_HOURS,
            None => 1,
            Some(hours) => hours.clamp(1, ESTABLISHED_HOURS),
        };
        self.last_hour = last_hour;
    }

    /// Whether a packet at `wall` makes the agent heard in another hour. Only later hours
    /// count: a clock that is set back and forth makes no agent established.
    pub(super) const fn counts_hour(&self, wall: UnixNanos) -> bool {
        !self.is_established() && hour_of(wall) > self.last_hour
    }

    /// Counts the hour of `wall`, if it is another one.
    pub(super) const fn count_hour(&mut self, wall: UnixNanos) {
        if self.counts_hour(wall) {
            self.hours += 1;
            self.last_hour = hour_of(wall);
        }
    }

    /// What decides about its place.
    pub(super) fn tenant(&self, key: AgentKey) -> Tenant {
        Tenant {
            slot: key.number(),
            established: self.is_established(),
            idle: self.sessions == 0,
            network: self.network,
            last_seen: self.last_seen,
        }
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> Identity<'_> {
        match &self.name {
            Some(name) => Identity::Name(name),
            None => Identity::Address(self.address),
        }
    }

    /// The interval between its heartbeats, as learnt from them; zero if unknown.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        self.presence.heartbeats.interval.get()
    }

    /// The interval between its reports, as learnt from them; zero if it is not judged by
    /// them.
    #[must_use]
    pub const fn report_interval(&self) -> Duration {
        match self.presence.judged_by {
            JudgedBy::Reports | JudgedBy::FormerReports => self.presence.reports.interval.get(),
            JudgedBy::Heartbeats | JudgedBy::Nothing => Duration::ZERO,
        }
    }

    /// When it was last found to be cloned.
    #[must_use]
    pub const fn cloned_at(&self) -> Option<UnixNanos> {
        self.turns.cloned_at
    }

    /// Notes its version, or as much of it as is remembered.
    pub fn set_version(&mut self, version: &str) {
        let version = beginning(version);
        if *self.version != *version {
            self.version = version.into();
        }
    }

    /// Resumes from learnt intervals.
    pub fn learn(&mut self, learnt: Learnt) {
        self.presence.heartbeats.interval = Interval::of(learnt.interval);
        self.presence.reports.interval = Interval::of(learnt.report_interval);
        self.presence.judged_by = match learnt.report_interval.is_zero() {
            _ if !learnt.is_judged => JudgedBy::Nothing,
            true => JudgedBy::Heartbeats,
            false => JudgedBy::Reports,
        };
        self.turns.cloned_at = learnt.cloned_at;
    }
}

const fn hour_of(wall: UnixNanos) -> i64 {
    wall.as_nanos().div_euclid(HOUR)
}

/// Whether an agent without a count of hours passes for established: first and last packet
/// are two hours or more apart, which spans three different hours.
const fn looks_established(first_seen: UnixNanos, last_seen: UnixNanos) -> bool {
    last_seen.as_nanos().saturating_sub(first_seen.as_nanos()) >= 2 * HOUR
}

/// As many whole characters as [`MAX_VERSION`] bytes have.
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
