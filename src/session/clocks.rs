//! A session's deadlines.
//!
//! Time is always an argument. While the server does not read from an agent for a reason of its
//! own, the agent's clocks stand still: on resuming, every point in time moves by the time lost.

use std::time::Duration;

use super::restraint::Stopped;
use super::{Limits, Session};
use crate::interval::{BURST, Interval, MOST_SILENCE, REPORT_BURST};
use crate::stats::Cause;
use hawk_time::Moment;

/// The longest time without a frame that a learnt interval allows, in idle limits.
const IDLE_GROWTH: u32 = 20;

/// Why an agent is not read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The connection waits for a receive buffer. No clock runs.
    Buffer,
    /// Store back-pressure. No clock runs.
    Store,
    /// The agent used up its rate. No clock runs.
    Rate,
    /// The agent does not read its replies. The output clock runs.
    Output,
}

/// The limit that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// No frame passed for too long.
    Idle,
    /// A partial frame was not completed.
    Frame,
    /// Replies were not read.
    Output,
}

impl From<Timeout> for Cause {
    fn from(timeout: Timeout) -> Self {
        match timeout {
            Timeout::Idle => Self::IdleTimeout,
            Timeout::Frame => Self::FrameTimeout,
            Timeout::Output => Self::OutputTimeout,
        }
    }
}

/// The points in time from which a session's deadlines count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// When the last frame passed; at first, when the connection was accepted.
    pub last_passed: Moment,
    /// When the candidate at the front of the window began; `None` without one.
    pub begun: Option<Moment>,
    /// Why and since when the agent is not read from; `None` if it is.
    pub stopped: Option<(StopReason, Moment)>,
    /// When the last heartbeat came; of a burst, the first counts.
    pub last_heartbeat: Option<Moment>,
    /// When the last report came, counted likewise; `None` once a heartbeat came.
    pub last_report: Option<Moment>,
    /// The learnt interval between heartbeats in milliseconds, twice: earlier builds kept the
    /// last two intervals here, of which the larger counts.
    pub intervals: [u32; 2],
}

/// The points in time that every session has; [`Restraint`](super::restraint::Restraint) has
/// the rare one at which reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    last_passed: Moment,
    begun: Option<Moment>,
    /// The last packet that shows life: a heartbeat, or a report before the first heartbeat.
    last_sign: Option<Moment>,
    /// The interval between heartbeats.
    interval: Interval,
    /// Whether a heartbeat came.
    has_beaten: bool,
}

const _: () = assert!(size_of::<Marks>() == 32);

impl Session {
    /// Restarts the idle clock: a frame passed, or the last pending reply was completed.
    #[inline]
    pub(super) fn passed(&mut self, now: Moment) {
        self.marks.passed(now, self.restraint.stopped());
    }

    /// Stops reading from this agent: its clocks stand still.
    pub fn stop_reading(&mut self, reason: StopReason, now: Moment) {
        if self.stopped() != Some(reason) {
            // Another reason has another clock.
            self.resume_reading(now);
            self.restraint.stop((reason, now));
        }
    }

    /// Resumes reading from this agent; returns whether it was stopped.
    #[inline]
    pub fn resume_reading(&mut self, now: Moment) -> bool {
        let Some((_, since)) = self.restraint.resume() else {
            return false;
        };
        self.marks.move_on(now.since(since));
        true
    }

    /// Returns why the agent is not read from; `None` if it is.
    #[inline]
    #[must_use]
    pub fn stopped(&self) -> Option<StopReason> {
        self.restraint.stopped().map(|(reason, _)| reason)
    }

    /// Returns the next deadline of the clocks and its limit.
    pub(super) fn clock(&self, limits: &Limits) -> Option<(Moment, Timeout)> {
        let stopped = self.restraint.stopped();
        self.marks
            .deadline(stopped, limits, self.has_pending_replies())
    }

