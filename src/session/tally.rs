//! Counts of what came in, over all sessions.

use hawk_wire::{Refusal, Reply};

/// What has been taken and refused since the server started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Heartbeats taken.
    pub heartbeats: u64,
    /// Reports taken.
    pub reports: u64,
    /// Times that somebody was told to come again later.
    pub busy: u64,
    /// Bytes that belonged to no frame that passed.
    pub junk_bytes: u64,
    /// Unfinished candidates given up as junk at the frame deadline.
    pub candidates_dropped: u64,
    pub(crate) refusals: ByRefusal,
}

/// How many frames were refused, by cause; in the order of [`Refusal::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ByRefusal(pub(crate) [u64; Refusal::ALL.len()]);

impl Tally {
    /// Counts what a reply says: only what was answered as taken was taken.
    pub fn answered(&mut self, reply: Reply) {
        match reply {
            Reply::Heartbeat => self.heartbeats += 1,
            Reply::Report => self.reports += 1,
            // The order of `ALL` is the order of the declaration.
            Reply::Error(refusal) => self.refusals.0[refusal as usize] += 1,
            Reply::Busy(_) => self.busy += 1,
        }
    }

    /// How many frames were refused, by cause.
    pub fn refusals(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL.into_iter().zip(self.refusals.0)
    }

    /// How many frames were refused.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refusals.0.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_under_their_own_cause() {
        let mut tally = Tally::default();
        for (times, refusal) in Refusal::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| tally.answered(Reply::Error(refusal)));
        }
        for ((refusal, count), (times, expected)) in
            tally.refusals().zip(Refusal::ALL.into_iter().enumerate())
        {
            assert_eq!((refusal, count), (expected, times as u64));
        }
        let total: u64 = (0..Refusal::ALL.len() as u64).sum();
        assert_eq!(tally.refused_total(), total);
    }
}
