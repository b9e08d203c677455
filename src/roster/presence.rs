//! Whether one agent is heard as often as it is used to be.
//!
//! All moments are on the roster's clock, which stands still while the roster does.

use std::time::Duration;

use crate::interval::{BURST, Interval, MOST_SILENCE, REPORT_BURST, TOLERANCE};
use hawk_time::Moment;

/// Reports come regularly once so many gaps in a row, over [`REGULAR_FOR`] or more, are
/// within a factor of two of each other.
const REGULAR_GAPS: u32 = 8;

/// See [`REGULAR_GAPS`]: longer than most jobs that report now and then run for.
const REGULAR_FOR: Duration = Duration::from_secs(10 * 60);

/// By what an agent is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JudgedBy {
    /// Its heartbeats; it has sent one.
    #[default]
    Heartbeats,
    /// Its reports, which come regularly.
    Reports,
    /// Its reports, which came regularly before it went offline, or which an earlier process
    /// judged. Unless they come regularly again, the agent is unwatched once it goes offline.
    FormerReports,
    /// Nothing: it has sent no heartbeat, and its reports do not come regularly.
    Nothing,
}

/// When an agent was heard, and how often it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Presence {
    /// When it was last heard, moved by the time for which it was not read from since.
    pub heard_at: Moment,
    /// When it came online last.
    pub came_at: Option<Moment>,
    /// By what it is judged.
    pub judged_by: JudgedBy,
    /// The last silence for which it was offline, if no gap was counted since.
    pub absence: Interval,
    /// Its sessions that are not read from at present, and since when there are any.
    pub paused: u32,
    /// See [`paused`](Self::paused).
    pub paused_since: Option<Moment>,
    /// Its heartbeats.
    pub heartbeats: Rhythm,
    /// Its reports, as long as it sends no heartbeats.
    pub reports: Rhythm,
    /// The latest gaps between them that are alike.
    pub run: Run,
}

/// How often packets of one kind come, over all sessions of an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rhythm {
    /// The learnt interval of the session whose packets come most slowly.
    pub interval: Interval,
    /// The last packet that counts: none of a burst behind its first. `None`: the time
    /// until the next one is no gap, as the agent was offline meanwhile.
    pub last: Option<Moment>,
}

/// A run of gaps that are within a factor of two of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// How many there are.
    pub gaps: u32,
    /// The shortest of them.
    pub shortest: Interval,
    /// The longest of them.
    pub longest: Interval,
    /// When the first of them began.
    pub since: Option<Moment>,
}

impl Presence {
    /// Of an agent that was heard at `now`.
    pub(super) fn new(now: Moment) -> Self {
        Self {
            heard_at: now,
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

    /// The silence after which it is offline, as far as its own packets say.
    pub(super) fn tolerance(&self) -> Duration {
        match self.judged_by {
            JudgedBy::Heartbeats => self.heartbeats.interval.tolerance(),
            _ => self.reports.interval.tolerance(),
        }
    }

    /// Counts a heartbeat, `gap` after the one before in its session.
    pub(super) fn beat(&mut self, gap: Option<Duration>, now: Moment) {
        if matches!(self.judged_by, JudgedBy::Reports | JudgedBy::FormerReports) {
            // Until its heartbeats have shown theirs.
            self.heartbeats.interval = self.reports.interval;
        }
        self.judged_by = JudgedBy::Heartbeats;
        // The store had it as online: its next absence is one since this heartbeat.
        self.came_at.get_or_insert(now);
        if self
            .heartbeats
            .count(gap, BURST, self.came_at, now)
            .is_some()
        {
            self.absence = Interval::default();
        }
    }

    /// Counts a report, `gap` after the one before in its session.
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

    /// It comes online, after it was silent for this long. That is no gap, unless no interval
    /// is known, or it was silent for about as long before, with nothing in between: then its
    /// packets are merely slow, and it would be taken for offline after each of them if that
    /// were never learnt.
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

    /// One of its sessions is not read from any more.
    pub(super) fn pause(&mut self, now: Moment) {
        self.paused += 1;
        self.paused_since.get_or_insert(now);
    }

    /// One of its sessions is read from again, or has ended; whether no session is paused
    /// now. Its silence meanwhile does not count.
    pub(super) fn resume(&mut self, now: Moment) -> bool {
        self.paused = self.paused.saturating_sub(1);
        if self.paused > 0 {
            return false;
        }
        if let Some(since) = self.paused_since.take() {
            let lost = now.since(since.max(self.heard_at));
            self.heard_at = self.heard_at.after(lost);
        }
        true
    }

    /// The same on a clock that is ahead by `lead`.
    pub(super) fn on_clock_ahead(mut self, lead: Duration) -> Self {
        self.heard_at = self.heard_at.after(lead);
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
    /// Counts a packet, `gap` after the one before in its session; returns the gap that
    /// counts, if one does. The agent is online since `came_at`.
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
        // One that began before the agent came online is an absence.
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
        // Nothing slower can be judged: its silence would be too long before.
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
