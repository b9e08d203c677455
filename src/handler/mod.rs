//! The handler of packets: which agents are alive, and their reports in the store.
//!
//! Owns the roster of agents, the `ReportLedger` that fills the store's batches, the commands
//! for events, and the log lines about agents. Knows nothing of sockets, frames and buffers: it
//! sees a packet, the session's address and name, and the [`Tag`] by which it finds the
//! session's agent again.
//!
//! Start at [`PacketHandler::handle`], the way of one packet.

mod handover;
mod ledger;

use ledger::ReportLedger;

pub use handover::HandlerState;
pub use ledger::{StoreDown, Unfinished};

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::notify::{self, Notifier};
use crate::roster::{self, AgentKey, Entry, Identity, Learnt, NoPlace, Roster};
use crate::session::{Answer, CommitId, CompletedCommit, Handler, Sender, Tag, Wake};
use crate::stats::{AgentStatistics, Statistics};
use crate::store::{self, BatchProducer};
use hawk_time::{Clock, Moment, Throttle, UnixNanos, log_limited};
use hawk_wire::{AgentName, Busy, Packet, Reply};

/// Log lines about agents that come online or go offline, in 10 s. A failing switch takes a
/// rack with it; the table of events has them all.
const CHANGES_LOGGED: u32 = 50;

/// The interval at which agents that have been silent for too long are looked for.
const REMOVAL_INTERVAL: Duration = Duration::from_secs(1);

/// The interval of log lines about evicted agents.
const EVICTION_LOG_INTERVAL: Duration = Duration::from_secs(3600);

/// When a report is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Once it is on disk.
    Committed,
    /// Once it is read: a power cut may lose it.
    Received,
}

/// How packets are handled.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// When a report is answered.
    pub ack: Ack,
    /// The roster's configuration.
    pub roster: roster::Config,
    /// How long a silent agent stays in the roster.
    pub remember: Duration,
    /// Log each packet as a line at level info.
    pub log_packets: bool,
}

/// Handles every packet: marks its agent as alive, and appends reports to the store.
pub struct PacketHandler {
    config: Config,
    clock: Clock,
    roster: Roster,
    /// `None` without a store.
    ledger: Option<ReportLedger>,
    /// `None` without commands for events.
    notifier: Option<Notifier>,
    changes: Throttle,
    /// Log lines about new agents without a place.
    refusals: Throttle,
    /// Log lines about evicted agents.
    evictions: Throttle,
    /// Log lines about agents that are cloned.
    clone_log: Throttle,
    next_removal: Moment,
    /// When [`quiesce`](Self::quiesce) stopped the taking of packets; `None` if it did not.
    quiet_since: Option<Moment>,
    /// The predecessor's state.
    imported: Option<HandlerState>,
    wake: Option<Wake>,
    /// The time of this turn.
    now: Moment,
    wall: UnixNanos,
}

