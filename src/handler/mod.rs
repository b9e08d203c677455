//! What the server does with packets: it notes who is alive, and has reports
//! kept.

mod books;
mod clones;
mod eviction;
mod handover;
mod newcomers;
mod packet_log;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::notify::{self, Notifier};
use crate::roster::{self, AgentKey, Entry, Identity, Learnt, Roster};
use crate::session::{Answer, CommitId, CompletedCommit, Handler, Sender, Tag, Wake};
use crate::stats::{AgentStatistics, Statistics};
use crate::store::{self, BatchProducer};
use books::Books;
pub use books::{StoreDown, Unfinished};
pub use handover::HandlerState;
use hawk_time::Throttle;
use hawk_time::{Clock, Moment, UnixNanos};
use hawk_wire::{AgentName, Busy, Packet, Reply};

/// Lines about agents that come and go, in ten seconds. A switch that fails
/// takes a rack with it; the table of events has them all.
const CHANGES_LOGGED: u32 = 50;

/// Between two looks for agents that need not be remembered any more.
const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// When a report is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Once it is on disk.
    Committed,
    /// As soon as it is read: it may still be lost.
    Received,
}

/// How packets are to be handled.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// When a report is answered.
    pub ack: Ack,
    /// How agents are judged.
    pub roster: roster::Config,
    /// How long an agent that is silent is remembered.
    pub remember: Duration,
    /// Log each packet as a line at level info.
    pub log_packets: bool,
}

/// Takes every packet: notes its agent as alive, and has reports kept.
pub struct PacketHandler {
    config: Config,
    clock: Clock,
    roster: Roster,
    /// `None`: nothing is stored.
    books: Option<Books>,
    /// `None`: no command is run for changes.
    notifier: Option<Notifier>,
    changes: Throttle,
    /// About new agents that got no place.
    refusals: Throttle,
    /// About agents that were removed to make room.
    evictions: Throttle,
    /// Log lines about agents that are cloned.
    clone_log: Throttle,
    next_forget: Moment,
    /// Since when no packet is taken, so that all that was taken can be kept.
    quiet_since: Option<Moment>,
    /// What the process before knew.
    moved: Option<HandlerState>,
    wake: Option<Wake>,
    /// The time of this turn.
    now: Moment,
    wall: UnixNanos,
}

