//! The rule for one agent: how long it may be silent.
//!
//! All moments are on the roster's clock.

use std::time::Duration;

use crate::interval::{BURST, Interval, MOST_SILENCE, REPORT_BURST, TOLERANCE};
use hawk_time::Moment;

/// Number of gaps in a row, over [`REGULAR_FOR`] or more and within a factor of two of each
/// other, that make reports regular.
const REGULAR_GAPS: u32 = 8;

/// See [`REGULAR_GAPS`]. Longer than the run of most jobs that report now and then.
const REGULAR_FOR: Duration = Duration::from_secs(10 * 60);

/// The packets that show when an agent is silent for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JudgedBy {
    /// Its heartbeats: it has sent at least one.
    #[default]
    Heartbeats,
    /// Its reports, which come regularly.
    Reports,
    /// Its reports, which came regularly before it went offline, or which an earlier process
    /// judged. Unless they come regularly again, the agent is unwatched once it goes offline.
    FormerReports,
    /// None: it has sent no heartbeat, and its reports do not come regularly.
    Nothing,
}

/// The times and intervals of an agent's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Presence {
    /// Its last packet, moved by the time since in which hawk did not read from it.
    pub seen_at: Moment,
    /// The moment at which it came online last.
    pub came_at: Option<Moment>,
    /// The packets that show its silence.
    pub judged_by: JudgedBy,
    /// The last silence for which it was offline; zero once a gap was counted since.
    pub absence: Interval,
    /// Number of its sessions from which hawk does not read at present.
    pub paused: u32,
    /// The start of the present pause; `None` if no session is paused.
    pub paused_since: Option<Moment>,
    /// The rhythm of its heartbeats.
    pub heartbeats: Rhythm,
    /// The rhythm of its reports, as long as it sends no heartbeats.
    pub reports: Rhythm,
    /// The latest gaps between its reports that are alike.
    pub run: Run,
}

/// The interval of packets of one kind, over all sessions of an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rhythm {
    /// The learnt interval of the session with the slowest packets.
    pub interval: Interval,
    /// The last packet that counts: of a burst, the first. `None` after an absence: the time
    /// until the next packet is no gap.
    pub last: Option<Moment>,
}

/// A run of gaps that are within a factor of two of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// Number of gaps.
    pub gaps: u32,
    /// The shortest gap.
    pub shortest: Interval,
    /// The longest gap.
    pub longest: Interval,
    /// The start of the first gap.
    pub since: Option<Moment>,
}

impl Presence {
    /// Returns the presence of an agent with its first packet at `now`.
    pub(super) fn new(now: Moment) -> Self {
        Self {
            seen_at: now,
            came_at: None,
            judged_by: JudgedBy::Nothing,
            absence: Interval::default(),
            paused: 0,
            paused_since: None,
            heartbeats: Rhythm::default(),
            reports: Rhythm::default(),
            run: Run::default(),
        }
    }

    /// Returns the silence after which it is offline, according to its own packets.
    pub(super) fn tolerance(&self) -> Duration {
        match self.judged_by {
            JudgedBy::Heartbeats => self.heartbeats.interval.tolerance(),
            _ => self.reports.interval.tolerance(),
        }
    }

    /// Counts a heartbeat, `gap` after its session's previous heartbeat.
    pub(super) fn beat(&mut self, gap: Option<Duration>, now: Moment) {
        if matches!(self.judged_by, JudgedBy::Reports | JudgedBy::FormerReports) {
            // Until the interval of its heartbeats is learnt.
            self.heartbeats.interval = self.reports.interval;
        }
        self.judged_by = JudgedBy::Heartbeats;
        // An agent that was online at the start: its next absence begins after this.
        self.came_at.get_or_insert(now);
        if self
            .heartbeats
            .count(gap, BURST, self.came_at, now)
            .is_some()
        {
            self.absence = Interval::default();
        }
    }

    /// Counts a report, `gap` after its session's previous report.
    pub(super) fn report(&mut self, gap: Option<Duration>, now: Moment) {
        if self.judged_by == JudgedBy::Heartbeats {
            return;
        }
        if let Some(gap) = self.reports.count(gap, REPORT_BURST, self.came_at, now) {
            self.absence = Interval::default();
            self.run.count(gap, now);
            if self.run.is_regular(now) {
                self.judged_by = JudgedBy::Reports;
            }
        }
    }