    /// Exports the points in time.
    #[must_use]
    pub fn clocks(&self) -> Clocks {
        let Marks {
            last_passed,
            begun,
            last_sign,
            interval,
            has_beaten,
        } = self.marks;
        Clocks {
            last_passed,
            begun,
            stopped: self.restraint.stopped(),
            last_heartbeat: last_sign.filter(|_| has_beaten),
            last_report: last_sign.filter(|_| !has_beaten),
            intervals: [interval.as_millis(); 2],
        }
    }
}

impl From<Clocks> for Marks {
    fn from(clocks: Clocks) -> Self {
        Self {
            last_passed: clocks.last_passed,
            begun: clocks.begun,
            last_sign: clocks.last_heartbeat.or(clocks.last_report),
            interval: {
                let [latest, before] = clocks.intervals;
                Interval::from_millis(latest.max(before))
            },
            has_beaten: clocks.last_heartbeat.is_some(),
        }
    }
}

impl Marks {
    pub(super) const fn new(now: Moment) -> Self {
        Self {
            last_passed: now,
            begun: None,
            last_sign: None,
            interval: Interval::from_millis(0),
            has_beaten: false,
        }
    }

    /// Restarts the idle clock. While reading is stopped, it restarts at the stop: resuming
    /// moves it on.
    fn passed(&mut self, now: Moment, stopped: Option<Stopped>) {
        self.last_passed = stopped.map_or(now, |(_, since)| since);
    }

    /// Counts a heartbeat; returns the time since the one before that counts.
    pub(super) fn heartbeat(&mut self, now: Moment) -> Option<Duration> {
        if !self.has_beaten {
            self.has_beaten = true;
            self.last_sign = None;
        }
        let gap = self.sign(BURST, now)?;
        self.interval.learn(gap);
        Some(gap)
    }

    /// Counts a report, unless the agent sends heartbeats; returns the time since the one
    /// before that counts.
    #[inline]
    pub(super) fn report(&mut self, now: Moment) -> Option<Duration> {
        match self.has_beaten {
            true => None,
            false => self.sign(REPORT_BURST, now),
        }
    }

    /// The time since the last sign of life; `None` if there was none, or if this one comes
    /// within `burst` behind it and so counts as part of it.
    fn sign(&mut self, burst: Duration, now: Moment) -> Option<Duration> {
        let gap = self.last_sign.map(|last| now.since(last));
        if gap.is_some_and(|gap| gap < burst) {
            return None;
        }
        self.last_sign = Some(now);
        gap
    }

    /// Updates the frame clock: whether the window begins with a candidate (`begun`), and
    /// whether that is another one than before (`moved`).
    pub(super) fn candidate(&mut self, begun: bool, moved: bool, now: Moment) {
        if !begun {
            self.begun = None;
        } else if moved || self.begun.is_none() {
            self.begun = Some(now);
        }
    }

    /// Stops the frame clock: the candidate was dropped.
    pub(super) fn drop_candidate(&mut self) {
        self.begun = None;
    }

    /// Moves every point in time by the time lost.
    fn move_on(&mut self, lost: Duration) {
        self.last_passed = self.last_passed.after(lost);
        self.begun = self.begun.map(|begun| begun.after(lost));
        self.last_sign = self.last_sign.map(|last| last.after(lost));
    }

    /// Returns the next deadline and its limit. A session with pending replies (`owed`) is not
    /// idle: its agent may be waiting for them.
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

