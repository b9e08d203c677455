//! A hand-over, as the handler takes part in it.
//!
//! The predecessor copies its agents while it serves, then [quiesces](PacketHandler::quiesce),
//! copies the agents changed since, exports its [state](PacketHandler::state) and
//! [leaves](PacketHandler::leave); or it [resumes](PacketHandler::resume) as if nothing had
//! happened. The successor imports the agents and the [state](PacketHandler::import_state), and
//! resumes once the predecessor cannot write any more.

use std::time::Duration;

use super::{PacketHandler, StoreDown};
use crate::notify::Notifier;
use crate::roster::{self, AgentState, Roster, StrangeSlot};
use crate::stats::StoreCounters;
use crate::store;
use crate::transfer::{Transfer, Visit};
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

/// Moves the agents.
impl Transfer for PacketHandler {
    type Id = <Roster as Transfer>::Id;
    type Exported<'a> = Option<AgentState>;
    type Imported = Option<AgentState>;
    type Error = StrangeSlot;

    /// Pauses commands for stored events, too.
    fn begin_copy(&mut self) {
        // The successor delivers again what is delivered at the freeze.
        if let Some(notifier) = self.stored_notifier() {
            notifier.pause();
        }
        self.roster.begin_copy();
    }

    fn copy_some(&mut self, most: usize, visit: Visit<'_, Self>) -> bool {
        self.roster.copy_some(most, visit)
    }

    fn changes(&self) -> usize {
        self.roster.changes()
    }

    /// Copies up to `most` new agents, too.
    fn take_changes(&mut self, most: usize, visit: Visit<'_, Self>) {
        self.roster.copy_some(most, visit);
        self.roster.take_changes(most, visit);
    }

    fn end_copy(&mut self) {
        self.roster.end_copy();
    }

    fn import(&mut self, slot: u32, state: Option<AgentState>) -> Result<(), StrangeSlot> {
        self.roster.import(slot, state)
    }
}

/// The predecessor.
impl PacketHandler {
    /// Returns whether no command runs for a stored event, once the copy has begun.
    #[must_use]
    pub fn has_no_commands(&self) -> bool {
        self.stored_notifier().is_none_or(Notifier::is_quiet)
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
    /// Imports the state beside the agents, once all are imported. No packet is taken before
    /// [`resume`](Self::resume).
    pub fn import_state(&mut self, state: HandlerState) {
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
