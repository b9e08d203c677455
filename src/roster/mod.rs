//! Who there is, and who is alive.
//!
//! An agent is the name it gives itself, or else its peer's address. It is
//! online as long as it is heard often enough, however many connections that
//! takes; a connection that ends changes nothing. Time comes in as an argument.
//!
//! A packet costs an index and a few stores. Alarms are left alone as deadlines
//! move on; see [`TimerWheel`].

mod arrivals;
mod entry;
mod handover;
mod places;
mod presence;
mod turns;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

pub use entry::{ESTABLISHED_HOURS, Entry, Learnt, MAX_VERSION};
use handover::Copying;
pub use handover::{AgentState, PresenceState, StrangeSlot};
pub use places::NoPlace;
use places::Places;
pub use presence::JudgedBy;
pub use turns::CLONED_FOR;

use crate::interval::MOST_SILENCE;
use crate::network::Network;
use hawk_time::TimerWheel;
use hawk_time::{Moment, UnixNanos};

/// Without a rhythm of its own, and at least, an agent may be silent for this
/// long: three of the shortest intervals that agents in the field use, and time
/// to connect again.
const LEAST_SILENCE: Duration = Duration::from_secs(10);

/// A look for silent agents that comes this much late shows that the process
/// stood still: what agents sent meanwhile may not have been read yet.
const LATE: Duration = Duration::from_secs(1);

/// Entries that one call of [`Roster::forget_some`] looks at.
const SAMPLE: usize = 64;

/// How agents are judged.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Silence after which an agent is offline; `None`: three times the interval
    /// of its own heartbeats or, without these, of its regular reports, at least 10 s and at
    /// most an hour; and no agent is judged that sends neither.
    pub offline_after: Option<Duration>,
    /// After the start nobody is declared offline for this long.
    pub start_grace: Duration,
    /// Agents that are remembered, at most.
    pub capacity: usize,
}

/// What the bound on the number of agents has caused since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets of agents that got no place.
    pub refused: u64,
    /// Agents that were removed to make room.
    pub evicted: u64,
}

/// Who an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity<'a> {
    /// The name that it gave itself.
    Name(&'a str),
    /// It gave none: the address that it comes from.
    Address(IpAddr),
}

/// Names an agent for as long as a session speaks for it.
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

    /// The key as a number, to keep where a key cannot be kept.
    #[must_use]
    pub const fn get(self) -> NonZeroU32 {
        self.0
    }

    /// The key that [`get`](Self::get) gave out.
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
    // Names come from the network: the standard hash is keyed, so that nobody
    // can choose names that collide.
    names: HashMap<Rc<str>, AgentKey>,
    addresses: HashMap<IpAddr, AgentKey>,
    wheel: TimerWheel,
    /// Slots with a fired alarm that is not handled yet: of established agents, and of
    /// others.
    due: Vec<u32>,
    due_others: Vec<u32>,
    places: Places,
    counters: Counters,
    /// Before this nobody is declared offline.
    amnesty: Moment,
    held_since: Option<Moment>,
    /// How long the roster stood still since it was made: its clock is behind the monotonic
    /// clock by this.
    lead: Duration,
    /// How long the rosters before it stood still.
    stood_still_before: Duration,
    /// When silent agents were last looked for.
    looked_at: Moment,
    online: usize,
    unwatched: usize,
    /// Agents that were found to be cloned: how many, and the last one.
    clones: u64,
    new_clone: Option<AgentKey>,
    /// Where the next look around begins.
    hand: usize,
    generation: u32,
    /// Progress of the copy to another process; `None` while there is none.
    copying: Option<Copying>,
}

impl Roster {
    /// Nobody is known yet.
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
            held_since: None,
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

    /// Agents that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether nobody is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Agents that are online.
    #[must_use]
    pub const fn online(&self) -> usize {
        self.online
    }

    /// Agents that are not judged.
    #[must_use]
    pub const fn unwatched(&self) -> usize {
        self.unwatched
    }

    /// How long the roster stood still, over all processes since the first start: for the
    /// store, for hand-overs, and while the process itself did not run.
    #[must_use]
    pub fn stood_still(&self) -> Duration {
        self.stood_still_before.saturating_add(self.lead)
    }

    /// The agent of this identity, if it is remembered.
    #[must_use]
    pub fn find(&self, identity: Identity<'_>) -> Option<AgentKey> {
        match identity {
            Identity::Name(name) => self.names.get(name).copied(),
            Identity::Address(address) => self.addresses.get(&address).copied(),
        }
    }

    /// The name as it is remembered, if an agent of this name is.
    #[must_use]
    pub fn name(&self, name: &str) -> Option<&Rc<str>> {
        self.names.get_key_value(name).map(|(name, _)| name)
    }