    /// The larger of the configured limit and what the interval between the agent's own
    /// heartbeats allows, but no more than [`MOST_SILENCE`] and [`IDLE_GROWTH`] times the
    /// configured limit: an agent that sends ever more slowly keeps no connection open.
    fn idle_limit(&self, limits: &Limits) -> Duration {
        let most = MOST_SILENCE.min(limits.idle.saturating_mul(IDLE_GROWTH));
        limits.idle.max(self.interval.tolerance().min(most))
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

    /// A session that begins now.
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
    fn a_partial_frame_has_its_own_deadline() {
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

    /// Returns the idle limit of a session with heartbeats at these seconds.
    fn idle_limit(seconds: &[u64], limits: &Limits) -> Duration {
        let mut session = session();
        for second in seconds {
            session.marks.heartbeat(at(*second));
        }
        session.marks.idle_limit(limits)
    }

    #[test]
    fn slow_heartbeats_stretch_the_idle_limit() {
        let mut session = session();
        for second in [0, 60, 120] {
            session.passed(at(second));
            session.marks.heartbeat(at(second));
        }
        assert_eq!(session.clock(&LIMITS), Some((at(300), Timeout::Idle)));
        // Some right behind do not hide the interval, and one soon after hardly does.
        for _ in 0..9 {
            session.marks.heartbeat(at(120));
        }
        assert_eq!(session.clock(&LIMITS), Some((at(300), Timeout::Idle)));
        session.marks.heartbeat(at(124));
        let limit = Duration::from_millis(3 * 59_500);
        assert_eq!(
            session.clock(&LIMITS),
            Some((at(120).after(limit), Timeout::Idle))
        );
    }

    #[test]
    fn the_idle_limit_has_a_limit() {
        let second = Duration::from_secs(1);
        let rising = [0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000];
        assert_eq!(idle_limit(&rising, &LIMITS), 20 * LIMITS.idle);
        let idle = |idle| Limits { idle, ..LIMITS };
        assert_eq!(idle_limit(&rising, &idle(second)), 20 * second);
        assert_eq!(idle_limit(&rising, &idle(600 * second)), 3600 * second);
        assert_eq!(idle_limit(&rising, &idle(7200 * second)), 7200 * second);
        assert_eq!(idle_limit(&rising, &idle(Duration::MAX)), Duration::MAX);
    }

    #[test]
    fn reports_count_as_signs_of_life_until_a_heartbeat_comes() {
        let mut session = session();
        let gap = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(session.marks.report(at(0)), None);
        assert_eq!(session.marks.report(at(0)), None, "a burst");
        assert_eq!(session.marks.report(at(5)), gap(5));
        assert_eq!(session.marks.heartbeat(at(7)), None, "the first");
        assert_eq!(session.marks.heartbeat(at(9)), gap(2));
        assert_eq!(session.marks.report(at(30)), None);
        assert_eq!(session.marks.heartbeat(at(31)), gap(22));
    }

    #[test]
    fn clocks_stand_still_while_reading_is_stopped() {
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
    fn stopped_time_is_no_part_of_the_interval_between_heartbeats() {
        let mut session = session();
        session.marks.heartbeat(at(0));
        session.stop_reading(StopReason::Buffer, at(10));
        session.resume_reading(at(1010));
        session.passed(at(1020));
        let gap = session.marks.heartbeat(at(1020));
        assert_eq!(gap, Some(Duration::from_secs(20)));
        assert_eq!(session.marks.interval, Interval::from_millis(20_000));
        assert_eq!(session.clock(&LIMITS), Some((at(1110), Timeout::Idle)));
    }

    /// The next deadline with a pending reply.
    fn owed(session: &Session) -> Option<(Moment, Timeout)> {
        let stopped = session.restraint.stopped();
        session.marks.deadline(stopped, &LIMITS, true)
    }

    #[test]
    fn a_session_with_a_pending_reply_is_not_idle() {
        let mut session = session();
        assert_eq!(owed(&session), None);
        // The frame clock runs all the same.
        session.marks.candidate(true, true, at(85));
        assert_eq!(owed(&session), Some((at(95), Timeout::Frame)));
        session.stop_reading(StopReason::Store, at(86));
        assert_eq!(owed(&session), None);
    }

    #[test]
    fn an_agent_that_stops_reading_during_back_pressure_has_a_deadline() {
        let mut session = session();
        session.stop_reading(StopReason::Store, at(50));
        session.stop_reading(StopReason::Output, at(60));
        assert_eq!(session.clock(&LIMITS), Some((at(150), Timeout::Output)));
        session.resume_reading(at(61));
        assert_eq!(session.clock(&LIMITS), Some((at(101), Timeout::Idle)));
    }

    #[test]
    fn stopped_time_counts_once_for_a_reply_completed_meanwhile() {
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