impl PacketHandler {
    /// Returns a handler without a store.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with_clock(config, Clock::System)
    }

    /// Returns a handler without a store, with this clock.
    #[must_use]
    pub fn with_clock(config: Config, clock: Clock) -> Self {
        let now = clock.now();
        Self {
            config,
            roster: Roster::new(config.roster, now),
            ledger: None,
            notifier: None,
            changes: Throttle::bursts_of(CHANGES_LOGGED),
            refusals: Throttle::default(),
            evictions: Throttle::every(EVICTION_LOG_INTERVAL),
            clone_log: Throttle::default(),
            next_removal: now.after(REMOVAL_INTERVAL),
            quiet_since: None,
            imported: None,
            wake: None,
            now,
            wall: clock.wall(),
            clock,
        }
    }

    /// Inserts an agent of the store. Ignores a row with an invalid name, which hawk does not
    /// write.
    pub fn remember(&mut self, agent: &store::AgentRecord<&str>) {
        let identity = match agent.name {
            Some(name) if AgentName::new(name).is_err() => return,
            Some(name) => Identity::Name(name),
            None => Identity::Address(agent.address),
        };
        let mut entry = Entry::new(identity, agent.address, self.now, agent.first_seen);
        entry.set_version(agent.version);
        entry.last_seen = agent.last_seen;
        entry.online = agent.online;
        entry.changed_at = agent.changed_at;
        entry.resume_hours(agent.hours, agent.last_hour);
        let span = |nanos| Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
        let cloned_at = (agent.cloned_at != 0).then(|| UnixNanos::from_nanos(agent.cloned_at));
        entry.learn(Learnt {
            is_judged: agent.watched,
            interval: span(agent.interval),
            report_interval: span(agent.report_interval),
            cloned_at,
        });
        if self.roster.find(entry.identity()).is_none() {
            self.roster.insert(entry, self.now);
        }
    }

    /// Stores all further reports and events through `producer`.
    pub fn store_in(&mut self, producer: BatchProducer) {
        let mut ledger = ReportLedger::new(producer);
        if let Some(wake) = self.wake.clone() {
            ledger.producer.wake_with(move || wake.wake());
        }
        if let Some(state) = &self.imported {
            ledger.counted_before = state.store;
        }
        self.ledger = Some(ledger);
    }

    /// Runs commands for events.
    pub fn notify_with(&mut self, notifier: Notifier) {
        if let Some(limit) = self.imported.and_then(|state| state.open_files) {
            notifier.set_open_files(limit);
        }
        self.notifier = Some(notifier);
    }

    /// Resumes expiry by age, which is paused while the clock may be wrong. Returns false if it
    /// is not paused.
    #[must_use]
    pub fn confirm_clock(&self) -> bool {
        let ledger = self.ledger.as_ref();
        ledger.is_some_and(|ledger| {
            let is_paused = ledger.counters().expiry_paused != 0;
            if is_paused {
                ledger.producer.confirm_clock();
            }
            is_paused
        })
    }

    /// Commits everything and runs the commands for the last events. Kills commands that take
    /// longer than `for_commands`, which is logged.
    ///
    /// # Errors
    /// [`Unfinished`] if the store takes longer than `patience`.
    pub fn finish(mut self, patience: Duration, for_commands: Duration) -> Result<(), Unfinished> {
        let is_stored = self.stored_notifier().is_some();
        if let Some(ledger) = &mut self.ledger
            && is_stored
        {
            // So that the last events are delivered as well.
            ledger.catch_up(&self.roster, self.wall);
            ledger.flush(self.now, patience);
        }
        if let Some(notifier) = &self.notifier {
            notifier.stop_within(for_commands);
        }
        if let Some(notifier) = self.notifier.take_if(|_| is_stored) {
            // It writes its progress before the store is closed.
            notifier.finish();
        }
        let stored = match self.ledger.take() {
            Some(mut ledger) => {
                ledger.catch_up(&self.roster, self.wall);
                ledger.finish(self.now, patience)
            }
            None => Ok(()),
        };
        if let Some(notifier) = self.notifier.take() {
            notifier.finish();
        }
        stored
    }

    /// Returns the notifier if it reads its events from the store.
    fn stored_notifier(&self) -> Option<&Notifier> {
        self.notifier.as_ref().filter(|one| !one.wants_events())
    }

    /// Returns an agent of the roster.
    #[must_use]
    pub fn agent(&self, identity: Identity<'_>) -> Option<&Entry> {
        self.roster.get(self.roster.find(identity)?)
    }

    /// Returns the agent of this session, which may be new; `None` if there is no place for
    /// it.
    fn resolve(&mut self, sender: Sender<'_>, tag: &mut Option<Tag>) -> Option<AgentKey> {
        let address = sender.peer.ip().to_canonical();
        let known = tag.map(|Tag(number)| AgentKey::from_number(number));
        let identity = match sender.agent {
            Some(name) => Identity::Name(name),
            None => Identity::Address(address),
        };
        if let Some(key) = known
            && self.roster.get(key).is_some_and(|entry| match identity {
                Identity::Name(name) => entry.name.as_deref() == Some(name),
                // The address of a connection does not change.
                Identity::Address(_) => true,
            })
        {
            return Some(key);
        }
        let key = match self.roster.find(identity) {
            Some(key) => key,
            None => self.insert_agent(sender, identity)?,
        };
        self.roster.attach(key);
        if let Some(before) = known {
            self.roster.detach(before);
        }
        *tag = Some(Tag(key.get()));
        Some(key)
    }

    /// Inserts a new agent, and evicts another one if there are too many. `None` if there is
    /// no place for it.
    #[cold]
    fn insert_agent(&mut self, sender: Sender<'_>, identity: Identity<'_>) -> Option<AgentKey> {
        let address = sender.peer.ip().to_canonical();
        match self.roster.make_room(address, self.now) {
            Ok(None) => {}
            Ok(Some(surplus)) => self.evict(surplus),
            Err(reason) => {
                self.log_refusal(sender, reason);
                return None;
            }
        }
        let mut entry = Entry::new(identity, address, self.now, self.wall);
        // Shares the session's copy of the name.
        entry.name = sender.agent.cloned();
        Some(self.roster.insert(entry, self.now))
    }

    /// Removes an agent from the roster and the store to make room for another one. Its reports
    /// stay.
    fn evict(&mut self, key: AgentKey) {
        if self.roster.get(key).is_some_and(|entry| entry.online) {
            self.roster.mark_offline(key, self.wall);
            self.record_change(key);
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.remove_agent(&self.roster, key);
        }
        self.roster.remove(key);
        log_limited!(warn, self.evictions, self.now, left_out =>
            "too many agents: the longest silent agent that is not established was removed to \
             make room; if these are agents of yours, raise --max-agents max_agents={} \
             established={} evicted={} left_out={left_out}",
            self.config.roster.capacity,
            self.roster.established(),
            self.roster.counters().evicted);
    }

    #[cold]
    fn log_refusal(&mut self, sender: Sender<'_>, reason: NoPlace) {
        let why = match reason {
            NoPlace::TooFast => "its address brings too many new ones at once",
            NoPlace::ShareTaken => {
                "its address has its share of the places; to enlarge it, raise --max-agents"
            }
            NoPlace::Full => {
                "all places are taken by agents that are established or connected; raise \
                 --max-agents"
            }
        };
        log_limited!(warn, self.refusals, self.now, left_out =>
            "new agent refused: {why} peer={} agent={:?} max_agents={} left_out={left_out}",
            sender.peer,
            sender.agent.map_or("", |name| &**name),
            self.config.roster.capacity);
    }

    /// Logs that two machines use one agent's name.
    #[cold]
    fn log_clone(&mut self, key: AgentKey, sender: Sender<'_>) {
        if let Some(entry) = self.roster.get(key) {
            log_limited!(warn, self.clone_log, self.now, left_out =>
                "agent cloned: connections from two addresses use its name alternately; give each \
                 machine a name of its own agent={:?} peer={} left_out={left_out}",
                entry.name.as_deref().unwrap_or_default(),
                sender.peer);
        }
    }

    /// Answers a health check, which includes the store or not.
    fn answer_probe(&mut self, includes_store: bool) -> Answer {
        match (&mut self.ledger, includes_store) {
            (_, false) => Answer::Now(Reply::Heartbeat),
            (None, true) => Answer::Now(Reply::Report),
            (Some(ledger), true) => match ledger.append_probe(self.now) {
                Some(batch) => Answer::AfterCommit(CommitId(batch)),
                None => Answer::Now(Reply::Busy(Busy::StoreUnavailable)),
            },
        }
    }

    /// Logs, notifies and stores that an agent has come online or gone offline.
    fn record_change(&mut self, key: AgentKey) {
        if let Some(entry) = self.roster.get(key)
            && let Some(left_out) = self.changes.allow(self.now)
        {
            let state = if entry.online { "online" } else { "offline" };
            let address = entry.address;
            let left_out = match left_out {
                0 => String::new(),
                more => format!(" left_out={more}"),
            };
            match &entry.name {
                Some(name) => {
                    log::info!("agent {state} agent={name:?} address={address}{left_out}");
                }
                None => log::info!("agent {state} agent={address} address={address}{left_out}"),
            }
        }
        if let Some(notifier) = &mut self.notifier
            && notifier.wants_events()
            && let Some(entry) = self.roster.get(key)
        {
            notifier.put(event_of(entry), self.now);
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.append_event(&self.roster, key);
        }
    }
}

