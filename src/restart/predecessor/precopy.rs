//! When the copy during service ends. Fewer changes left mean a shorter freeze, but under load
//! new changes never end.

use std::time::Duration;

use hawk_time::Moment;

/// Changed connections and agents that are few enough for the freeze, and for the work between
/// two turns.
pub(super) const FEW_CHANGES: usize = 256;

/// How often every connection may be copied again, on average: under load more passes do not
/// leave fewer changes.
const MAX_RECOPIES: usize = 4;

/// The time after which the copy ends with the changes that are left. The time limit of the
/// step is longer: it is for a successor that hangs.
const MAX_DURATION: Duration = Duration::from_secs(20);

/// The progress of the copy.
#[derive(Debug)]
pub(super) struct PreCopy {
    pub(super) begun: Moment,
    /// Whether no connection or agent was left to copy at some moment.
    first_pass_complete: bool,
    /// Changes that were copied.
    recopied: usize,
    pass: Pass,
}

/// A pass over all changes of one moment.
#[derive(Debug)]
struct Pass {
    changes: usize,
    /// Changes of the pass that are not copied.
    left: usize,
}

/// The state that is left to copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    /// All connections.
    pub(super) connections: usize,
    /// Connections that were never copied.
    pub(super) unseen: usize,
    /// Connections and agents that changed since they were copied, and the unseen ones.
    pub(super) changes: usize,
}

/// The next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Copy connections and agents that were never copied.
    Copy,
    /// Copy changes.
    CopyAgain,
    /// End the copy; the freeze copies the rest.
    Quiesce,
}

impl PreCopy {
    pub(super) const fn new(begun: Moment) -> Self {
        Self {
            begun,
            first_pass_complete: false,
            recopied: 0,
            pass: Pass {
                changes: usize::MAX,
                left: 0,
            },
        }
    }

    /// Records whether `all` new connections and agents were copied.
    pub(super) const fn copied(&mut self, all: bool) {
        self.first_pass_complete |= all;
    }

    /// Returns whether no connection or agent was left to copy at some moment.
    pub(super) const fn is_first_pass_complete(&self) -> bool {
        self.first_pass_complete
    }

    /// Returns the next action at `now`. The last message has room for `takes` new connections.
    pub(super) fn next(&mut self, amount: Amount, takes: usize, now: Moment) -> Next {
        // New connections must not keep the copy from ending.
        if !self.first_pass_complete || amount.unseen > takes {
            return Next::Copy;
        }
        let is_enough = self.recopied >= MAX_RECOPIES * amount.connections
            || now.since(self.begun) >= MAX_DURATION;
        if amount.changes <= FEW_CHANGES || is_enough {
            return Next::Quiesce;
        }
        if self.pass.left == 0 {
            if amount.changes >= self.pass.changes {
                return Next::Quiesce;
            }
            self.pass = Pass {
                changes: amount.changes,
                left: amount.changes,
            };
        }
        self.pass.left = self.pass.left.saturating_sub(FEW_CHANGES);
        self.recopied += FEW_CHANGES;
        Next::CopyAgain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKES: usize = 100;

    const START: Moment = Moment::from_nanos(0);

    fn precopy() -> PreCopy {
        PreCopy::new(START)
    }

    fn of_1000(unseen: usize, changes: usize) -> Amount {
        Amount {
            connections: 1000,
            unseen,
            changes,
        }
    }

    #[test]
    fn all_are_copied_first() {
        let mut precopy = precopy();
        for all in [false, false, true] {
            assert_eq!(precopy.next(of_1000(0, 0), TAKES, START), Next::Copy);
            precopy.copied(all);
        }
        assert_eq!(precopy.next(of_1000(0, 0), TAKES, START), Next::Quiesce);
    }

    #[test]
    fn new_connections_do_not_keep_it_from_ending() {
        let mut precopy = precopy();
        precopy.copied(true);
        let many = of_1000(TAKES + 1, TAKES + 1);
        assert_eq!(precopy.next(many, TAKES, START), Next::Copy);
        precopy.copied(false);
        let few = of_1000(TAKES, TAKES);
        assert_eq!(precopy.next(few, TAKES, START), Next::Quiesce);
    }

    #[test]
    fn changes_do_not_keep_it_from_ending() {
        // Each pass leaves one fewer than the last, or none does.
        for (fewer, passes) in [(1, MAX_RECOPIES), (0, 1)] {
            let mut precopy = precopy();
            precopy.copied(true);
            let (mut changes, mut again) = (1000, 0);
            while precopy.next(of_1000(0, changes), TAKES, START) == Next::CopyAgain {
                again += FEW_CHANGES;
                changes -= fewer;
            }
            let expected = passes * 1000..passes * 1000 + FEW_CHANGES;
            assert!(expected.contains(&again), "{again}");
        }
    }

    #[test]
    fn it_ends_when_it_has_taken_long() {
        let mut precopy = precopy();
        precopy.copied(true);
        let many = of_1000(0, 1000);
        assert_eq!(precopy.next(many, TAKES, START), Next::CopyAgain);
        let late = START.after(MAX_DURATION);
        assert_eq!(precopy.next(many, TAKES, late), Next::Quiesce);
    }

    #[test]
    fn few_changes_are_for_the_freeze() {
        let mut precopy = precopy();
        precopy.copied(true);
        let many = of_1000(0, FEW_CHANGES + 1);
        assert_eq!(precopy.next(many, TAKES, START), Next::CopyAgain);
        let few = of_1000(0, FEW_CHANGES);
        assert_eq!(precopy.next(few, TAKES, START), Next::Quiesce);
    }
}
