//! Detects two machines that use one name.
//!
//! An agent that moves to another address opens a new connection there, and its old one
//! falls silent. Two machines that share a name by mistake (a clone, a name that was
//! copied) send alternately, each on a connection that is older than the other's last turn.

use std::time::Duration;

use hawk_time::{Moment, UnixNanos};

/// Returns in a row to a connection after a packet from another address: A, B, A, B has
/// two.
const RETURNS: u8 = 2;

/// Turns further apart than this are not in a row.
const ROW: Duration = Duration::from_secs(60 * 60);

/// After this long without another such return an agent counts as cloned no more.
pub const CLONED_FOR: Duration = Duration::from_secs(60 * 60);

/// Turns in which addresses speak for one name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turns {
    /// When the address that speaks now took over, if there was another before.
    began: Option<Moment>,
    /// Turns in a row that were a connection's return.
    returns: u8,
    /// The present turn is counted among them.
    is_counted: bool,
    /// When the agent was last found to be cloned.
    pub(super) cloned_at: Option<UnixNanos>,
}

impl Turns {
    /// Of an agent that was last found to be cloned at `cloned_at`.
    pub(super) fn known(cloned_at: Option<UnixNanos>) -> Self {
        Self {
            cloned_at,
            ..Self::default()
        }
    }

    /// Another address speaks from now on.
    pub(super) fn change(&mut self, now: Moment) {
        if self.began.is_none_or(|began| now.since(began) > ROW) {
            self.returns = 0;
        }
        self.began = Some(now);
        self.is_counted = false;
    }

    /// The address that speaks now has sent a packet, `gap` after the one before in its
    /// session; whether this shows that the agent is cloned, which was not known.
    #[inline]
    pub(super) fn spoke(
        &mut self,
        gap: Option<Duration>,
        (now, wall): (Moment, UnixNanos),
    ) -> bool {
        match (self.began, gap) {
            (Some(began), Some(gap)) if !self.is_counted && now.before(gap) < began => {
                self.count_return(wall)
            }
            _ => false,
        }
    }

    #[cold]
    fn count_return(&mut self, wall: UnixNanos) -> bool {
        self.is_counted = true;
        self.returns = self.returns.saturating_add(1);
        if self.returns < RETURNS {
            return false;
        }
        let known = self.is_cloned(wall);
        self.cloned_at = Some(wall);
        !known
    }

    /// Whether the agent was found to be cloned of late.
    pub(super) fn is_cloned(&self, wall: UnixNanos) -> bool {
        let cloned_at = self.cloned_at;
        cloned_at.is_some_and(|cloned_at| wall.since(cloned_at) < CLONED_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Speakers with their connections, a second apart each; which of them shows that the
    /// agent is cloned. Each connection is a letter, an address its upper case.
    fn found_at(speakers: &str) -> Vec<usize> {
        let (mut turns, mut last) = (Turns::default(), [None; 128]);
        let mut address = None;
        let mut found = Vec::new();
        for (at, speaker) in speakers.bytes().enumerate() {
            let seconds = 1 + at as u64;
            let now = Moment::from_nanos(seconds * 1_000_000_000);
            let wall = UnixNanos::from_nanos(now.as_nanos().try_into().unwrap());
            let from = speaker.to_ascii_uppercase();
            if address.replace(from).is_some_and(|before| before != from) {
                turns.change(now);
            }
            let gap = last[usize::from(speaker)].replace(now);
            let gap = gap.map(|before| now.since(before));
            if turns.spoke(gap, (now, wall)) {
                found.push(at);
            }
        }
        found
    }

    #[test]
    fn two_connections_that_speak_by_turns_are_clones() {
        assert_eq!(found_at("ABAB"), [3]);
        assert_eq!(found_at("AAABBBABBBABABAB"), [7], "told once");
        assert_eq!(found_at("ABCABC"), [4]);
    }

    #[test]
    fn an_agent_that_moves_is_none() {
        assert!(found_at("AAABBB").is_empty());
        // Something that was on its way comes late.
        assert!(found_at("AABA").is_empty());
        assert!(found_at("AAaaAa").is_empty(), "of one address");
        // To and fro, with a new connection each time.
        let mut turns = Turns::default();
        for second in 1..50 {
            let now = Moment::from_nanos(second * 1_000_000_000);
            let wall = UnixNanos::from_nanos(1);
            turns.change(now);
            assert!(!turns.spoke(None, (now, wall)));
        }
    }
}
