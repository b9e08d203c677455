//! What must hold after every turn of the server, whatever happened.

mod connections;
mod endings;

use hawk::reactor::kernel::Kernel;
use hawk::reactor::{Config, Reactor};
use hawk::session::{Handler, OUTPUT_HIGH_WATER};
use hawk::stats::Cause;
use hawk_wire::MAX_REPLY_LINE;

use self::connections::patience;
use super::counts::Event;
use super::link::Link;
use super::machine::Machine;

const MS: u64 = 1_000_000;

/// How late the server may notice that a deadline has come: a tick of its timers.
const RESOLUTION: u64 = 32 * MS;

/// How long a connection that the server closes may go on sending.
const LINGER: u64 = 2_000 * MS;

/// Reply bytes that one connection may make the server keep: the high-water mark, and
/// the replies to what one read can bring (see `OUTPUT_HIGH_WATER`).
const MOST_UNSENT: usize = OUTPUT_HIGH_WATER + 280 * 1024;

/// The longest receive buffer, and all there are.
pub const LONGEST: usize = 64 * 1024 + 4096;
pub const CLASSES: [usize; 5] = [256, 1024, 4096, 16 * 1024, LONGEST];

/// Rejected connections that may linger.
const TURNED_AWAY: usize = 32;

/// A newcomer may wait so long: as long as the server rests after a failure.
const BACKLOG_PATIENCE: u64 = 110 * MS;

/// Turns for which a connection may keep the reserve although a shorter buffer would do: waiters are
/// served some at a time.
const KEPT: usize = 8;

/// What is kept between two looks.
pub struct Checks {
    config: Config,
    stats: hawk_pool::Stats,
    closed: [u64; Cause::ALL.len()],
    /// Connections that waited for a buffer, in FIFO order.
    waiters: Vec<usize>,
    allowed: Vec<u16>,
    waiting: Vec<usize>,
    /// Whether a host that held its share of the pool had waiters after the last turn.
    had_capped: bool,
    /// How many of them there were so far.
    capped: u64,
    /// Longest buffers handed out so far.
    longest: u64,
    /// Consecutive turns in which a connection waited for a buffer although there was room.
    idle_room: usize,
    /// Consecutive turns in which a connection waited for the reserve and its holder needed less.
    kept: usize,
    /// Lines said so far, and bytes of replies to come after the last turn, at most.
    lines: u64,
    output: usize,
}

