//! The event loop: one thread, all connections.
//!
//! A [turn](Reactor::turn) goes through the same phases every time; each is
//! a function below. Sockets are registered once for reading and writing,
//! edge-triggered, and what the kernel says is kept in the connections. The run
//! queue, not the kernel, remembers who still has something to do.
//!
//! ```text
//! wait → settle commits → mark readiness → run the queue → timers → waiters → accept
//!      → hand over → housekeeping → control
//! ```

mod accept;
mod buffers;
mod connection;
mod connections;
mod handover;
pub mod kernel;
mod linux;
mod network_rates;
mod phase;
mod replies;
mod stop;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hawk_pool::Pool;

use self::accept::{Listener, Refusals};
use self::buffers::{BufferShares, Capped};
pub use self::connection::ConnectionView;
use self::connection::{Connection, Counted, Outcome, Shop};
use self::connections::{ConnectionId, Connections};
pub use self::handover::{AdoptError, AdoptedId, Change, ConnectionState, MovedId};
use self::handover::{Adoption, Copying};
use self::kernel::{Event, Kernel, OtherToken, Signal};
pub use self::linux::{Linux, catch_signals};
use self::network_rates::NetworkRates;
pub use self::phase::ConnectionPhase;
use self::replies::{Ledger, Outbox, OutputLimit};
use self::stop::InheritedStop;

use crate::admission::{self, Admission};
use crate::log_sink::LeftOut;
use crate::network::Network;
use crate::session::{Handler, Limits, SessionContext};
use crate::stats::{self, Cause, Counters, Figures, Statistics, StatsLog};
use hawk_time::Moment;
use hawk_time::Throttle;
use hawk_time::{self, TimerWheel};

/// Newcomers taken in a turn: enough to empty the backlog in some thirty
/// turns, and few enough that those who are connected hardly notice.
const ACCEPTS: usize = 128;

/// Descriptors that are not for connections: the standard streams, the poll,
/// signals, the listener, those turned away, and some to spare.
pub const RESERVED_DESCRIPTORS: usize = 64;

/// The least pool: a buffer of the longest class to work with, and the reserve.
pub const MIN_POOL_LIMIT: usize = 2 * buffers::LONGEST;

/// How often buffers that were not needed go back to the allocator.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);

/// Unwanted input is read in pieces of this many bytes.
const DISCARD: usize = 16 * 1024;

/// How the server is to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Connections beyond this many are turned away.
    pub max_connections: usize,
    /// Who may connect.
    pub admission: admission::Rules,
    /// Bytes of memory that receive buffers may take.
    pub pool_limit: usize,
    /// Bytes of replies that all agents together may leave unread before only those
    /// are read from that have read all of theirs.
    pub output_limit: usize,
    /// What each phase of a turn may do before the next has its turn.
    pub phase_budget: PhaseBudget,
    /// How long sessions may take over what.
    pub limits: Limits,
    /// How long a stop may take.
    pub drain_timeout: Duration,
    /// Time between two looks at the statistics.
    pub stats_interval: Duration,
    /// How many log lines were left out, to be told with them.
    pub log_left_out: LeftOut,
}

/// Why a reactor could not be made or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listening socket could not be had.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The pool's limit is too low.
    #[error("cannot make the buffer pool")]
    Pool(#[from] hawk_pool::ConfigError),
    /// The kernel refused what every event loop needs.
    #[error("cannot run the event loop")]
    EventLoop(#[from] io::Error),
}

/// How a server that was told to stop came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Everyone was answered and gone, or the drain timeout was over.
    Drained,
    /// A second signal ended it at once.
    Interrupted,
}

