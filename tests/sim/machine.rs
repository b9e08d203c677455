//! The machine on which the server runs: its clock, its sockets and their faults.
//! It also keeps the model of what each connection must receive.

mod reading;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hawk::reactor::kernel::{Event as Said, OtherToken, Signal, SocketToken};
use hawk::stats::Cause;
use hawk_wire::{Busy, MAX_REPLY_LINE, Reply};

use super::conversation::Conversation;
use super::counts::{Counts, Event};
use super::link::{Link, Stage};
use super::patience::{Due, Terms};
use super::store::Store;
use super::trace::Trace;
use hawk_testkit::worlds::Dice;

pub type Shared = Rc<RefCell<Machine>>;

/// Ports are slots and incarnations: so many of one slot are told apart.
const INCARNATIONS: u16 = 64;
const FIRST_PORT: u16 = 1024;

/// Which addresses may connect, and how many connections there may be.
#[derive(Clone, Copy)]
pub struct Doors {
    pub connections: usize,
    pub per_ip: Option<u32>,
    /// Addresses whose last byte is at least this much may not connect.
    pub denied_from: u8,
}

/// What goes wrong with the machine at present.
#[derive(Default)]
pub struct Faults {
    pub no_descriptors: bool,
    pub watch: u32,
    /// One call in so many is interrupted, one newcomer in so many is gone again,
    /// and behind one read in so many comes more at once; 0: none.
    pub interrupts: u64,
    pub aborts: u64,
    pub arrivals: u64,
}

pub struct Machine {
    /// The process that serves; the next number is its successor's.
    pub process: u32,
    /// What its poll still tells of although it has closed it.
    pub phantoms: Vec<SocketToken>,
    /// Until then the process before this one may have its sockets, for all that this one
    /// knows.
    pub shared_until: u64,
    pub now: u64,
    /// A wait ends by then: something comes from outside.
    pub until: u64,
    /// The process stands still for so long while it waits.
    pub jump: u64,
    pub dice: Dice,
    pub links: Vec<Link>,
    incarnations: Vec<u16>,
    pub terms: Terms,
    pub doors: Doors,
    /// Frames a second, if there is a limit.
    pub rate: Option<u32>,
    pub faults: Faults,
    pub store: Store,
    pub output_limit: usize,
    /// Bytes of replies that were kept for their sockets after the last turn and must
    /// still be, and replies that wait for a commit likewise.
    pub unsent: usize,
    pub owed: usize,
    /// They left too much unread all through the turn.
    pub output_was_short: bool,
    /// In this turn a connection was stopped for few unsent replies.
    pub stopped_early: bool,
    /// In this turn the server was told that the store takes nothing.
    pub unready_now: bool,
    /// A connection waited for a buffer after the last turn.
    pub pool_has_waiters: bool,
    /// Connections that were read beyond the end of their frame in this turn although others
    /// wait for a buffer, each with the bytes of buffers that the rest of its host holds.
    pub beyond: Vec<(usize, usize)>,
    /// A phase may end before each connection had its turn.
    pub bites: bool,

    pub backlog: VecDeque<usize>,
    pub listens: bool,
    /// Descriptors of the listening socket.
    pub listeners: usize,
    pub newcomers: bool,
    /// Since when no connection was accepted although one waits.
    pub waiting_since: u64,
    pub woken: Arc<AtomicBool>,
    pub signals: Vec<Signal>,
    pub signalled: bool,
    /// An upgrade was requested, and the reactor has not reported it yet.
    pub upgrade: bool,
    /// What is no connection and became ready, likewise.
    pub others: Vec<OtherToken>,
    /// By when the turn is to end its wait, if it is told.
    pub turn_until: Option<u64>,
    pub events: Vec<Said>,
    /// How long the server was ready to wait.
    pub asked: Option<Duration>,
    pub stopping: Option<u64>,
    /// When the server must wake up by itself at the latest, and the port of the connection.
    pub wake_by: (u64, u16),

    // What happened in this turn.
    pub closed: Vec<usize>,
    pub departed: Vec<u32>,
    /// Calls that brought something.
    pub calls: u64,