impl Checks {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            stats: hawk_pool::Stats::default(),
            closed: [0; Cause::ALL.len()],
            waiters: Vec::new(),
            allowed: Vec::new(),
            waiting: Vec::new(),
            had_capped: false,
            capped: 0,
            longest: 0,
            idle_room: 0,
            kept: 0,
            lines: 0,
            output: 0,
        }
    }

    /// Another process serves from now on, in another way perhaps.
    pub fn moved<H: Handler, K: Kernel>(&mut self, reactor: &Reactor<H, K>, config: &Config) {
        reactor.pool().read_stats(&mut self.stats);
        self.longest = self.stats.classes.last().map_or(0, |class| class.checkouts);
        self.idle_room = 0;
        self.kept = 0;
        // The process counts from its start.
        self.capped = 0;
        // Connections that began to wait in the same turn may have changed places.
        self.waiters.clear();
        // What is kept was kept under the limits there were.
        let Config {
            output_limit,
            pool_limit,
            ..
        } = self.config;
        self.config = config.clone();
        self.config.output_limit = output_limit.max(config.output_limit);
        self.config.pool_limit = pool_limit.max(config.pool_limit);
    }

    /// Looks at everything. `over`: it was the last turn.
    pub fn look<H: Handler, K: Kernel>(
        &mut self,
        reactor: &Reactor<H, K>,
        machine: &mut Machine,
        over: bool,
    ) {
        machine.output_was_short = machine.output_is_short();
        self.closings(reactor, machine, over);
        machine.wake_by = (machine.store.hand_over_at().unwrap_or(u64::MAX), 0);
        let mut in_use = [0; CLASSES.len()];
        let mut surplus = 0;
        let mut too_long = None;
        let mut connections = 0;
        for view in reactor.connections() {
            connections += 1;
            let slot = machine.slot_of(view.peer);
            if machine
                .links
                .get(slot)
                .is_none_or(|link| link.peer != view.peer || !link.is_live())
            {
                machine.demand(false, view.peer.port(), "a connection that does not exist");
                return;
            }
            connections::look_at(slot, &view, machine);
            if view.buffer > 0 {
                match CLASSES.iter().position(|class| *class == view.buffer) {
                    Some(class) => in_use[class] += 1,
                    None => machine.demand(false, view.peer.port(), "a buffer of no class"),
                }
                let fits = CLASSES.iter().find(|class| **class >= view.buffered);
                surplus += usize::from(fits != Some(&view.buffer) || view.buffered == 0);
                if fits != Some(&view.buffer) {
                    too_long = fits;
                }
                if view.buffered == 0 || (fits != Some(&view.buffer) && view.buffer != LONGEST) {
                    machine.demand(false, view.peer.port(), "more buffer than its bytes need");
                }
            }
        }
        let limit = reactor.pool().limit();
        let has_waiters = reactor.waiters().next().is_some();
        self.kept = match could_be_less(&in_use, limit, too_long) && has_waiters {
            true => self.kept + 1,
            false => 0,
        };
        machine.demand(
            self.kept <= KEPT,
            0,
            "the reserve is with a connection that needs less, and others wait for it",
        );
        machine.demand(
            surplus <= 1,
            0,
            "more than the reserve is longer than it needs to be",
        );
        machine.demand(
            connections == machine.live.len(),
            0,
            "connections that are not there",
        );
        self.pool(reactor, machine, &in_use);
        self.queue(reactor, machine);
        Self::counters(reactor, machine);
        self.output(reactor, machine);
        let waits = machine.listens && !machine.backlog.is_empty();
        let since = machine.now - machine.waiting_since;
        machine.demand(
            !waits || since <= BACKLOG_PATIENCE,
            0,
            "a waiting connection is not accepted",
        );
        for slot in machine.closed.drain(..) {
            machine.links[slot].was = None;
        }
        machine.demand(
            machine.departed.is_empty(),
            0,
            "a session departs that has not ended",
        );
    }

    /// The pool's books are what the connections hold.
    fn pool<H: Handler, K: Kernel>(
        &mut self,
        reactor: &Reactor<H, K>,
        machine: &mut Machine,
        in_use: &[usize],
    ) {
        reactor.pool().read_stats(&mut self.stats);
        let stats = &self.stats;
        let same = stats
            .classes
            .iter()
            .map(|class| class.in_use)
            .eq(in_use.iter().copied());
        machine.demand(same, 0, "the pool's books and what connections hold differ");
        machine.demand(
            stats.allocated <= stats.limit,
            0,
            "the pool is beyond its limit",
        );
        let classes = stats.classes.iter();
        let all: usize = classes
            .map(|class| (class.in_use + class.free) * class.size)
            .sum();
        machine.demand(all == stats.allocated, 0, "the pool's bytes do not add up");
    }

    /// Waiting connections get buffers in FIFO order.
    fn queue<H: Handler, K: Kernel>(&mut self, reactor: &Reactor<H, K>, machine: &mut Machine) {
        self.waiting.clear();
        for peer in reactor.waiters() {
            let slot = machine.slot_of(peer);
            // A connection that is closed meanwhile keeps its place until its turn comes.
            if machine.links[slot].last.waits {
                self.waiting.push(slot);
            }
        }
        let wait = machine
            .live
            .iter()
            .filter(|slot| machine.links[**slot].last.waits)
            .count();
        machine.demand(
            wait == self.waiting.len(),
            0,
            "a connection waits and is in no queue",
        );
        let longest = self.stats.classes.last().map_or(0, |class| class.checkouts);
        let tickets = self.stats.classes.last().map_or(0, |class| class.waiters);
        machine.demand(tickets == wait, 0, "tickets and waiting connections differ");
        let mut room = false;
        // What waits for the share of its network has no claim to the buffers of others.
        machine.pool_has_waiters = !self.waiting.is_empty() && reactor.capped().0 == 0;
        if !self.waiting.is_empty() {
            machine.counts.saw(Event::BufferWait);
            let held: usize = self.stats.classes.iter().map(|c| c.in_use * c.size).sum();
            room = held + LONGEST <= self.stats.limit;
        }
        // A host that holds its share of the pool is served after the others.
        let share = ((self.stats.limit - LONGEST) / 2).max(LONGEST);
        let capped = |slot: &usize| {
            let host = machine.links[*slot].peer.ip();
            let same = machine.live.iter().map(|slot| &machine.links[*slot]);
            let same = same.filter(|link| link.peer.ip() == host);
            let held: usize = same.map(|link| link.last.buffer).sum();
            held - machine.links[*slot].last.buffer + LONGEST > share
        };
        // All of its connections are behind the first that is.
        let host = |slot: &usize| machine.links[*slot].peer.ip();
        let hosts: Vec<_> = self
            .waiting
            .iter()
            .filter(|it| capped(it))
            .map(host)
            .collect();
        room &= self.waiting.iter().any(|slot| !hosts.contains(&host(slot)));
        let (capped, pushed) = reactor.capped();
        let had_capped = std::mem::replace(&mut self.had_capped, capped > 0);
        let joined = pushed - std::mem::replace(&mut self.capped, pushed);
        let pushed = joined > 0;
        // A connection that has read the rest of its frame returns its buffer and queues again.
        // If its host has used up its share by then, the connection joins the queue of that
        // host. This queue has its turn after every few buffers granted to other hosts, also
        // before connections of other hosts that have waited longer. With a granted buffer, a
        // connection may read more than one frame.
        let beyond = std::mem::take(&mut machine.beyond);
        for (slot, held) in &beyond {
            machine.demand(
                held + LONGEST > share && beyond.len() as u64 <= joined,
                machine.links[*slot].peer.port(),
                "it is read beyond the end of its frame although others wait for a buffer",
            );
        }
        let by_shares = had_capped || self.had_capped || pushed;
        // They are served in this turn, or at once in those that follow.
        let served = machine.bites && longest > self.longest;
        self.idle_room = match room && !served {
            true => self.idle_room + 1,
            false => 0,
        };
        machine.demand(
            self.idle_room <= patience(machine),
            0,
            "a connection waits for a buffer and there is room",
        );
        if room {
            machine.must_wake_by(machine.now, 0);
        }
        // A connection that waited before and had no turn stands where it stood; each behind
        // it had none either.
        let waited = self
            .waiters
            .iter()
            .map(|slot| (*slot, &machine.links[*slot]));
        let mut there = waited.filter(|(_, link)| link.is_live() && link.closing.is_none());
        let stays = |link: &Link| link.last.waits && !link.last.tried;
        let mut now = self.waiting.iter();
        let mut none_yet = true;
        let in_order = there.all(|(slot, link)| {
            let stays = stays(link);
            none_yet &= !stays;
            none_yet || (stays && now.next() == Some(&slot))
        });
        // While a connection stays in the queue, buffers go to those before it.
        let before = self.waiters.iter().position(|slot| {
            let link = &machine.links[*slot];
            link.is_live() && link.closing.is_none() && stays(link)
        });
        let passed_over = before.is_some_and(|before| longest - self.longest > before as u64);
        self.longest = longest;
        machine.demand(
            in_order || by_shares,
            0,
            "a connection was overtaken in the queue for buffers",
        );
        let passed_over = passed_over && !by_shares;
        machine.demand(!passed_over, 0, "a buffer goes past the queue");
        std::mem::swap(&mut self.waiters, &mut self.waiting);
    }

    /// Pending replies stay within their bound; a connection is stopped for them only at that
    /// bound.
    fn output<H: Handler, K: Kernel>(&mut self, reactor: &Reactor<H, K>, machine: &mut Machine) {
        let figures = reactor.figures();
        let same = figures.unsent == machine.unsent;
        machine.demand(same, 0, "the sum of unsent replies");
        let nothing = machine.store.all_is_told() && figures.pending > 0;
        machine.demand(!nothing, 0, "replies wait for a commit that is over");
        machine.owed = figures.pending;
        let output = figures.unsent + figures.pending * MAX_REPLY_LINE;
        // As the documentation has it, for so many connections as there are.
        self.config.max_connections = machine.links.len();
        let bound = output <= self.config.most_output();
        machine.demand(bound, 0, "more replies are kept than is ever to be");
        // How many there may have been within the turn.
        let tally = figures.sessions;
        let lines = tally.heartbeats + tally.reports + tally.busy + tally.refused_total();
        let said = (lines - self.lines) as usize * MAX_REPLY_LINE;
        let most = self.output.max(output) + said;
        let early = std::mem::take(&mut machine.stopped_early);
        machine.unready_now = false;
        machine.demand(
            !early || most > machine.output_limit / 4 * 3,
            0,
            "a connection is stopped for its replies although there is room for more",
        );
        if machine.output_is_short() {
            machine.counts.saw(Event::OutputShort);
        }
        (self.lines, self.output) = (lines, output);
    }

    fn counters<H: Handler, K: Kernel>(reactor: &Reactor<H, K>, machine: &mut Machine) {
        let figures = reactor.figures();
        let counters = figures.reactor;
        machine.demand(
            figures.connections == machine.live.len(),
            0,
            "the number of connections",
        );
        machine.demand(
            counters.accepted == machine.accepted,
            0,
            "the count of those accepted",
        );
        let errors = counters.accept_errors == machine.accept_errors;
        machine.demand(errors, 0, "the count of failures to accept");
        let ended: u64 = counters.closings().map(|(_, count)| count).sum();
        let balanced = counters.accepted == ended + figures.connections as u64;
        machine.demand(
            balanced,
            0,
            "accepted connections are not the open and the closed ones",
        );
        let bytes = [counters.bytes_in, counters.bytes_out] == machine.bytes;
        machine.demand(bytes, 0, "the counts of bytes");
    }
}

/// Whether there is room for a buffer of the class that `fits` what the reserve holds.
fn could_be_less(in_use: &[usize], limit: usize, fits: Option<&usize>) -> bool {
    let spent = CLASSES
        .iter()
        .zip(in_use)
        .map(|(class, count)| class * count);
    // The reserve is one of those in use, and is set aside.
    let general = spent.sum::<usize>().saturating_sub(LONGEST);
    fits.is_some_and(|fits| general + fits + LONGEST <= limit)
}
