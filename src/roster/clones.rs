//! Detects two machines that use one name.
//!
//! An agent that moves to another address opens a new connection there, and its old connection
//! falls silent. Two machines that share a name by mistake (a clone, a copied name) send
//! alternately, each on a connection that is older than the other's last turn.

use std::time::Duration;

use hawk_time::{Moment, UnixNanos};

/// Returns in a row to a connection after a packet from another address: the turns A, B, A, B
/// have two.
const RETURNS: u8 = 2;

/// Maximum time between two turns in a row.
const ROW: Duration = Duration::from_secs(60 * 60);

/// Time after the last detection for which an agent counts as cloned.
pub const CLONED_FOR: Duration = Duration::from_secs(60 * 60);

/// The turns in which addresses send packets under one name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CloneDetector {
    /// The start of the present turn; `None` if only one address has sent packets.
    began: Option<Moment>,
    /// Number of turns in a row that returned to an older connection.
    returns: u8,
    /// The present turn is among them.
    is_counted: bool,
    /// The last detection.
    pub(super) cloned_at: Option<UnixNanos>,
}

impl CloneDetector {
    /// Resumes after the last detection of an earlier process.
    pub(super) fn new(cloned_at: Option<UnixNanos>) -> Self {
        Self {
            cloned_at,
            ..Self::default()
        }
    }

    /// Begins the turn of another address.
    pub(super) fn change_address(&mut self, now: Moment) {
        if self.began.is_none_or(|began| now.since(began) > ROW) {
            self.returns = 0;
        }
        self.began = Some(now);
        self.is_counted = false;
    }

    /// Records a packet of the present turn, `gap` after its session's previous packet. Returns
    /// whether the packet shows that the agent is cloned, which was not known.
    #[inline]
    pub(super) fn record_packet(
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
        let before = self.cloned_at.replace(wall);
        before.is_none_or(|before| wall.since(before) >= CLONED_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays packets that come a second apart and returns the indices of those that show a
    /// clone. Each letter is a connection; its upper case is the address.
    fn found_at(packets: &str) -> Vec<usize> {
        let (mut detector, mut last) = (CloneDetector::default(), [None; 128]);
        let mut address = None;
        let mut found = Vec::new();
        for (at, connection) in packets.bytes().enumerate() {
            let seconds = 1 + at as u64;
            let now = Moment::from_nanos(seconds * 1_000_000_000);
            let wall = UnixNanos::from_nanos(now.as_nanos().try_into().unwrap());
            let from = connection.to_ascii_uppercase();
            if address.replace(from).is_some_and(|before| before != from) {
                detector.change_address(now);
            }
            let gap = last[usize::from(connection)].replace(now);
            let gap = gap.map(|before| now.since(before));
            if detector.record_packet(gap, (now, wall)) {
                found.push(at);
            }
        }
        found
    }

    #[test]
    fn two_addresses_that_send_alternately_are_clones() {
        assert_eq!(found_at("ABAB"), [3]);
        assert_eq!(found_at("AAABBBABBBABABAB"), [7], "detected once");
        assert_eq!(found_at("ABCABC"), [4]);
    }

    #[test]
    fn an_agent_that_moves_is_not_a_clone() {
        assert!(found_at("AAABBB").is_empty());
        // A delayed packet.
        assert!(found_at("AABA").is_empty());
        assert!(found_at("AAaaAa").is_empty(), "one address");
        // Back and forth, with a new connection each time.
        let mut detector = CloneDetector::default();
        for second in 1..50 {
            let now = Moment::from_nanos(second * 1_000_000_000);
            let wall = UnixNanos::from_nanos(1);
            detector.change_address(now);
            assert!(!detector.record_packet(None, (now, wall)));
        }
    }
}
