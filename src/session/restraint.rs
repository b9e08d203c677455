//! What keeps a session from reading: a stop, its rate, replies that its socket does not take.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Buf as _, BytesMut};

use super::{Bucket, Rate, StopReason};
use hawk_time::Moment;

/// Why the agent is not read from, and since when.
pub(super) type Stopped = (StopReason, Moment);

/// What keeps a session from reading. Most sessions have none of it at a given time, so it is
/// allocated when needed and freed when over. Under a rate limit, the used rate stays as long
/// as the session.
#[derive(Debug, Default)]
pub(super) struct Restraint(Option<Box<Restrained>>);

#[derive(Debug, Default)]
struct Restrained {
    stopped: Option<Stopped>,
    bucket: Bucket,
    /// Reply bytes that the socket did not take; `None` if empty.
    unsent: Option<Box<Unsent>>,
}

impl Restraint {
    /// Returns why and since when the agent is not read from; `None` if it is.
    #[inline]
    pub(super) fn stopped(&self) -> Option<Stopped> {
        self.0.as_ref().and_then(|restrained| restrained.stopped)
    }

    /// Stops reading.
    pub(super) fn stop(&mut self, stopped: Stopped) {
        self.get().stopped = Some(stopped);
    }

    /// Resumes reading; returns why and since when it was stopped.
    #[inline]
    pub(super) fn resume(&mut self) -> Option<Stopped> {
        let stopped = self.0.as_mut()?.stopped.take();
        self.tidy();
        stopped
    }

    /// Returns the used rate.
    #[inline]
    pub(super) fn bucket(&self) -> Bucket {
        let restrained = self.0.as_ref();
        restrained.map_or_else(Bucket::default, |restrained| restrained.bucket)
    }

    /// Replaces the used rate.
    pub(super) fn set_bucket(&mut self, bucket: Bucket) {
        self.get().bucket = bucket;
    }

    /// Uses the rate for `frames`.
    pub(super) fn use_up(&mut self, frames: u32, rate: Rate, now: Moment) {
        self.get().bucket.take(frames, rate, now);
    }

    /// Returns the unsent reply bytes.
    #[inline]
    pub(super) fn unsent(&self) -> &[u8] {
        let unsent = self.0.as_ref().and_then(|it| it.unsent.as_ref());
        unsent.map_or(&[], |unsent| unsent.bytes())
    }

    /// Queues unsent reply bytes, which count in `total`.
    pub(super) fn queue(&mut self, replies: &[u8], total: &UnsentTotal) {
        let unsent = &mut self.get().unsent;
        let unsent = unsent.get_or_insert_with(|| Unsent::new(total).into());
        unsent.push(replies);
    }

    /// Removes the first `bytes` of the unsent replies.
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

    /// Rebuilds it from exported state.
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

    /// Frees the box if it is empty.
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

/// Bytes of unsent replies over all sessions of a reactor. A dropped session subtracts its
/// share, so that the sum cannot drift.
#[derive(Clone, Debug, Default)]
pub struct UnsentTotal(Rc<Cell<usize>>);

impl UnsentTotal {
    /// Returns the sum.
    #[must_use]
    pub fn get(&self) -> usize {
        self.0.get()
    }
}

/// Unsent reply bytes of one session, counted in the total.
#[derive(Debug)]
struct Unsent {
    bytes: BytesMut,
    total: UnsentTotal,
}

impl Unsent {
    fn new(total: &UnsentTotal) -> Self {
        Self {
            bytes: BytesMut::new(),
            total: total.clone(),
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn push(&mut self, replies: &[u8]) {
        self.bytes.extend_from_slice(replies);
        self.total.0.set(self.total.get() + replies.len());
    }

    /// Removes the first `bytes`.
    fn advance(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        self.total.0.set(self.total.get() - bytes);
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.total.0.set(self.total.get() - self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const NOW: Moment = Moment::from_nanos(1_000_000_000);

    #[test]
    fn the_box_is_freed_once_it_is_empty() {
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
    fn the_used_rate_stays() {
        let rate = Rate::per_second(NonZeroU32::new(10).unwrap());
        let mut restraint = Restraint::default();
        restraint.use_up(4, rate, NOW);
        restraint.stop((StopReason::Rate, NOW));
        restraint.resume();
        assert_eq!(restraint.bucket().left(rate, NOW), 6);
    }

    #[test]
    fn the_total_has_the_share_of_each_live_session() {
        let total = UnsentTotal::default();
        let mut one = Unsent::new(&total);
        let mut two = Unsent::new(&total);
        one.push(b"heartBeat\n");
        two.push(b"heartBeat\nheartBeat\n");
        assert_eq!(total.get(), 30);
        two.advance(4);
        assert_eq!(total.get(), 26);
        drop(two);
        assert_eq!((total.get(), one.bytes().len()), (10, 10));
        drop(one);
        assert_eq!(total.get(), 0);
    }
}