    /// Remembers an agent that was not. It is offline until it is
    /// [heard](Self::heard), or was online when the store last knew of it.
    pub fn insert(&mut self, mut entry: Entry, now: Moment) -> AgentKey {
        let slot = self
            .free
            .pop_first()
            .map_or(self.entries.len(), |slot| slot as usize);
        if slot == self.entries.len() {
            self.entries.push(None);
        }
        entry.presence.heard_at = self.clock(now);
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

    /// Agents that are established: heard in [`ESTABLISHED_HOURS`] different hours.
    #[must_use]
    pub const fn established(&self) -> usize {
        self.places.established()
    }

    /// Continues these counts.
    pub const fn resume_counters(&mut self, counters: Counters) {
        self.counters = counters;
    }

    /// What the bound on the number of agents has caused.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Agents among the next few that are offline, that nobody speaks for, and
    /// that were last heard before `horizon` are forgotten.
    pub fn forget_some(&mut self, horizon: UnixNanos) {
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

    /// Forgets an agent.
    pub fn remove(&mut self, key: AgentKey) {
        let sessions = self.get(key).map_or(0, |entry| entry.sessions);
        debug_assert_eq!(sessions, 0, "a session still speaks for it");
        self.take_out(key);
    }

    /// A session speaks for the agent from now on.
    pub fn attach(&mut self, key: AgentKey) {
        self.update_place(key, |entry| entry.sessions += 1);
    }

    /// A session that spoke for the agent has ended, or speaks for another.
    pub fn detach(&mut self, key: AgentKey) {
        self.update_place(key, |entry| {
            entry.sessions = entry.sessions.saturating_sub(1);
        });
    }

    /// The agent was heard; true if that makes it online, which an agent that is not watched
    /// never is.
    pub fn heard(&mut self, key: AgentKey, address: IpAddr, now: Moment, wall: UnixNanos) -> bool {
        let clock = self.clock(now);
        let Some(entry) = self.entries.get_mut(key.slot()).and_then(Option::as_mut) else {
            return false;
        };
        if entry.shown {
            return self.note_and_hear(key, address, now, wall);
        }
        let is_new_hour = entry.counts_hour(wall);
        if is_new_hour || entry.sessions == 0 {
            return self.place_and_hear(key, address, now, wall);
        }
        let silence = clock.since(std::mem::replace(&mut entry.presence.heard_at, clock));
        entry.last_seen = wall;
        if entry.name.is_some() && entry.address != address {
            entry.address = address;
            entry.turns.change(clock);
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

    /// Apart, so that a packet costs but a look while no agent is on its way.
    #[cold]
    #[inline(never)]
    fn note_and_hear(
        &mut self,
        key: AgentKey,
        address: IpAddr,
        now: Moment,
        wall: UnixNanos,
    ) -> bool {
        if let Some(entry) = self.get_mut(key) {
            debug_assert!(!entry.shown, "it is noted");
        }
        self.heard(key, address, now, wall)
    }

    /// Apart, because it happens once an hour.
    #[cold]
    #[inline(never)]
    fn place_and_hear(
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
            // In use for a moment, so that it is not taken for idle meanwhile.
            sessions = std::mem::replace(&mut entry.sessions, 1);
        });
        let came = self.heard(key, address, now, wall);
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
        let is_clone = entry.turns.spoke(gap, (clock, wall));
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
        debug_assert!(!entry.shown, "it was heard, which is noted");
        let is_clone = entry.turns.spoke(gap, (clock, wall));
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

    /// How often an agent was found to be cloned.
    #[must_use]
    pub const fn clones(&self) -> u64 {
        self.clones
    }

    #[cold]
    fn note_clone(&mut self, key: AgentKey) {
        self.clones += 1;
        self.new_clone = Some(key);
    }

    /// One of the agent's sessions is not read from any more: its silence means nothing.
    pub fn pause(&mut self, key: AgentKey, now: Moment) {
        let clock = self.clock(now);
        if let Some(entry) = self.get_mut(key) {
            entry.presence.pause(clock);
        }
    }

    /// The session is read from again, or has ended. The agent's deadline moves by the time
    /// that was lost.
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
        if self.held_since.is_some() {
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
            self.give_up(key, wall);
            self.unwatch_unless_judged(key);
            return Some(key);
        }
        None
    }

    /// The agent is offline although it may be heard again: there is no more room
    /// to wait for it.
    pub fn give_up(&mut self, key: AgentKey, wall: UnixNanos) {
        if let Some(entry) = self.get_mut(key)
            && entry.online
        {
            entry.online = false;
            entry.changed_at = wall;
            self.online -= 1;
        }
    }

    /// When [`expire`](Self::expire) is to be asked next, if ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        match self.held_since {
            Some(_) => None,
            None => self.wheel.next(),
        }
    }

    /// The server keeps agents waiting, and has since `since`: their silence means
    /// nothing.
    pub fn hold(&mut self, since: Moment) {
        self.held_since.get_or_insert(since);
    }

    /// Since when agents are kept waiting, if they are.
    #[must_use]
    pub const fn held_since(&self) -> Option<Moment> {
        self.held_since
    }

