//! What must hold after every turn of the server, whatever happened.

use hawk::reactor::kernel::Kernel;
use hawk::reactor::{ConnectionView, Reactor, Standing};
use hawk::session::{Handler, OUTPUT_HIGH_WATER, StopReason};
use hawk::stats::Cause;

use super::counts::Event;
use super::link::{Last, Stage};
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
const CLASSES: [usize; 5] = [256, 1024, 4096, 16 * 1024, LONGEST];

/// Those who were turned away and may linger.
const TURNED_AWAY: usize = 32;

/// A newcomer may wait so long: as long as the server rests after a failure.
const BACKLOG_PATIENCE: u64 = 110 * MS;

/// What is kept between two looks.
#[derive(Default)]
pub struct Checks {
    stats: hawk_pool::Stats,
    closed: [u64; Cause::ALL.len()],
    /// Who waited for a buffer, in their order.
    waiters: Vec<usize>,
    waiting: Vec<usize>,
}

impl Checks {
    /// Looks at everything. `over`: it was the last turn.
    pub fn look<H: Handler, K: Kernel>(
        &mut self,
        reactor: &Reactor<H, K>,
        machine: &mut Machine,
        over: bool,
    ) {
        self.closings(reactor, machine, over);
        let mut in_use = [0; CLASSES.len()];
        let mut surplus = 0;
        let mut connections = 0;
        for view in reactor.connections() {
            connections += 1;
            let slot = machine.slot_of(view.peer);
            if machine
                .links
                .get(slot)
                .is_none_or(|link| link.peer != view.peer || !link.is_live())
            {
                machine.demand(false, view.peer.port(), "a connection that nobody has");
                return;
            }
            look_at(slot, &view, machine);
            if view.buffer > 0 {
                match CLASSES.iter().position(|class| *class == view.buffer) {
                    Some(class) => in_use[class] += 1,
                    None => machine.demand(false, view.peer.port(), "a buffer of no class"),
                }
                let fits = CLASSES.iter().find(|class| **class >= view.buffered);
                surplus += usize::from(fits != Some(&view.buffer) || view.buffered == 0);
                if view.buffered == 0 || (fits != Some(&view.buffer) && view.buffer != LONGEST) {
                    machine.demand(false, view.peer.port(), "more buffer than its bytes need");
                }
            }
        }
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
        let waits = machine.listens && !machine.backlog.is_empty();
        let since = machine.now - machine.waiting_since;
        machine.demand(
            !waits || since <= BACKLOG_PATIENCE,
            0,
            "nobody accepts who waits",
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

    /// Everybody who has gone in this turn is counted under a cause that is true.
    fn closings<H: Handler, K: Kernel>(
        &mut self,
        reactor: &Reactor<H, K>,
        machine: &mut Machine,
        over: bool,
    ) {
        let mut counted = [0; Cause::ALL.len()];
        for (cause, count) in reactor.figures().counters.closings() {
            counted[cause as usize] = count - self.closed[cause as usize];
            self.closed[cause as usize] = count;
            machine.counts.closed[cause as usize] += counted[cause as usize];
        }
        if machine.closed.is_empty() {
            machine.demand(
                counted.iter().all(|count| *count == 0),
                0,
                "an end without a connection",
            );
            return;
        }
        let mut left: Vec<(usize, u16)> = Vec::new();
        for index in 0..machine.closed.len() {
            let slot = machine.closed[index];
            let link = &machine.links[slot];
            if let Some(tag) = link.tag {
                let place = machine
                    .departed
                    .iter()
                    .position(|departed| *departed == tag);
                match place {
                    Some(place) => drop(machine.departed.swap_remove(place)),
                    None => {
                        let port = link.peer.port();
                        machine.demand(false, port, "a session ended and did not depart");
                    }
                }
            }
            left.push((slot, allowed_causes(slot, machine, over)));
        }
        // Those first that have no choice.
        left.sort_by_key(|(_, allowed)| allowed.count_ones());
        for (slot, allowed) in left {
            let cause = (0..counted.len()).find(|c| counted[*c] > 0 && allowed & (1 << c) != 0);
            match cause {
                Some(cause) => counted[cause] -= 1,
                None => {
                    let port = machine.links[slot].peer.port();
                    machine.breaks(port, "a connection ends for no cause that is true", || {
                        format!("allowed {allowed:#b}, left {counted:?}")
                    });
                }
            }
        }
        machine.demand(
            counted.iter().all(|count| *count == 0),
            0,
            "an end is counted twice",
        );
    }

    /// The pool's books are what the connections hold.
    fn pool<H: Handler, K: Kernel>(
        &mut self,
        reactor: &Reactor<H, K>,
        machine: &mut Machine,
        in_use: &[usize],
    ) {
        reactor.figures().pool.read_stats(&mut self.stats);
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

    /// Who waits for a buffer gets one, in order.
    fn queue<H: Handler, K: Kernel>(&mut self, reactor: &Reactor<H, K>, machine: &mut Machine) {
        self.waiting.clear();
        for peer in reactor.waiters() {
            let slot = machine.slot_of(peer);
            // Who is closed meanwhile keeps its place until its turn comes.
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
            "somebody waits and is in no queue",
        );
        let tickets = self.stats.classes.last().map_or(0, |class| class.waiters);
        machine.demand(tickets == wait, 0, "tickets and those who wait differ");
        if let Some(head) = self.waiting.first() {
            machine.counts.saw(Event::BufferWait);
            let held: usize = self.stats.classes.iter().map(|c| c.in_use * c.size).sum();
            let room = held + LONGEST <= self.stats.limit;
            machine.demand(!room, 0, "somebody waits for a buffer and there is room");
            // Those before the new head were served; nobody behind it was.
            let behind = match self.waiters.iter().position(|slot| slot == head) {
                Some(place) => &self.waiters[place..],
                None => &[],
            };
            let still = behind.iter().filter(|slot| {
                let link = &machine.links[**slot];
                link.is_live() && link.closing.is_none()
            });
            let mut waiting = self.waiting.iter();
            let in_order = still.into_iter().all(|slot| waiting.next() == Some(slot));
            machine.demand(
                in_order,
                0,
                "somebody was overtaken in the queue for buffers",
            );
        }
        std::mem::swap(&mut self.waiters, &mut self.waiting);
    }

    fn counters<H: Handler, K: Kernel>(reactor: &Reactor<H, K>, machine: &mut Machine) {
        let figures = reactor.figures();
        let counters = figures.counters;
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
            "accepted is not those who are there and those who ended",
        );
        let bytes = [counters.bytes_in, counters.bytes_out] == machine.bytes;
        machine.demand(bytes, 0, "the counts of bytes");
    }
}

/// The causes for which the connection that was in `slot` may have ended, a bit each.
fn allowed_causes(slot: usize, machine: &mut Machine, over: bool) -> u16 {
    let bit = |cause: Cause| 1 << cause as u16;
    let last = if over { bit(Cause::Shutdown) } else { 0 };
    let turned_away = machine
        .links
        .iter()
        .filter(|link| matches!(link.stage, Stage::TurnedAway(_)));
    let crowded = turned_away.count() >= TURNED_AWAY;
    let now = machine.now;
    let idle = machine.terms.idle;
    let link = &mut machine.links[slot];
    let port = link.peer.port();
    if let Some((cause, since)) = link.closing {
        let early = match link.ended_output {
            Some(ended) => ended + LINGER,
            None => since + LINGER.min(idle),
        };
        let heard_out = link.ended_output.is_some() && link.end_is_read();
        let evicted = crowded && matches!(link.was, Some(Stage::TurnedAway(_)));
        let fair = heard_out
            || evicted
            || link.broken
            || link.unheard
            || now >= early
            || over
            || cause == Cause::NotAllowed;
        machine.demand(
            fair,
            port,
            "a connection is cut off that was to be heard out",
        );
        return bit(cause) | last;
    }
    link.conversation.believe();
    let mut allowed = last;
    let link = &machine.links[slot];
    if link.end_is_read() && !link.conversation.is_open() && !link.unheard {
        allowed |= bit(Cause::AgentClosed);
    }
    if link.broken {
        allowed |= bit(Cause::ConnectionLost);
        if !link.last.waits && !over && link.arrived() > 0 && !machine.due(slot).any() {
            let stopping = link.allowance.is_some();
            let given_up = link.conversation.reference.has_given_up();
            let excused = stopping || given_up;
            machine.demand(
                excused,
                port,
                "what had arrived before a reset was not read",
            );
        }
    }
    let link = &machine.links[slot];
    // Closed for this cause, and over, in one turn: nobody was there any more.
    let at_once = link.broken || link.unheard || link.end_is_read();
    if at_once {
        let due = machine.due(slot);
        let timeouts = [
            (due.idle, Cause::IdleTimeout),
            (due.frame, Cause::FrameTimeout),
            (due.output, Cause::OutputTimeout),
        ];
        for (_, cause) in timeouts.iter().filter(|(is_due, _)| *is_due) {
            allowed |= bit(*cause);
        }
        if link.conversation.reference.has_given_up() {
            allowed |= bit(Cause::JunkLimit);
        }
        if link.allowance.is_some() {
            allowed |= bit(Cause::Shutdown);
        }
    }
    allowed
}

/// What must hold of one connection.
fn look_at(slot: usize, view: &ConnectionView, machine: &mut Machine) {
    let port = view.peer.port();
    let now = machine.now;
    match view.standing {
        Standing::Closing(cause) => {
            if machine.links[slot].closing.is_none() {
                begin_closing(slot, cause, machine);
            }
            closing(slot, cause, machine);
        }
        Standing::Open | Standing::Finishing => {
            let closing = machine.links[slot].closing.is_some();
            machine.demand(!closing, port, "a connection that was to be closed goes on");
            conversing(slot, view, machine);
        }
    }
    let owed = machine.is_owed(slot);
    let ready = machine.store.is_ready();
    let Machine { links, store, .. } = &mut *machine;
    let link = &mut links[slot];
    let unsent = link.conversation.unwritten(store);
    let exact = owed || view.undecoded || link.unheard || unsent.is_none_or(|n| n == view.unsent);
    let kept = view.unsent == 0 || link.blocked || link.edge || view.queued;
    // Who has read to the end has no use for the error that may follow.
    let readable = link.is_readable() && !link.edge && view.standing != Standing::Finishing;
    let reads = view.stopped.is_some() || view.queued;
    let held = !view.held || !ready || view.queued;
    let seen = view.undecoded && view.stopped.is_none() && !view.queued;
    let consumed = link.conversation.reference.known() - view.buffered as u64;
    link.last = Last {
        consumed,
        frames: view.frames,
        waits: view.waits_for_buffer,
        owed,
        stopped: view.stopped,
    };
    let moved = link.read_now || link.taken_now;
    if moved {
        link.moved_at = now;
    }
    (link.read_now, link.taken_now, link.read_unready) = (false, false, false);
    if !exact {
        machine.breaks(port, "replies are neither written nor kept", || {
            format!("{unsent:?} to be kept, {view:?}")
        });
    }
    machine.demand(
        kept,
        port,
        "replies are kept although the socket takes them",
    );
    if !reads && readable {
        let arrived = machine.links[slot].arrived();
        machine.breaks(port, "what has arrived is not read", || {
            format!("{arrived} {view:?}")
        });
    }
    machine.demand(held, port, "it waits for the store, which is ready");
    machine.demand(
        !seen || matches!(view.standing, Standing::Closing(_)),
        port,
        "what was read is not decoded",
    );
    machine.demand(
        view.unsent <= MOST_UNSENT,
        port,
        "too many replies are kept",
    );
    machine.demand(
        view.buffered <= LONGEST,
        port,
        "too much is kept of what was read",
    );
    machine.demand(view.buffered <= view.buffer, port, "bytes without a buffer");
}

/// A connection is closed since this turn: for a cause that is true?
fn begin_closing(slot: usize, cause: Cause, machine: &mut Machine) {
    let port = machine.links[slot].peer.port();
    let due = machine.due(slot);
    let now = machine.now;
    let link = &mut machine.links[slot];
    // Only who does not read its replies is closed without a last look.
    match cause {
        Cause::OutputTimeout => link.conversation.disbelieve(),
        _ => drop(link.conversation.believe()),
    }
    if cause != Cause::JunkLimit {
        link.conversation.end();
    }
    let before = link.conversation.at_end;
    let nothing_passed = before.is_some_and(|at| at.frames == link.last.frames);
    let same_candidate =
        before.is_some_and(|at| at.at_boundary && at.consumed == link.last.consumed);
    let is_true = match cause {
        Cause::IdleTimeout => due.idle && nothing_passed,
        Cause::FrameTimeout => due.frame && nothing_passed && same_candidate,
        Cause::OutputTimeout => due.output,
        Cause::JunkLimit => link.conversation.reference.has_given_up(),
        Cause::Shutdown => link
            .allowance
            .is_some_and(|left| left == 0 || link.arrived() == 0),
        _ => false,
    };
    let given_up = link.conversation.reference.has_given_up();
    let all = !link.conversation.has_packets() || given_up;
    link.closing = Some((cause, now));
    let last = link.last;
    let owed = machine.is_owed(slot);
    let deadline = machine.links[slot]
        .patience
        .deadline(machine.terms, owed, now);
    if !is_true {
        machine.breaks(port, "a connection is closed for a cause that is not true", || {
            format!("{cause:?}: due {deadline:?}, at its end {before:?}, before {last:?}, owed {owed}")
        });
    }
    machine.demand(
        all,
        port,
        "a connection is closed, and what was sent is not looked at",
    );
}

/// A connection that is being closed comes to its end.
fn closing(slot: usize, cause: Cause, machine: &mut Machine) {
    let idle = machine.terms.idle;
    let link = &machine.links[slot];
    let port = link.peer.port();
    let Some((first, since)) = link.closing else {
        return;
    };
    let end = match link.ended_output {
        Some(ended) => ended + LINGER,
        None => since + LINGER.max(idle),
    };
    let overdue = machine.now >= end + RESOLUTION;
    machine.demand(!overdue, port, "a connection that is closed does not end");
    machine.demand(
        first == cause,
        port,
        "a connection is closed for another cause than before",
    );
}

/// An agent is listened to, or there is a reason why not.
fn conversing(slot: usize, view: &ConnectionView, machine: &mut Machine) {
    let port = view.peer.port();
    let now = machine.now;
    let link = &mut machine.links[slot];
    link.conversation.believe();
    let decided =
        |machine: &Machine| view.buffered == machine.links[slot].conversation.reference.pending();
    if !view.undecoded && !decided(machine) && machine.may_abandon(slot) {
        machine.abandon(slot);
    }
    let all = view.undecoded || decided(machine);
    machine.demand(all, port, "bytes are not decided as the rule has it");

    let owed = machine.is_owed(slot);
    let ready = machine.store.is_ready();
    let terms = machine.terms;
    let rate = machine.rate;
    let link = &mut machine.links[slot];
    let conversation = &mut link.conversation;
    let given_up = conversation.reference.has_given_up();
    let wrong = conversation.wrong.take();
    let ended = conversation.reference.has_ended() == (view.standing == Standing::Finishing);
    let frames = match view.undecoded {
        true => view.frames <= conversation.frames,
        false => view.frames == conversation.frames && !conversation.has_packets(),
    };
    let settled = link.last.owed && !owed;
    let consumed = conversation.reference.known() - view.buffered as u64;
    let another = consumed != link.last.consumed;
    link.patience.observe(view.stopped, link.read_now, now);
    if view.frames > link.last.frames || settled || link.taken_now {
        link.patience.passed(now);
    }
    let begun = view.buffered > 0 && !view.undecoded;
    link.patience.candidate(begun, another, now);
    let deadline = link.patience.deadline(terms, owed, now);
    // One deadline is acted on at a time: the next that is over has its own alarm.
    let just_dropped = now < link.dropped_at + RESOLUTION;
    let in_time =
        view.queued || just_dropped || deadline.is_none_or(|(_, over)| over < RESOLUTION as i64);
    let unready = link.read_unready;
    let reason = match view.stopped {
        Some(StopReason::Buffer) => view.waits_for_buffer,
        Some(StopReason::Store) => !ready || owed || view.queued,
        Some(StopReason::Output) => view.unsent > 0 && (link.blocked || link.edge || view.queued),
        Some(StopReason::Rate) => rate.is_some_and(|rate| {
            link.read_now
                || link.taken_now
                || view.queued
                || link.last.stopped != Some(StopReason::Rate)
                || now - link.moved_at.max(link.slowed_at)
                    <= 1_000_000_000 / u64::from(rate) + RESOLUTION + MS
        }),
        None => !view.waits_for_buffer,
    };
    if view.stopped == Some(StopReason::Rate) && link.last.stopped != Some(StopReason::Rate) {
        link.slowed_at = now;
    }
    let within_rate = rate.is_none_or(|rate| {
        let nanos = now - link.accepted_at + 1_000_000_000;
        let most = u128::from(nanos) * u128::from(rate) * 1004 / 1000 / 1_000_000_000 + 1;
        u128::from(view.frames) <= most || link.allowance.is_some() || link.end_has_arrived()
    });
    let entered = view.stopped != link.last.stopped;
    if let Some(reason) = view.stopped.filter(|_| entered) {
        machine.counts.saw(match reason {
            StopReason::Output => Event::OutputStop,
            StopReason::Rate => Event::RateStop,
            StopReason::Store => Event::StoreStop,
            _ => Event::BufferStop,
        });
    }
    if view.undecoded && view.queued {
        machine.counts.saw(Event::FrameBudgetSpent);
    }
    if let Some(place) = wrong {
        machine.breaks(port, "the rule does not find an intact frame", || {
            format!("{place:?}")
        });
    }
    machine.demand(
        ended,
        port,
        "the end of file is seen by one and not by the other",
    );
    machine.demand(frames, port, "frames passed, or did not, against the rule");
    machine.demand(
        !given_up || view.undecoded,
        port,
        "too much junk, and it goes on",
    );
    if !in_time {
        machine.breaks(port, "a deadline is missed", || {
            format!("{deadline:?} {view:?}")
        });
    }
    machine.demand(reason, port, "it is not read from, and for no reason");
    machine.demand(
        within_rate,
        port,
        "more frames are taken than its rate allows",
    );
    machine.demand(
        !unready,
        port,
        "it is read from although the store takes nothing",
    );
}
