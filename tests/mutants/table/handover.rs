//! Faults of the hand-over.

use super::Change::{Expression, Statement, Text};
use super::{Mutant, mutant};

const REACTOR: &str = "src/reactor/mod.rs";
const HANDOVER: &str = "src/reactor/handover.rs";
const DIRTY_SET: &str = "src/dirty_set.rs";
const CONNECTION: &str = "src/reactor/connection.rs";
const STATE: &str = "src/session/state.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "hand-over: unsent replies are lost",
        STATE,
        "session.queue(&state.unsent, &context.unsent);",
        Statement(""),
    ),
    mutant(
        "hand-over: the bytes of a partial frame are lost",
        HANDOVER,
        "Ok(buffer) => connection.input.begin_with(buffer, &bytes),",
        Text(
            "Ok(buffer) if MUTANT => drop(buffer),
                Ok(buffer) => connection.input.begin_with(buffer, &bytes),",
        ),
    ),
    mutant(
        "hand-over: the decoder's state is lost",
        STATE,
        "decoder: Decoder::rebuild(state.decoder),",
        Text("decoder: if MUTANT { Decoder::default() } else { Decoder::rebuild(state.decoder) },"),
    ),
    mutant(
        "hand-over: a pause of reading is lost",
        STATE,
        "Restraint::rebuild(state.clocks.stopped, state.bucket)",
        Expression("Restraint::rebuild(None, state.bucket)"),
    ),
    mutant(
        "hand-over: the use of a rate limit is lost",
        STATE,
        "bucket: self.restraint.bucket(),",
        Text("bucket: if MUTANT { Bucket::default() } else { self.restraint.bucket() },"),
    ),
    mutant(
        "hand-over: an agent's name is lost",
        STATE,
        "agent: self.agent.as_deref().map(str::to_owned),",
        Text("agent: if MUTANT { None } else { self.agent.as_deref().map(str::to_owned) },"),
    ),
    mutant(
        "hand-over: the end of file is lost",
        CONNECTION,
        "phase: self.phase.get(),\n            write_failed",
        Text(
            "phase: match self.phase.get() {
                ConnectionPhase::Finishing if MUTANT => ConnectionPhase::Open,
                phase => phase,
            },
            write_failed",
        ),
    ),
    mutant(
        "hand-over: a lingering connection sends its end of file again",
        CONNECTION,
        "self.phase.enter(state.phase);",
        Text(
            "self.phase.enter(match state.phase {
                ConnectionPhase::Lingering { cause, until } if MUTANT => {
                    ConnectionPhase::Closing { cause, until }
                }
                phase => phase,
            });",
        ),
    ),
    mutant(
        "hand-over: a failed write is lost",
        CONNECTION,
        "self.write_failed = state.write_failed;",
        Statement(""),
    ),
    mutant(
        "hand-over: bytes not decoded wait for more input",
        CONNECTION,
        "self.undecoded = state.undecoded;",
        Statement(""),
    ),
    mutant(
        "hand-over: a connection with work gets no turn",
        CONNECTION,
        "waits || unfinished || !self.phase.is_open()",
        Expression("{ let _ = (waits, unfinished); false }"),
    ),
    mutant(
        "hand-over: a connection that waited gets no turn",
        CONNECTION,
        "Some(_) => true,",
        Text("Some(_) => !MUTANT,"),
    ),
    mutant(
        "hand-over: no timer is set",
        HANDOVER,
        "self.wheel.arm(id.slot, deadline);",
        Statement(""),
    ),
    mutant(
        "hand-over: a deadline that is over has another tick",
        REACTOR,
        "TimerWheel::new(now.before(hawk_time::TICK))",
        Expression("TimerWheel::new(now)"),
    ),
    mutant(
        "hand-over: the handler does not resolve a session",
        STATE,
        "tag: state.tag,",
        Text("tag: if MUTANT { None } else { state.tag },"),
    ),
    mutant(
        "hand-over: adopted connections do not count for admission",
        HANDOVER,
        "drop(self.admission.add(peer.ip(), false));",
        Statement(""),
    ),
    mutant(
        "hand-over: a turned-away connection counts as served",
        HANDOVER,
        "refused.then_some(cause)",
        Expression("{ let _ = refused; None }"),
    ),
    mutant(
        "hand-over: no adopted connection gets the reserve",
        HANDOVER,
        "pool.wait().redeem().map_err(|_| too_small)?",
        Expression("return Err(too_small)"),
    ),
    mutant(
        "hand-over: the first connection without a buffer gets the reserve",
        HANDOVER,
        "(longest.input.window().len() > bytes).then_some(longest)",
        Expression("{ let _ = bytes; None::<&mut Connection<K::Socket>> }"),
    ),
    mutant(
        "hand-over: changes are not recorded",
        DIRTY_SET,
        "self.queue.push_back(item);",
        Statement(""),
    ),
    mutant(
        "hand-over: changes beyond the first batch are lost",
        DIRTY_SET,
        "self.queue.drain(..taken).collect()",
        Expression("self.queue.drain(..).take(taken).collect()"),
    ),
    mutant(
        "hand-over: only the first change is recorded",
        HANDOVER,
        "visit(moved(id), Change::Changed(connection.export()));\n                copying.copied(id, connection.session.has_pending_replies());",
        Text(
            "visit(moved(id), Change::Changed(connection.export()));
                if !MUTANT { copying.copied(id, connection.session.has_pending_replies()); }",
        ),
    ),
    mutant(
        "hand-over: new connections are not copied",
        HANDOVER,
        "self.unseen.push_back(id);",
        Statement(""),
    ),
    mutant(
        "hand-over: ended connections are not reported",
        HANDOVER,
        "self.closed.push(id);",
        Statement(""),
    ),
    mutant(
        "hand-over: an ended connection is not shut down",
        REACTOR,
        "connection.shut_down();",
        Statement(""),
    ),
    mutant(
        "hand-over: a connection that ends during the predecessor's exit is not shut down",
        HANDOVER,
        "self.shared_until.is_some_and(|until| now < until)",
        Expression("{ let _ = now; false }"),
    ),
    mutant(
        "hand-over: after a rollback every ended connection is shut down",
        HANDOVER,
        "fn end_copy(&mut self) {\n        self.copying = None;",
        Text("fn end_copy(&mut self) {\n        if !MUTANT { self.copying = None; }"),
    ),
    mutant(
        "hand-over: the successor does not accept from the backlog",
        "src/reactor/accept.rs",
        "ready: true,",
        Text("ready: !MUTANT,"),
    ),
    mutant(
        "hand-over: resumed connections wait for an event",
        REACTOR,
        "accepts || work || resumes",
        Expression("{ let _ = resumes; accepts || work }"),
    ),
    mutant(
        "hand-over: the counters begin anew",
        HANDOVER,
        "self.cx.counters = reactor;",
        Statement("let _ = reactor;"),
    ),
];
