//! How long to go on copying while agents are served: less to copy in the freeze is a shorter
//! freeze, and there is no end to it while they change what was copied.

use crate::time::Moment;

/// Connections that are not as they were copied, and agents. So many are few enough for the
/// freeze, and for a turn before it.
pub(super) const FEW_CHANGES: usize = 256;

/// How often everything may be copied again. Under a load that changes it all the time, more
/// does not bring fewer changes.
const AGAIN: usize = 4;

/// How far the copy has come.
#[derive(Debug)]
pub(super) struct Copying {
    pub(super) begun: Moment,
    /// Everybody was, who was there at some look.
    all_shown: bool,
    /// How many connections may be copied again before this goes on with what there is.
    again: usize,
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
    pub(super) const fn new(begun: Moment, population: usize) -> Self {
        Self {
            begun,
            all_shown: false,
            again: AGAIN * population,
        }
    }

    /// Whether `all` were copied who were not.
    pub(super) const fn shown(&mut self, all: bool) {
        self.all_shown |= all;
    }

    /// With so many who were never copied, and so many changes altogether; the last message
    /// `takes` so many of the former.
    pub(super) const fn next(&mut self, unseen: usize, changes: usize, takes: usize) -> Next {
        // Who comes all the time must not keep this from ending.
        if !self.all_shown || unseen > takes {
            return Next::Show;
        }
        if changes <= FEW_CHANGES || self.again == 0 {
            return Next::Quiesce;
        }
        self.again = self.again.saturating_sub(FEW_CHANGES);
        Next::ShowAgain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKES: usize = 100;

    fn copying(population: usize) -> Copying {
        Copying::new(Moment::from_nanos(0), population)
    }

    #[test]
    fn all_are_copied_first() {
        let mut copying = copying(1000);
        for all in [false, false, true] {
            assert_eq!(copying.next(0, 0, TAKES), Next::Show);
            copying.shown(all);
        }
        assert_eq!(copying.next(0, 0, TAKES), Next::Quiesce);
    }

    #[test]
    fn newcomers_do_not_keep_it_from_ending() {
        let mut copying = copying(1000);
        copying.shown(true);
        assert_eq!(copying.next(TAKES + 1, TAKES + 1, TAKES), Next::Show);
        copying.shown(false);
        assert_eq!(copying.next(TAKES, TAKES, TAKES), Next::Quiesce);
    }

    #[test]
    fn changes_do_not_keep_it_from_ending() {
        let mut copying = copying(1000);
        copying.shown(true);
        let mut again = 0;
        while copying.next(0, 1000, TAKES) == Next::ShowAgain {
            again += FEW_CHANGES;
        }
        assert!((AGAIN * 1000..AGAIN * 1000 + FEW_CHANGES).contains(&again));
    }

    #[test]
    fn few_changes_are_for_the_freeze() {
        let mut copying = copying(1000);
        copying.shown(true);
        assert_eq!(copying.next(0, FEW_CHANGES + 1, TAKES), Next::ShowAgain);
        assert_eq!(copying.next(0, FEW_CHANGES, TAKES), Next::Quiesce);
    }
}
