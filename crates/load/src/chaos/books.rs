//! What became of the agents, by conduct.

use std::collections::BTreeMap;

use serde::Serialize;

use super::script::Conduct;
use crate::faults::{Fault, Faults};

/// How the life of a connection ended, where that is no fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As its script had it.
    AsPlanned,
    /// The server ended the stream before.
    ClosedByServer,
    /// The server, or the way to it, broke the connection off.
    ResetByServer,
    /// The server had too many connections and said so.
    TurnedAway,
    /// There was no connection, for whatever reason.
    NotMade,
    /// The run was over, and it did not come to an end in time.
    Unfinished,
}

/// What became of the lives of one conduct.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Counts {
    /// In which way these agents misbehaved.
    pub conduct: Conduct,
    /// Connections, those that were not made included.
    pub lives: u64,
    /// Bytes that were sent.
    pub bytes_sent: u64,
    /// Reply lines that came.
    pub lines: u64,
    /// Lives that ended as their script had it.
    pub as_planned: u64,
    /// The server ended the stream before.
    pub closed_by_server: u64,
    /// The server, or the way to it, broke the connection off.
    pub reset_by_server: u64,
    /// The server had too many connections and said so.
    pub turned_away: u64,
    /// There was no connection, for whatever reason.
    pub not_made: u64,
    /// The run was over, and it did not come to an end in time.
    pub unfinished: u64,
    /// Lives in which the server broke the protocol; these are errors of the run.
    pub wronged: u64,
}

/// All counts, and what the server must not have done.
#[derive(Debug, Default)]
pub(crate) struct Books {
    counts: BTreeMap<Conduct, Counts>,
    pub(crate) faults: Faults,
}

impl Books {
    /// The books of agents who were lost with their thread.
    pub(super) fn lost() -> Self {
        let mut books = Self::default();
        let cause = "the chaotic agents' thread ended by a panic";
        books.faults.add(Fault::Connection, cause, 1);
        books
    }

    /// The counts of one conduct.
    pub(super) fn of(&mut self, conduct: Conduct) -> &mut Counts {
        self.counts.entry(conduct).or_insert(Counts {
            conduct,
            lives: 0,
            bytes_sent: 0,
            lines: 0,
            as_planned: 0,
            closed_by_server: 0,
            reset_by_server: 0,
            turned_away: 0,
            not_made: 0,
            unfinished: 0,
            wronged: 0,
        })
    }

    /// The counts of all conducts that occurred.
    pub(crate) fn counts(&self) -> Vec<Counts> {
        self.counts.values().copied().collect()
    }
}

impl Counts {
    /// Counts an end.
    pub(super) fn end(&mut self, ending: Ending) {
        *match ending {
            Ending::AsPlanned => &mut self.as_planned,
            Ending::ClosedByServer => &mut self.closed_by_server,
            Ending::ResetByServer => &mut self.reset_by_server,
            Ending::TurnedAway => &mut self.turned_away,
            Ending::NotMade => &mut self.not_made,
            Ending::Unfinished => &mut self.unfinished,
        } += 1;
    }
}
