//! How far the events in the store are delivered, shared by the writer's thread, which writes
//! that down, and the consumers' thread, which delivers them.

use std::collections::BTreeMap;

/// The events of some agents, which are delivered independently of the other events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Events of agents that were established at the time.
    Established,
    /// Events of other agents.
    Others,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Established, Self::Others];

    /// Its place in an array of both.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// What the store says of deliveries when a file is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Which of the files that this process has opened, one after the other; from 1 on.
    pub number: u64,
    /// For each consumer: the cursors of its lanes, and its retries.
    pub consumers: Vec<([i64; 2], Vec<i64>)>,
}

/// How far a consumer has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Events of each lane up to here are delivered, skipped or listed as retries.
    pub cursors: [i64; 2],
    /// Events of each lane up to here are known to the consumer.
    pub read: [i64; 2],
    /// Events that are to be listed as retries (`true`), or no longer.
    pub retries: BTreeMap<i64, bool>,
}
