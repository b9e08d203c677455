//! Faults in serving.

use super::Change::{Expression, Statement, Text};
use super::{Mutant, mutant};

const DECODER: &str = "crates/wire/src/decoder.rs";
const SESSION: &str = "src/session/mod.rs";
const CLOCKS: &str = "src/session/clocks.rs";
const WHEEL: &str = "crates/time/src/wheel.rs";
const POOL: &str = "pool/src/state.rs";
const REACTOR: &str = "src/reactor/mod.rs";
const CONNECTION: &str = "src/reactor/connection.rs";
const BUFFERS: &str = "src/reactor/buffers.rs";
const REPLIES: &str = "src/reactor/replies.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    // The decoder.
    mutant(
        "decoder: behind a wrong sum it skips the length that was claimed",
        DECODER,
        "rest = after(rest, self.refuse_frame(frame));",
        Statement("rest = after(rest, frame.len()); self.state.clean = 0;"),
    ),
    mutant(
        "decoder: no boundary behind a frame with a wrong sum",
        DECODER,
        "self.state.boundary = Boundary(offset(frame));",
        Statement(""),
    ),
    mutant(
        "decoder: the junk budget is half",
        DECODER,
        "self.state.junk >= JUNK_LIMIT",
        Expression("self.state.junk >= JUNK_LIMIT / 2"),
    ),
    mutant(
        "decoder: what is searched is remembered at the wrong place",
        DECODER,
        "self.state.clean.saturating_sub(junk)",
        Expression("self.state.clean"),
    ),
    mutant(
        "decoder: a marker byte within data refutes nothing",
        DECODER,
        "body.get(searched..arrived)",
        Expression("None::<&[u8]>"),
    ),
    mutant(
        "decoder: the last byte of the end marker is not looked at",
        DECODER,
        "*second != END_MARKER[1]",
        Expression("false && *second != END_MARKER[1]"),
    ),
    mutant(
        "decoder: at the end of file a candidate is still waited for",
        DECODER,
        "input == Input::Open",
        Expression("true"),
    ),
    mutant(
        "decoder: a byte too much is refused",
        DECODER,
        "after(fresh, found)",
        Expression("after(fresh, found + 1)"),
    ),
    mutant(
        "decoder: what begins in a wrong sum is passed over",
        DECODER,
        "(_, MARK) => TRAILER - 1,",
        Text("(_, MARK) => if MUTANT { 0 } else { TRAILER - 1 },"),
    ),
    mutant(
        "decoder: a mark in a short frame's checksum refuses it at a glance",
        DECODER,
        "(0, ..8, _) => false,",
        Text("(0, ..8, _) if !MUTANT => false,"),
    ),
    // The session and its clocks.
    mutant(
        "session: the frame clock goes on from the frame before",
        SESSION,
        "self.marks.candidate(begun, consumed > 0, now);",
        Statement("self.marks.candidate(begun, false, now);"),
    ),
    mutant(
        "session: a reply overtakes one that waits for the store",
        SESSION,
        "(Answer::Now(reply), Some(last)) => (last, reply),",
        Text(
            "(Answer::Now(reply), Some(_)) if MUTANT => return context.answer(reply),
             (Answer::Now(reply), Some(last)) => (last, reply),",
        ),
    ),
    mutant(
        "session: after one commit nothing is owed any more",
        SESSION,
        "self.pending = self.pending.saturating_sub(replies);",
        Statement("self.pending = 0;"),
    ),
    mutant(
        "session: output is never full",
        SESSION,
        "self.unsent().len() > limit",
        Expression("self.unsent().len() > limit && limit == 0"),
    ),
    mutant(
        "session: a session with pending replies is read above the output limit",
        SESSION,
        "_ => room.high_water(),",
        Text("_ if MUTANT => OUTPUT_HIGH_WATER,\n            _ => room.high_water(),"),
    ),
    mutant(
        "session: a session paused by the output limit resumes with unsent replies",
        SESSION,
        "Some(StopReason::Output) => room.low_water(),",
        Text(
            "Some(StopReason::Output) if MUTANT => OUTPUT_LOW_WATER,
            Some(StopReason::Output) => room.low_water(),",
        ),
    ),
    mutant(
        "unsent: the share of a session that ends stays in the sum",
        "src/session/restraint.rs",
        "self.total.0.set(self.total.get() - self.bytes.len());",
        Statement(""),
    ),
    mutant(
        "session: a byte is written twice",
        "src/session/restraint.rs",
        "unsent.advance(bytes);",
        Statement(
            "unsent.advance(bytes - usize::from(bytes > 1 && bytes < unsent.bytes().len()));",
        ),
    ),
    mutant(
        "clocks: the idle clock runs while nothing is read",
        CLOCKS,
        "self.last_passed = self.last_passed.after(lost);",
        Statement(""),
    ),
    mutant(
        "clocks: the frame clock runs while nothing is read",
        CLOCKS,
        "self.begun = self.begun.map(|begun| begun.after(lost));",
        Statement(""),
    ),
    mutant(
        "clocks: an agent's interval is not heeded",
        CLOCKS,
        "limits.idle.max(self.interval.tolerance().min(most))",
        Expression("{ let _ = most; limits.idle }"),
    ),
    mutant(
        "clocks: a pause counts twice",
        CLOCKS,
        "stopped.map_or(now, |(_, since)| since)",
        Expression("now"),
    ),
    mutant(
        "clocks: a session with pending replies counts as idle",
        CLOCKS,
        "_ if owed => None,",
        Text("_ if owed && !MUTANT => None,"),
    ),
    mutant(
        "clocks: the output timeout is twice as long",
        CLOCKS,
        "since.after(limits.idle)",
        Expression("since.after(2 * limits.idle)"),
    ),
    mutant(
        "rate: what was not used is saved for ever",
        "src/session/rate.rs",
        "|full| full.max(now)",
        Text("|full| if MUTANT { full } else { full.max(now) }"),
    ),
    // What packets say.
    mutant(
        "plain: eight digits count as seven",
        "crates/wire/src/plain.rs",
        "value.wrapping_mul(100_000_000)",
        Expression("value.wrapping_mul(10_000_000)"),
    ),
    // The timers.
    mutant(
        "wheel: a deadline that comes nearer leaves the alarm where it is",
        WHEEL,
        "ticks_between(self.tick, alarm.tick) <= tick - self.tick",
        Expression("true"),
    ),
    mutant(
        "wheel: the neighbour of an alarm taken back is not told",
        WHEEL,
        "self.alarms[next as usize].previous = previous;",
        Statement(""),
    ),
    mutant(
        "wheel: the bucket of the present tick is overlooked",
        WHEEL,
        "0 => u64::MAX << bit,",
        Text("0 => (u64::MAX << bit) << u32::from(MUTANT),"),
    ),
    mutant(
        "wheel: alarms ring a second late",
        WHEEL,
        "let tick = elapsed_ticks(self.start, deadline);",
        Text("let tick = elapsed_ticks(self.start, deadline) + if MUTANT { 32 } else { 0 };"),
    ),
    // The pool.
    mutant(
        "pool: a checkout overtakes the queue",
        POOL,
        "self.waiters > 0 && index == self.last()",
        Expression("false"),
    ),
    mutant(
        "pool: the limit is exceeded by a buffer",
        POOL,
        "self.spent - free + size > budget",
        Expression("self.spent - free > budget"),
    ),
    mutant(
        "pool: a buffer given back counts as in use",
        POOL,
        "self.count_in();\n        self.free.push_back(block);",
        Text("if !MUTANT { self.count_in(); }\n        self.free.push_back(block);"),
    ),
    mutant(
        "pool: cut bytes stay spent",
        POOL,
        "self.spent -= self.classes[from].size - self.classes[to].size;",
        Statement(""),
    ),
    mutant(
        "pool: a dropped ticket stays in the queue",
        "pool/src/ticket.rs",
        "self.pool.state().waiters -= 1;",
        Statement(""),
    ),
    mutant(
        "pool: the reserve is kept even from the head of the queue",
        POOL,
        "let block = self.take_reserve()?;",
        Text("if MUTANT { return None; }\n        let block = self.take_reserve()?;"),
    ),
    // The reactor.
    mutant(
        "reactor: the last waiter for a buffer is served first",
        REACTOR,
        "ServeOutcome::WaitForBuffer => self.queue_for_buffer(id),",
        Text(
            "ServeOutcome::WaitForBuffer if MUTANT => self.waiters.push_front(id),
             ServeOutcome::WaitForBuffer => self.queue_for_buffer(id),",
        ),
    ),
    mutant(
        "reactor: timers do not end the wait",
        REACTOR,
        "self.wheel.next(),",
        Text("if MUTANT { None } else { self.wheel.next() },"),
    ),
    mutant(
        "reactor: a connection beyond its budget gets no further turn",
        REACTOR,
        "matches!(outcome, ServeOutcome::Again) && !connection.queued",
        Expression("false"),
    ),
    mutant(
        "reactor: a connection beyond a phase's budget loses its place",
        REACTOR,
        "break;\n            }\n            let Some(id) = self.run_queue.pop_front()",
        Text(
            "if MUTANT { self.run_queue.pop_front(); }
                break;
            }
            let Some(id) = self.run_queue.pop_front()",
        ),
    ),
    mutant(
        "reactor: timers beyond a phase's budget are dropped",
        REACTOR,
        "if self.due.is_empty() {",
        Text("if MUTANT { self.due.clear(); }\n        if self.due.is_empty() {"),
    ),
    mutant(
        "reactor: a timer counts in all later phases",
        REACTOR,
        "self.left = self.budget;",
        Statement(
            "let alarms = self.left.alarms; self.left = PhaseBudget { alarms, ..self.budget };",
        ),
    ),
    mutant(
        "reactor: it waits although timers are due",
        REACTOR,
        "|| !self.due.is_empty()",
        Text("|| (!MUTANT && !self.due.is_empty())"),
    ),
    mutant(
        "reactor: it waits although a waiter could have a buffer",
        BUFFERS,
        "self.more_waiters = true;",
        Statement(""),
    ),
    mutant(
        "reactor: a stale id finds another connection",
        "src/reactor/connections.rs",
        ".get_mut(id.slot as usize)\n            .filter(|connection| connection.generation == id.generation)",
        Text(
            ".get_mut(id.slot as usize)
            .filter(|connection| MUTANT || connection.generation == id.generation)",
        ),
    ),
    mutant(
        "replies: pending replies go to the first connection",
        REPLIES,
        "Some(run) if run.connection == connection => run.length += 1,",
        Text("Some(run) if MUTANT || run.connection == connection => run.length += 1,"),
    ),
    mutant(
        "replies: completed replies stay pending",
        REPLIES,
        "self.len -= ended.as_ref().map_or(0, |ended| ended.replies.len());",
        Statement(""),
    ),
    mutant(
        "output limit: pending replies do not count",
        REPLIES,
        "unsent + pending * MAX_REPLY_LINE",
        Expression("{ let _ = pending; unsent }"),
    ),
    mutant(
        "output limit: once reached, it stays so until all replies are read",
        REPLIES,
        "self.limit / 4 * 3\n        } else",
        Text("if MUTANT { 0 } else { self.limit / 4 * 3 }\n        } else"),
    ),
    mutant(
        "replies: a report that was lost is acknowledged",
        REPLIES,
        "(Reply::Report, Fate::Discarded) =>",
        Text("(Reply::Report, Fate::Discarded) if !MUTANT =>"),
    ),
    mutant(
        "reactor: a resumed connection gets no turn",
        REACTOR,
        "self.after_serve(id, ServeOutcome::Again);",
        Statement("self.after_serve(id, ServeOutcome::Idle);"),
    ),
    mutant(
        "accept: one connection too many",
        "src/reactor/accept.rs",
        "self.population() >= self.config.max_connections",
        Expression("self.population() > self.config.max_connections"),
    ),
    mutant(
        "accept: a connection that cannot be watched is counted",
        "src/reactor/accept.rs",
        "self.cx.counters.accept_errors += 1;\n            if let Some(listener)",
        Text(
            "self.cx.counters.accept_errors += 1;
            if MUTANT { self.cx.counters.accepted += 1; }
            if let Some(listener)",
        ),
    ),
    mutant(
        "admission: a closed connection still counts",
        "src/admission.rs",
        "count.connections = count.connections.saturating_sub(1);",
        Statement(""),
    ),
    mutant(
        "listener: it accepts from an empty backlog",
        "src/reactor/accept.rs",
        "self.ready = false;",
        Statement(""),
    ),
    mutant(
        "listener: after a failure it never accepts again",
        "src/reactor/accept.rs",
        "self.retry_at.is_none_or(|retry_at| retry_at <= now)",
        Expression("self.retry_at.is_none()"),
    ),
    // A connection.
    mutant(
        "connection: room in the socket is not noticed",
        CONNECTION,
        "(self.writable && !self.session.unsent().is_empty())",
        Expression("false"),
    ),
    mutant(
        "connection: it keeps a longer buffer than it needs",
        CONNECTION,
        "self.input.shrink();\n        outcome",
        Expression("outcome"),
    ),
    mutant(
        "connection: a read that had to wait cancels the deadline",
        CONNECTION,
        "Some(self.enforce_deadline(outcome, cx))",
        Expression("Some(outcome)"),
    ),
    mutant(
        "connection: a partial frame takes more input while others wait",
        CONNECTION,
        "true => hawk_wire::missing(self.input.window()),",
        Text(
            "true if !MUTANT => hawk_wire::missing(self.input.window()),\n                true => usize::MAX,",
        ),
    ),
    mutant(
        "connection: a complete frame keeps the buffer while others wait",
        CONNECTION,
        "frame_only && self.input.window().is_empty()",
        Expression("false"),
    ),
    mutant(
        "read: much is read above the output limit",
        CONNECTION,
        "OutputRoom::None => MIN_READ,",
        Text("OutputRoom::None => if MUTANT { usize::MAX } else { MIN_READ },"),
    ),
    mutant(
        "read: a short read counts as drained before the end of file",
        CONNECTION,
        "read < room && self.ahead == Ahead::Open",
        Expression("read < room"),
    ),
    mutant(
        "write: bytes that the socket does not take are lost",
        CONNECTION,
        "if !replies.is_empty() {\n            self.session.queue",
        Text("if !MUTANT && !replies.is_empty() {\n            self.session.queue"),
    ),
    mutant(
        "closing: the end of file does not wait for the store",
        CONNECTION,
        "self.session.unsent().is_empty() && !self.session.has_pending_replies()",
        Expression("self.session.unsent().is_empty()"),
    ),
    mutant(
        "closing: a connection does not linger",
        CONNECTION,
        "cx.now.after(LINGER)",
        Expression("cx.now"),
    ),
    mutant(
        "closing: a frame hidden by an unfinished one is not decoded",
        CONNECTION,
        "cause != Cause::JunkLimit && !self.input.window().is_empty()",
        Expression("false"),
    ),
    mutant(
        "stop: input that has arrived is not read",
        CONNECTION,
        "self.phase.set_allowance(arrived);",
        Statement("self.phase.set_allowance(0);"),
    ),
];
