//! The roster: all agents, and which of them are online.
//!
//! Owns what is known of each agent, the rule that makes it online, offline or unwatched, and
//! the bound on the number of agents. An agent is identified by the name it gives itself, or
//! else by its peer's address. It is online while its packets come often enough, over any
//! number of connections; the end of a connection changes nothing.
//!
//! Must not know packets, sessions, sockets and the store. Time comes in as an argument.
//!
//! Start with [`Roster::record_packet`] and [`Roster::expire`]. The rule for one agent is in
//! `presence`, the bound on their number in `places`, and the way to another process in
//! `handover`. A packet costs an index and a few stores; the alarms on the [`TimerWheel`] stay
//! as they are while deadlines move on.

mod clones;
mod entry;
mod handover;
mod places;
mod presence;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

pub use clones::CLONED_FOR;
pub use entry::{ESTABLISHED_HOURS, Entry, Learnt, MAX_VERSION};
use handover::Copying;
pub use handover::{AgentState, PresenceState, StrangeSlot};
pub use places::NoPlace;
use places::Places;
pub use presence::JudgedBy;

use crate::interval::MOST_SILENCE;
use crate::network::Network;
use hawk_time::TimerWheel;
use hawk_time::{Moment, UnixNanos};

/// Silence that every agent may keep, also before its interval is known: three of the shortest
/// intervals of agents in the field, and time to reconnect.
const LEAST_SILENCE: Duration = Duration::from_secs(10);

/// If the search for silent agents runs this late, the process stood still, and packets of that
/// time may be unread.
const LATE: Duration = Duration::from_secs(1);

/// Number of entries that one call of [`Roster::remove_silent`] examines.
const SAMPLE: usize = 64;

/// How agents are judged.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Silence after which an agent is offline. `None`: three times the interval of its
    /// heartbeats or, without these, of its regular reports, at least 10 s and at most an hour;
    /// an agent that sends neither is unwatched.
    pub offline_after: Option<Duration>,
    /// Time after the start in which no agent is declared offline.
    pub start_grace: Duration,
    /// Maximum number of agents in the roster.
    pub capacity: usize,
}

/// Effects of the bound on the number of agents since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets of new agents for which there was no place.
    pub refused: u64,
    /// Agents that were removed to make room.
    pub evicted: u64,
}

/// What identifies an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity<'a> {
    /// The name that it gave itself.
    Name(&'a str),
    /// The address of an agent that gives itself no name.
    Address(IpAddr),
}

/// The slot of an agent. Valid while a session is attached to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentKey(NonZeroU32);

impl AgentKey {
    fn new(slot: usize) -> Self {
        let slot = u32::try_from(slot).unwrap_or(u32::MAX - 1);
        Self(NonZeroU32::MIN.saturating_add(slot))
    }

    const fn slot(self) -> usize {
        self.number() as usize
    }

    const fn number(self) -> u32 {
        self.0.get() - 1
    }

    /// Returns the key as a number.
    #[must_use]
    pub const fn get(self) -> NonZeroU32 {
        self.0
    }

    /// Returns the key from the number that [`get`](Self::get) returned.
    #[must_use]
    pub const fn from_number(number: NonZeroU32) -> Self {
        Self(number)
    }
}

/// All agents.
#[derive(Debug)]
pub struct Roster {
    config: Config,
    entries: Vec<Option<Entry>>,
    /// Slots without an entry; the first is used next.
    free: BTreeSet<u32>,
    // Names come from the network: the standard hash is keyed, so that agents cannot choose
    // names that collide.
    names: HashMap<Rc<str>, AgentKey>,
    addresses: HashMap<IpAddr, AgentKey>,
    wheel: TimerWheel,
    /// Slots of established agents with a fired alarm that is not handled yet.
    due: Vec<u32>,
    /// The same of other agents.
    due_others: Vec<u32>,
    places: Places,
    counters: Counters,
    /// Before this moment no agent is declared offline.
    amnesty: Moment,
    /// The start of the present standstill; `None` while the clock runs.
    still_since: Option<Moment>,
    /// Time by which the roster's clock is behind the monotonic clock: all standstills since
    /// the roster was created.
    lead: Duration,
    /// Standstills of earlier processes.
    stood_still_before: Duration,
    /// The last search for silent agents.
    looked_at: Moment,
    online: usize,
    unwatched: usize,
    /// Number of detections of cloned agents.
    clones: u64,
    /// The agent of the last detection, until it is taken.
    new_clone: Option<AgentKey>,
    /// The slot that [`remove_silent`](Self::remove_silent) examined last.
    hand: usize,
    /// The generation of the last entry.
    generation: u32,
    /// Progress of the copy to another process; `None` while there is none.
    copying: Option<Copying>,
}

