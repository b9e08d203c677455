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

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

pub use entry::{ESTABLISHED_HOURS, Entry, MAX_VERSION};
use handover::Notes;
pub use handover::{AgentState, StrangeSlot};
pub use places::NoPlace;
use places::Places;

use crate::network::Network;
use crate::time::{Moment, UnixNanos};
use crate::wheel::TimerWheel;

/// Without a rhythm of its own, and at least, an agent may be silent for this
/// long: three of the shortest intervals that agents in the field use, and time
/// to connect again.
const LEAST_SILENCE: Duration = Duration::from_secs(10);

/// However slow an agent's heartbeats are, it is offline after this: an agent
/// that sent two of them a week apart is not to be missed for three weeks.
const MOST_SILENCE: Duration = Duration::from_secs(60 * 60);

/// A look for silent agents that comes this much late shows that the process
/// stood still: what agents sent meanwhile may not have been read yet.
const LATE: Duration = Duration::from_secs(1);

/// Entries that one call of [`Roster::forget_some`] looks at.
const SAMPLE: usize = 64;

/// How agents are judged.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Silence after which an agent is offline; `None`: three times the interval
    /// of its own heartbeats, at least 10 s and at most an hour.
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
    /// Slots whose alarms rang and that were not looked at yet: of established agents,
    /// and of others.
    due: Vec<u32>,
    due_others: Vec<u32>,
    places: Places,
    counters: Counters,
    /// Before this nobody is declared offline.
    amnesty: Moment,
    held_since: Option<Moment>,
    /// When silent agents were last looked for.
    looked_at: Moment,
    online: usize,
    /// Where the next look around begins.
    hand: usize,
    generation: u32,
    /// What is to be noted, while agents are on their way to another process.
    notes: Option<Notes>,
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
            looked_at: now,
            online: 0,
            hand: 0,
            generation: 0,
            notes: None,
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
        entry.heard_at = now;
        let key = AgentKey::new(slot);
        self.put(key, entry);
        self.arm(key);
        key
    }

    /// Finds a place for a new agent from `address`. Returns the agent that is to be
    /// removed first, if one is: it is not established, no session speaks for it, and it
    /// is silent longest, of all such agents or of those of its network if that has its
    /// share of the places.
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

    /// The agent was heard; true if that makes it online.
    pub fn heard(&mut self, key: AgentKey, address: IpAddr, now: Moment, wall: UnixNanos) -> bool {
        let Some(entry) = self.entries.get_mut(key.slot()).and_then(Option::as_mut) else {
            return false;
        };
        if entry.shown {
            return self.note_and_hear(key, address, now, wall);
        }
        entry.heard_at = now;
        let is_new_hour = entry.counts_hour(wall);
        if is_new_hour || entry.sessions == 0 {
            return self.place_and_hear(key, address, now, wall);
        }
        entry.last_seen = wall;
        if entry.name.is_some() {
            entry.address = address;
        }
        if entry.online {
            return false;
        }
        entry.online = true;
        entry.changed_at = wall;
        entry.come_back();
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

    /// The agent, just heard, has sent a heartbeat.
    pub fn beat(&mut self, key: AgentKey, version: &str, now: Moment) {
        if let Some(entry) = self.get_mut(key) {
            entry.beat(version, now);
            // A rhythm that is quicker than it was brings the deadline nearer.
            self.arm(key);
        }
    }

    /// The next agent that has been silent for too long; it is offline now. Established
    /// agents come first, others only if `others`: they wait for a later call.
    pub fn expire(&mut self, now: Moment, wall: UnixNanos, others: bool) -> Option<AgentKey> {
        if self.held_since.is_some() {
            return None;
        }
        if self.due.is_empty()
            && let Some(next) = self.wheel.next()
        {
            let late = now.since(next.max(self.looked_at));
            self.looked_at = now;
            if late > LATE {
                self.pardon(now, late);
            }
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
            if self.is_silent(key, now) {
                self.give_up(key, wall);
                return Some(key);
            }
            self.arm(key);
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

    /// The server answers again. Nobody is declared offline before as much time
    /// as was lost has gone by once more, and at least the time in which an agent
    /// without a rhythm must be heard. After a moment only, what agents sent meanwhile
    /// has to be read.
    pub fn resume(&mut self, now: Moment) {
        let Some(since) = self.held_since.take() else {
            return;
        };
        self.looked_at = now;
        let lost = now.since(since);
        if lost < LATE {
            self.amnesty = self.amnesty.max(now.after(LATE));
        } else {
            self.pardon(now, lost);
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
            Notes::add(&mut self.notes, key);
        }
        Some(entry)
    }

    /// A number for the agent that outlives its key.
    #[must_use]
    pub fn reference(&self, key: AgentKey) -> u64 {
        let generation = self.get(key).map_or(0, |entry| entry.generation);
        u64::from(generation) << 32 | u64::from(key.get().get())
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

    fn pardon(&mut self, now: Moment, lost: Duration) {
        let least = self.config.offline_after.unwrap_or(LEAST_SILENCE);
        self.amnesty = self.amnesty.max(now.after(lost.max(least)));
    }

    fn is_silent(&self, key: AgentKey, now: Moment) -> bool {
        let silent = |entry: &Entry| entry.online && self.offline_at(entry) <= now;
        self.get(key).is_some_and(silent)
    }

    fn offline_at(&self, entry: &Entry) -> Moment {
        let limit = self.patience_with(entry);
        entry.heard_at.after(limit).max(self.amnesty)
    }

    /// How long an agent may be silent.
    fn patience_with(&self, entry: &Entry) -> Duration {
        self.config
            .offline_after
            .unwrap_or_else(|| (3 * entry.interval()).clamp(LEAST_SILENCE, MOST_SILENCE))
    }

    /// Puts an agent into an empty slot, which there is.
    fn put(&mut self, key: AgentKey, mut entry: Entry) {
        self.generation = self.generation.wrapping_add(1);
        entry.generation = self.generation;
        match &entry.name {
            Some(name) => drop(self.names.insert(Rc::clone(name), key)),
            None => drop(self.addresses.insert(entry.address, key)),
        }
        self.online += usize::from(entry.online);
        self.places.enter(entry.tenant(key));
        self.entries[key.slot()] = Some(entry);
        Notes::add(&mut self.notes, key);
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
        self.places.leave(entry.tenant(key));
        self.wheel.disarm(key.number());
        self.free.insert(key.number());
        Notes::add(&mut self.notes, key);
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
        {
            let deadline = self.offline_at(entry);
            self.wheel.arm(key.number(), deadline);
        }
    }
}

#[cfg(test)]
mod tests;