impl PacketHandler {
    /// A handler that stores nothing.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with_clock(config, Clock::System)
    }

    /// A handler that stores nothing, and reads this clock.
    #[must_use]
    pub fn with_clock(config: Config, clock: Clock) -> Self {
        let now = clock.now();
        Self {
            config,
            roster: Roster::new(config.roster, now),
            books: None,
            notifier: None,
            changes: Throttle::bursts_of(CHANGES_LOGGED),
            refusals: Throttle::default(),
            evictions: Throttle::every(eviction::LOG_INTERVAL),
            clone_log: Throttle::default(),
            next_forget: now.after(FORGET_INTERVAL),
            quiet_since: None,
            moved: None,
            wake: None,
            now,
            wall: clock.wall(),
            clock,
        }
    }

    /// Remembers an agent that the store knows. A row with a name that no agent can give
    /// itself was not written by us, and is nobody's.
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
        let mut books = Books::new(producer);
        if let Some(wake) = &self.wake {
            books.wake_with(wake.clone());
        }
        if let Some(state) = &self.moved {
            books.go_on_after(state);
        }
        self.books = Some(books);
    }

    /// Runs commands for changes of agents' states.
    pub fn notify_with(&mut self, notifier: Notifier) {
        if let Some(limit) = self.moved.and_then(|state| state.open_files) {
            notifier.set_open_files(limit);
        }
        self.notifier = Some(notifier);
    }

    /// Resumes expiry by age, which is paused while the clock may be wrong: the operator says
    /// that it is right. False if it is not paused.
    #[must_use]
    pub fn confirm_clock(&self) -> bool {
        let books = self.books.as_ref();
        books.is_some_and(|books| {
            let is_paused = books.counters().expiry_paused != 0;
            if is_paused {
                books.confirm_clock();
            }
            is_paused
        })
    }

    /// Has the store keep all it was given, and the commands for changes run. Those
    /// that take longer than `for_commands` are given up, which is logged.
    ///
    /// # Errors
    /// [`Unfinished`] if the store takes longer than `patience`.
    pub fn finish(mut self, patience: Duration, for_commands: Duration) -> Result<(), Unfinished> {
        let is_stored = self
            .notifier
            .as_ref()
            .is_some_and(|one| !one.wants_events());
        if let Some(books) = &mut self.books
            && is_stored
        {
            // The last events are delivered as well.
            books.catch_up(&self.roster);
            books.flush(self.now, patience);
        }
        if let Some(notifier) = &self.notifier {
            notifier.stop_within(for_commands);
        }
        if let Some(notifier) = self.notifier.take_if(|_| is_stored) {
            // How far it has come is written down before the store is closed. Without a store
            // both end at the same time.
            notifier.finish();
        }
        let stored = match self.books.take() {
            Some(mut books) => {
                books.catch_up(&self.roster);
                books.finish(self.now, patience)
            }
            None => Ok(()),
        };
        if let Some(notifier) = self.notifier.take() {
            notifier.finish();
        }
        stored
    }

    /// What is known of an agent, if it is remembered.
    #[must_use]
    pub fn agent(&self, identity: Identity<'_>) -> Option<&Entry> {
        self.roster.get(self.roster.find(identity)?)
    }

    /// Returns the agent that this session speaks for. `None`: it is a new one, for which
    /// there is no place.
    fn recognise(&mut self, sender: Sender<'_>, tag: &mut Option<Tag>) -> Option<AgentKey> {
        let address = sender.peer.ip().to_canonical();
        let known = tag.map(|Tag(number)| AgentKey::from_number(number));
        let identity = match sender.agent {
            Some(name) => Identity::Name(name),
            None => Identity::Address(address),
        };
        if let Some(key) = known
            && self.roster.get(key).is_some_and(|entry| match identity {
                Identity::Name(name) => entry.name.as_deref() == Some(name),
                // Its address is the connection's, which does not change.
                Identity::Address(_) => true,
            })
        {
            return Some(key);
        }
        let key = match self.roster.find(identity) {
            Some(key) => key,
            None => self.meet(sender, identity)?,
        };
        self.roster.attach(key);
        if let Some(before) = known {
            self.roster.detach(before);
        }
        *tag = Some(Tag(key.get()));
        Some(key)
    }

    /// Answers a health check, which includes the store or not.
    fn answer_probe(&mut self, includes_store: bool) -> Answer {
        match (&mut self.books, includes_store) {
            (_, false) => Answer::Now(Reply::Heartbeat),
            (None, true) => Answer::Now(Reply::Report),
            (Some(books), true) => match books.enter_probe(self.now) {
                Some(batch) => Answer::AfterCommit(CommitId(batch)),
                None => Answer::Now(Reply::Busy(Busy::StoreUnavailable)),
            },
        }
    }

    /// An agent has come online or gone offline.
    fn tell(&mut self, key: AgentKey) {
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
        if let Some(books) = &mut self.books {
            books.enter_event(&self.roster, key);
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
        if let Some(books) = &self.books {
            books.wake_with(wake.clone());
        }
        self.wake = Some(wake);
    }

    fn begin_turn(&mut self, now: Moment) {
        self.now = now;
        self.wall = self.clock.wall();
        let mut waiting_since = self.quiet_since;
        if let Some(books) = &mut self.books {
            books.collect(now);
            waiting_since = waiting_since.or(books.stalled_since(now));
        }
        match waiting_since {
            Some(since) => self.roster.stand_still(since),
            None => self.roster.resume(now),
        }
    }

    fn handle(&mut self, sender: Sender<'_>, tag: &mut Option<Tag>, packet: &Packet<'_>) -> Answer {
        if self.config.log_packets {
            packet_log::log(sender, packet);
        }
        if packet.is_probe() {
            return self.answer_probe(packet.is_store_probe());
        }
        let Some(key) = self.recognise(sender, tag) else {
            return Answer::Now(Reply::Busy(Busy::TooManyAgents));
        };
        let address = sender.peer.ip().to_canonical();
        let came = self.roster.record_packet(key, address, self.now, self.wall);
        let time = (self.now, self.wall);
        let is_watched_now = match packet {
            Packet::Heartbeat(heartbeat) => {
                let version = &heartbeat.version;
                self.roster.beat(key, version, sender.gap, time)
            }
            Packet::Report(_) => self.roster.report(key, sender.gap, time),
        };
        if let Some(key) = self.roster.take_new_clone() {
            self.warn_of_clone(key, sender);
        }
        if came || is_watched_now {
            self.tell(key);
        }
        let Some(books) = &mut self.books else {
            return Answer::Now(match packet {
                Packet::Heartbeat(_) => Reply::Heartbeat,
                Packet::Report(_) => Reply::Report,
            });
        };
        match packet {
            Packet::Heartbeat(_) => {
                books.enter_heartbeat(&self.roster, key, self.now);
                Answer::Now(Reply::Heartbeat)
            }
            Packet::Report(report) => {
                let kept_with = books.enter_report(
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
        self.quiet_since.is_none() && self.books.as_ref().is_none_or(Books::is_ready)
    }

    fn next_completed(&mut self) -> Option<CompletedCommit> {
        self.books.as_mut()?.next_completed()
    }

    fn end_turn(&mut self) {
        if self.quiet_since.is_some() {
            return self.settle_down();
        }
        // Established agents first: others wait while the batch at hand is full.
        loop {
            let others = self.books.as_ref().is_none_or(Books::is_ready);
            let Some(key) = self.roster.expire(self.now, self.wall, others) else {
                break;
            };
            self.tell(key);
        }
        if self.now >= self.next_forget {
            self.next_forget = self.now.after(FORGET_INTERVAL);
            self.roster
                .remove_silent(self.wall.before(self.config.remember));
        }
        if let Some(books) = &mut self.books {
            books.catch_up(&self.roster);
            books.hand_over(self.now);
        }
    }

    fn deadline(&self) -> Option<Moment> {
        let books = self
            .books
            .as_ref()
            .and_then(|books| books.deadline(self.quiet_since, self.now));
        [self.roster.deadline(), books].into_iter().flatten().min()
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
        statistics.store = self.books.as_ref().map(|books| books.statistics(self.now));
        if let Some(notifier) = &self.notifier {
            statistics.hooks = notifier.statistics();
        }
    }
}

/// The last change of an agent's state.
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
    fn a_session_and_the_roster_share_an_agents_name() {
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

    /// Whoever wrote the row: a process that is to go on takes nothing else.
    #[test]
    fn what_the_store_knows_of_an_agent_is_what_an_agent_could_have_said() {
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
                first_seen: UnixNanos::from_nanos(1),
                last_seen: UnixNanos::from_nanos(1),
                online: true,
                changed_at: UnixNanos::from_nanos(1),
                interval: 0,
                hours: None,
                last_hour: 0,
                watched: true,
                report_interval: 0,
                cloned_at: 0,
            });
        }
        let mut known = Vec::new();
        handler.begin_copy();
        handler.copy_some(9, &mut |_, state| {
            known.push((state.name, state.version.len()));
        });
        let most = roster::MAX_VERSION;
        assert_eq!(known, [(Some("web-01".to_owned()), most), (None, most)]);
    }
}