impl Roster {
    /// Returns a roster without agents.
    #[must_use]
    pub fn new(config: Config, now: Moment) -> Self {
        Self {
            config,
            entries: Vec::new(),
            free: BTreeSet::new(),
            names: HashMap::new(),
            addresses: HashMap::new(),
            wheel: TimerWheel::new(now),
            due: Vec::new(),
            due_others: Vec::new(),
            places: Places::new(config.capacity),
            counters: Counters::default(),
            amnesty: now.after(config.start_grace),
            still_since: None,
            lead: Duration::ZERO,
            stood_still_before: Duration::ZERO,
            looked_at: now,
            online: 0,
            unwatched: 0,
            clones: 0,
            new_clone: None,
            hand: 0,
            generation: 0,
            copying: None,
        }
    }

    /// Returns the number of agents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Returns whether there are no agents.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of agents that are online.
    #[must_use]
    pub const fn online(&self) -> usize {
        self.online
    }

    /// Returns the number of agents that are unwatched.
    #[must_use]
    pub const fn unwatched(&self) -> usize {
        self.unwatched
    }

    /// Returns the time for which the roster stood still, over all processes since the first
    /// start: for the store, for hand-overs, and while the process itself did not run.
    #[must_use]
    pub fn stood_still(&self) -> Duration {
        self.stood_still_before.saturating_add(self.lead)
    }

    /// Returns the agent of this identity.
    #[must_use]
    pub fn find(&self, identity: Identity<'_>) -> Option<AgentKey> {
        match identity {
            Identity::Name(name) => self.names.get(name).copied(),
            Identity::Address(address) => self.addresses.get(&address).copied(),
        }
    }

    /// Returns the shared copy of a name, if an agent has it.
    #[must_use]
    pub fn name(&self, name: &str) -> Option<&Rc<str>> {
        self.names.get_key_value(name).map(|(name, _)| name)
    }

    /// Inserts an agent that is not in the roster.
    pub fn insert(&mut self, mut entry: Entry, now: Moment) -> AgentKey {
        let slot = self
            .free
            .pop_first()
            .map_or(self.entries.len(), |slot| slot as usize);
        if slot == self.entries.len() {
            self.entries.push(None);
        }
        entry.presence.seen_at = self.clock(now);
        let key = AgentKey::new(slot);
        self.put(key, entry);
        self.arm(key);
        key
    }

    /// Finds a place for a new agent from `address`. Returns the agent to remove first, if
    /// there is no free place: the longest silent agent that is not established and has no
    /// session. If the network of `address` has its share of the places, only agents of that
    /// network are considered.
    ///
    /// # Errors
    /// [`NoPlace`]: the new agent cannot be taken now. That is counted.
    pub fn make_room(&mut self, address: IpAddr, now: Moment) -> Result<Option<AgentKey>, NoPlace> {
        let found = self.places.find(Network::of(address), now);
        match found {
            Ok(None) => {}
            Ok(Some(_)) => self.counters.evicted += 1,
            Err(_) => self.counters.refused += 1,
        }
        found.map(|slot| slot.map(|slot| AgentKey::new(slot as usize)))
    }

    /// Returns the number of agents that are established: their packets came in
    /// [`ESTABLISHED_HOURS`] different hours.
    #[must_use]
    pub const fn established(&self) -> usize {
        self.places.established()
    }

