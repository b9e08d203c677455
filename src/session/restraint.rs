//! What keeps a session from going on.

use super::unsent::{Unsent, UnsentTotal};
use super::{Bucket, Rate, StopReason};
use hawk_time::Moment;

/// Why we do not read from an agent, and since when.
pub(super) type Stopped = (StopReason, Moment);

/// What keeps a session from going on: nothing, as a rule.
///
/// Hardly any session has any of it at a given time, and there are thousands of
/// sessions: so it is allocated where it is, and goes when it is over. Only what is
/// used of a rate stays as long as the session, under a server that limits the rate.
#[derive(Debug, Default)]
pub(super) struct Restraint(Option<Box<Restrained>>);

#[derive(Debug, Default)]
struct Restrained {
    stopped: Option<Stopped>,
    bucket: Bucket,
    /// Reply bytes that the socket did not take yet.
    unsent: Option<Box<Unsent>>,
}

impl Restraint {
    /// Why nothing is read, and since when, if so.
    #[inline]
    pub(super) fn stopped(&self) -> Option<Stopped> {
        self.0.as_ref().and_then(|restrained| restrained.stopped)
    }

    /// From now on nothing is read.
    pub(super) fn stop(&mut self, stopped: Stopped) {
        self.get().stopped = Some(stopped);
    }

    /// From now on it is read; what it was stopped for, and since when.
    #[inline]
    pub(super) fn resume(&mut self) -> Option<Stopped> {
        let stopped = self.0.as_mut()?.stopped.take();
        self.tidy();
        stopped
    }

    /// What is used of its rate.
    #[inline]
    pub(super) fn bucket(&self) -> Bucket {
        let restrained = self.0.as_ref();
        restrained.map_or_else(Bucket::default, |restrained| restrained.bucket)
    }

    /// Replaces what is used of its rate.
    pub(super) fn set_bucket(&mut self, bucket: Bucket) {
        self.get().bucket = bucket;
    }

    /// Uses `frames` of its rate.
    pub(super) fn use_up(&mut self, frames: u32, rate: Rate, now: Moment) {
        self.get().bucket.take(frames, rate, now);
    }

    /// Reply bytes that wait for the socket.
    #[inline]
    pub(super) fn unsent(&self) -> &[u8] {
        let unsent = self.0.as_ref().and_then(|it| it.unsent.as_ref());
        unsent.map_or(&[], |unsent| unsent.bytes())
    }

    /// Has more of them wait, which are in `total` from now on.
    pub(super) fn queue(&mut self, replies: &[u8], total: &UnsentTotal) {
        let unsent = &mut self.get().unsent;
        let unsent = unsent.get_or_insert_with(|| Unsent::new(total).into());
        unsent.push(replies);
    }

    /// Has the first `bytes` of them wait no longer.
    pub(super) fn dequeue(&mut self, bytes: usize) {
        if let Some(Restrained {
            unsent: place @ Some(_),
            ..
        }) = self.0.as_deref_mut()
            && let Some(unsent) = place
        {
            unsent.advance(bytes);
            if unsent.bytes().is_empty() {
                *place = None;
                self.tidy();
            }
        }
    }

    /// As it is in a session that was written down.
    pub(super) fn rebuild(stopped: Option<Stopped>, bucket: Bucket) -> Self {
        let mut restraint = Self(Some(Box::new(Restrained {
            stopped,
            bucket,
            unsent: None,
        })));
        restraint.tidy();
        restraint
    }

    fn get(&mut self) -> &mut Restrained {
        self.0.get_or_insert_default()
    }

    /// Lets go of what is over.
    #[inline]
    fn tidy(&mut self) {
        if let Some(Restrained {
            stopped: None,
            bucket,
            unsent: None,
        }) = self.0.as_deref()
            && bucket.is_untouched()
        {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const NOW: Moment = Moment::from_nanos(1_000_000_000);

    #[test]
    fn nothing_stays_of_what_is_over() {
        let total = UnsentTotal::default();
        let mut restraint = Restraint::default();
        assert_eq!((restraint.resume(), restraint.unsent().len()), (None, 0));
        restraint.dequeue(0);
        assert!(restraint.0.is_none());

        restraint.queue(b"heartBeat\n", &total);
        restraint.stop((StopReason::Output, NOW));
        restraint.dequeue(4);
        assert_eq!((restraint.unsent(), total.get()), (&b"tBeat\n"[..], 6));
        assert_eq!(restraint.resume(), Some((StopReason::Output, NOW)));
        assert_eq!(restraint.unsent().len(), 6);
        restraint.dequeue(6);
        assert!(restraint.0.is_none() && total.get() == 0);

        restraint.stop((StopReason::Store, NOW));
        restraint.queue(b"heartBeat\n", &total);
        restraint.dequeue(10);
        assert_eq!(restraint.stopped(), Some((StopReason::Store, NOW)));
        restraint.resume();
        assert!(restraint.0.is_none());
        assert!(Restraint::rebuild(None, Bucket::default()).0.is_none());
    }

    #[test]
    fn what_is_used_of_a_rate_stays() {
        let rate = Rate::per_second(NonZeroU32::new(10).unwrap());
        let mut restraint = Restraint::default();
        restraint.use_up(4, rate, NOW);
        restraint.stop((StopReason::Rate, NOW));
        restraint.resume();
        assert_eq!(restraint.bucket().left(rate, NOW), 6);
    }
}