/// The event loop and all that it drives.
///
/// When it is dropped, the kernel's half goes first: a poll tells of a socket as long as
/// anybody has it open.
pub struct Reactor<H, K: Kernel> {
    kernel: K,
    /// Gone once the server stops.
    listener: Option<Listener<K::Listener>>,
    connections: Connections<K::Socket>,
    /// Who has something to do, first come first served.
    run_queue: VecDeque<ConnectionId>,
    /// Who waits for a receive buffer, first come first served.
    waiters: VecDeque<ConnectionId>,
    /// Connections that wait for a receive buffer while their network has used up its share.
    capped: Capped,
    /// Whether there may be a buffer for the first of them.
    waiters_go_on: bool,
    /// Who had the pool's reserve last when a turn ended.
    reserve_with: Option<ConnectionId>,
    /// Who is not read from before the handler takes packets again, first come
    /// first served.
    held: VecDeque<ConnectionId>,
    /// Who was turned away and lingers, oldest first, and why.
    turned_away: VecDeque<(ConnectionId, Cause)>,
    admission: Admission,
    wheel: TimerWheel,
    /// Slots whose alarms have rung and were not seen to.
    due: Vec<u32>,
    shop: Shop<H>,
    /// Replies that are written before the phase ends.
    outbox: Outbox,
    config: Config,
    housekeeping: Housekeeping,
    refusals: Refusals,
    /// What whoever drives the loop has to tell with the statistics.
    driver_line: Option<String>,
    /// What is no connection and became ready, for whoever drives the loop.
    others: Vec<OtherToken>,
    /// Whether signals wait to be obeyed; looking for them costs system calls.
    signalled: bool,
    /// Some that came already.
    signals: Vec<Signal>,
    /// Whether a signal asked for a new process.
    upgrade_wanted: bool,
    /// Progress of the copy to a successor; `None` while there is none.
    copying: Option<Box<Copying>>,
    adoption: Adoption,
    /// The end of the drain timeout, once the server was told to stop.
    stop_at: Option<Moment>,
    inherited_stop: InheritedStop,
    interrupted: bool,
}

/// What is done now and then.
#[derive(Debug)]
struct Housekeeping {
    stats: StatsLog,
    next_stats: Moment,
    next_trim: Moment,
}

impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Listens, but takes no one yet.
    ///
    /// # Errors
    /// [`Error`] if the address cannot be had, the pool's limit is too low, or
    /// the kernel refuses what it is asked for.
    pub fn new(config: Config, handler: H, mut kernel: K) -> Result<Self, Error> {
        let listener = kernel
            .listen(config.listen)
            .map_err(|error| Error::Listen(config.listen, error))?;
        Self::with_listener(config, handler, kernel, listener)
    }

    /// Takes those who come to `listener`, whoever has made it; who is in its backlog is
    /// found in the first turn.
    ///
    /// # Errors
    /// [`Error`] if the pool's limit is too low, or the kernel refuses what it is asked
    /// for.
    pub fn with_listener(
        config: Config,
        mut handler: H,
        mut kernel: K,
        mut listener: K::Listener,
    ) -> Result<Self, Error> {
        let now = kernel.now();
        let pool = Pool::new(&hawk_pool::Config {
            classes: buffers::CLASSES.to_vec(),
            limit: config.pool_limit,
        })?;
        kernel.watch_listener(&mut listener)?;
        // The kernel tells once that somebody has come, and may have told another.
        let mut listener = Listener::new(listener);
        listener.mark_ready();
        handler.start(kernel.waker()?);
        Ok(Self {
            kernel,
            listener: Some(listener),
            connections: Connections::new(),
            run_queue: VecDeque::new(),
            waiters: VecDeque::new(),
            capped: Capped::default(),
            waiters_go_on: false,
            reserve_with: None,
            held: VecDeque::new(),
            turned_away: VecDeque::new(),
            admission: Admission::new(config.admission.clone()),
            // What is over already when it is adopted rings in the first turn.
            wheel: TimerWheel::new(now.before(hawk_time::TICK)),
            due: Vec::new(),
            shop: Shop {
                sessions: SessionContext::new(handler),
                pool,
                buffers: BufferShares::new(config.pool_limit),
                limits: config.limits,
                rates: NetworkRates::default(),
                counters: Counters::default(),
                ledger: Ledger::default(),
                output_limit: OutputLimit::new(config.output_limit),
                work: Work::new(config.phase_budget),
                junk_log: Throttle::default(),
                rate_log: Throttle::default(),
                now,
                discard: vec![0; DISCARD].into_boxed_slice(),
            },
            housekeeping: Housekeeping {
                stats: StatsLog::new(now),
                next_stats: now.after(config.stats_interval),
                next_trim: now.after(TRIM_INTERVAL),
            },
            outbox: Outbox::default(),
            config,
            refusals: Refusals::default(),
            driver_line: None,
            others: Vec::new(),
            signalled: false,
            signals: Vec::new(),
            upgrade_wanted: false,
            copying: None,
            adoption: Adoption::default(),
            stop_at: None,
            inherited_stop: InheritedStop::default(),
            interrupted: false,
        })
    }

    /// The address that was really bound.
    ///
    /// # Errors
    /// Whatever `getsockname(2)` says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.listener {
            Some(listener) => listener.local_addr(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// One turn of the event loop, which waits for events no longer than `until`; how
    /// the loop ended, if it did. Between two turns whoever drives the loop does its own
    /// work, and everybody else waits meanwhile.
    ///
    /// # Errors
    /// Only what makes going on impossible: a broken poll.
    pub fn turn(&mut self, until: Option<Moment>) -> Result<Option<Stop>, Error> {
        debug_assert!(self.adoption.is_over(), "those adopted are not settled in");
        self.wait(until)?;
        self.shop.sessions.handler.begin_turn(self.shop.now);
        self.settle_commits();
        self.mark_readiness();
        self.run_queue();
        self.run_timers();
        self.serve_waiters();
        self.accept(ACCEPTS);
        self.shop.sessions.handler.end_turn();
        self.release_held();
        self.keep_house();
        self.obey_signals();
        Ok(self.stopped())
    }

    /// What the sockets live on, to have it watch something that is no connection.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// What takes the packets.
    pub const fn handler(&self) -> &H {
        &self.shop.sessions.handler
    }

    /// The same, for its own work between two turns.
    pub const fn handler_mut(&mut self) -> &mut H {
        &mut self.shop.sessions.handler
    }

    /// What is no connection and became ready since the last call, each once.
    pub fn take_others(&mut self) -> Vec<OtherToken> {
        std::mem::take(&mut self.others)
    }

    /// What was served so far, as `key=value` pairs.
    #[must_use]
    pub fn served(&self) -> String {
        stats::server_line(&self.figures())
    }

    /// The handler, to see to its own end once everybody is gone.
    #[must_use]
    pub fn into_handler(self) -> H {
        self.shop.sessions.handler
    }

    fn wait(&mut self, until: Option<Moment>) -> io::Result<()> {
        self.kernel.wait(self.timeout(until))?;
        self.shop.now = self.kernel.now();
        Ok(())
    }

    /// Zero only while there is something to do at once.
    fn timeout(&self, until: Option<Moment>) -> Option<Duration> {
        // Fresh, because a turn with much to do takes a while.
        let now = self.kernel.now();
        let accepts = self.listener.as_ref().is_some_and(|l| l.is_ready(now));
        let work = !self.run_queue.is_empty() || !self.due.is_empty() || self.waiters_go_on;
        // Whoever drives the loop may have had the handler stop to take packets, and go on.
        let goes_on = !self.held.is_empty() && self.shop.sessions.handler.is_ready();
        if accepts || work || goes_on || self.signalled {
            return Some(Duration::ZERO);
        }
        let next = [
            until,
            self.wheel.next(),
            self.listener.as_ref().and_then(Listener::retry_at),
            self.stop_at,
            self.shop.sessions.handler.deadline(),
            Some(self.housekeeping.next_stats),
            Some(self.housekeeping.next_trim),
        ];
        next.into_iter().flatten().min().map(|next| next.since(now))
    }

    fn mark_readiness(&mut self) {
        for event in self.kernel.events() {
            match event {
                Event::Newcomers => {
                    if let Some(listener) = &mut self.listener {
                        listener.mark_ready();
                    }
                }
                Event::Signals => self.signalled = true,
                // What it tells of is looked for in every turn.
                Event::Woken => {}
                Event::Other(token) => {
                    if !self.others.contains(&token) {
                        self.others.push(token);
                    }
                }
                Event::Ready(token, readiness) => {
                    let id = ConnectionId::from_token(token);
                    if let Some(connection) = self.connections.get(id)
                        && connection.mark_ready(readiness)
                        && !connection.queued
                    {
                        connection.queued = true;
                        self.run_queue.push_back(id);
                    }
                }
            }
        }
    }

    /// Gives those in the queue one turn each; who wants another goes to its back.
    /// Those that this phase does not come to keep their places, before all that
    /// become ready meanwhile.
    fn run_queue(&mut self) {
        self.shop.work.begin(self.run_queue.len());
        for _ in 0..self.run_queue.len() {
            if !self.shop.work.goes_on() {
                break;
            }
            let Some(id) = self.run_queue.pop_front() else {
                break;
            };
            if let Some(connection) = self.connections.get(id) {
                connection.queued = false;
                let outcome = connection.serve(&mut self.shop);
                self.conclude(id, outcome);
            }
        }
        self.deliver();
    }

    /// Sees to the alarms that ring. Each may have its connection read once more; those
    /// that this phase does not come to are seen to before any others ring.
    fn run_timers(&mut self) {
        if self.due.is_empty() {
            self.wheel.expire(self.shop.now, &mut self.due);
        }
        self.shop.work.begin(self.due.len());
        while self.shop.work.sees_to_alarm() {
            let Some(slot) = self.due.pop() else {
                break;
            };
            let Some(id) = self.connections.at(slot) else {
                continue;
            };
            let Some(connection) = self.connections.get(id) else {
                continue;
            };
            let outcome = connection.expire(&mut self.shop);
            self.conclude(id, outcome);
        }
        self.deliver();
    }

    /// Sees to what a connection wants after its turn.
    fn conclude(&mut self, id: ConnectionId, outcome: Outcome) {
        let Shop {
            ledger, sessions, ..
        } = &mut self.shop;
        ledger.enter(id, &mut sessions.pending);
        self.outbox.enter(id, &mut sessions.replies);
        match outcome {
            Outcome::Ended(cause) => return self.reap(id, cause),
            Outcome::WaitForBuffer => self.line_up(id),
            Outcome::WaitForStore => self.hold(id),
            Outcome::Idle | Outcome::Again => {}
        }
        let Some(connection) = self.connections.get(id) else {
            return;
        };
        if connection.has_reserve() {
            self.reserve_with = Some(id);
        }
        if connection.counted.is_newcomer() && connection.session().frames() > 0 {
            connection.counted.heard();
            self.admission.heard(connection.sender().peer.ip());
        }
        let recount = connection.counted.buffer() != connection.general_capacity();
        if let Some(copying) = &mut self.copying {
            // Live connections only: the slot may have been reused.
            copying.touched(id);
        }
        if let Some(deadline) = connection.deadline(&self.shop.limits) {
            self.wheel.arm(id.slot, deadline);
        }
        if matches!(outcome, Outcome::Again) && !connection.queued {
            connection.queued = true;
            self.run_queue.push_back(id);
        }
        if recount {
            self.count_buffer(id);
        }
        if self.outbox.is_full() {
            self.deliver();
        }
    }

    /// Writes the replies that were put off. None are at the end of a phase.
    fn deliver(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        let mut outbox = std::mem::take(&mut self.outbox);
        for (id, replies) in outbox.iter() {
            if let Some(connection) = self.connections.get(id)
                && !connection.deliver(replies, &mut self.shop)
            {
                self.conclude(id, Outcome::Again);
            }
        }
        outbox.clear();
        self.outbox = outbox;
    }

    /// The one way by which a connection leaves.
    fn reap(&mut self, id: ConnectionId, cause: Cause) {
        let Some(mut connection) = self.connections.remove(id) else {
            return;
        };
        let is_shown = self
            .copying
            .as_mut()
            .is_some_and(|copying| copying.ended(id));
        if is_shown || self.adoption.is_shared(self.shop.now) {
            connection.shut_down();
        }
        self.wheel.disarm(id.slot);
        if let Some(tag) = connection.session().tag() {
            let handler = &mut self.shop.sessions.handler;
            if connection.session().stopped().is_some() {
                handler.resumed(tag);
            }
            handler.detach(tag);
        }
        let address = connection.sender().peer.ip();
        self.leave(id, address, connection.counted);
        self.shop.counters.closed(cause);
        if let Some(listener) = &mut self.listener {
            listener.retry_now();
        }
        if log::log_enabled!(log::Level::Debug) {
            let session = connection.session();
            log::debug!(
                "connection closed peer={} cause={} frames={} unsent={}",
                session.sender().peer,
                cause.name(),
                session.frames(),
                session.unsent().len(),
            );
        }
    }

    /// A connection from `address` makes room for another.
    fn leave(&mut self, id: ConnectionId, address: IpAddr, counted: Counted) {
        if counted.buffer() > 0 {
            let network = Network::of(address);
            self.shop.buffers.change(network, counted.buffer(), 0);
        }
        let turned_away = self.turned_away.iter().position(|(other, _)| *other == id);
        match turned_away {
            Some(place) => drop(self.turned_away.remove(place)),
            None => {
                self.admission.leave(address, counted.is_newcomer());
                if self.shop.limits.rate.is_some() {
                    let now = self.shop.now;
                    self.shop.rates.closed(Network::of(address), now);
                }
            }
        }
    }

    fn keep_house(&mut self) {
        let now = self.shop.now;
        if now >= self.housekeeping.next_stats {
            self.housekeeping.next_stats = now.after(self.config.stats_interval);
            self.log_stats(false);
        }
        if now >= self.housekeeping.next_trim {
            self.housekeeping.next_trim = now.after(TRIM_INTERVAL);
            self.shop.pool.trim();
            self.shop.rates.tidy(now);
        }
    }

    fn log_stats(&mut self, all: bool) {
        let handler_lines = self.handler_lines();
        let figures = figures(&self.connections, &self.shop, &self.config);
        let stats = &mut self.housekeeping.stats;
        stats.log(self.shop.now, all, &figures, handler_lines);
    }
}

impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// What it has counted so far.
    #[must_use]
    pub fn figures(&self) -> Figures<'_> {
        figures(&self.connections, &self.shop, &self.config)
    }

    /// The statistics now, as they are logged. The log is not changed by it.
    pub fn statistics(&mut self) -> Statistics {
        let handler_lines = self.handler_lines();
        let now = self.kernel.now();
        let stats = &self.housekeeping.stats;
        stats.look(now, &self.figures(), handler_lines)
    }

    /// From now on tells `line` as well: what whoever drives the loop has counted.
    pub fn tell_with_statistics(&mut self, line: String) {
        self.driver_line = Some(line);
    }

    /// The lines of the handler, and of whoever drives the loop.
    fn handler_lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        self.shop.sessions.handler.statistics(&mut lines);
        lines.extend(self.driver_line.clone());
        lines
    }

    /// Every connection, in no particular order.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionView> {
        self.connections.iter().map(Connection::view)
    }

    /// Connections that wait for a receive buffer, in their order; connections of networks that
    /// have used up their share come last, by network.
    pub fn waiters(&self) -> impl Iterator<Item = SocketAddr> {
        let ids = self.waiters.iter().copied().chain(self.capped.ids());
        let present = ids.filter_map(|id| self.connections.look(id));
        present.map(|connection| connection.view().peer)
    }

    /// How many of them wait behind the others because their network has used up its share,
    /// some of which may have ended; and how many have, so far.
    pub const fn capped(&self) -> (usize, u64) {
        (self.capped.len(), self.capped.pushed())
    }
}