    pub accepted: u64,
    pub accept_errors: u64,
    pub bytes: [u64; 2],
    pub live: Vec<usize>,
    pub counts: Counts,
    happenings: Trace,
    pub broken: Option<(u16, &'static str, String)>,
}

impl Machine {
    pub fn new(seed: u64, terms: Terms, doors: Doors, store: Store) -> Self {
        Self {
            process: 0,
            phantoms: Vec::new(),
            shared_until: 0,
            now: 1_000_000_000_000 + seed % 1_000_000_000,
            until: 0,
            jump: 0,
            dice: Dice::new(seed ^ 0x5EED),
            links: Vec::new(),
            incarnations: Vec::new(),
            terms,
            doors,
            rate: None,
            faults: Faults::default(),
            store,
            output_limit: usize::MAX,
            unsent: 0,
            owed: 0,
            output_was_short: false,
            stopped_early: false,
            unready_now: false,
            pool_has_waiters: false,
            beyond: Vec::new(),
            bites: false,
            backlog: VecDeque::new(),
            listens: false,
            listeners: 0,
            newcomers: false,
            waiting_since: 0,
            woken: Arc::default(),
            signals: Vec::new(),
            signalled: false,
            upgrade: false,
            others: Vec::new(),
            turn_until: None,
            events: Vec::new(),
            asked: None,
            stopping: None,
            wake_by: (u64::MAX, 0),
            closed: Vec::new(),
            departed: Vec::new(),
            calls: 0,
            accepted: 0,
            accept_errors: 0,
            bytes: [0; 2],
            live: Vec::new(),
            counts: Counts::default(),
            happenings: Trace::default(),
            broken: None,
        }
    }

    pub fn trace(&mut self, port: u16, what: &'static str, number: u64) {
        self.happenings.note(self.now, port, what, number);
    }

    pub fn tell_trace(&self) -> String {
        let port = self.broken.as_ref().map_or(0, |(port, ..)| *port);
        self.happenings.tell(port)
    }

    /// Unless it `holds`, the world is broken.
    pub fn demand(&mut self, holds: bool, port: u16, what: &'static str) {
        if !holds {
            self.breaks(port, what, String::new);
        }
    }

    /// The world is broken; what is first is what counts.
    #[cold]
    pub fn breaks(&mut self, port: u16, what: &'static str, more: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some((port, what, more()));
        }
    }

    /// The server must wake up by itself at `moment`.
    pub fn must_wake_by(&mut self, moment: u64, port: u16) {
        self.wake_by = self.wake_by.min((moment, port));
    }

    // Connections.

    /// Connects from the host of this number; returns the slot.
    pub fn connect(&mut self, host: u8, capacity: usize) -> usize {
        let is_free =
            |link: &Link| link.stage == Stage::Closed && link.was.is_none() && link.holders == 0;
        let free = self.links.iter().position(is_free);
        let slot = free.unwrap_or_else(|| {
            self.links.push(Link::new());
            self.incarnations.push(0);
            self.links.len() - 1
        });
        let incarnation = &mut self.incarnations[slot];
        *incarnation = (*incarnation + 1) % INCARNATIONS;
        let port = FIRST_PORT + slot as u16 * INCARNATIONS + *incarnation;
        let peer = SocketAddr::from((Ipv4Addr::new(10, 0, 0, host), port));
        self.links[slot].open(peer, capacity);
        if self.listens {
            if self.backlog.is_empty() {
                self.newcomers = true;
                self.waiting_since = self.now;
            }
            self.backlog.push_back(slot);
        } else {
            // The port is closed: the connection is refused.
            self.links[slot].reset();
            self.links[slot].stage = Stage::Closed;
        }
        slot
    }

    /// Returns the slot of the connection with this address.
    pub fn slot_of(&self, peer: SocketAddr) -> usize {
        usize::from((peer.port() - FIRST_PORT) / INCARNATIONS)
    }

    /// What is to become of the newcomer in `slot`.
    pub fn admit(&mut self, slot: usize) -> Stage {
        let SocketAddr::V4(peer) = self.links[slot].peer else {
            return Stage::Closed;
        };
        let served = |link: &&Link| link.stage == Stage::Served;
        let all = self.links.iter().filter(served).count();
        let ip = *peer.ip();
        let same = |link: &&Link| served(link) && link.peer.ip() == ip;
        let of_address = self.links.iter().filter(same).count();
        if ip.octets()[3] >= self.doors.denied_from {
            Stage::TurnedAway(Cause::NotAllowed)
        } else if all >= self.doors.connections {
            Stage::TurnedAway(Cause::TooManyConnections)
        } else if self
            .doors
            .per_ip
            .is_some_and(|most| of_address >= most as usize)
        {
            Stage::TurnedAway(Cause::TooManyFromAddress)
        } else {
            Stage::Served
        }
    }