    /// Before this nobody is declared offline.
    #[must_use]
    pub const fn amnesty(&self) -> Moment {
        self.amnesty
    }

    /// The server answers: if it did not, all deadlines move by the time that was lost.
    pub fn resume(&mut self, now: Moment) {
        if self.wheel.next().is_none() {
            // Without alarms nothing was looked for. The wheel must not set the first alarm
            // by the time of its last look: if that was long ago, the alarm would ring at
            // once and pass for late.
            self.wheel.expire(now, &mut self.due);
        }
        match self.held_since.take() {
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

    /// What is known of an agent.
    #[must_use]
    pub fn get(&self, key: AgentKey) -> Option<&Entry> {
        self.entries.get(key.slot()).and_then(Option::as_ref)
    }

    /// What is known of an agent, to be changed.
    pub fn get_mut(&mut self, key: AgentKey) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(key.slot())?.as_mut()?;
        if entry.shown {
            entry.shown = false;
            Copying::set_dirty(&mut self.copying, key);
        }
        Some(entry)
    }

    /// A number for the agent that outlives its key.
    #[must_use]
    pub fn reference(&self, key: AgentKey) -> u64 {
        let generation = self.get(key).map_or(0, |entry| entry.generation);
        u64::from(generation) << 32 | u64::from(key.get().get())
    }

    /// The references of all agents.
    pub fn references(&self) -> impl Iterator<Item = u64> {
        let slots = 0..self.entries.len();
        let taken = slots.filter(|&slot| self.entries[slot].is_some());
        taken.map(|slot| self.reference(AgentKey::new(slot)))
    }

    /// The agent that [`reference`](Self::reference) gave this number for, unless
    /// it was forgotten.
    #[must_use]
    pub fn resolve(&self, reference: u64) -> Option<AgentKey> {
        // Each half is meant to be cut out.
        #[allow(clippy::cast_possible_truncation)]
        let (generation, number) = ((reference >> 32) as u32, reference as u32);
        let key = AgentKey(NonZeroU32::new(number)?);
        (self.get(key)?.generation == generation).then_some(key)
    }

    /// The roster stood still for `lost` until `now`: its clock stood still as well. What
    /// agents sent in that time must be read first. After [`LEAST_SILENCE`] or more, agents may
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

    /// The time on the roster's clock, which stands still while the roster does.
    fn clock(&self, now: Moment) -> Moment {
        let now = self.held_since.unwrap_or(now);
        now.before(self.lead)
    }

    fn is_silent(&self, key: AgentKey, now: Moment) -> bool {
        let silent = |entry: &Entry| {
            entry.online && entry.presence.paused == 0 && self.offline_at(entry) <= now
        };
        self.get(key).is_some_and(silent)
    }

    fn offline_at(&self, entry: &Entry) -> Moment {
        let silent_at = entry.presence.heard_at.after(self.patience_with(entry));
        silent_at.after(self.lead).max(self.amnesty)
    }

    /// How long an agent may be silent.
    fn patience_with(&self, entry: &Entry) -> Duration {
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

    /// The agent, just heard, is watched from now on.
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

    /// Stops watching an agent that went offline and whose packets do not come regularly.
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

    fn count(&mut self, standing: Standing) {
        self.online += usize::from(standing.online);
        self.unwatched += usize::from(!standing.watched);
    }

    fn uncount(&mut self, standing: Standing) {
        self.online -= usize::from(standing.online);
        self.unwatched -= usize::from(!standing.watched);
    }

    /// Puts an agent into an empty slot, which there is.
    fn put(&mut self, key: AgentKey, mut entry: Entry) {
        self.generation = self.generation.wrapping_add(1);
        entry.generation = self.generation;
        match &entry.name {
            Some(name) => drop(self.names.insert(Rc::clone(name), key)),
            None => drop(self.addresses.insert(entry.address, key)),
        }
        self.decide_watch(&mut entry);
        self.count(Standing::of(&entry));
        self.places.enter(entry.tenant(key));
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
        self.uncount(Standing::of(&entry));
        self.places.leave(entry.tenant(key));
        self.wheel.disarm(key.number());
        self.free.insert(key.number());
        Copying::set_dirty(&mut self.copying, key);
    }

    /// Changes what decides about an agent's place.
    fn update_place(&mut self, key: AgentKey, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.get_mut(key) else {
            return;
        };
        let before = entry.tenant(key);
        change(entry);
        let after = entry.tenant(key);
        if before != after {
            self.places.leave(before);
            self.places.enter(after);
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

/// What the roster counts of an agent.
#[derive(Clone, Copy, Debug)]
struct Standing {
    online: bool,
    watched: bool,
}

impl Standing {
    const fn of(entry: &Entry) -> Self {
        Self {
            online: entry.online,
            watched: entry.watched,
        }
    }
}

#[cfg(test)]
mod tests;
