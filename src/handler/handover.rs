//! Going on in another process.

use crate::store;
use crate::time::{Moment, UnixNanos};

/// What the handler knows beside its agents, as plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeeperState {
    /// When the last report was received, if any is stored: later ones come after.
    pub last_stamp: Option<UnixNanos>,
    /// Before this nobody is declared offline.
    pub amnesty: Moment,
    /// Since when agents have been kept waiting, if they are.
    pub held_since: Option<Moment>,
    /// What the store has done since the first start; all zero without a store.
    pub store: store::Counters,
}