fn figures<'a, H, S>(
    connections: &Connections<S>,
    shop: &'a Shop<H>,
    config: &Config,
) -> Figures<'a> {
    debug_assert_eq!(
        connections.iter().map(Connection::unsent).sum::<usize>(),
        shop.sessions.unsent.get(),
        "replies that are nobody's"
    );
    Figures {
        connections: connections.len(),
        unsent: shop.sessions.unsent.get(),
        owed: shop.ledger.owed(),
        log_left_out: config.log_left_out.get(),
        counters: &shop.counters,
        tally: &shop.sessions.tally,
        pool: &shop.pool,
    }
}

/// What the connections of a phase may do before the others wait for the next turn.
/// Nothing of it may be 0, or nobody ever had a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseBudget {
    /// Bytes that they may read.
    pub bytes: usize,
    /// Frames that may be recognised; a turn counts as some by itself.
    pub frames: u32,
    /// Alarms that may be seen to.
    pub alarms: u32,
}

impl Default for PhaseBudget {
    fn default() -> Self {
        Self {
            // Some 4 ms of work with the usual reports (0.5 µs each, see
            // docs/performance.md), so that newcomers, commits and deadlines never
            // wait long.
            bytes: 1 << 20,
            // Likewise, for where they are short: some 8 ms.
            frames: 16 * 1024,
            // Of a crowd that came together all ring together, and each may close its
            // connection: some 15 µs, most of it in the kernel, so that others wait a
            // millisecond and not a tenth of a second.
            alarms: 64,
        }
    }
}

