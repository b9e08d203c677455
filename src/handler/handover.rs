//! Going on in another process.
//!
//! In the one that is left: copy the agents while packets are taken, then take no more
//! and have everything written ([`PacketHandler::quiesce`]); show what has changed since, and
//! [leave](PacketHandler::leave). [`PacketHandler::go_on`] instead, and nothing has happened.
//!
//! In the other: [adopt](PacketHandler::adopt) what is shown, [resume](PacketHandler::resume), and
//! [go on](PacketHandler::go_on) once the first is known to write no more.

use std::time::Duration;

use super::{PacketHandler, StoreDown};
use crate::notify::Notifier;
use crate::roster::{self, AgentState, StrangeSlot};
use crate::stats::StoreCounters;
use crate::store;
use hawk_time::Moment;

/// A writer that is parked ends at once; beyond this, nobody waits for it.
const LEAVE_TIME: Duration = Duration::from_secs(1);

/// What the handler knows beside its agents, as plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlerState {
    /// Before this nobody is declared offline.
    pub amnesty: Moment,
    /// Since when agents have been kept waiting, if they are.
    pub held_since: Option<Moment>,
    /// How long the roster stood still since the first start, in milliseconds.
    pub stood_still_ms: u64,
    /// What the store has done since the first start; all zero without a store.
    pub store: StoreCounters,
    /// What the bound on the number of agents has caused since the first start.
    pub agents: roster::Counters,
    /// The soft limit of open files with which hawk was first started, if it is raised and
    /// commands are to have it back.
    pub open_files: Option<u64>,
}

/// In the process that is left.
impl PacketHandler {
    /// Has it noted from now on which agents change after they were shown.
    pub fn begin_copy(&mut self) {
        // What is delivered at the freeze is delivered again by the process that goes on.
        if let Some(notifier) = self.notifier.as_ref().filter(|one| !one.wants_events()) {
            notifier.pause();
        }
        self.roster.begin_copy();
    }

    /// Whether no command runs for an event that is in the store, once the copy has begun.
    #[must_use]
    pub fn has_no_commands(&self) -> bool {
        let notifier = self.notifier.as_ref().filter(|one| !one.wants_events());
        notifier.is_none_or(Notifier::is_quiet)
    }

    /// Shows up to `most` agents that were not shown yet, each with its slot; true
    /// when there are none left.
    pub fn copy_some(&mut self, most: usize, see: &mut dyn FnMut(u32, AgentState)) -> bool {
        self.roster.copy_some(most, see)
    }

    /// How many slots would have to be shown again.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.roster.changes()
    }

    /// Shows up to `most` of the slots that have changed since they were shown, those
    /// first that have waited longest: the agent that is there now, or that it was
    /// forgotten.
    pub fn take_changes(&mut self, most: usize, see: &mut dyn FnMut(u32, Option<AgentState>)) {
        self.roster.take_changes(most, see);
    }

    /// Nothing more is shown, and nothing noted.
    pub fn end_copy(&mut self) {
        self.roster.end_copy();
    }

    /// Takes no more packets from now on and has all that was taken stored, until
    /// [`go_on`](Self::go_on). Turns are to go on until [`is_quiet`](Self::is_quiet).
    pub fn quiesce(&mut self) {
        self.quiet_since.get_or_insert(self.now);
        self.settle_down();
    }

    /// Whether everything is on disk, everybody's answer is known and asked for, and
    /// the store is not touched any more.
    ///
    /// # Errors
    /// [`StoreDown`] if that cannot be had now. Then [`go_on`](Self::go_on).
    pub fn is_quiet(&self) -> Result<bool, StoreDown> {
        match (self.quiet_since, &self.books) {
            (None, _) => Ok(false),
            (Some(_), None) => Ok(true),
            (Some(since), Some(books)) => books.is_settled_down(since, self.now),
        }
    }

    /// Takes packets. Nobody is blamed for silence while none were taken.
    pub fn go_on(&mut self) {
        self.quiet_since = None;
        if let Some(notifier) = &self.notifier {
            notifier.resume();
        }
        if let Some(books) = &self.books {
            books.go_on();
        }
        // Who is held waits for the end of a turn.
        if let Some(wake) = &self.wake {
            wake.wake();
        }
    }

    /// What it knows beside its agents.
    #[must_use]
    pub fn state(&self) -> HandlerState {
        let books = self.books.as_ref();
        HandlerState {
            amnesty: self.roster.amnesty(),
            held_since: Some(self.roster.still_since().unwrap_or(self.now)),
            stood_still_ms: {
                let millis = self.roster.stood_still().as_millis();
                u64::try_from(millis).unwrap_or(u64::MAX)
            },
            store: books.map(|books| books.counters()).unwrap_or_default(),
            agents: self.roster.counters(),
            open_files: self.notifier.as_ref().and_then(Notifier::open_files),
        }
    }

    /// The right to write the store, if there is one, for the other process to share.
    #[must_use]
    pub fn store_lock(&self) -> Option<&store::Lock> {
        self.books.as_ref().map(|books| books.lock())
    }

    /// Leaves the store to the process that goes on, as it is.
    pub fn leave_store(&mut self) {
        if let Some(books) = self.books.take()
            && !books.leave(LEAVE_TIME)
        {
            log::error!("the store's thread has not ended, although it was to be idle");
        }
    }

    /// Leaves everything to the process that goes on. The commands for changes run to their
    /// end; those that take longer than `for_commands` are given up, which is logged.
    pub fn leave(mut self, for_commands: Duration) {
        if let Some(notifier) = &self.notifier {
            notifier.leave_within(for_commands);
        }
        self.leave_store();
        if let Some(notifier) = self.notifier.take() {
            notifier.finish();
        }
    }

    /// Goes on having everything stored, in a turn in which no packet is taken.
    pub(super) fn settle_down(&mut self) {
        if let Some(books) = &mut self.books {
            books.settle_down(&self.roster, self.now);
        }
    }
}

/// In the process that goes on.
impl PacketHandler {
    /// Takes in what was shown of a slot, for the first time or again. No event comes
    /// of it.
    ///
    /// # Errors
    /// [`StrangeSlot`] if that cannot be a slot.
    pub fn adopt(&mut self, slot: u32, state: AgentState) -> Result<(), StrangeSlot> {
        self.roster.adopt(slot, state)
    }

    /// Takes in that the agent in a slot was forgotten.
    pub fn forget(&mut self, slot: u32) {
        self.roster.adopt_removal(slot);
    }

    /// All agents are there, as of the same moment as `state`. No packet is taken
    /// before [`go_on`](Self::go_on).
    pub fn resume(&mut self, state: HandlerState) {
        self.now = self.clock.now();
        self.wall = self.clock.wall();
        let waiting_since = state.held_since.unwrap_or(self.now);
        self.quiet_since = Some(waiting_since);
        let stood_still = Duration::from_millis(state.stood_still_ms);
        self.roster
            .resume_from(state.amnesty, Some(waiting_since), stood_still, self.now);
        self.roster.resume_counters(state.agents);
        if let Some(books) = &mut self.books {
            books.go_on_after(&state);
        }
        if let (Some(notifier), Some(limit)) = (&self.notifier, state.open_files) {
            notifier.set_open_files(limit);
        }
        self.moved = Some(state);
    }
}
