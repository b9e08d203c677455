//! A session's deadlines.
//!
//! Time is always an argument. While we do not read from an agent, for
//! whatever reason of ours, its clocks stand still: on resuming, every mark
//! moves by the time that was lost.

use std::time::Duration;

use super::restraint::Stopped;
use super::{Limits, Session};
use crate::time::Moment;

/// Why we do not read from an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It waits for a receive buffer. That is our doing: no clock runs.
    Buffer,
    /// What it sends cannot be taken before the store is done with what it has.
    /// That is our doing too.
    Store,
    /// It sends more frames than it may. It is slowed down, and not blamed.
    Rate,
    /// It does not read its replies. That is its doing: the output clock runs.
    Output,
}

/// Which limit was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// No frame passed for too long.
    Idle,
    /// A frame was begun and not finished.
    Frame,
    /// Replies were not read.
    Output,
}

/// All from which a session's deadlines are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// When the last frame passed, or the connection was accepted.
    pub last_passed: Moment,
    /// When the candidate at the front of the window was begun.
    pub begun: Option<Moment>,
    /// Since when we do not read, and why.
    pub stopped: Option<(StopReason, Moment)>,
    /// When the last heartbeat came.
    pub last_heartbeat: Option<Moment>,
    /// The last two intervals between heartbeats, in milliseconds, latest
    /// first. Two, so that a pair sent in one go does not hide the rhythm.
    pub intervals: [u32; 2],
}

/// The marks among them: that we do not read is known elsewhere, as it is so for few
/// sessions at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    last_passed: Moment,
    begun: Option<Moment>,
    last_heartbeat: Option<Moment>,
    intervals: [u32; 2],
}

impl Session {
    /// A frame passed, or the last reply that was owed is given out.
    #[inline]
    pub(super) fn passed(&mut self, now: Moment) {
        self.marks.passed(now, self.restraint.stopped());
    }

    /// We stop reading from this agent; its clocks stand still from now on.
    pub fn stop_reading(&mut self, reason: StopReason, now: Moment) {
        if self.stopped() != Some(reason) {
            // Another reason has another clock.
            self.resume_reading(now);
            self.restraint.stop((reason, now));
        }
    }

    /// We read from this agent again.
    #[inline]
    pub fn resume_reading(&mut self, now: Moment) {
        if let Some((_, since)) = self.restraint.resume() {
            self.marks.move_on(now.since(since));
        }
    }

    /// Why nothing is read from this agent at present, if so.
    #[inline]
    #[must_use]
    pub fn stopped(&self) -> Option<StopReason> {
        self.restraint.stopped().map(|(reason, _)| reason)
    }

    /// The next deadline of its clocks and what it is for.
    pub(super) fn clock(&self, limits: &Limits) -> Option<(Moment, Timeout)> {
        let stopped = self.restraint.stopped();
        self.marks.deadline(stopped, limits, self.is_owed())
    }

    /// From where its deadlines are counted.
    #[must_use]
    pub fn clocks(&self) -> Clocks {
        let Marks {
            last_passed,
            begun,
            last_heartbeat,
            intervals,
        } = self.marks;
        Clocks {
            last_passed,
            begun,
            stopped: self.restraint.stopped(),
            last_heartbeat,
            intervals,
        }
    }
}

impl From<Clocks> for Marks {
    fn from(clocks: Clocks) -> Self {
        Self {
            last_passed: clocks.last_passed,
            begun: clocks.begun,
            last_heartbeat: clocks.last_heartbeat,
            intervals: clocks.intervals,
        }
    }
}

impl Marks {
    pub(super) const fn new(now: Moment) -> Self {
        Self {
            last_passed: now,
            begun: None,
            last_heartbeat: None,
            intervals: [0; 2],
        }
    }

