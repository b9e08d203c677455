//! The event loop: one thread, all connections.
//!
//! **Owns** the listeners, the connections with their sockets and sessions, the receive
//! buffers, the timer wheel, and the replies on their way out. **Must not know** packets,
//! agents, the store or JSON: a [`Handler`] takes the packets, and a [`Kernel`] is the
//! operating system. **Start reading** at [`Reactor::turn`], then `Connection::serve` in
//! `connection.rs`: one report goes from `read(2)` to its reply through these two files and
//! `replies.rs`.
//!
//! A turn goes through the same phases every time; each is a function below. Sockets are
//! registered once for reading and writing, edge-triggered, and the connections remember
//! their readiness. The run queue, not the kernel, remembers which connections have work.
//!
//! ```text
//! wait → complete commits → mark readiness → run the queue → timers → waiters → accept
//!      → resume paused → housekeeping → signals
//! ```
//!
//! | file | |
//! |---|---|
//! | `accept.rs` | listeners, and new connections |
//! | `connection.rs`, `phase.rs` | one connection |
//! | `connections.rs` | the table of connections |
//! | `buffers.rs` | receive buffers: input, shares, queues |
//! | `replies.rs` | pending, batched and unsent replies |
//! | `network_rates.rs` | the rate limit of a network |
//! | `handover.rs` | connections on their way to another process |
//! | `stop.rs` | signals and the drain |
//! | `kernel.rs`, `linux.rs` | the operating system: interface, implementation |

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

pub use self::connection::ConnectionView;
pub use self::handover::{AdoptError, Change, ConnectionState, MovedId};
pub use self::linux::{Linux, catch_signals};
pub use self::phase::ConnectionPhase;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hawk_pool::Pool;

use self::accept::{Listener, Listeners, Refusals};
use self::buffers::{BufferShares, Capped};
use self::connection::{Connection, Counted, ServeOutcome};
use self::connections::{ConnectionId, Connections};
use self::handover::{Adoption, Copying};
use self::kernel::{Event, Kernel, ListenerTag, OtherToken, Signal};
use self::network_rates::NetworkRates;
use self::replies::{Outbox, OutputLimit, PendingReplies};
use self::stop::InheritedStop;

use crate::admission::{self, Admission};
use crate::log_sink::LeftOut;
use crate::network::Network;
use crate::session::{Handler, Limits, OutputRoom, SessionContext};
use crate::stats::{
    Cause, ReactorCounters, RestartStatistics, ServerStatistics, Statistics, StatsLog,
};
use hawk_time::{Moment, Throttle, TimerWheel};

/// Connections accepted in a turn: enough to empty the backlog in some thirty turns, and few
/// enough not to delay the other connections noticeably.
const ACCEPTS: usize = 128;

/// Descriptors that are not for connections: the standard streams, the poll, signals, the
/// listeners, connections that are turned away, and some to spare.
pub const RESERVED_DESCRIPTORS: usize = 64;

/// The smallest pool: one buffer of the longest class, and the reserve.
pub const MIN_POOL_LIMIT: usize = 2 * buffers::LONGEST;

/// Time between two returns of unused buffers to the allocator.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);

/// Bytes of one read of discarded input.
const DISCARD: usize = 16 * 1024;

/// The settings of a reactor.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The most connections; further ones are turned away.
    pub max_connections: usize,
    /// Which addresses may connect, and how often.
    pub admission: admission::Rules,
    /// Bytes of memory for receive buffers.
    pub pool_limit: usize,
    /// Bytes of unread replies, over all connections, above which connections with unread
    /// replies are paused.
    pub output_limit: usize,
    /// The work that each phase of a turn may do.
    pub phase_budget: PhaseBudget,
    /// Timeouts and the rate limit of a session.
    pub limits: Limits,
    /// The longest time that a stop may take.
    pub drain_timeout: Duration,
    /// Time between two statistics lines.
    pub stats_interval: Duration,
    /// The number of log lines that were left out, for the statistics.
    pub log_left_out: LeftOut,
}

