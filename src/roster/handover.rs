//! Agents on their way to another process: shown bit by bit while the roster is in
//! use, and what has changed since shown again.

use std::net::IpAddr;
use std::time::Duration;

use super::presence::{JudgedBy, Presence, Rhythm, Run};
use super::{AgentKey, Entry, Roster, Standing};
use crate::dirty_set::DirtySet;
use crate::interval::Interval;
use hawk_time::{Moment, UnixNanos};

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
    /// The learnt interval between its heartbeats, in milliseconds, in both places: builds
    /// before kept the last two intervals here, of which the larger counts.
    pub intervals: [u32; 2],
    /// Different hours in which it was heard, as far as they are counted; 0 if they
    /// were not.
    pub hours: u32,
    /// The last of these hours, counted from 1970.
    pub last_hour: i64,
    /// How often it is heard, as far as this build has learnt it.
    pub presence: PresenceState,
}

/// What else is known of when an agent is heard; a build before did not know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresenceState {
    /// When two machines were last found to speak under its name.
    pub cloned_at: Option<UnixNanos>,
    /// The last silence for which it was offline, in milliseconds, if no gap was counted
    /// since.
    pub absence: u32,
    /// When it came online last.
    pub came_at: Option<Moment>,
    /// By what it is judged.
    pub judged_by: JudgedBy,
    /// Its sessions that are not read from: they move as well.
    pub paused: u32,
    /// Since when there are any.
    pub paused_since: Option<Moment>,
    /// Its last report that counts, unless it was away since.
    pub last_report: Option<Moment>,
    /// The learnt interval between its reports, in milliseconds.
    pub report_interval: u32,
    /// Its latest gaps between reports that are alike: how many.
    pub alike: u32,
    /// When the first of them began.
    pub alike_since: Option<Moment>,
    /// The shortest and the longest of them, in milliseconds.
    pub alike_range: [u32; 2],
}

impl AgentState {
    /// By what it is judged. A build before judged every agent, and said nothing of it: then
    /// an agent without a trace of a heartbeat has only sent reports.
    fn judged_by(&self) -> JudgedBy {
        let is_of_older_build = self.presence == PresenceState::default();
        let beats =
            self.last_heartbeat.is_some() || self.intervals != [0; 2] || !self.version.is_empty();
        match is_of_older_build && !beats {
            true => JudgedBy::Nothing,
            false => self.presence.judged_by,
        }
    }

    /// When it was heard, and how often it is.
    pub(super) fn into_presence(self) -> Presence {
        let judged_by = self.judged_by();
        let more = self.presence;
        let [latest, before] = self.intervals;
        let [shortest, longest] = more.alike_range.map(Interval::from_millis);
        Presence {
            heard_at: self.heard_at,
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

/// Slots in use are about as many as the capacity of the process before, which may have
/// been greater. A number far beyond the capacity and [`LEAST_SLOTS`] is a mistake, for
/// which no memory is to be taken.
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

/// A slot that no roster of this size gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there cannot be an agent with the number {0}")]
pub struct StrangeSlot(u32);

/// In the process that agents leave.
impl Roster {
    /// Has it noted from now on what changes after it was shown.
    pub fn begin_copy(&mut self) {
        self.end_copy();
        self.copying = Some(Copying::default());
    }

    /// Shows up to `most` agents that were not shown yet, each with its slot; true
    /// when there are none left.
    pub fn copy_some(&mut self, most: usize, see: &mut dyn FnMut(u32, AgentState)) -> bool {
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
                entry.shown = true;
                see(number(copying.next), entry.state(self.lead));
            }
            copying.dirty.set_clean(copying.next);
            copying.next += 1;
        }
        true
    }

    /// How many agents would have to be shown again.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.copying
            .as_ref()
            .map_or(0, |copying| copying.dirty.len())
    }

    /// Shows up to `most` of the slots that have changed since they were shown, those
    /// first that have waited longest: the agent that is there now, if one is.
    pub fn take_changes(&mut self, most: usize, see: &mut dyn FnMut(u32, Option<AgentState>)) {
        let Some(copying) = &mut self.copying else {
            return;
        };
        for slot in copying.dirty.take(most) {
            copying.dirty.set_clean(slot as usize);
            let entry = self.entries.get_mut(slot as usize);
            let state = entry.and_then(Option::as_mut).map(|entry| {
                entry.shown = true;
                entry.state(self.lead)
            });
            see(slot, state);
        }
    }

    /// Nothing more is shown, and nothing noted.
    pub fn end_copy(&mut self) {
        let Some(copying) = self.copying.take() else {
            return;
        };
        let shown = self.entries.iter_mut().take(copying.next);
        shown.flatten().for_each(|entry| entry.shown = false);
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
        let mut entry = Entry::rebuild(state);
        self.decide_watch(&mut entry);
        let key = AgentKey::new(at);
        match self.get_mut(key) {
            Some(present) if present.identity() == entry.identity() => {
                let before = Standing::of(present);
                let after = Standing::of(&entry);
                self.update_place(key, |present| present.go_on_as(entry));
                self.uncount(before);
                self.count(after);
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
    /// The roster stood still for `stood_still` before.
    pub fn go_on_from(
        &mut self,
        amnesty: Moment,
        held_since: Option<Moment>,
        stood_still: Duration,
        now: Moment,
    ) {
        self.stood_still_before = stood_still;
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
            let deadline = entry.presence.heard_at.after(self.patience_with(entry));
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
