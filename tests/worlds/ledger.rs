//! What the server has promised.

use std::collections::{HashMap, HashSet};

/// A report that was acknowledged.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its place in the order of arrival, over all processes and files.
    pub number: u64,
    /// The files that were the store's between its arrival and its acknowledgement.
    pub files: (usize, usize),
}

/// A report that waits for its commit.
#[derive(Debug)]
pub struct Pending {
    pub number: u64,
    pub file: usize,
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub next: u64,
    /// The wall clock at each arrival.
    pub arrivals: Vec<i64>,
    /// By the number of the commit.
    pub pending: HashMap<u64, Vec<Pending>>,
    pub kept: Vec<Kept>,
    /// Names that were only ever asked for the server's health.
    pub probes: HashSet<String>,
}

impl Ledger {
    /// A report arrives; its number.
    pub fn next(&mut self, wall: i64) -> u64 {
        self.next += 1;
        self.arrivals.push(wall);
        self.next
    }

    /// A commit is over; how many reports were with it.
    pub fn settle(&mut self, commit: u64, kept: bool, file: usize) -> usize {
        let pending = self.pending.remove(&commit).unwrap_or_default();
        let count = pending.len();
        if kept {
            self.kept.extend(pending.into_iter().map(|report| Kept {
                number: report.number,
                files: (report.file, file),
            }));
        }
        count
    }

    /// What was not settled never will be.
    pub fn process_ends(&mut self) {
        self.pending.clear();
    }
}