impl Handler for PacketHandler {
    fn name(&mut self, name: &str) -> Rc<str> {
        self.roster
            .name(name)
            .cloned()
            .unwrap_or_else(|| name.into())
    }

    fn start(&mut self, wake: Wake) {
        self.wake = Some(wake.clone());
        if let Some(ledger) = &self.ledger {
            ledger.producer.wake_with(move || wake.wake());
        }
    }

    fn begin_turn(&mut self, now: Moment) {
        self.now = now;
        self.wall = self.clock.wall();
        let mut waiting_since = self.quiet_since;
        if let Some(ledger) = &mut self.ledger {
            ledger.producer.collect(now);
            waiting_since = waiting_since.or(ledger.stalled_since(now));
        }
        match waiting_since {
            Some(since) => self.roster.stand_still(since),
            None => self.roster.resume(now),
        }
    }

    fn handle(&mut self, sender: Sender<'_>, tag: &mut Option<Tag>, packet: &Packet<'_>) -> Answer {
        if self.config.log_packets {
            log_packet(sender, packet);
        }
        if packet.is_probe() {
            return self.answer_probe(packet.is_store_probe());
        }
        let Some(key) = self.resolve(sender, tag) else {
            return Answer::Now(Reply::Busy(Busy::TooManyAgents));
        };
        let address = sender.peer.ip().to_canonical();
        let came_online = self.roster.record_packet(key, address, self.now, self.wall);
        let time = (self.now, self.wall);
        let is_watched_now = match packet {
            Packet::Heartbeat(heartbeat) => {
                let version = &heartbeat.version;
                self.roster.beat(key, version, sender.gap, time)
            }
            Packet::Report(_) => self.roster.report(key, sender.gap, time),
        };
        if let Some(key) = self.roster.take_new_clone() {
            self.log_clone(key, sender);
        }
        if came_online || is_watched_now {
            self.record_change(key);
        }
        let Some(ledger) = &mut self.ledger else {
            return Answer::Now(match packet {
                Packet::Heartbeat(_) => Reply::Heartbeat,
                Packet::Report(_) => Reply::Report,
            });
        };
        match packet {
            Packet::Heartbeat(_) => {
                ledger.append_heartbeat(&self.roster, key, self.now);
                Answer::Now(Reply::Heartbeat)
            }
            Packet::Report(report) => {
                let kept_with = ledger.append_report(
                    &self.roster,
                    key,
                    sender.peer,
                    report,
                    (self.now, self.wall),
                );
                match (kept_with, self.config.ack) {
                    (None, _) => Answer::Now(Reply::Busy(Busy::StoreUnavailable)),
                    (Some(_), Ack::Received) => Answer::Now(Reply::Report),
                    (Some(batch), Ack::Committed) => Answer::AfterCommit(CommitId(batch)),
                }
            }
        }
    }