    /// A process has closed the socket of `slot`. If another has it too, nothing ends.
    pub fn drop_socket(&mut self, slot: usize) {
        let link = &mut self.links[slot];
        link.holders -= 1;
        if link.holders == 0 {
            self.end(slot);
        } else if !link.is_live() {
            let token = link.token;
            self.haunt(token);
        }
    }

    /// The server has ended the connection in `slot`.
    pub fn end(&mut self, slot: usize) {
        self.forget_unsent(slot, usize::MAX);
        let link = &mut self.links[slot];
        let port = link.peer.port();
        if link.is_live() {
            // Judged after the turn; until then the slot stays taken.
            link.was = Some(link.stage);
            self.closed.push(slot);
            self.live.retain(|other| *other != slot);
        }
        link.stage = Stage::Closed;
        self.trace(port, "socket closed", 0);
    }

    // What the model knows.

    /// Whether what `wanted` asks is so, or comes to be so by something that the
    /// server may have done unseen: that it listened to what it read, gave up the
    /// candidate it waited for, before or in the middle of that, or stopped to listen.
    pub fn explain(
        &mut self,
        slot: usize,
        wanted: impl Fn(&mut Conversation, &Store) -> bool,
    ) -> bool {
        let link = &mut self.links[slot];
        if wanted(&mut link.conversation, &self.store) {
            return true;
        }
        let due = self.due(slot);
        let drops = due.frame && due.frame_first && self.links[slot].dropped_at != self.now;
        let (ends, now) = (self.may_end(slot), self.now);
        let link = &mut self.links[slot];
        let doubts = link.conversation.doubts();
        for end in [false, true] {
            let places = (0..=doubts).map(|after| Some((after, link.last.consumed)));
            for drop in std::iter::once(None).chain(places) {
                if (end && !ends) || (drop.is_some() && !drops) {
                    continue;
                }
                let mut trial = link.conversation.clone();
                if !trial.believe(drop) {
                    continue;
                }
                if end {
                    trial.end();
                }
                if wanted(&mut trial, &self.store) {
                    link.conversation = trial;
                    if drop.is_some() {
                        link.dropped_at = now;
                        self.counts.saw(Event::CandidateDropped);
                    }
                    if end {
                        self.counts.saw(Event::HiddenFrame);
                    }
                    return true;
                }
            }
        }
        false
    }

    /// Which deadlines of `slot` have come, as things stood before this turn.
    pub fn due(&self, slot: usize) -> Due {
        let link = &self.links[slot];
        link.patience.due(self.terms, link.last.owed, self.now)
    }

    /// Whether anything waits for a commit.
    pub fn is_owed(&self, slot: usize) -> bool {
        let last = self.links[slot].conversation.last_commit();
        last.is_some_and(|commit| !self.store.is_told(commit))
    }

    /// Whether the server may have stopped to listen.
    pub fn may_end(&self, slot: usize) -> bool {
        let link = &self.links[slot];
        if link.conversation.is_over() || link.stage != Stage::Served {
            return false;
        }
        let stops = link
            .allowance
            .is_some_and(|left| left == 0 || !link.is_readable());
        stops || self.due(slot).any()
    }

    /// So many bytes that were kept for its socket are gone.
    pub fn forget_unsent(&mut self, slot: usize, bytes: usize) {
        let unsent = &mut self.links[slot].unsent;
        let gone = bytes.min(*unsent);
        *unsent -= gone;
        self.unsent -= gone;
    }

    /// Whether agents leave more unread than they may, for sure.
    pub fn output_is_short(&self) -> bool {
        self.unsent + self.owed * MAX_REPLY_LINE > self.output_limit
    }

    /// The reply to a rejected connection.
    pub fn refusal(cause: Cause) -> Option<Reply> {
        match cause {
            Cause::TooManyConnections => Some(Reply::Busy(Busy::TooManyConnections)),
            Cause::TooManyFromAddress => Some(Reply::Busy(Busy::TooManyFromAddress)),
            _ => None,
        }
    }

    /// How long the next commit takes: as a rule milliseconds, now and then far longer.
    pub fn commit_takes(&mut self) -> u64 {
        const MS: u64 = 1_000_000;
        match self.dice.below(32) {
            0 => self.dice.below_u64(20_000) * MS,
            1..8 => self.dice.below_u64(300) * MS,
            _ => self.dice.below_u64(5) * MS,
        }
    }
}