    /// Sets the counters to those of an earlier process.
    pub const fn resume_counters(&mut self, counters: Counters) {
        self.counters = counters;
    }

    /// Returns the effects of the bound on the number of agents.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Examines the next few agents and removes those that are offline, without a session, and
    /// silent since before `horizon`.
    pub fn remove_silent(&mut self, horizon: UnixNanos) {
        for _ in 0..SAMPLE.min(self.entries.len()) {
            self.hand = (self.hand + 1) % self.entries.len();
            if let Some(entry) = &self.entries[self.hand]
                && !entry.online
                && entry.sessions == 0
                && entry.last_seen < horizon
            {
                self.remove(AgentKey::new(self.hand));
            }
        }
    }

    /// Removes an agent without a session.
    pub fn remove(&mut self, key: AgentKey) {
        let sessions = self.get(key).map_or(0, |entry| entry.sessions);
        debug_assert_eq!(sessions, 0, "a session is attached to it");
        self.take_out(key);
    }

    /// Counts a session that speaks for the agent.
    pub fn attach(&mut self, key: AgentKey) {
        self.update_place(key, |entry| entry.sessions += 1);
    }

    /// Counts a session less: it has ended, or speaks for another agent.
    pub fn detach(&mut self, key: AgentKey) {
        self.update_place(key, |entry| {
            entry.sessions = entry.sessions.saturating_sub(1);
        });
    }

    /// Records a packet of the agent from `address`. Returns whether the agent comes online by
    /// it, which an unwatched agent does not.
    pub fn record_packet(
        &mut self,
        key: AgentKey,
        address: IpAddr,
        now: Moment,
        wall: UnixNanos,
    ) -> bool {
        let clock = self.clock(now);
        let Some(entry) = self.entries.get_mut(key.slot()).and_then(Option::as_mut) else {
            return false;
        };
        if entry.is_copied {
            return self.record_change_and_packet(key, address, now, wall);
        }
        let is_new_hour = entry.counts_hour(wall);
        if is_new_hour || entry.sessions == 0 {
            return self.place_and_record_packet(key, address, now, wall);
        }
        let silence = clock.since(std::mem::replace(&mut entry.presence.seen_at, clock));
        entry.last_seen = wall;
        if entry.name.is_some() && entry.address != address {
            entry.address = address;
            entry.clones.change_address(clock);
        }
        if entry.online || !entry.watched {
            return false;
        }
        entry.online = true;
        entry.changed_at = wall;
        entry.presence.come(silence, clock);
        self.online += 1;
        self.arm(key);
        true
    }

    /// Out of line, because it happens during a hand-over only.
    #[cold]
    #[inline(never)]
    fn record_change_and_packet(
        &mut self,
        key: AgentKey,
        address: IpAddr,
        now: Moment,
        wall: UnixNanos,
    ) -> bool {
        self.get_mut(key);
        self.record_packet(key, address, now, wall)
    }

    /// Out of line, because it happens once an hour.
    #[cold]
    #[inline(never)]
    fn place_and_record_packet(
        &mut self,
        key: AgentKey,
        address: IpAddr,
        now: Moment,
        wall: UnixNanos,
    ) -> bool {
        let mut sessions = 0;
        self.update_place(key, |entry| {
            entry.count_hour(wall);
            entry.last_seen = wall;
            // In use for a moment, so that the call below does not take this path.
            sessions = std::mem::replace(&mut entry.sessions, 1);
        });
        let came = self.record_packet(key, address, now, wall);
        self.update_place(key, |entry| entry.sessions = sessions);
        came
    }

    /// Counts a heartbeat of the agent, `gap` after its session's previous heartbeat. Returns
    /// true if that makes the agent online.
    pub fn beat(
        &mut self,
        key: AgentKey,
        version: &str,
        gap: Option<Duration>,
        (now, wall): (Moment, UnixNanos),
    ) -> bool {
        let clock = self.clock(now);
        let Some(entry) = self.get_mut(key) else {
            return false;
        };
        entry.set_version(version);
        let is_clone = entry.clones.record_packet(gap, (clock, wall));
        entry.presence.beat(gap, clock);
        let came = !entry.watched;
        if is_clone {
            self.note_clone(key);
        }
        if came {
            self.watch(key, clock, wall);
        }
        // An interval that is shorter than it was brings the deadline nearer.
        self.arm(key);
        came
    }

