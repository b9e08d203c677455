//! What went wrong, by kind and cause, within bounds.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

/// In which way something went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A reply never came.
    Lost,
    /// A frame was answered with another line than it should have been.
    Wrong,
    /// A line came that answers nothing.
    Extra,
    /// The right reply came, but after the reply timeout.
    Late,
    /// A frame was due, but so much lay unsent that it was dropped.
    Unsent,
    /// A connection could not be made, or did not last.
    Connection,
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Wrong => "wrong",
            Self::Extra => "extra",
            Self::Late => "late",
            Self::Unsent => "not sent",
            Self::Connection => "connection",
        })
    }
}

/// Faults, counted by cause.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(BTreeMap<Fault, BTreeMap<String, u64>>);

/// Causes told apart per fault; a server that answers garbage could make up any
/// number of them.
pub(super) const MOST_CAUSES: usize = 20;

impl Faults {
    /// Counts `count` faults of one cause.
    pub(super) fn add(&mut self, fault: Fault, cause: &str, count: u64) {
        if count == 0 {
            return;
        }
        let causes = self.0.entry(fault).or_default();
        if let Some(counted) = causes.get_mut(cause) {
            *counted += count;
        } else {
            let cause = if causes.len() < MOST_CAUSES {
                cause
            } else {
                "other causes"
            };
            *causes.entry(cause.to_owned()).or_default() += count;
        }
    }

    /// All of them, by kind and cause.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Fault, &str, u64)> {
        self.0.iter().flat_map(|(fault, causes)| {
            let causes = causes.iter();
            causes.map(|(cause, count)| (*fault, cause.as_str(), *count))
        })
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.iter().map(|(_, _, count)| count).sum()
    }
}