/// Why a reactor cannot be made or cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listening socket cannot be made.
    #[error("cannot listen on {0}: {1}; {advice}", advice = listen_advice(.1))]
    Listen(SocketAddr, io::Error),
    /// The pool's limit is too low.
    #[error("cannot make the buffer pool")]
    Pool(#[from] hawk_pool::ConfigError),
    /// A system call failed that every event loop needs.
    #[error("cannot run the event loop")]
    EventLoop(#[from] io::Error),
}

/// Returns what to do after a listening socket could not be made.
fn listen_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process uses the port: find it with `ss -ltnp`, or give another --listen"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address: `ip address` lists its addresses, and \
             0.0.0.0 is all of them"
        }
        io::ErrorKind::PermissionDenied => "give --listen a port from 1024 on",
        _ => "give another --listen",
    }
}

/// How a stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All connections have closed, or the drain timeout is over.
    Drained,
    /// A second signal ended the stop at once.
    Interrupted,
}

/// The work that one phase of a turn may do before the next phase begins. No field may be 0:
/// then no connection would ever be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseBudget {
    /// Bytes read.
    pub bytes: usize,
    /// Frames decoded; each turn of a connection counts as `TURN_COST` more.
    pub frames: u32,
    /// Expired timers.
    pub alarms: u32,
}

impl Default for PhaseBudget {
    fn default() -> Self {
        Self {
            // Some 4 ms with the usual reports (0.5 µs each, see docs/performance.md), so that
            // new connections, commits and deadlines are served soon.
            bytes: 1 << 20,
            // Likewise for short frames: some 8 ms.
            frames: 16 * 1024,
            // Connections that opened together expire together, and each may have to be
            // closed, which takes some 15 µs, most of it in the kernel: 1 ms in all.
            alarms: 64,
        }
    }
}

/// Frames that a connection's turn counts as, for its system calls: 4 µs with one frame, when
/// each of sixteen takes 0.5 µs.
const TURN_COST: u32 = 8;

/// Bytes that all connections in the queue may read between two turns of any of them, if that
/// leaves each a fair share. So 64 connections with hundreds of frames each need one read and
/// one write. A round takes some 8 ms with the usual reports.
const ROUND_BYTES: usize = 8 << 20;

/// The most bytes that a connection may read in its turn: four of the longest frames. With
/// one, frames of 64 KiB took twice the kernel time, because the agent was woken for each.
/// A turn with the usual reports ends earlier, at its limit of frames.
const MAX_SHARE: usize = 256 * 1024;

/// The fewest bytes that a connection may read in its turn. With 1,500 agents that had sent
/// 300 kB each, new connections waited 0.2 to 0.4 s for their first reply, instead of 1.5 s
/// with [`MAX_SHARE`], for a third more CPU. With 4 KiB they waited 0.1 s, for 2.4 times the
/// CPU: each share ends with a write.
const MIN_SHARE: usize = 16 * 1024;

/// What is left of a phase's budget. Counted and not timed, so that the same input has the
/// same effect.
#[derive(Debug)]
struct Work {
    budget: PhaseBudget,
    left: PhaseBudget,
    /// Bytes that each connection may read in its turn.
    share: usize,
}

impl Work {
    const fn new(budget: PhaseBudget) -> Self {
        Self {
            budget,
            left: budget,
            share: MAX_SHARE,
        }
    }

    /// Begins a phase with so many connections to serve.
    fn begin(&mut self, connections: usize) {
        self.left = self.budget;
        self.share = (ROUND_BYTES / connections.max(1)).clamp(MIN_SHARE, MAX_SHARE);
    }

    /// Returns whether another connection may be served in this phase, and counts its turn.
    fn allows_turn(&mut self) -> bool {
        let allows = self.left.bytes > 0 && self.left.frames > 0;
        self.left.frames = self.left.frames.saturating_sub(TURN_COST);
        allows
    }

    /// Like [`allows_turn`](Self::allows_turn), for an expired timer.
    fn allows_alarm(&mut self) -> bool {
        let allows = self.left.alarms > 0 && self.allows_turn();
        self.left.alarms = self.left.alarms.saturating_sub(1);
        allows
    }

    /// Counts bytes that were read.
    fn read(&mut self, bytes: usize) {
        self.left.bytes = self.left.bytes.saturating_sub(bytes);
    }

    /// Counts frames that were decoded.
    fn decoded(&mut self, frames: u32) {
        self.left.frames = self.left.frames.saturating_sub(frames);
    }
}