/// Frames that a connection's turn counts as, for its calls to the kernel: 4 µs in all
/// with one frame in it, where each of sixteen takes 0.5 µs.
const TURN_COST: u32 = 8;

/// Bytes that all who are in the queue may read between two turns of any of them, if
/// that leaves each a fair share: 64 who answer hundreds of frames in one go still
/// have one read and one write for all of them. A round is some 8 ms with the usual
/// reports.
const ROUND_BYTES: usize = 8 << 20;

/// Bytes that a connection may read in its turn: four of the longest frames. With
/// shares of one, frames of 64 KiB took the kernel twice the time: each time the agent was
/// woken to send one more. A turn with the usual reports ends sooner, after as many frames
/// as it may answer.
const MOST_SHARE: usize = 256 * 1024;

/// Where many want theirs, they are fewer, down to these. When 1,500 agents had 300 kB
/// each to be read, newcomers then waited 0.2 to 0.4 s for their first reply, where it
/// had been 1.5 s, and the whole took a third more CPU. With 4 KiB it was 0.1 s, but 2.4
/// times the CPU: each share ends with a write.
const LEAST_SHARE: usize = 16 * 1024;

/// What the phase at hand may still do. It is counted and not timed, so that the same
/// input always does the same.
#[derive(Debug)]
struct Work {
    budget: PhaseBudget,
    left: PhaseBudget,
    share: usize,
}

impl Work {
    const fn new(budget: PhaseBudget) -> Self {
        Self {
            budget,
            left: budget,
            share: MOST_SHARE,
        }
    }

    /// A phase begins, in which so many connections want a turn.
    fn begin(&mut self, connections: usize) {
        self.left = self.budget;
        self.share = (ROUND_BYTES / connections.max(1)).clamp(LEAST_SHARE, MOST_SHARE);
    }

    /// Whether the next connection has its turn in this phase, and if so, counts it.
    fn goes_on(&mut self) -> bool {
        let goes_on = self.left.bytes > 0 && self.left.frames > 0;
        self.left.frames = self.left.frames.saturating_sub(TURN_COST);
        goes_on
    }

    /// As [`goes_on`](Self::goes_on), for a connection whose alarm rings.
    fn sees_to_alarm(&mut self) -> bool {
        let sees_to_it = self.left.alarms > 0 && self.goes_on();
        self.left.alarms = self.left.alarms.saturating_sub(1);
        sees_to_it
    }

    /// Bytes that a connection may read in its turn.
    const fn share(&self) -> usize {
        self.share
    }

    /// So many bytes were read.
    fn read(&mut self, bytes: usize) {
        self.left.bytes = self.left.bytes.saturating_sub(bytes);
    }

    /// So many frames were recognised.
    fn recognised(&mut self, frames: u32) {
        self.left.frames = self.left.frames.saturating_sub(frames);
    }
}

#[cfg(test)]
mod tests;