    /// Counts a report of the agent, `gap` after its session's previous report. Returns true
    /// if that makes the agent online.
    pub fn report(
        &mut self,
        key: AgentKey,
        gap: Option<Duration>,
        (now, wall): (Moment, UnixNanos),
    ) -> bool {
        let clock = self.clock(now);
        let Some(entry) = self.entries.get_mut(key.slot()).and_then(Option::as_mut) else {
            return false;
        };
        debug_assert!(
            !entry.is_copied,
            "recording its packet has recorded the change"
        );
        let is_clone = entry.clones.record_packet(gap, (clock, wall));
        entry.presence.report(gap, clock);
        let came = !entry.watched && entry.presence.judged_by != JudgedBy::Nothing;
        if is_clone {
            self.note_clone(key);
        }
        if came {
            self.watch(key, clock, wall);
        }
        came
    }

    /// Takes the agent that was detected as cloned since the last call, if any: two connections
    /// from two addresses used its name alternately, twice.
    pub const fn take_new_clone(&mut self) -> Option<AgentKey> {
        self.new_clone.take()
    }

    /// Returns the number of detections of cloned agents.
    #[must_use]
    pub const fn clones(&self) -> u64 {
        self.clones
    }

    #[cold]
    fn note_clone(&mut self, key: AgentKey) {
        self.clones += 1;
        self.new_clone = Some(key);
    }

    /// Pauses one of the agent's sessions: while hawk does not read from it, the agent's silence
    /// does not count.
    pub fn pause(&mut self, key: AgentKey, now: Moment) {
        let clock = self.clock(now);
        if let Some(entry) = self.get_mut(key) {
            entry.presence.pause(clock);
        }
    }

    /// Ends the pause of a session. The agent's deadline moves by the time in which its silence
    /// did not count.
    pub fn unpause(&mut self, key: AgentKey, now: Moment) {
        let clock = self.clock(now);
        if let Some(entry) = self.get_mut(key)
            && entry.presence.resume(clock)
        {
            self.arm(key);
        }
    }

    /// Marks the next agent offline that has been silent for too long, and returns it. An agent
    /// that is judged by nothing any more is unwatched from then on. Established agents come
    /// first, others only if `others`: they wait for a later call.
    pub fn expire(&mut self, now: Moment, wall: UnixNanos, others: bool) -> Option<AgentKey> {
        if self.still_since.is_some() {
            return None;
        }
        if self.due.is_empty() {
            self.detect_standstill(now);
            self.looked_at = now;
            self.wheel.expire(now, &mut self.due);
            let entries = &self.entries;
            let is_other = |slot: &mut u32| {
                let entry = entries.get(*slot as usize).and_then(Option::as_ref);
                !entry.is_some_and(Entry::is_established)
            };
            self.due_others.extend(self.due.extract_if(.., is_other));
        }
        while let Some(slot) = match self.due.pop() {
            None if others => self.due_others.pop(),
            due => due,
        } {
            let key = AgentKey::new(slot as usize);
            if !self.is_silent(key, now) {
                self.arm(key);
                continue;
            }
            self.mark_offline(key, wall);
            self.unwatch_unless_judged(key);
            return Some(key);
        }
        None
    }

    /// Marks an agent offline, whatever its silence.
    pub fn mark_offline(&mut self, key: AgentKey, wall: UnixNanos) {
        if let Some(entry) = self.get_mut(key)
            && entry.online
        {
            entry.online = false;
            entry.changed_at = wall;
            self.online -= 1;
        }
    }

