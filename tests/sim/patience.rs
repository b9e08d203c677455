//! How long the server may wait for an agent. Time in which the server does not
//! read from it does not count: here it is counted on a clock that stands still then.

use hawk::session::StopReason;

/// One agent's clocks. All times are in nanoseconds.
#[derive(Default)]
pub struct Patience {
    /// How much time did not count until now, or until `still_since`.
    lost: u64,
    /// Since when the clock stands still.
    still_since: Option<u64>,
    /// Since when the agent does not read its replies, if that is why: at the earliest
    /// and at the latest.
    output_since: Option<(u64, u64)>,
    last_passed: u64,
    begun: Option<u64>,
    last_heartbeat: Option<u64>,
    /// The learnt interval between heartbeats, in whole milliseconds.
    interval: u64,
}

/// What an agent took too long over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    Idle,
    Frame,
    Output,
}

/// Which deadlines have come, should the server read from the agent now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Due {
    pub idle: bool,
    pub frame: bool,
    pub output: bool,
    /// The frame deadline came no later than the idle one: it is the one to act on.
    pub frame_first: bool,
}

impl Due {
    pub fn any(self) -> bool {
        self.idle || self.frame || self.output
    }
}

/// The limits that agents are held to, in nanoseconds.
#[derive(Clone, Copy)]
pub struct Terms {
    pub idle: u64,
    pub frame: u64,
}

impl Patience {
    pub fn new(now: u64) -> Self {
        Self {
            last_passed: now,
            ..Self::default()
        }
    }

    /// The time on the agent's own clock.
    fn clock(&self, now: u64) -> u64 {
        self.still_since.unwrap_or(now) - self.lost
    }

    /// How the server stands to it after a turn. `read`: it was read from in that turn,
    /// so that not reading begins anew; `resumed`: it may have been so unseen.
    pub fn observe(&mut self, stopped: Option<StopReason>, read: bool, resumed: bool, now: u64) {
        if let Some(since) = self.still_since.take() {
            self.lost += now - since;
        }
        self.still_since = stopped.map(|_| now);
        self.output_since = match (self.output_since, stopped) {
            (Some((early, _)), Some(StopReason::Output)) if !read && resumed => Some((early, now)),
            (Some(since), Some(StopReason::Output)) if !read => Some(since),
            (_, Some(StopReason::Output)) => Some((now, now)),
            _ => None,
        };
    }

    pub fn passed(&mut self, now: u64) {
        self.last_passed = self.clock(now);
    }

    /// A heartbeat was taken; nothing is taken while the clock stands still.
    pub fn heartbeat(&mut self, now: u64) {
        let lost = self.lost + self.still_since.map_or(0, |since| now - since);
        let at = now - lost;
        if let Some(last) = self.last_heartbeat {
            let gap = (at - last) / 1_000_000;
            if gap < 100 {
                // Of the same burst.
                return;
            }
            let shrunk = self.interval.saturating_sub(gap / 8);
            self.interval = shrunk.max(gap.min(20 * 60_000));
        }
        self.last_heartbeat = Some(at);
    }

    /// Whether a frame is begun now, and whether it is another one than before.
    pub fn candidate(&mut self, begun: bool, another: bool, now: u64) {
        if !begun {
            self.begun = None;
        } else if another || self.begun.is_none() {
            self.begun = Some(self.clock(now));
        }
    }

    /// The deadline that runs, if one does, and how long it is overdue; negative: how
    /// long it still has.
    pub fn deadline(&self, terms: Terms, owed: bool, now: u64) -> Option<(Deadline, i64)> {
        if let Some((_, since)) = self.output_since {
            return Some((Deadline::Output, now as i64 - (since + terms.idle) as i64));
        }
        if self.is_still() {
            return None;
        }
        let (idle, frame) = self.overdue(terms, now);
        match frame {
            Some(frame) if owed || frame >= idle => Some((Deadline::Frame, frame)),
            _ if owed => None,
            _ => Some((Deadline::Idle, idle)),
        }
    }

    /// Which deadlines may be acted on within the turn at `now`.
    pub fn due(&self, terms: Terms, owed: bool, now: u64) -> Due {
        let (idle, frame) = self.overdue(terms, now);
        Due {
            idle: idle >= 0 && !owed,
            frame: frame.is_some_and(|frame| frame >= 0),
            frame_first: frame.is_some_and(|frame| owed || frame >= idle),
            output: self
                .output_since
                .is_some_and(|(since, _)| now >= since + terms.idle),
        }
    }

    /// By how much the idle and the frame deadline are over, on the agent's own clock.
    fn overdue(&self, terms: Terms, now: u64) -> (i64, Option<i64>) {
        let clock = self.clock(now) as i64;
        let most = (20 * terms.idle).min(3600 * 1_000_000_000);
        let learnt = (3 * self.interval * 1_000_000).min(most);
        let idle = clock - (self.last_passed + terms.idle.max(learnt)) as i64;
        let frame = self.begun.map(|begun| clock - (begun + terms.frame) as i64);
        (idle, frame)
    }

    /// Whether no clock runs.
    pub fn is_still(&self) -> bool {
        self.still_since.is_some() && self.output_since.is_none()
    }
}