    fn detach(&mut self, Tag(number): Tag) {
        self.roster.detach(AgentKey::from_number(number));
    }

    fn paused(&mut self, Tag(number): Tag) {
        self.roster.pause(AgentKey::from_number(number), self.now);
    }

    fn resumed(&mut self, Tag(number): Tag) {
        self.roster.unpause(AgentKey::from_number(number), self.now);
    }

    fn is_ready(&self) -> bool {
        self.quiet_since.is_none()
            && self
                .ledger
                .as_ref()
                .is_none_or(|ledger| ledger.producer.is_ready())
    }

    fn next_completed(&mut self) -> Option<CompletedCommit> {
        self.ledger.as_mut()?.next_completed()
    }

    fn end_turn(&mut self) {
        if self.quiet_since.is_some() {
            return self.quiesce_ledger();
        }
        // Established agents first: others wait while the open batch is full.
        loop {
            let others = self
                .ledger
                .as_ref()
                .is_none_or(|ledger| ledger.producer.is_ready());
            let Some(key) = self.roster.expire(self.now, self.wall, others) else {
                break;
            };
            self.record_change(key);
        }
        if self.now >= self.next_removal {
            self.next_removal = self.now.after(REMOVAL_INTERVAL);
            self.roster
                .remove_silent(self.wall.before(self.config.remember));
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.catch_up(&self.roster, self.wall);
            ledger.submit_if_due(self.now);
        }
    }

