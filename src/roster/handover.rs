//! The roster's part in a hand-over: agents are copied step by step while the roster is in use,
//! and copied again after a change.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::presence::{JudgedBy, Presence, Rhythm, Run};
use super::{AgentKey, Entry, Roster};
use crate::dirty_set::DirtySet;
use crate::interval::Interval;
use crate::transfer::{Transfer, Visit};
use hawk_time::{Moment, UnixNanos};

/// The full state of an agent, for a process on the same machine that takes over.
///
/// The agent keeps its slot there, so the tags of sessions stay valid. Its moments are on the
/// monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentState {
    /// The name it gave itself; `None` for an agent that is identified by its address.
    pub name: Option<String>,
    /// The source address of its last packet.
    pub address: IpAddr,
    /// The version in its last heartbeat, up to [`MAX_VERSION`](super::MAX_VERSION) bytes; empty
    /// before the first.
    pub version: String,
    /// The time of its first packet.
    pub first_seen: UnixNanos,
    /// The time of its last packet.
    pub last_seen: UnixNanos,
    /// Whether it is online.
    pub online: bool,
    /// The last change of `online`.
    pub changed_at: UnixNanos,
    /// Number of its sessions, which move as well.
    pub sessions: u32,
    /// Its last packet, moved by the time since in which its silence did not count.
    pub seen_at: Moment,
    /// Its last heartbeat that counts; `None` after an absence.
    pub last_heartbeat: Option<Moment>,
    /// The learnt interval between its heartbeats, in milliseconds, twice: older builds put the
    /// last two intervals here, of which the larger counts.
    pub intervals: [u32; 2],
    /// Number of different hours with packets; 0 if an older build did not count them.
    pub hours: u32,
    /// The last of these hours, counted from 1970.
    pub last_hour: i64,
    /// The part that older builds do not have.
    pub presence: PresenceState,
}

/// The part of an agent's state that older builds do not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresenceState {
    /// The last detection of a clone.
    pub cloned_at: Option<UnixNanos>,
    /// The last silence for which it was offline, in milliseconds; zero once a gap was counted
    /// since.
    pub absence: u32,
    /// The moment at which it came online last.
    pub came_at: Option<Moment>,
    /// The packets that show its silence.
    pub judged_by: JudgedBy,
    /// Number of its sessions from which hawk does not read.
    pub paused: u32,
    /// The start of the present pause; `None` if no session is paused.
    pub paused_since: Option<Moment>,
    /// Its last report that counts; `None` after an absence.
    pub last_report: Option<Moment>,
    /// The learnt interval between its reports, in milliseconds.
    pub report_interval: u32,
    /// Number of its latest gaps between reports that are alike.
    pub alike: u32,
    /// The start of the first of these gaps.
    pub alike_since: Option<Moment>,
    /// The shortest and the longest of these gaps, in milliseconds.
    pub alike_range: [u32; 2],
}

impl AgentState {
    /// Returns the packets that show its silence. An older build watched every agent and did not
    /// send this: then an agent without a trace of a heartbeat has only sent reports.
    fn judged_by(&self) -> JudgedBy {
        let is_of_older_build = self.presence == PresenceState::default();
        let beats =
            self.last_heartbeat.is_some() || self.intervals != [0; 2] || !self.version.is_empty();
        match is_of_older_build && !beats {
            true => JudgedBy::Nothing,
            false => self.presence.judged_by,
        }
    }

    /// Returns the times and intervals of its packets.
    pub(super) fn into_presence(self) -> Presence {
        let judged_by = self.judged_by();
        let more = self.presence;
        let [latest, before] = self.intervals;
        let [shortest, longest] = more.alike_range.map(Interval::from_millis);
        Presence {
            seen_at: self.seen_at,
            came_at: more.came_at,
            judged_by,
            absence: Interval::from_millis(more.absence),
            paused: more.paused,
            paused_since: more.paused_since,
            heartbeats: Rhythm {
                interval: Interval::from_millis(latest.max(before)),
                last: self.last_heartbeat,
            },
            reports: Rhythm {
                interval: Interval::from_millis(more.report_interval),
                last: more.last_report,
            },
            run: Run {
                gaps: more.alike,
                shortest,
                longest,
                since: more.alike_since,
            },
        }
    }
}

/// The number of slots in use is about the capacity of the predecessor, which may have been
/// greater. For a number far beyond the capacity and [`LEAST_SLOTS`], which must be an error, no
/// memory is allocated.
const SLOTS_PER_CAPACITY: usize = 4;
const LEAST_SLOTS: usize = 1 << 20;

