//! Faults in going on in another process.

use super::Change::{Expression, Statement, Text};
use super::{Mutant, mutant};

const REACTOR: &str = "src/reactor/mod.rs";
const HANDOVER: &str = "src/reactor/handover.rs";
const DIRTY_SET: &str = "src/dirty_set.rs";
const CONNECTION: &str = "src/reactor/connection.rs";
const STATE: &str = "src/session/state.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "hand-over: unsent replies are forgotten",
        STATE,
        "session.queue(&state.unsent, &context.unsent);",
        Statement(""),
    ),
    mutant(
        "hand-over: the bytes of a frame begun are forgotten",
        CONNECTION,
        "self.input.begin_with(buffer, bytes);",
        Statement("let _ = bytes; drop(buffer);"),
    ),
    mutant(
        "hand-over: what the decoder remembers is forgotten",
        STATE,
        "decoder: Decoder::rebuild(state.decoder),",
        Text("decoder: if MUTANT { Decoder::default() } else { Decoder::rebuild(state.decoder) },"),
    ),
    mutant(
        "hand-over: that an agent was not read from is forgotten",
        STATE,
        "Restraint::rebuild(state.clocks.stopped, state.bucket)",
        Expression("Restraint::rebuild(None, state.bucket)"),
    ),
    mutant(
        "hand-over: what an agent has used of its rate is forgotten",
        STATE,
        "bucket: self.restraint.bucket(),",
        Text("bucket: if MUTANT { Bucket::default() } else { self.restraint.bucket() },"),
    ),
    mutant(
        "hand-over: an agent's name is forgotten",
        STATE,
        "agent: self.agent.as_deref().map(str::to_owned),",
        Text("agent: if MUTANT { None } else { self.agent.as_deref().map(str::to_owned) },"),
    ),
    mutant(
        "hand-over: the end of file that was read is forgotten",
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
        "hand-over: who lingers is to say its end of file again",
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
        "hand-over: that nobody hears the replies is forgotten",
        CONNECTION,
        "self.write_failed = state.write_failed;",
        Statement(""),
    ),
    mutant(
        "hand-over: bytes that are not decoded wait for others to come",
        CONNECTION,
        "self.undecoded = state.undecoded;",
        Statement(""),
    ),
    mutant(
        "hand-over: who has something to do gets no turn",
        CONNECTION,
        "waits || unfinished || !self.phase.is_open()",
        Expression("{ let _ = (waits, unfinished); false }"),
    ),
    mutant(
        "hand-over: who waited gets no turn",
        CONNECTION,
        "Some(_) => true,",
        Text("Some(_) => !MUTANT,"),
    ),
    mutant(
        "hand-over: no alarm is set",
        HANDOVER,
        "self.wheel.arm(id.slot, deadline);",
        Statement(""),
    ),
    mutant(
        "hand-over: a deadline that is over already has another tick",
        REACTOR,
        "TimerWheel::new(now.before(hawk_time::TICK))",
        Expression("TimerWheel::new(now)"),
    ),
    mutant(
        "hand-over: the handler does not know a session again",
        STATE,
        "tag: state.tag,",
        Text("tag: if MUTANT { None } else { state.tag },"),
    ),
    mutant(
        "hand-over: those adopted do not count at the door",
        HANDOVER,
        "drop(self.admission.enter(peer.ip(), false));",
        Statement(""),
    ),
    mutant(
        "hand-over: who was turned away counts as served",
        HANDOVER,
        "refused.then_some(cause)",
        Expression("{ let _ = refused; None }"),
    ),
    mutant(
        "hand-over: the reserve is for nobody who is adopted",
        HANDOVER,
        "pool.wait().redeem().map_err(|_| too_small)?",
        Expression("return Err(too_small)"),
    ),
    mutant(
        "hand-over: the reserve is for whoever comes",
        HANDOVER,
        "(longest.buffered() > bytes).then_some(longest)",
        Expression("{ let _ = bytes; None::<&mut Connection<K::Socket>> }"),
    ),
    mutant(
        "hand-over: what changes is not noted",
        DIRTY_SET,
        "self.queue.push_back(item);",
        Statement(""),
    ),
    mutant(
        "hand-over: of what changes no more is kept than is taken at once",
        DIRTY_SET,
        "self.queue.drain(..taken).collect()",
        Expression("self.queue.drain(..).take(taken).collect()"),
    ),
    mutant(
        "hand-over: what changes is noted once and never again",
        HANDOVER,
        "visit(moved(id), Change::Changed(connection.export()));\n                copying.copied(id, connection.session().has_pending_replies());",
        Text(
            "visit(moved(id), Change::Changed(connection.export()));
                if !MUTANT { copying.copied(id, connection.session().has_pending_replies()); }",
        ),
    ),
    mutant(
        "hand-over: newcomers are not shown",
        HANDOVER,
        "self.unseen.push_back(id);",
        Statement(""),
    ),
    mutant(
        "hand-over: who has ended is not told of",
        HANDOVER,
        "self.closed.push(id);",
        Statement(""),
    ),
    mutant(
        "hand-over: who ends is not shut down",
        REACTOR,
        "connection.shut_down();",
        Statement(""),
    ),
    mutant(
        "hand-over: who ends while the predecessor leaves is not shut down",
        HANDOVER,
        "self.shared_until.is_some_and(|until| now < until)",
        Expression("{ let _ = now; false }"),
    ),
    mutant(
        "hand-over: after a rollback everybody who ends is shut down",
        HANDOVER,
        "pub fn end_copy(&mut self) {\n        self.copying = None;",
        Text("pub fn end_copy(&mut self) {\n        if !MUTANT { self.copying = None; }"),
    ),
    mutant(
        "hand-over: the successor does not look who waits to be accepted",
        "src/reactor/accept.rs",
        "ready: true,",
        Text("ready: !MUTANT,"),
    ),
    mutant(
        "hand-over: those who are let on wait for something to happen",
        REACTOR,
        "accepts || work || resumes",
        Expression("{ let _ = resumes; accepts || work }"),
    ),
    mutant(
        "hand-over: the counts begin anew",
        HANDOVER,
        "self.cx.counters = counters;",
        Statement("let _ = counters;"),
    ),
];