    fn deadline(&self) -> Option<Moment> {
        let ledger = self
            .ledger
            .as_ref()
            .and_then(|ledger| ledger.deadline(self.quiet_since, self.now));
        [self.roster.deadline(), ledger].into_iter().flatten().min()
    }

    fn statistics(&self, statistics: &mut Statistics) {
        let roster::Counters { refused, evicted } = self.roster.counters();
        statistics.agents = Some(AgentStatistics {
            known: self.roster.len(),
            online: self.roster.online(),
            established: self.roster.established(),
            refused,
            evicted,
            unwatched: self.roster.unwatched(),
            cloned: self.roster.clones(),
            stood_still_ms: self.roster.stood_still().as_millis(),
        });
        statistics.store = self
            .ledger
            .as_ref()
            .map(|ledger| ledger.statistics(self.now));
        if let Some(notifier) = &self.notifier {
            statistics.hooks = notifier.statistics();
        }
    }
}

/// Logs a packet as one line: text from the wire is escaped.
fn log_packet(sender: Sender<'_>, packet: &Packet<'_>) {
    let peer = sender.peer;
    let agent = sender.agent.map_or("", AsRef::as_ref);
    match packet {
        Packet::Heartbeat(heartbeat) => log::info!(
            "{} peer={peer} agent={agent:?} version={:?} timestamp={}",
            if heartbeat.probe {
                "probe"
            } else {
                "heartbeat"
            },
            heartbeat.version,
            heartbeat.timestamp,
        ),
        Packet::Report(report) => log::info!(
            "report peer={peer} agent={agent:?} content={:?} rand={} timestamp={}",
            report.content,
            report.rand,
            report.timestamp,
        ),
    }
}

/// Returns the last change of an agent's state as commands receive it.
fn event_of(entry: &Entry) -> notify::Event {
    let text = match &entry.name {
        Some(name) => Arc::from(&**name),
        None => Arc::from(entry.address.to_string()),
    };
    notify::Event {
        seq: 0,
        at: entry.changed_at,
        agent: notify::EventAgent {
            text,
            named: entry.name.is_some(),
        },
        address: entry.address,
        version: Arc::from(&*entry.version),
        online: entry.online,
        last_seen: entry.last_seen,
        established: entry.is_established(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::Transfer as _;
    use hawk_wire::Heartbeat;

    fn packet_handler() -> PacketHandler {
        PacketHandler::new(Config {
            ack: Ack::Received,
            roster: roster::Config {
                offline_after: None,
                start_grace: Duration::ZERO,
                capacity: 1,
            },
            remember: Duration::from_secs(1),
            log_packets: false,
        })
    }

    #[test]
    fn a_session_and_the_roster_share_the_name_of_an_agent() {
        let mut handler = packet_handler();
        let name = handler.name("web-01");
        let sender = Sender {
            peer: "192.0.2.7:41216".parse().unwrap(),
            agent: Some(&name),
            gap: None,
        };
        let heartbeat = Packet::Heartbeat(Heartbeat::default());
        handler.handle(sender, &mut None, &heartbeat);
        assert!(Rc::ptr_eq(&name, &handler.name("web-01")));
        assert!(!Rc::ptr_eq(&name, &handler.name("web-02")));
    }

    /// A successor refuses anything else.
    #[test]
    fn rows_with_names_and_versions_that_no_agent_can_send_are_bounded() {
        let mut handler = packet_handler();
        let long = "x".repeat(1000);
        for name in [
            Some("web-01"),
            Some(long.as_str()),
            Some("two\nlines"),
            None,
        ] {
            handler.remember(&store::AgentRecord {
                name,
                address: [192, 0, 2, 7].into(),
                version: &long,
                hours: None,
                ..store::AgentRecord::sample(None, UnixNanos::from_nanos(1))
            });
        }
        let mut known = Vec::new();
        handler.begin_copy();
        handler.copy_some(9, &mut |_, state| {
            let state = state.unwrap();
            known.push((state.name, state.version.len()));
        });
        let most = roster::MAX_VERSION;
        assert_eq!(known, [(Some("web-01".to_owned()), most), (None, most)]);
    }
}