/// Progress of a copy.
#[derive(Debug, Default)]
pub(super) struct Copying {
    /// The first slot that the initial pass has not reached.
    next: usize,
    /// Slots below it that changed since they were copied.
    dirty: DirtySet<u32>,
}

/// A slot that a roster of this size cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there cannot be an agent with the number {0}")]
pub struct StrangeSlot(u32);

impl Transfer for Roster {
    /// The agent's slot.
    type Id = u32;
    /// `None` if the slot is empty.
    type Exported<'a> = Option<AgentState>;
    type Imported = Option<AgentState>;
    type Error = StrangeSlot;

    fn begin_copy(&mut self) {
        self.end_copy();
        self.copying = Some(Copying::default());
    }

    fn copy_some(&mut self, most: usize, visit: Visit<'_, Self>) -> bool {
        let Some(copying) = &mut self.copying else {
            return true;
        };
        let mut left = most;
        while let Some(entry) = self.entries.get_mut(copying.next) {
            if let Some(entry) = entry {
                if left == 0 {
                    return false;
                }
                left -= 1;
                entry.is_copied = true;
                visit(number(copying.next), Some(entry.state(self.lead)));
            }
            copying.dirty.set_clean(copying.next);
            copying.next += 1;
        }
        true
    }

    fn changes(&self) -> usize {
        self.copying
            .as_ref()
            .map_or(0, |copying| copying.dirty.len())
    }

    fn take_changes(&mut self, most: usize, visit: Visit<'_, Self>) {
        let Some(copying) = &mut self.copying else {
            return;
        };
        for slot in copying.dirty.take(most) {
            copying.dirty.set_clean(slot as usize);
            let entry = self.entries.get_mut(slot as usize);
            let state = entry.and_then(Option::as_mut).map(|entry| {
                entry.is_copied = true;
                entry.state(self.lead)
            });
            visit(slot, state);
        }
    }

    fn end_copy(&mut self) {
        let Some(copying) = self.copying.take() else {
            return;
        };
        let copied = self.entries.iter_mut().take(copying.next);
        copied.flatten().for_each(|entry| entry.is_copied = false);
    }

    /// Causes no event.
    fn import(&mut self, slot: u32, state: Option<AgentState>) -> Result<(), StrangeSlot> {
        match state {
            Some(state) => self.adopt(slot, state)?,
            None => self.take_out(AgentKey::new(slot as usize)),
        }
        Ok(())
    }
}

impl Copying {
    /// Records that the agent in this slot has changed, or that the slot was filled or emptied.
    #[cold]
    #[inline(never)]
    pub(super) fn set_dirty(copying: &mut Option<Self>, key: AgentKey) {
        if let Some(copying) = copying {
            copying.dirty.set_dirty(key.slot(), key.number());
        }
    }
}

/// In the successor. Its roster is empty at first.
impl Roster {
    /// Puts a copied agent into its slot, for the first time or again.
    ///
    /// Copies are of different moments: the new slot of an agent that was removed and inserted
    /// again may be copied before its old slot is. The last copy is right.
    fn adopt(&mut self, slot: u32, state: AgentState) -> Result<(), StrangeSlot> {
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
        let mut entry = Entry::rebuild(state);
        if let Some(name) = entry.name.as_deref().and_then(|name| self.name(name)) {
            entry.name = Some(Rc::clone(name));
        }
        let key = AgentKey::new(at);
        self.take_out(key);
        if let Some(other) = self.find(entry.identity()) {
            self.take_out(other);
        }
        for gap in self.entries.len()..=at {
            self.entries.push(None);
            self.free.insert(number(gap));
        }
        self.free.remove(&slot);
        self.put(key, entry);
        self.arm_early(key);
        Ok(())
    }

    /// Resumes with all agents adopted. No agent is declared offline before `amnesty`. The roster
    /// has been standing still since `still_since`, and did so for `stood_still` before.
    pub fn resume_from(
        &mut self,
        amnesty: Moment,
        still_since: Option<Moment>,
        stood_still: Duration,
        now: Moment,
    ) {
        self.stood_still_before = stood_still;
        self.amnesty = amnesty;
        self.still_since = still_since;
        self.looked_at = now;
    }

    /// Sets an agent's alarm for the earliest moment at which its silence may be too long:
    /// amnesty and standstills are not known yet.
    fn arm_early(&mut self, key: AgentKey) {
        if let Some(entry) = self.get(key)
            && entry.online
        {
            let deadline = entry.presence.seen_at.after(self.most_silence(entry));
            self.wheel.arm(key.number(), deadline);
        }
    }
}

/// Returns a slot as a number. Keys have fewer values than that.
fn number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