    /// A frame passed, or the last reply that was owed is given out. While we do not
    /// read, it is as if that were when we stopped: on resuming, the mark moves on.
    fn passed(&mut self, now: Moment, stopped: Option<Stopped>) {
        self.last_passed = stopped.map_or(now, |(_, since)| since);
    }

    /// A heartbeat came.
    pub(super) fn heartbeat(&mut self, now: Moment) {
        if let Some(last) = self.last_heartbeat {
            let interval = u32::try_from(now.since(last).as_millis()).unwrap_or(u32::MAX);
            self.intervals = [interval, self.intervals[0]];
        }
        self.last_heartbeat = Some(now);
    }

    /// Whether the window now begins with a candidate, and whether it is
    /// another one than before.
    pub(super) fn candidate(&mut self, begun: bool, moved: bool, now: Moment) {
        if !begun {
            self.begun = None;
        } else if moved || self.begun.is_none() {
            self.begun = Some(now);
        }
    }

    /// The candidate was dropped.
    pub(super) fn drop_candidate(&mut self) {
        self.begun = None;
    }

    /// We read again, after the time that was lost.
    fn move_on(&mut self, lost: Duration) {
        self.last_passed = self.last_passed.after(lost);
        self.begun = self.begun.map(|begun| begun.after(lost));
        self.last_heartbeat = self.last_heartbeat.map(|last| last.after(lost));
    }

    /// The next deadline and what it is for. No agent is idle while it is
    /// `owed` a reply: it may well be waiting for that.
    fn deadline(
        &self,
        stopped: Option<Stopped>,
        limits: &Limits,
        owed: bool,
    ) -> Option<(Moment, Timeout)> {
        match stopped {
            Some((StopReason::Buffer | StopReason::Store | StopReason::Rate, _)) => None,
            Some((StopReason::Output, since)) => Some((since.after(limits.idle), Timeout::Output)),
            None => {
                let idle = self.last_passed.after(self.idle_limit(limits));
                match self.begun.map(|begun| begun.after(limits.frame)) {
                    Some(frame) if owed || frame <= idle => Some((frame, Timeout::Frame)),
                    _ if owed => None,
                    _ => Some((idle, Timeout::Idle)),
                }
            }
        }
    }

    /// The larger of the configured limit and three times the interval that the
    /// agent's own heartbeats show: one may be lost and one may be late.
    fn idle_limit(&self, limits: &Limits) -> Duration {
        let [latest, before] = self.intervals;
        let rhythm = Duration::from_millis(u64::from(latest.max(before)));
        limits.idle.max(3 * rhythm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        idle: Duration::from_secs(90),
        frame: Duration::from_secs(10),
        rate: None,
    };

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(1_000_000_000 * (1000 + seconds))
    }

    /// A session whose agent connects now, and that is owed nothing.
    fn session() -> Session {
        Session::new("192.0.2.7:41216".parse().unwrap(), at(0))
    }

    #[test]
    fn idle_counts_from_the_last_frame_that_passed() {
        let mut session = session();
        assert_eq!(session.clock(&LIMITS), Some((at(90), Timeout::Idle)));
        session.passed(at(5));
        assert_eq!(session.clock(&LIMITS), Some((at(95), Timeout::Idle)));
    }

    #[test]
    fn a_frame_begun_has_its_own_deadline() {
        let mut session = session();
        session.marks.candidate(true, true, at(3));
        assert_eq!(session.clock(&LIMITS), Some((at(13), Timeout::Frame)));
        // More of the same frame does not move it; another frame does.
        session.marks.candidate(true, false, at(4));
        assert_eq!(session.clock(&LIMITS), Some((at(13), Timeout::Frame)));
        session.marks.candidate(true, true, at(5));
        assert_eq!(session.clock(&LIMITS), Some((at(15), Timeout::Frame)));
        session.marks.candidate(false, true, at(6));
        assert_eq!(session.clock(&LIMITS), Some((at(90), Timeout::Idle)));
    }

