//! How connections end: each for one cause, which is true, and not before it was heard
//! out.

use hawk::reactor::kernel::Kernel;
use hawk::reactor::{ConnectionView, Reactor};
use hawk::session::Handler;
use hawk::stats::Cause;

use super::super::link::Stage;
use super::super::machine::Machine;
use super::connections::patience;
use super::{Checks, LINGER, RESOLUTION, TURNED_AWAY};

impl Checks {
    /// Each connection that ended in this turn is counted under a true cause.
    pub(super) fn closings<H: Handler, K: Kernel>(
        &mut self,
        reactor: &Reactor<H, K>,
        machine: &mut Machine,
        over: bool,
    ) {
        let mut counted = [0; Cause::ALL.len()];
        for (cause, count) in reactor.figures().reactor.closings() {
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
        // A broken connection that would have to wait for a buffer is not read to its end.
        let classes = reactor.pool().stats().classes;
        let refusals = classes.last().map_or(0, |class| class.refusals);
        let before = self.stats.classes.last().map_or(0, |class| class.refusals);
        let was_refused = refusals > before;
        self.allowed.clear();
        for index in 0..machine.closed.len() {
            let slot = machine.closed[index];
            let link = &machine.links[slot];
            if let Some(tag) = link.tag {
                let mut departed = machine.departed.iter();
                match departed.position(|departed| *departed == tag) {
                    Some(place) => drop(machine.departed.swap_remove(place)),
                    None => {
                        let port = link.peer.port();
                        machine.demand(false, port, "a session ended and did not depart");
                    }
                }
            }
            self.allowed
                .push(allowed_causes(slot, machine, over, was_refused));
        }
        let ended: u64 = counted.iter().sum();
        let once = ended == machine.closed.len() as u64;
        machine.demand(once, 0, "an end is not counted, or counted twice");
        if !fit(&self.allowed, &counted) {
            let port = machine.links[machine.closed[0]].peer.port();
            machine.breaks(port, "a connection ends for no cause that is true", || {
                format!("for {counted:?}, allowed {:?}", self.allowed)
            });
        }
    }
}

/// The causes for which the connection that was in `slot` may have ended, a bit each.
fn allowed_causes(slot: usize, machine: &mut Machine, over: bool, was_refused: bool) -> u16 {
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
    link.conversation.believe(None);
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
            // What comes faster than its rate allows is dropped then.
            let limited = machine.rate.is_some();
            let excused = stopping || given_up || was_refused || limited;
            machine.demand(
                excused,
                port,
                "what had arrived before a reset was not read",
            );
        }
    }
    let link = &machine.links[slot];
    // Closed for this cause, and over, in one turn: the agent had gone.
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

/// A connection is closed since this turn: for a cause that is true?
pub(super) fn begin_closing(
    slot: usize,
    cause: Cause,
    view: &ConnectionView,
    machine: &mut Machine,
) {
    let port = view.peer.port();
    let due = machine.due(slot);
    let now = machine.now;
    let exact = !machine.is_owed(slot) && !machine.links[slot].unheard;
    let link = &mut machine.links[slot];
    // Only a connection with unread replies is closed without a last read.
    match cause {
        Cause::OutputTimeout => link.conversation.disbelieve(),
        Cause::JunkLimit => {
            machine.explain(slot, |conversation, _| {
                conversation.reference.has_given_up()
            });
        }
        _ => {
            // What it read last brought nothing: as it stood, or because a candidate
            // was given up in the middle of it.
            let frames = link.conversation.frames.min(link.last.frames);
            machine.explain(slot, |conversation, store| {
                let mut ended = conversation.clone();
                ended.end();
                let unsent = ended.unwritten(store);
                conversation.doubts() == 0
                    && (cause == Cause::Shutdown || conversation.frames == frames)
                    && (!exact || unsent.is_none_or(|unsent| unsent == view.unsent))
                    && !ended.has_packets()
            });
        }
    }
    let link = &mut machine.links[slot];
    link.conversation.believe(None);
    if cause != Cause::JunkLimit {
        link.conversation.end();
    }
    let before = link.conversation.at_end;
    let nothing_passed = match link.last.ended {
        true => link.conversation.frames == link.last.frames,
        false => before.is_some_and(|at| at.frames == link.last.frames),
    };
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
    if !all {
        machine.breaks(
            port,
            "a connection is closed, and what was sent is not looked at",
            || format!("{cause:?}: at its end {before:?}, before {last:?}, owed {owed}"),
        );
    }
}

/// A connection that is being closed comes to its end.
pub(super) fn closing(slot: usize, cause: Cause, machine: &mut Machine) {
    let idle = machine.terms.idle;
    let link = &mut machine.links[slot];
    let port = link.peer.port();
    let Some((first, since)) = link.closing else {
        return;
    };
    let end = match link.ended_output {
        Some(ended) => ended + LINGER,
        None => since + LINGER.max(idle),
    };
    let overdue = machine.now >= end + RESOLUTION;
    link.late = if overdue { link.late + 1 } else { 0 };
    let late = link.late > patience(machine);
    machine.must_wake_by(end + RESOLUTION, port);
    machine.demand(!late, port, "a connection that is closed does not end");
    machine.demand(
        first == cause,
        port,
        "a connection is closed for another cause than before",
    );
}

/// Whether the ended connections can be assigned to the counted causes, each to a cause that
/// its bits allow: for each set of causes, at most as many connections are limited to it as
/// it counts (Hall's theorem).
fn fit(allowed: &[u16], counted: &[u64]) -> bool {
    if let [allowed] = allowed {
        return (0..counted.len()).any(|c| counted[c] > 0 && allowed & (1 << c) != 0);
    }
    (0..1_u16 << counted.len()).all(|set| {
        let within = allowed.iter().filter(|allowed| **allowed & !set == 0);
        let room = (0..counted.len()).filter(|c| set & (1 << c) != 0);
        within.count() as u64 <= room.map(|c| counted[c]).sum()
    })
}
