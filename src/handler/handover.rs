//! A hand-over, as the handler takes part in it.
//!
//! The predecessor copies its agents while it serves, then [quiesces](PacketHandler::quiesce),
//! copies the agents changed since, exports its [state](PacketHandler::state) and
//! [leaves](PacketHandler::leave); or it [resumes](PacketHandler::resume) as if nothing had
//! happened. The successor [adopts](PacketHandler::adopt) the agents,
//! [imports](PacketHandler::import) the state, and resumes once the predecessor cannot write
//! any more.

use std::time::Duration;

use super::{PacketHandler, StoreDown};
use crate::notify::Notifier;
use crate::roster::{self, AgentState, StrangeSlot};
use crate::stats::StoreCounters;
use crate::store;
use hawk_time::Moment;

/// The longest wait for a parked writer thread to end.
const LEAVE_TIME: Duration = Duration::from_secs(1);

/// The handler's state beside its agents, as plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlerState {
    /// The end of the grace period, before which no agent is marked offline.
    pub amnesty: Moment,
    /// When the present standstill began, in which no agent is read from; `None` outside of one.
    pub held_since: Option<Moment>,
    /// Milliseconds since the first start for which no agent could go offline.
    pub stood_still_ms: u64,
    /// The store's counters since the first start; all zero without a store.
    pub store: StoreCounters,
    /// The roster's counters since the first start.
    pub agents: roster::Counters,
    /// The soft limit of open files for commands; `None` if it was not raised.
    pub open_files: Option<u64>,
}

/// The predecessor.
impl PacketHandler {
    /// Begins to record which agents change after they were copied, and pauses commands for
    /// stored events.
    pub fn begin_copy(&mut self) {
        // The successor delivers again what is delivered at the freeze.
        if let Some(notifier) = self.stored_notifier() {
            notifier.pause();
        }
        self.roster.begin_copy();
    }

    /// Returns whether no command runs for a stored event, once the copy has begun.
    #[must_use]
    pub fn has_no_commands(&self) -> bool {
        self.stored_notifier().is_none_or(Notifier::is_quiet)
    }

    /// Passes up to `most` agents not copied yet to `see`, each with its slot. Returns true
    /// once all are copied.
    pub fn copy_some(&mut self, most: usize, see: &mut dyn FnMut(u32, AgentState)) -> bool {
        self.roster.copy_some(most, see)
    }

    /// Returns the number of slots that have changed since they were copied.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.roster.changes()
    }

    /// Passes up to `most` slots that have changed since they were copied to `see`, in FIFO
    /// order: the agent now, or `None` if it was removed.
    pub fn take_changes(&mut self, most: usize, see: &mut dyn FnMut(u32, Option<AgentState>)) {
        self.roster.take_changes(most, see);
    }

    /// Ends the copy and stops recording changes.
    pub fn end_copy(&mut self) {
        self.roster.end_copy();
    }

    /// Stops taking packets and writes everything to the store, in this turn and those that
    /// follow, until [`is_quiet`](Self::is_quiet).
    pub fn quiesce(&mut self) {
        self.quiet_since.get_or_insert(self.now);
        self.quiesce_ledger();
    }

    /// Returns whether everything is on disk, every completed commit is taken, and the
    /// writer is parked.
    ///
    /// # Errors
    /// [`StoreDown`] if the store does not allow that now. [`resume`](Self::resume) then.
    pub fn is_quiet(&self) -> Result<bool, StoreDown> {
        match (self.quiet_since, &self.ledger) {
            (None, _) => Ok(false),
            (Some(_), None) => Ok(true),
            (Some(since), Some(ledger)) => ledger.is_quiet(since, self.now),
        }
    }

    /// Takes packets again, or for the first time. The time without packets counts for no
    /// agent's silence.
    pub fn resume(&mut self) {
        self.quiet_since = None;
        if let Some(notifier) = &self.notifier {
            notifier.resume();
        }
        if let Some(ledger) = &self.ledger {
            ledger.producer.unpark();
        }
        // Paused connections resume at the end of a turn.
        if let Some(wake) = &self.wake {
            wake.wake();
        }
    }

    /// Exports the state beside the agents.
    #[must_use]
    pub fn state(&self) -> HandlerState {
        let stood_still = self.roster.stood_still().as_millis();
        HandlerState {
            amnesty: self.roster.amnesty(),
            held_since: Some(self.roster.still_since().unwrap_or(self.now)),
            stood_still_ms: u64::try_from(stood_still).unwrap_or(u64::MAX),
            store: self
                .ledger
                .as_ref()
                .map_or_else(StoreCounters::default, |l| l.counters()),
            agents: self.roster.counters(),
            open_files: self.notifier.as_ref().and_then(Notifier::open_files),
        }
    }

    /// Returns the lock of the store's file, for the successor to share; `None` without a
    /// store.
    #[must_use]
    pub fn store_lock(&self) -> Option<&store::Lock> {
        self.ledger.as_ref().map(|ledger| ledger.producer.lock())
    }

    /// Leaves the store to the successor without another write.
    pub fn leave_store(&mut self) {
        if let Some(ledger) = self.ledger.take()
            && !ledger.producer.leave(LEAVE_TIME)
        {
            log::error!("the store's thread has not ended, although it was to be idle");
        }
    }

    /// Leaves everything to the successor. Commands that still run get `for_commands` to end;
    /// then they are killed, which is logged.
    pub fn leave(mut self, for_commands: Duration) {
        if let Some(notifier) = &self.notifier {
            notifier.leave_within(for_commands);
        }
        self.leave_store();
        if let Some(notifier) = self.notifier.take() {
            notifier.finish();
        }
    }

    /// Continues to write everything to the store, in a turn without packets.
    pub(super) fn quiesce_ledger(&mut self) {
        if let Some(ledger) = &mut self.ledger {
            ledger.quiesce(&self.roster, self.now, self.wall);
        }
    }
}

/// The successor.
impl PacketHandler {
    /// Takes over the agent of a slot, for the first time or again, without an event.
    ///
    /// # Errors
    /// [`StrangeSlot`] if there cannot be such a slot.
    pub fn adopt(&mut self, slot: u32, state: AgentState) -> Result<(), StrangeSlot> {
        self.roster.adopt(slot, state)
    }

    /// Removes the agent of a slot, which the predecessor removed.
    pub fn remove(&mut self, slot: u32) {
        self.roster.adopt_removal(slot);
    }

    /// Imports the state beside the agents, once all are adopted. No packet is taken before
    /// [`resume`](Self::resume).
    pub fn import(&mut self, state: HandlerState) {
        self.now = self.clock.now();
        self.wall = self.clock.wall();
        let waiting_since = state.held_since.unwrap_or(self.now);
        self.quiet_since = Some(waiting_since);
        let stood_still = Duration::from_millis(state.stood_still_ms);
        self.roster
            .resume_from(state.amnesty, Some(waiting_since), stood_still, self.now);
        self.roster.resume_counters(state.agents);
        if let Some(ledger) = &mut self.ledger {
            ledger.counted_before = state.store;
        }
        if let (Some(notifier), Some(limit)) = (&self.notifier, state.open_files) {
            notifier.set_open_files(limit);
        }
        self.imported = Some(state);
    }
}