    /// Returns when [`expire`](Self::expire) is to be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        match self.still_since {
            Some(_) => None,
            None => self.wheel.next(),
        }
    }

    /// Stops the roster's clock at `since`, if it runs: the server does not read from agents,
    /// and their silence does not count.
    pub fn stand_still(&mut self, since: Moment) {
        self.still_since.get_or_insert(since);
    }

    /// Returns the start of the present standstill.
    #[must_use]
    pub const fn still_since(&self) -> Option<Moment> {
        self.still_since
    }

    /// Returns the moment before which no agent is declared offline.
    #[must_use]
    pub const fn amnesty(&self) -> Moment {
        self.amnesty
    }

    /// Ends a standstill, if there is one: all deadlines move by its length.
    pub fn resume(&mut self, now: Moment) {
        if self.wheel.next().is_none() {
            // Without alarms the wheel was not advanced. It must not set the first alarm by
            // that old time: the alarm would fire at once and pass for late.
            self.wheel.expire(now, &mut self.due);
        }
        match self.still_since.take() {
            Some(since) => {
                self.looked_at = now;
                self.stood_still_for(now.since(since), now);
            }
            // Before the packets of this turn: their moments are on the clock that stood still.
            None => self.detect_standstill(now),
        }
    }

    /// Stops the roster's clock for the time by which this turn is late for the next alarm:
    /// the process did not run in that time.
    fn detect_standstill(&mut self, now: Moment) {
        if !self.due.is_empty() {
            return;
        }
        let next = self.wheel.next().unwrap_or(now);
        let late = now.since(next.max(self.looked_at));
        if late > LATE {
            self.looked_at = now;
            self.stood_still_for(late, now);
        }
    }

    /// Returns an agent.
    #[must_use]
    pub fn get(&self, key: AgentKey) -> Option<&Entry> {
        self.entries.get(key.slot()).and_then(Option::as_ref)
    }

    /// Returns an agent to be changed.
    pub fn get_mut(&mut self, key: AgentKey) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(key.slot())?.as_mut()?;
        if entry.is_copied {
            entry.is_copied = false;
            Copying::set_dirty(&mut self.copying, key);
        }
        Some(entry)
    }

    /// Returns a number for the agent that is never given to another agent.
    #[must_use]
    pub fn reference(&self, key: AgentKey) -> u64 {
        let generation = self.get(key).map_or(0, |entry| entry.generation);
        u64::from(generation) << 32 | u64::from(key.get().get())
    }

    /// Returns the references of all agents.
    pub fn references(&self) -> impl Iterator<Item = u64> {
        let slots = 0..self.entries.len();
        let taken = slots.filter(|&slot| self.entries[slot].is_some());
        taken.map(|slot| self.reference(AgentKey::new(slot)))
    }

    /// Returns the agent of this [reference](Self::reference), unless it was removed.
    #[must_use]
    pub fn resolve(&self, reference: u64) -> Option<AgentKey> {
        #[expect(clippy::cast_possible_truncation, reason = "each half is cut out")]
        let (generation, number) = ((reference >> 32) as u32, reference as u32);
        let key = AgentKey(NonZeroU32::new(number)?);
        (self.get(key)?.generation == generation).then_some(key)
    }

    /// Puts the roster's clock back by `lost`, a standstill that ends `now`. Packets of that time
    /// are read before an agent is declared offline. After [`LEAST_SILENCE`] or more, agents may
    /// have closed their connections; they reconnect within `lost`, or within the grace after
    /// a start if that is shorter.
    fn stood_still_for(&mut self, lost: Duration, now: Moment) {
        self.lead = self.lead.saturating_add(lost);
        let grace = match lost < LEAST_SILENCE {
            true => LATE,
            false => lost.min(self.config.start_grace.max(LEAST_SILENCE)),
        };
        self.amnesty = self.amnesty.max(now.after(grace));
    }

    /// Returns the time on the roster's clock.
    fn clock(&self, now: Moment) -> Moment {
        let now = self.still_since.unwrap_or(now);
        now.before(self.lead)
    }

    fn is_silent(&self, key: AgentKey, now: Moment) -> bool {
        let silent = |entry: &Entry| {
            entry.online && entry.presence.paused == 0 && self.offline_at(entry) <= now
        };
        self.get(key).is_some_and(silent)
    }

    fn offline_at(&self, entry: &Entry) -> Moment {
        let silent_at = entry.presence.seen_at.after(self.most_silence(entry));
        silent_at.after(self.lead).max(self.amnesty)
    }

    /// Returns the silence after which the agent is offline.
    fn most_silence(&self, entry: &Entry) -> Duration {
        let by_itself = || {
            entry
                .presence
                .tolerance()
                .clamp(LEAST_SILENCE, MOST_SILENCE)
        };
        self.config.offline_after.unwrap_or_else(by_itself)
    }

    /// Decides whether an agent that comes into the roster is watched. An agent that is online
    /// is watched until its next long silence, whatever it sends: an earlier process judged it,
    /// and its last event says online.
    fn decide_watch(&self, entry: &mut Entry) {
        let judged_by = &mut entry.presence.judged_by;
        if entry.online && *judged_by == JudgedBy::Nothing {
            *judged_by = JudgedBy::FormerReports;
        }
        entry.watched = *judged_by != JudgedBy::Nothing || self.config.offline_after.is_some();
    }

    /// Watches an agent, which comes online by the packet at hand.
    #[cold]
    fn watch(&mut self, key: AgentKey, clock: Moment, wall: UnixNanos) {
        if let Some(entry) = self.get_mut(key) {
            entry.watched = true;
            entry.presence.came_at = Some(clock);
            entry.online = true;
            entry.changed_at = wall;
            self.unwatched -= 1;
            self.online += 1;
            self.arm(key);
        }
    }

    /// Stops watching an agent that went offline, unless its packets show its silence.
    fn unwatch_unless_judged(&mut self, key: AgentKey) {
        if self.config.offline_after.is_none()
            && let Some(entry) = self.get_mut(key)
            && let JudgedBy::FormerReports | JudgedBy::Nothing = entry.presence.judged_by
        {
            entry.watched = false;
            entry.presence.judged_by = JudgedBy::Nothing;
            self.unwatched += 1;
        }
    }

    /// Puts an agent into an empty slot.
    fn put(&mut self, key: AgentKey, mut entry: Entry) {
        self.generation = self.generation.wrapping_add(1);
        entry.generation = self.generation;
        match &entry.name {
            Some(name) => drop(self.names.insert(Rc::clone(name), key)),
            None => drop(self.addresses.insert(entry.address, key)),
        }
        self.decide_watch(&mut entry);
        self.online += usize::from(entry.online);
        self.unwatched += usize::from(!entry.watched);
        self.places.insert(entry.tenant(key));
        self.entries[key.slot()] = Some(entry);
        Copying::set_dirty(&mut self.copying, key);
    }

    /// Empties a slot.
    fn take_out(&mut self, key: AgentKey) {
        let Some(entry) = self.entries.get_mut(key.slot()).and_then(Option::take) else {
            return;
        };
        match &entry.name {
            Some(name) => drop(self.names.remove(name)),
            None => drop(self.addresses.remove(&entry.address)),
        }
        self.online -= usize::from(entry.online);
        self.unwatched -= usize::from(!entry.watched);
        self.places.remove(entry.tenant(key));
        self.wheel.disarm(key.number());
        self.free.insert(key.number());
        Copying::set_dirty(&mut self.copying, key);
    }

    /// Changes what decides whether an agent makes room for others.
    fn update_place(&mut self, key: AgentKey, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.get_mut(key) else {
            return;
        };
        let before = entry.tenant(key);
        change(entry);
        let after = entry.tenant(key);
        if before != after {
            self.places.remove(before);
            self.places.insert(after);
        }
    }

    fn arm(&mut self, key: AgentKey) {
        if let Some(entry) = self.get(key)
            && entry.online
            && entry.presence.paused == 0
        {
            let deadline = self.offline_at(entry);
            self.wheel.arm(key.number(), deadline);
        }
    }
}

#[cfg(test)]
mod tests;
