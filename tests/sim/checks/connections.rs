//! What must hold of each connection that is there.

use hawk::reactor::{ConnectionPhase, ConnectionView};
use hawk::session::{OUTPUT_HIGH_WATER, OUTPUT_LOW_WATER, StopReason};

use super::super::conversation::Conversation;
use super::super::counts::Event;
use super::super::link::Last;
use super::super::machine::Machine;
use super::super::store::Store;
use super::endings::{begin_closing, closing};
use super::{LONGEST, MOST_UNSENT, MS, RESOLUTION};

/// How much longer a connection may be slowed down than its own rate says: others of its
/// network have sent frames on connections that they closed since, in the last 10 s.
const NETWORK_RATE: u64 = 11_000 * MS;

/// What must hold of one connection.
pub(super) fn look_at(slot: usize, view: &ConnectionView, machine: &mut Machine) {
    let port = view.peer.port();
    let now = machine.now;
    match view.phase.ending() {
        Some((cause, _)) => {
            if machine.links[slot].closing.is_none() {
                begin_closing(slot, cause, view, machine);
            }
            closing(slot, cause, machine);
        }
        None => {
            let closing = machine.links[slot].closing.is_some();
            machine.demand(!closing, port, "a connection that was to be closed goes on");
            conversing(slot, view, machine);
        }
    }
    let owed = machine.is_owed(slot);
    let ready = machine.store.is_ready();
    let unready_now = machine.unready_now;
    let Machine {
        links,
        store,
        counts,
        ..
    } = &mut *machine;
    let link = &mut links[slot];
    // An untouched connection is as it was.
    let touched = link.read_now || link.taken_now || link.wrote_now;
    let unsent = if touched {
        link.conversation.unwritten(store)
    } else {
        None
    };
    let exact = owed || view.undecoded || link.unheard || unsent.is_none_or(|n| n == view.unsent);
    let kept = view.unsent == 0 || link.blocked || link.edge || view.queued;
    // After the end of file, a following error does not matter.
    let readable = link.is_readable() && !link.edge && view.phase != ConnectionPhase::Finishing;
    let reads = view.stopped.is_some() || view.queued;
    let rightly_held = !view.paused || !ready || view.queued;
    let seen = view.undecoded && view.stopped.is_none() && !view.queued;
    let consumed = link.conversation.reference.known() - view.buffered as u64;
    if link.read_now || consumed != link.last.consumed {
        link.moved_at = now;
    }
    // A connection in the run queue has its turn, now or after those before it. By then the
    // store may be full again, or may not have committed its reports.
    let did = touched || link.tried_now || consumed != link.last.consumed;
    let moved = did || view.frames != link.last.frames || !view.queued;
    let held = view.stopped == Some(StopReason::Store) && (unready_now || owed);
    link.passed_over = match moved || held {
        true => 0,
        false => link.passed_over + 1,
    };
    let passed_over = link.passed_over;
    if passed_over > 1 || link.late > 0 {
        counts.saw(Event::PhaseBudgetSpent);
    }
    let shift = view.unsent as isize - link.unsent as isize;
    link.unsent = view.unsent;
    link.last = Last {
        consumed,
        frames: view.frames,
        buffer: view.buffer,
        buffered: view.buffered,
        undecoded: view.undecoded,
        waits: view.waits_for_buffer,
        tried: link.tried_now,
        owed,
        ended: link.conversation.reference.has_ended(),
        stopped: view.stopped,
    };
    (link.read_now, link.taken_now, link.wrote_now) = (false, false, false);
    (link.tried_now, link.read_unready) = (false, false);
    machine.unsent = machine.unsent.wrapping_add_signed(shift);
    if passed_over > 1 + patience(machine) {
        machine.breaks(port, "it is in the run queue and has no turn", || {
            format!("{view:?}")
        });
    }
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
    machine.demand(rightly_held, port, "it waits for the store, which is ready");
    machine.demand(
        !seen || view.phase.ending().is_some(),
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

/// Turns that a connection may have to wait for its own: in each, another connection has one.
pub(super) fn patience(machine: &Machine) -> usize {
    match machine.bites {
        true => 2 * machine.links.len(),
        false => 0,
    }
}

/// An agent is listened to, or there is a reason why not.
fn conversing(slot: usize, view: &ConnectionView, machine: &mut Machine) {
    let port = view.peer.port();
    let now = machine.now;
    let exact = !machine.is_owed(slot) && !machine.links[slot].unheard && !view.undecoded;
    let doubtful = machine.links[slot].conversation.doubts() > 0;
    let decided = |conversation: &mut Conversation, store: &Store| {
        let same = view.undecoded || view.buffered == conversation.reference.pending();
        let unsent = (exact && doubtful).then(|| conversation.unwritten(store));
        let lines = unsent.flatten().is_none_or(|unsent| unsent == view.unsent);
        same && lines && conversation.doubts() == 0
    };
    let all = machine.explain(slot, decided);
    let link = &mut machine.links[slot];
    // Whatever it did: from now on it is known what became of what it read.
    link.conversation.believe(None);
    machine.demand(all, port, "bytes are not decided as the rule has it");

    let owed = machine.is_owed(slot);
    let ready = machine.store.is_ready();
    let terms = machine.terms;
    let rate = machine.rate;
    let link = &mut machine.links[slot];
    let conversation = &mut link.conversation;
    let given_up = conversation.reference.has_given_up();
    let wrong = conversation.wrong.take();
    let ended = conversation.reference.has_ended() == (view.phase == ConnectionPhase::Finishing);
    let frames = match view.undecoded {
        true => view.frames <= conversation.frames,
        false => view.frames == conversation.frames && !conversation.has_packets(),
    };
    let settled = link.last.owed && !owed;
    let consumed = conversation.reference.known() - view.buffered as u64;
    let another = consumed != link.last.consumed;
    // There was room for the replies of all for a moment, before others took it.
    let resumed = !machine.output_was_short && view.unsent <= OUTPUT_LOW_WATER;
    link.patience
        .observe(view.stopped, link.read_now, resumed, now);
    if view.frames > link.last.frames || settled || link.taken_now {
        link.patience.passed(now);
    }
    let begun = view.buffered > 0 && !view.undecoded;
    link.patience.candidate(begun, another, now);
    let deadline = link.patience.deadline(terms, owed, now);
    // One deadline is acted on at a time: the next that is over has its own alarm. So has
    // one that was over already when the server could not read to see about it.
    if link.last.stopped.is_some() && view.stopped.is_none() {
        link.resumed_at = now;
    }
    let just_dropped = now < link.dropped_at + RESOLUTION;
    let just_resumed = now < link.resumed_at + RESOLUTION;
    let slowed_long = view.stopped == Some(StopReason::Rate)
        && link.last.stopped == Some(StopReason::Rate)
        && !link.read_now
        && !another
        && now - link.moved_at.max(link.slowed_at)
            > NETWORK_RATE + 1_000_000_000 / u64::from(rate.unwrap_or(1)) + RESOLUTION + MS;
    let over = deadline.is_some_and(|(_, over)| over >= RESOLUTION as i64);
    let over = over && !just_dropped && !just_resumed;
    let in_time = view.queued || !(over || slowed_long);
    link.late = if in_time { 0 } else { link.late + 1 };
    let late = link.late;
    let unready = link.read_unready;
    let reason = match view.stopped {
        // A connection that waited in another process is in the run queue of this one.
        Some(StopReason::Buffer) => view.waits_for_buffer || view.queued,
        Some(StopReason::Store) => !ready || owed || view.queued,
        Some(StopReason::Output) => view.unsent > 0 && (link.blocked || link.edge || view.queued),
        Some(StopReason::Rate) => rate.is_some() || view.queued,
        None => !view.waits_for_buffer,
    };
    if view.stopped == Some(StopReason::Rate) && link.last.stopped != Some(StopReason::Rate) {
        link.slowed_at = now;
    }
    let within_rate = rate.is_none_or(|rate| {
        let interval = 1_000_000_000 / u64::from(rate);
        let taken = view.frames - link.last.frames;
        link.rested_at = link.rested_at.max(now) + taken * interval;
        let saved = link.rested_at - now <= 1_000_000_000 + interval;
        saved || link.allowance.is_some()
    });
    if let Some((_, over)) = deadline
        && !view.queued
        && !just_dropped
    {
        let by = ((now as i64 - over) as u64).max(link.resumed_at) + RESOLUTION;
        machine.wake_by = machine.wake_by.min((by, port));
    }
    let entered = view.stopped != link.last.stopped;
    if let Some(reason) = view.stopped.filter(|_| entered) {
        machine.stopped_early |= reason == StopReason::Output && view.unsent <= OUTPUT_HIGH_WATER;
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
    if late > patience(machine) {
        let link = &machine.links[slot];
        let (moved, slowed) = (now - link.moved_at, now - link.slowed_at);
        machine.breaks(port, "a deadline is missed", || {
            format!("{deadline:?} {view:?}, rate {rate:?}, moved {moved} slowed {slowed} ns ago")
        });
    }
    if !reason {
        let (moved, slowed) = (
            now - machine.links[slot].moved_at,
            now - machine.links[slot].slowed_at,
        );
        machine.breaks(port, "it is not read from, and for no reason", || {
            format!("{view:?}, rate {rate:?}, {moved} {slowed}, ready {ready}, owed {owed}")
        });
    }
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