/// What a connection uses in its turn, shared by all.
#[derive(Debug)]
struct LoopContext<H> {
    sessions: SessionContext<H>,
    pool: Pool,
    /// Bytes of the pool that the connections of each network hold.
    buffers: BufferShares,
    limits: Limits,
    /// The rate limit of each network.
    rates: NetworkRates,
    counters: ReactorCounters,
    /// Replies that wait for a commit.
    pending: PendingReplies,
    output_limit: OutputLimit,
    /// What is left of this phase's budget.
    work: Work,
    junk_log: Throttle,
    rate_log: Throttle,
    /// The time of this turn, read once.
    now: Moment,
    /// Scratch space for discarded input.
    discard: Box<[u8]>,
}

impl<H> LoopContext<H> {
    fn new(config: &Config, handler: H, now: Moment) -> Result<Self, hawk_pool::ConfigError> {
        let pool = Pool::new(&hawk_pool::Config {
            classes: buffers::CLASSES.to_vec(),
            limit: config.pool_limit,
        })?;
        Ok(Self {
            sessions: SessionContext::new(handler),
            pool,
            buffers: BufferShares::new(config.pool_limit),
            limits: config.limits,
            rates: NetworkRates::default(),
            counters: ReactorCounters::default(),
            pending: PendingReplies::default(),
            output_limit: OutputLimit::new(config.output_limit),
            work: Work::new(config.phase_budget),
            junk_log: Throttle::default(),
            rate_log: Throttle::default(),
            now,
            discard: vec![0; DISCARD].into_boxed_slice(),
        })
    }

    /// Returns whether connections may leave more replies unread.
    fn output_room(&mut self) -> OutputRoom {
        let (unsent, pending) = (self.sessions.unsent.get(), self.pending.len());
        self.output_limit
            .check(unsent, pending, self.now, &mut self.counters)
    }
}

/// The event loop.
///
/// The field `kernel` is dropped first: the poll reports events of a socket as long as any
/// process has it open.
pub struct Reactor<H, K: Kernel> {
    kernel: K,
    /// Empty once the server stops.
    listeners: Listeners<K::Listener>,
    connections: Connections<K::Socket>,
    /// Connections with work, in FIFO order.
    run_queue: VecDeque<ConnectionId>,
    /// Connections that wait for a receive buffer, in FIFO order; may contain closed ids.
    waiters: VecDeque<ConnectionId>,
    /// Likewise, of networks that have used up their share.
    capped: Capped,
    /// Whether the last phase ended before all waiters were tried.
    more_waiters: bool,
    /// The connection that had the pool's reserve when its turn ended; may have closed.
    reserve_with: Option<ConnectionId>,
    /// Connections paused by store back-pressure, in FIFO order; may contain closed ids.
    paused: VecDeque<ConnectionId>,
    /// Connections that were turned away and linger, oldest first.
    turned_away: VecDeque<(ConnectionId, Cause)>,
    admission: Admission,
    wheel: TimerWheel,
    /// Slots with expired timers that were not handled yet.
    due: Vec<u32>,
    cx: LoopContext<H>,
    /// Replies to be written before the phase ends.
    outbox: Outbox,
    config: Config,
    stats: StatsLog,
    next_stats: Moment,
    next_trim: Moment,
    refusals: Refusals,
    /// The statistics of hand-overs, which the driver of the loop keeps.
    restart: Option<RestartStatistics>,
    /// Descriptors of the driver of the loop that became ready.
    others: Vec<OtherToken>,
    /// Whether signals may be waiting; looking for them costs system calls.
    signalled: bool,
    /// Signals received and not yet handled.
    signals: Vec<Signal>,
    /// Whether a signal asked for a new process.
    upgrade_wanted: bool,
    /// Progress of the copy to a successor; `None` while there is none.
    copying: Option<Box<Copying>>,
    adoption: Adoption,
    /// The end of the drain timeout; `None` unless the server stops.
    stop_at: Option<Moment>,
    inherited_stop: InheritedStop,
    interrupted: bool,
}

impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Makes a reactor that listens on the configured address. Connections are accepted from
    /// the first turn on.
    ///
    /// # Errors
    /// [`Error`] if the address cannot be bound, the pool's limit is too low, or a system
    /// call fails.
    pub fn new(config: Config, handler: H, mut kernel: K) -> Result<Self, Error> {
        let listener = kernel
            .listen(config.listen)
            .map_err(|error| Error::Listen(config.listen, error))?;
        Self::with_listeners(config, handler, kernel, [(ListenerTag::AGENTS, listener)])
    }

    /// Makes a reactor that accepts connections from `listeners`, which may have been made by
    /// another process and may have a backlog.
    ///
    /// # Errors
    /// [`Error`] if the pool's limit is too low, or a system call fails.
    pub fn with_listeners(
        config: Config,
        handler: H,
        mut kernel: K,
        listeners: impl IntoIterator<Item = (ListenerTag, K::Listener)>,
    ) -> Result<Self, Error> {
        let now = kernel.now();
        let waker = kernel.waker()?;
        let mut cx = LoopContext::new(&config, handler, now)?;
        let mut table = Listeners::default();
        for (tag, mut listener) in listeners {
            kernel.watch_listener(&mut listener, tag)?;
            table.push(Listener::new(tag, listener));
        }
        cx.sessions.handler.start(waker);
        Ok(Self {
            kernel,
            listeners: table,
            connections: Connections::new(),
            run_queue: VecDeque::new(),
            waiters: VecDeque::new(),
            capped: Capped::default(),
            more_waiters: false,
            reserve_with: None,
            paused: VecDeque::new(),
            turned_away: VecDeque::new(),
            admission: Admission::new(config.admission.clone()),
            // Deadlines of adopted connections that are over expire in the first turn.
            wheel: TimerWheel::new(now.before(hawk_time::TICK)),
            due: Vec::new(),
            cx,
            stats: StatsLog::new(now),
            next_stats: now.after(config.stats_interval),
            next_trim: now.after(TRIM_INTERVAL),
            outbox: Outbox::default(),
            config,
            refusals: Refusals::default(),
            restart: None,
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

    /// Runs one turn, which waits for events until `until` at most; returns how the loop
    /// ended, if it did. The driver of the loop does its own work between two turns, and
    /// delays all connections meanwhile.
    ///
    /// # Errors
    /// [`Error::EventLoop`] if the poll is broken.
    pub fn turn(&mut self, until: Option<Moment>) -> Result<Option<Stop>, Error> {
        debug_assert!(self.adoption.is_over(), "the adoption is not complete");
        self.kernel.wait(self.timeout(until))?;
        self.cx.now = self.kernel.now();
        self.cx.sessions.handler.begin_turn(self.cx.now);
        self.complete_commits();
        self.mark_readiness();
        self.run_queue();
        self.run_timers();
        self.serve_waiters();
        self.accept(ACCEPTS);
        self.cx.sessions.handler.end_turn();
        self.resume_paused();
        self.run_housekeeping();
        self.handle_signals();
        Ok(self.stopped())
    }

    /// Returns zero only while there is work.
    fn timeout(&self, until: Option<Moment>) -> Option<Duration> {
        // Read again, because a turn with much work takes a while.
        let now = self.kernel.now();
        let accepts = self.listeners.is_ready(now);
        let work = !self.run_queue.is_empty() || !self.due.is_empty() || self.more_waiters;
        // The driver of the loop may have made the handler ready since the last turn.
        let resumes = !self.paused.is_empty() && self.cx.sessions.handler.is_ready();
        if accepts || work || resumes || self.signalled {
            return Some(Duration::ZERO);
        }
        let next = [
            until,
            self.wheel.next(),
            self.listeners.retry_at(),
            self.stop_at,
            self.cx.sessions.handler.deadline(),
            Some(self.next_stats),
            Some(self.next_trim),
        ];
        next.into_iter().flatten().min().map(|next| next.since(now))
    }

    fn mark_readiness(&mut self) {
        for event in self.kernel.events() {
            match event {
                Event::Incoming(tag) => {
                    if let Some(listener) = self.listeners.get_mut(tag) {
                        listener.mark_ready();
                    }
                }
                Event::Signals => self.signalled = true,
                // Every turn looks for ended commits.
                Event::Woken => {}
                Event::Other(token) => {
                    if !self.others.contains(&token) {
                        self.others.push(token);
                    }
                }
                Event::Ready(token, readiness) => {
                    let id = ConnectionId::from_token(token);
                    if let Some(connection) = self.connections.get_mut(id)
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

    /// Serves each connection in the queue once; a connection with more work goes to
    /// the back. Connections beyond the budget keep their places.
    fn run_queue(&mut self) {
        self.cx.work.begin(self.run_queue.len());
        for _ in 0..self.run_queue.len() {
            if !self.cx.work.allows_turn() {
                break;
            }
            let Some(id) = self.run_queue.pop_front() else {
                break;
            };
            if let Some(connection) = self.connections.get_mut(id) {
                connection.queued = false;
                let outcome = connection.serve(&mut self.cx);
                self.after_serve(id, outcome);
            }
        }
        self.deliver();
    }

    /// Handles expired timers. Each may read from its connection once more; timers beyond
    /// the budget are handled before any others expire.
    fn run_timers(&mut self) {
        if self.due.is_empty() {
            self.wheel.expire(self.cx.now, &mut self.due);
        }
        self.cx.work.begin(self.due.len());
        while self.cx.work.allows_alarm() {
            let Some(slot) = self.due.pop() else {
                break;
            };
            if let Some(id) = self.connections.at(slot)
                && let Some(connection) = self.connections.get_mut(id)
            {
                let outcome = connection.expire(&mut self.cx);
                self.after_serve(id, outcome);
            }
        }
        self.deliver();
    }

    /// Updates the queues, the timer and the counts after a turn of a connection.
    fn after_serve(&mut self, id: ConnectionId, outcome: ServeOutcome) {
        self.collect_replies(id);
        match outcome {
            ServeOutcome::Ended(cause) => return self.reap(id, cause),
            ServeOutcome::WaitForBuffer => self.queue_for_buffer(id),
            ServeOutcome::WaitForStore => self.pause(id),
            ServeOutcome::Idle | ServeOutcome::Again => {}
        }
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if connection.input.has_reserve() {
            self.reserve_with = Some(id);
        }
        if connection.counted.is_new() && connection.session.frames() > 0 {
            connection.counted.mark_seen();
            self.admission.first_frame_passed(connection.address());
        }
        let recount = connection.counted.buffer() != connection.input.general_capacity();
        if let Some(copying) = &mut self.copying {
            // Live connections only: the slot may have been reused.
            copying.touched(id);
        }
        if let Some(deadline) = connection.deadline(&self.cx.limits) {
            self.wheel.arm(id.slot, deadline);
        }
        if matches!(outcome, ServeOutcome::Again) && !connection.queued {
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

    /// Pauses a connection until the handler takes packets again.
    fn pause(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.paused
        {
            connection.paused = true;
            self.paused.push_back(id);
            self.cx.counters.held += 1;
        }
    }

    /// Puts the paused connections into the run queue once the handler takes packets again.
    /// Those beyond its capacity come back in the same order.
    fn resume_paused(&mut self) {
        if self.paused.is_empty() || !self.cx.sessions.handler.is_ready() {
            return;
        }
        for _ in 0..self.paused.len() {
            let Some(id) = self.paused.pop_front() else {
                break;
            };
            if let Some(connection) = self.connections.get_mut(id) {
                connection.paused = false;
                self.after_serve(id, ServeOutcome::Again);
            }
        }
    }

    /// Removes and closes a connection. No other function does.
    fn reap(&mut self, id: ConnectionId, cause: Cause) {
        let Some(mut connection) = self.connections.remove(id) else {
            return;
        };
        let was_copied = self
            .copying
            .as_mut()
            .is_some_and(|copying| copying.ended(id));
        if was_copied || self.adoption.is_shared(self.cx.now) {
            connection.shut_down();
        }
        self.wheel.disarm(id.slot);
        if let Some(tag) = connection.session.tag() {
            let handler = &mut self.cx.sessions.handler;
            if connection.session.stopped().is_some() {
                handler.resumed(tag);
            }
            handler.detach(tag);
        }
        self.uncount(id, connection.address(), connection.counted);
        self.cx.counters.closed(cause);
        self.listeners.retry_now();
        if log::log_enabled!(log::Level::Debug) {
            let session = connection.session;
            log::debug!(
                "connection closed peer={} cause={} frames={} unsent={}",
                session.sender().peer,
                cause.name(),
                session.frames(),
                session.unsent().len(),
            );
        }
    }

    /// Subtracts a closed connection from all counts that its address takes part in.
    fn uncount(&mut self, id: ConnectionId, address: IpAddr, counted: Counted) {
        let network = Network::of(address);
        if counted.buffer() > 0 {
            self.cx.buffers.change(network, counted.buffer(), 0);
        }
        let turned_away = self.turned_away.iter().position(|(other, _)| *other == id);
        match turned_away {
            Some(place) => drop(self.turned_away.remove(place)),
            None => {
                self.admission.remove(address, counted.is_new());
                if self.cx.limits.rate.is_some() {
                    self.cx.rates.closed(network, self.cx.now);
                }
            }
        }
    }

    fn run_housekeeping(&mut self) {
        let now = self.cx.now;
        if now >= self.next_stats {
            self.next_stats = now.after(self.config.stats_interval);
            self.log_stats(false);
        }
        if now >= self.next_trim {
            self.next_trim = now.after(TRIM_INTERVAL);
            self.cx.pool.trim();
            self.cx.rates.tidy(now);
        }
    }

    fn log_stats(&mut self, all: bool) {
        let statistics = self.statistics(self.cx.now);
        self.stats.log(&statistics, all);
    }

    fn statistics(&self, at: Moment) -> Statistics {
        let mut statistics = Statistics::new(at, self.figures());
        statistics.restart = self.restart;
        statistics.pool = self.cx.pool.stats().classes;
        self.cx.sessions.handler.statistics(&mut statistics);
        statistics
    }
}

/// For the driver of the loop, between two turns.
impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Returns the address of the listener for agents.
    ///
    /// # Errors
    /// The error of `getsockname(2)`, or [`io::ErrorKind::NotConnected`] once the server stops.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.listener(ListenerTag::AGENTS) {
            Some(listener) => kernel::Accept::local_addr(listener),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The kernel, to watch descriptors that are not connections.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// The handler.
    pub const fn handler(&self) -> &H {
        &self.cx.sessions.handler
    }

    /// The handler, to be changed.
    pub const fn handler_mut(&mut self) -> &mut H {
        &mut self.cx.sessions.handler
    }

    /// Takes the descriptors that became ready since the last call and are not connections,
    /// each once.
    pub fn take_others(&mut self) -> Vec<OtherToken> {
        std::mem::take(&mut self.others)
    }

    /// Returns the handler, once all connections are closed.
    #[must_use]
    pub fn into_handler(self) -> H {
        self.cx.sessions.handler
    }

    /// Returns the statistics of the server itself.
    #[must_use]
    pub fn figures(&self) -> ServerStatistics {
        debug_assert_eq!(
            self.connections
                .iter()
                .map(|connection| connection.session.unsent().len())
                .sum::<usize>(),
            self.cx.sessions.unsent.get(),
            "unsent replies without a connection"
        );
        ServerStatistics {
            connections: self.connections.len(),
            unsent: self.cx.sessions.unsent.get(),
            pending: self.cx.pending.len(),
            log_left_out: self.config.log_left_out.get(),
            reactor: self.cx.counters,
            sessions: self.cx.sessions.counters,
        }
    }

    /// Returns the lines of all statistics for a client of the control socket. Does not change
    /// the log.
    pub fn answer_statistics(&self) -> Vec<String> {
        let statistics = self.statistics(self.kernel.now());
        self.stats.answer(&statistics)
    }

    /// Replaces the statistics of hand-overs.
    pub const fn set_restart_statistics(&mut self, restart: RestartStatistics) {
        self.restart = Some(restart);
    }

    /// The receive buffers.
    pub const fn pool(&self) -> &Pool {
        &self.cx.pool
    }

    /// Yields a view of every connection, in no particular order.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionView> {
        self.connections.iter().map(Connection::view)
    }

    /// Yields the connections that wait for a receive buffer, in FIFO order; those of networks
    /// that have used up their share come last, by network.
    pub fn waiters(&self) -> impl Iterator<Item = SocketAddr> {
        let ids = self.waiters.iter().copied().chain(self.capped.ids());
        let present = ids.filter_map(|id| self.connections.get(id));
        present.map(|connection| connection.view().peer)
    }

    /// Returns how many connections wait for a buffer in the queues of networks that have used
    /// up their share, closed ones included; and how many have been put there so far.
    pub const fn capped(&self) -> (usize, u64) {
        (self.capped.len(), self.capped.pushed())
    }
}

#[cfg(test)]
mod tests;