    #[test]
    fn the_earlier_deadline_wins() {
        let mut session = session();
        session.marks.candidate(true, true, at(85));
        assert_eq!(session.clock(&LIMITS), Some((at(90), Timeout::Idle)));
    }

    #[test]
    fn slow_heartbeats_stretch_the_idle_limit() {
        let mut session = session();
        for second in [0, 60, 120] {
            session.passed(at(second));
            session.marks.heartbeat(at(second));
        }
        assert_eq!(session.clock(&LIMITS), Some((at(300), Timeout::Idle)));
        // One more right behind does not hide the rhythm.
        session.marks.heartbeat(at(120));
        assert_eq!(session.clock(&LIMITS), Some((at(300), Timeout::Idle)));
        session.marks.heartbeat(at(121));
        assert_eq!(session.clock(&LIMITS), Some((at(210), Timeout::Idle)));
    }

    #[test]
    fn clocks_stand_still_while_we_do_not_read() {
        let mut session = session();
        session.marks.candidate(true, true, at(1));
        session.stop_reading(StopReason::Buffer, at(2));
        assert_eq!(session.clock(&LIMITS), None);
        session.resume_reading(at(102));
        assert_eq!(session.clock(&LIMITS), Some((at(111), Timeout::Frame)));
        session.marks.candidate(false, true, at(103));
        assert_eq!(session.clock(&LIMITS), Some((at(190), Timeout::Idle)));
    }

    #[test]
    fn time_in_which_we_did_not_read_is_no_part_of_a_heartbeats_rhythm() {
        let mut session = session();
        session.marks.heartbeat(at(0));
        session.stop_reading(StopReason::Buffer, at(10));
        session.resume_reading(at(1010));
        session.passed(at(1020));
        session.marks.heartbeat(at(1020));
        assert_eq!(session.marks.intervals, [20_000, 0]);
        assert_eq!(session.clock(&LIMITS), Some((at(1110), Timeout::Idle)));
    }

    /// The next deadline, if it is owed a reply.
    fn owed(session: &Session) -> Option<(Moment, Timeout)> {
        let stopped = session.restraint.stopped();
        session.marks.deadline(stopped, &LIMITS, true)
    }

    #[test]
    fn an_agent_that_is_owed_a_reply_is_not_idle() {
        let mut session = session();
        assert_eq!(owed(&session), None);
        // A frame begun is a frame begun.
        session.marks.candidate(true, true, at(85));
        assert_eq!(owed(&session), Some((at(95), Timeout::Frame)));
        session.stop_reading(StopReason::Store, at(86));
        assert_eq!(owed(&session), None);
    }

    #[test]
    fn who_waited_for_us_and_then_does_not_read_has_a_deadline() {
        let mut session = session();
        session.stop_reading(StopReason::Store, at(50));
        session.stop_reading(StopReason::Output, at(60));
        assert_eq!(session.clock(&LIMITS), Some((at(150), Timeout::Output)));
        session.resume_reading(at(61));
        assert_eq!(session.clock(&LIMITS), Some((at(101), Timeout::Idle)));
    }

    #[test]
    fn time_in_which_we_did_not_read_counts_once_for_a_reply_given_out_meanwhile() {
        let mut session = session();
        session.stop_reading(StopReason::Store, at(10));
        session.passed(at(1010));
        session.resume_reading(at(1020));
        assert_eq!(session.clock(&LIMITS), Some((at(1110), Timeout::Idle)));
    }

    #[test]
    fn only_the_output_clock_runs_while_replies_are_not_read() {
        let mut session = session();
        session.stop_reading(StopReason::Output, at(50));
        session.stop_reading(StopReason::Output, at(60));
        assert_eq!(session.clock(&LIMITS), Some((at(140), Timeout::Output)));
        session.resume_reading(at(130));
        assert_eq!(session.clock(&LIMITS), Some((at(170), Timeout::Idle)));
    }
}
