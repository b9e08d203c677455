//! How long to go on copying while agents are served: less to copy in the freeze is a shorter
//! freeze, and there is no end to it while they change what was copied.

use std::time::Duration;

use hawk_time::Moment;

/// Connections that are not as they were copied, and agents. So many are few enough for the
/// freeze, and for a turn before it.
pub(super) const FEW_CHANGES: usize = 256;

/// How often everything may be copied again: under a load that changes it all the time, more
/// does not bring fewer changes.
const AGAIN: usize = 4;

/// From then on it goes on with what there is. What is allowed for the copy is longer, for a
/// successor that hangs.
const ENOUGH: Duration = Duration::from_secs(20);

/// How far the copy has come.
#[derive(Debug)]
pub(super) struct Copying {
    pub(super) begun: Moment,
    /// Everybody was, who was there at some look.
    all_shown: bool,
    /// How many changes were copied.
    again: usize,
    pass: Pass,
}

/// All changes that there were at one moment.
#[derive(Debug)]
struct Pass {
    changes: usize,
    /// Not copied yet.
    left: usize,
}

/// What the server has to show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    /// Connections that it has.
    pub(super) population: usize,
    /// Those of them that were never copied.
    pub(super) unseen: usize,
    /// Connections and agents that are not as they were copied, and the unseen.
    pub(super) changes: usize,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Copying who was not copied yet.
    Show,
    /// Copying again who has changed.
    ShowAgain,
    /// Nothing: the rest is for the freeze.
    Quiesce,
}

impl Copying {
    pub(super) const fn new(begun: Moment) -> Self {
        Self {
            begun,
            all_shown: false,
            again: 0,
            pass: Pass {
                changes: usize::MAX,
                left: 0,
            },
        }
    }

    /// Whether `all` were copied who were not.
    pub(super) const fn shown(&mut self, all: bool) {
        self.all_shown |= all;
    }

    /// Whether all were copied who were there at some look.
    pub(super) const fn all_shown(&self) -> bool {
        self.all_shown
    }

    /// What to do at `now`. The last message `takes` so many who were never copied.
    pub(super) fn next(&mut self, there: Amount, takes: usize, now: Moment) -> Next {
        // Who comes all the time must not keep this from ending.
        if !self.all_shown || there.unseen > takes {
            return Next::Show;
        }
        let is_enough = self.again >= AGAIN * there.population || now.since(self.begun) >= ENOUGH;
        if there.changes <= FEW_CHANGES || is_enough {
            return Next::Quiesce;
        }
        if self.pass.left == 0 {
            if there.changes >= self.pass.changes {
                return Next::Quiesce;
            }
            self.pass = Pass {
                changes: there.changes,
                left: there.changes,
            };
        }
        self.pass.left = self.pass.left.saturating_sub(FEW_CHANGES);
        self.again += FEW_CHANGES;
        Next::ShowAgain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKES: usize = 100;

    const START: Moment = Moment::from_nanos(0);

    fn copying() -> Copying {
        Copying::new(START)
    }

    fn of_1000(unseen: usize, changes: usize) -> Amount {
        Amount {
            population: 1000,
            unseen,
            changes,
        }
    }

    #[test]
    fn all_are_copied_first() {
        let mut copying = copying();
        for all in [false, false, true] {
            assert_eq!(copying.next(of_1000(0, 0), TAKES, START), Next::Show);
            copying.shown(all);
        }
        assert_eq!(copying.next(of_1000(0, 0), TAKES, START), Next::Quiesce);
    }

    #[test]
    fn newcomers_do_not_keep_it_from_ending() {
        let mut copying = copying();
        copying.shown(true);
        let many = of_1000(TAKES + 1, TAKES + 1);
        assert_eq!(copying.next(many, TAKES, START), Next::Show);
        copying.shown(false);
        let few = of_1000(TAKES, TAKES);
        assert_eq!(copying.next(few, TAKES, START), Next::Quiesce);
    }

    #[test]
    fn changes_do_not_keep_it_from_ending() {
        // Each pass leaves one fewer than the last, or none does.
        for (fewer, passes) in [(1, AGAIN), (0, 1)] {
            let mut copying = copying();
            copying.shown(true);
            let (mut changes, mut again) = (1000, 0);
            while copying.next(of_1000(0, changes), TAKES, START) == Next::ShowAgain {
                again += FEW_CHANGES;
                changes -= fewer;
            }
            let expected = passes * 1000..passes * 1000 + FEW_CHANGES;
            assert!(expected.contains(&again), "{again}");
        }
    }

    #[test]
    fn it_ends_when_it_has_taken_long() {
        let mut copying = copying();
        copying.shown(true);
        let many = of_1000(0, 1000);
        assert_eq!(copying.next(many, TAKES, START), Next::ShowAgain);
        let late = START.after(ENOUGH);
        assert_eq!(copying.next(many, TAKES, late), Next::Quiesce);
    }

    #[test]
    fn few_changes_are_for_the_freeze() {
        let mut copying = copying();
        copying.shown(true);
        let many = of_1000(0, FEW_CHANGES + 1);
        assert_eq!(copying.next(many, TAKES, START), Next::ShowAgain);
        let few = of_1000(0, FEW_CHANGES);
        assert_eq!(copying.next(few, TAKES, START), Next::Quiesce);
    }
}