    /// Brings the agent online after this silence. The silence is a gap only if no interval is
    /// known, or if the previous absence was about as long, without a gap in between: then its
    /// packets are merely slow, and without learning from that it would be offline after each
    /// of them.
    pub(super) fn come(&mut self, silence: Duration, now: Moment) {
        let (absence, before) = (Interval::of(silence), self.absence);
        if self.came_at.replace(now).is_some() {
            let is_slow =
                before.is_known() && before.is_like(absence) && TOLERANCE * silence <= MOST_SILENCE;
            let interval = match self.judged_by {
                JudgedBy::Heartbeats => &mut self.heartbeats.interval,
                _ => &mut self.reports.interval,
            };
            if is_slow || !interval.is_known() {
                interval.lengthen(silence);
            }
            self.absence = absence;
        }
        self.heartbeats.last = None;
        self.reports.last = None;
        if self.judged_by == JudgedBy::Reports {
            self.judged_by = JudgedBy::FormerReports;
            self.run = Run::default();
        }
    }

    /// Counts a session from which hawk does not read any more.
    pub(super) fn pause(&mut self, now: Moment) {
        self.paused += 1;
        self.paused_since.get_or_insert(now);
    }

    /// Counts a paused session less, and returns whether no session is paused now. The silence
    /// during the pause does not count.
    pub(super) fn resume(&mut self, now: Moment) -> bool {
        self.paused = self.paused.saturating_sub(1);
        if self.paused > 0 {
            return false;
        }
        if let Some(since) = self.paused_since.take() {
            let lost = now.since(since.max(self.seen_at));
            self.seen_at = self.seen_at.after(lost);
        }
        true
    }

    /// Returns the same on a clock that is ahead by `lead`.
    pub(super) fn on_clock_ahead(mut self, lead: Duration) -> Self {
        self.seen_at = self.seen_at.after(lead);
        for moment in [
            &mut self.came_at,
            &mut self.paused_since,
            &mut self.heartbeats.last,
            &mut self.reports.last,
            &mut self.run.since,
        ] {
            *moment = moment.map(|moment| moment.after(lead));
        }
        self
    }
}

impl Rhythm {
    /// Counts a packet, `gap` after its session's previous packet, of an agent that is online
    /// since `came_at`. Returns the gap that counts, if any.
    fn count(
        &mut self,
        gap: Option<Duration>,
        burst: Duration,
        came_at: Option<Moment>,
        now: Moment,
    ) -> Option<Duration> {
        let since = self.last.map(|last| now.since(last));
        let since = since.filter(|since| *since >= burst);
        if let Some(since) = since {
            self.interval.shrink(since);
        }
        if since.is_some() || self.last.is_none() {
            self.last = Some(now);
        }
        // A gap that began before the agent came online is an absence.
        let gap = gap.filter(|gap| came_at.is_none_or(|came_at| *gap <= now.since(came_at)));
        let gap = gap.or(since)?;
        self.interval.lengthen(gap);
        Some(gap)
    }
}

impl Run {
    fn count(&mut self, gap: Duration, now: Moment) {
        let length = Interval::of(gap);
        let shortest = self.shortest.min(length);
        let longest = self.longest.max(length);
        // Slower reports cannot count: the agent would be offline between them.
        let is_slow = TOLERANCE * gap > MOST_SILENCE;
        if is_slow {
            *self = Self::default();
        } else if self.gaps > 0 && longest.is_like(shortest) {
            self.gaps = self.gaps.saturating_add(1);
            (self.shortest, self.longest) = (shortest, longest);
        } else {
            *self = Self {
                gaps: 1,
                shortest: length,
                longest: length,
                since: Some(now.before(gap)),
            };
        }
    }

    fn is_regular(&self, now: Moment) -> bool {
        let span = self.since.map_or(Duration::ZERO, |since| now.since(since));
        self.gaps >= REGULAR_GAPS && span >= REGULAR_FOR
    }
}
