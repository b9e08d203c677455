//! Agents on their way to another process: shown bit by bit while the roster is in
//! use, and what has changed since shown again.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::{AgentKey, Entry, Roster};
use crate::time::{Moment, UnixNanos};

/// All there is to know of an agent: enough to go on with it in another process of
/// the same machine as if nothing had happened.
///
/// It goes by its slot, which is the same there: the tags that sessions keep hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentState {
    /// The name it gave itself.
    pub name: Option<String>,
    /// The address it was last heard from; without a name, who it is.
    pub address: IpAddr,
    /// The version in its last heartbeat, of [`MAX_VERSION`](super::MAX_VERSION)
    /// bytes at most.
    pub version: String,
    /// When it was first heard.
    pub first_seen: UnixNanos,
    /// When it was last heard.
    pub last_seen: UnixNanos,
    /// Whether it is online.
    pub online: bool,
    /// Since when it is online or offline.
    pub changed_at: UnixNanos,
    /// Sessions that speak for it: they move as well.
    pub sessions: u32,
    /// When it was last heard, on the clock on which its silence is counted.
    pub heard_at: Moment,
    /// Its last heartbeat, unless it was away since.
    pub last_heartbeat: Option<Moment>,
    /// The last two intervals between its heartbeats, in milliseconds, latest first.
    pub intervals: [u32; 2],
    /// Different hours in which it was heard, as far as they are counted; 0 if they
    /// were not.
    pub hours: u32,
    /// The last of these hours, counted from 1970.
    pub last_hour: i64,
}

/// Slots in use are about as many as the capacity of the process before, which may have
/// been greater. A number far beyond the capacity and [`LEAST_SLOTS`] is a mistake, for
/// which no memory is to be taken.
const SLOTS_PER_CAPACITY: usize = 4;
const LEAST_SLOTS: usize = 1 << 20;

/// What a copy has shown.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// For each slot that was shown, or was empty then: whether it stands in
    /// `changed`. The other slots are still to come.
    listed: Vec<bool>,
    /// Slots that are to be shown again, in the order in which they changed.
    changed: VecDeque<u32>,
}

/// A slot that no roster of this size gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there cannot be an agent with the number {0}")]
pub struct StrangeSlot(u32);

/// In the process that agents leave.
impl Roster {
    /// Has it noted from now on what changes after it was shown.
    pub fn begin_copy(&mut self) {
        self.end_copy();
        self.notes = Some(Notes::default());
    }

    /// Shows up to `most` agents that were not shown yet, each with its slot; true
    /// when there are none left.
    pub fn copy_some(&mut self, most: usize, see: &mut dyn FnMut(u32, AgentState)) -> bool {
        let Some(notes) = &mut self.notes else {
            return true;
        };
        let mut left = most;
        while let Some(entry) = self.entries.get_mut(notes.listed.len()) {
            if let Some(entry) = entry {
                if left == 0 {
                    return false;
                }
                left -= 1;
                entry.shown = true;
                see(number(notes.listed.len()), entry.state());
            }
            notes.listed.push(false);
        }
        true
    }

    /// How many agents would have to be shown again.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.notes.as_ref().map_or(0, |notes| notes.changed.len())
    }

    /// Shows up to `most` of the slots that have changed since they were shown, those
    /// first that have waited longest: the agent that is there now, if one is.
    pub fn take_changes(&mut self, most: usize, see: &mut dyn FnMut(u32, Option<AgentState>)) {
        let Some(notes) = &mut self.notes else {
            return;
        };
        let taken = most.min(notes.changed.len());
        for slot in notes.changed.drain(..taken) {
            notes.listed[slot as usize] = false;
            let entry = self.entries.get_mut(slot as usize);
            let state = entry.and_then(Option::as_mut).map(|entry| {
                entry.shown = true;
                entry.state()
            });
            see(slot, state);
        }
    }

    /// Nothing more is shown, and nothing noted.
    pub fn end_copy(&mut self) {
        let Some(notes) = self.notes.take() else {
            return;
        };
        let shown = self.entries.iter_mut().take(notes.listed.len());
        shown.flatten().for_each(|entry| entry.shown = false);
    }
}

impl Notes {
    /// Who is in this slot, or whether anybody is, has changed.
    #[cold]
    #[inline(never)]
    pub(super) fn add(notes: &mut Option<Self>, key: AgentKey) {
        if let Some(notes) = notes
            && let Some(listed) = notes.listed.get_mut(key.slot())
            && !*listed
        {
            *listed = true;
            notes.changed.push_back(key.number());
        }
    }
}

/// In the process that they come to, whose own roster is empty.
impl Roster {
    /// Takes in what was shown of a slot, for the first time or again. No event comes
    /// of it.
    ///
    /// What was shown is of different moments: an agent that was forgotten and met
    /// again may be shown in its new slot before the old one is said to be empty. What
    /// was shown last is true.
    ///
    /// # Errors
    /// [`StrangeSlot`] if the slot is far beyond the capacity.
    pub fn adopt(&mut self, slot: u32, state: AgentState) -> Result<(), StrangeSlot> {
        let at = slot as usize;
        if at
            >= self
                .config
                .capacity
                .saturating_mul(SLOTS_PER_CAPACITY)
                .max(LEAST_SLOTS)
        {
            return Err(StrangeSlot(slot));
        }
        let entry = Entry::rebuild(state);
        let key = AgentKey::new(at);
        match self.get_mut(key) {
            Some(present) if present.identity() == entry.identity() => {
                let before = present.online;
                let after = entry.online;
                self.update_place(key, |present| present.go_on_as(entry));
                self.online = self.online + usize::from(after) - usize::from(before);
            }
            _ => {
                self.forget(slot);
                if let Some(other) = self.find(entry.identity()) {
                    self.take_out(other);
                }
                for gap in self.entries.len()..=at {
                    self.entries.push(None);
                    self.free.insert(number(gap));
                }
                self.free.remove(&slot);
                self.put(key, entry);
            }
        }
        self.arm_early(key);
        Ok(())
    }

    /// Takes in that a slot is empty.
    pub fn forget(&mut self, slot: u32) {
        self.take_out(AgentKey::new(slot as usize));
    }

    /// All agents are there; goes on with them. Nobody is declared offline before
    /// `amnesty`, and since `held_since`, if at all, agents have been kept waiting.
    pub fn go_on_from(&mut self, amnesty: Moment, held_since: Option<Moment>, now: Moment) {
        self.amnesty = amnesty;
        self.held_since = held_since;
        self.looked_at = now;
    }

    /// Sets an agent's alarm for when its silence may be too long: what is to be added
    /// to that is not known yet.
    fn arm_early(&mut self, key: AgentKey) {
        if let Some(entry) = self.get(key)
            && entry.online
        {
            let deadline = entry.heard_at.after(self.patience_with(entry));
            self.wheel.arm(key.number(), deadline);
        }
    }
}

/// A slot as a number. There are never more than keys can tell apart.
fn number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
