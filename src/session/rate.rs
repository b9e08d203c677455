//! The rate of frames that an agent may send.

use std::num::NonZeroU32;
use std::time::Duration;

use hawk_time::Moment;

/// The frames of this time may come at once, so that an agent sends its backlog after an
/// outage without being slowed down.
const BURST: Duration = Duration::from_secs(1);

/// Frames a second, on average; as many may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(NonZeroU32);

impl Rate {
    /// Returns a rate of so many frames a second.
    #[must_use]
    pub const fn per_second(frames: NonZeroU32) -> Self {
        Self(frames)
    }

    /// Returns the frames per second.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Returns the rate that so many connections share.
    #[must_use]
    pub const fn times(self, connections: u32) -> Self {
        match NonZeroU32::new(connections) {
            Some(connections) => Self(self.0.saturating_mul(connections)),
            None => self,
        }
    }

    /// Returns the time between two frames at an even pace.
    fn interval(self) -> Duration {
        (BURST / self.get()).max(Duration::from_nanos(1))
    }
}

/// A token bucket in one number: when it is full again without further use (the generic cell
/// rate algorithm, ITU-T I.371, annex A).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: Option<Moment>,
}

impl Bucket {
    /// Returns whether nothing was ever taken out.
    pub(super) const fn is_untouched(self) -> bool {
        self.full_at.is_none()
    }

    /// Returns when the bucket is full again; `None` if nothing was ever taken out.
    pub(crate) const fn full_at(self) -> Option<Moment> {
        self.full_at
    }

    /// Returns the bucket that is full again at `full_at`.
    pub(crate) const fn from_full_at(full_at: Moment) -> Self {
        Self {
            full_at: Some(full_at),
        }
    }

    /// Returns the bucket of a connection accepted at `now`. It holds a single frame, so that
    /// reconnecting gains no frames.
    pub(super) fn of_new_connection(rate: Rate, now: Moment) -> Self {
        Self {
            full_at: Some(now.after(BURST.saturating_sub(rate.interval()))),
        }
    }

    /// Empties the bucket, so that the next frame is allowed at `next`.
    pub(super) fn empty_until(&mut self, next: Moment, rate: Rate) {
        let full = next.after(BURST.saturating_sub(rate.interval()));
        self.full_at = Some(self.full_at.map_or(full, |now| now.max(full)));
    }

    /// Returns the frames allowed now.
    pub(crate) fn left(self, rate: Rate, now: Moment) -> u32 {
        let missing = self.full_at.map_or(Duration::ZERO, |full| full.since(now));
        let left = BURST.saturating_sub(missing).as_nanos() / rate.interval().as_nanos();
        u32::try_from(left).map_or(rate.get(), |left| left.min(rate.get()))
    }

    /// Takes `frames` out, at most those left.
    pub(crate) fn take(&mut self, frames: u32, rate: Rate, now: Moment) {
        let full = self.full_at.map_or(now, |full| full.max(now));
        self.full_at = Some(full.after(rate.interval() * frames));
    }

    /// Returns when the next frame is allowed, once none is left.
    pub(crate) fn next(self, rate: Rate) -> Option<Moment> {
        let room = BURST.saturating_sub(rate.interval());
        self.full_at.map(|full| full.before(room))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Moment = Moment::from_nanos(1_000_000_000_000);

    fn rate(frames: u32) -> Rate {
        Rate::per_second(NonZeroU32::new(frames).unwrap())
    }

    #[test]
    fn a_second_s_frames_may_come_at_once_and_then_one_by_one() {
        let rate = rate(10);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.left(rate, START), 10);
        bucket.take(10, rate, START);
        assert_eq!(bucket.left(rate, START), 0);
        let next = START.after(Duration::from_millis(100));
        assert_eq!(bucket.next(rate), Some(next));
        assert_eq!(bucket.left(rate, next), 1);
        assert_eq!(bucket.left(rate, START.after(Duration::from_secs(9))), 10);
    }

    #[test]
    fn a_new_connection_has_one_frame_and_after_a_second_a_whole_burst() {
        for frames in [1, 10, 1_000_000] {
            let rate = rate(frames);
            let bucket = Bucket::of_new_connection(rate, START);
            assert_eq!(bucket.left(rate, START), 1, "{frames}");
            let later = START.after(BURST);
            assert!(
                bucket.left(rate, later) >= frames - frames / 1000,
                "{frames}"
            );
        }
    }

    #[test]
    fn a_bucket_that_is_emptied_has_its_next_frame_at_that_time() {
        let rate = rate(10);
        let mut bucket = Bucket::default();
        let next = START.after(Duration::from_millis(250));
        bucket.empty_until(next, rate);
        assert_eq!((bucket.left(rate, START), bucket.left(rate, next)), (0, 1));
        assert_eq!(bucket.next(rate), Some(next));
        // It never comes sooner than it would have.
        bucket.empty_until(START, rate);
        assert_eq!(bucket.next(rate), Some(next));
    }

    proptest! {
        /// An agent gets at most its rate and a burst; once none is left, one is allowed at the
        /// time that `next` returns.
        #[test]
        fn no_agent_gets_more_than_its_rate(
            frames in 1..2_000_000_u32,
            steps in prop::collection::vec((0..3_000_000_000_u64, 0..5_000_u32), 1..100),
        ) {
            let rate = rate(frames);
            let (mut bucket, mut now, mut taken) = (Bucket::default(), START, 0);
            for (nanos, wanted) in steps {
                now = now.after(Duration::from_nanos(nanos));
                let left = bucket.left(rate, now);
                bucket.take(wanted.min(left), rate, now);
                taken += u64::from(wanted.min(left));
                let seconds = now.since(START).as_secs_f64();
                // An interval is whole nanoseconds: a little above the rate.
                let most = f64::from(frames) * (seconds * 1.003 + 1.0) + 1.0;
                prop_assert!(taken as f64 <= most, "{taken} of {most}");
                if bucket.left(rate, now) == 0 {
                    let next = bucket.next(rate).unwrap();
                    prop_assert!(next > now);
                    prop_assert!(bucket.left(rate, next) >= 1);
                }
            }
        }
    }
}
