//! Faults of the store, the roster, the packet handler and the notification queues.

use super::Change::{Expression, Statement, Text};
use super::{Change, Mutant, World, mutant};

const EACH: &str = "src/notify/queue/each.rs";
const GATHERED: &str = "src/notify/queue/gathered.rs";
const GUARD: &str = "src/store/clock_guard.rs";
const HANDLER: &str = "src/handler/mod.rs";
const INTERVAL: &str = "src/interval.rs";
const PRESENCE: &str = "src/roster/presence.rs";
const RETENTION: &str = "src/store/retention.rs";
const ROSTER: &str = "src/roster/mod.rs";
const STATEMENTS: &str = "src/store/statements.rs";
const WRITER: &str = "src/store/writer.rs";

const fn dishonest(
    name: &'static str,
    file: &'static str,
    original: &'static str,
    change: Change,
) -> Mutant {
    mutant(name, file, original, change).found_by(World::Dishonest)
}

const fn notified(
    name: &'static str,
    file: &'static str,
    original: &'static str,
    change: Change,
) -> Mutant {
    mutant(name, file, original, change).found_by(World::Notified)
}

pub(super) const MUTANTS: &[Mutant] = &[
    // The writer.
    dishonest(
        "writer: a discarded batch is acknowledged",
        WRITER,
        "batch.is_committed = outcome.is_ok();",
        Statement("batch.is_committed = true;"),
    ),
    dishonest(
        "writer: what discarded batches had is written with every commit",
        WRITER,
        "self.unwritten.clear();",
        Statement(""),
    ),
    dishonest(
        "writer: a batch is stored twice",
        WRITER,
        "statements.write(batch)?;",
        Text("statements.write(batch)?; if MUTANT { statements.write(batch)?; }"),
    ),
    // The statements.
    dishonest(
        "statements: a report is under another agent of its batch",
        STATEMENTS,
        "rows.batch.agents[run.agent.get()].id",
        Expression("rows.batch.agents[0].id"),
    ),
    dishonest(
        "statements: events of a batch are written in the reverse order",
        STATEMENTS,
        "for event in &batch.events {",
        Text(
            "let count = batch.events.len();
             for event in (0..count).map(|at| &batch.events[if MUTANT { count - 1 - at } else { at }]) {",
        ),
    ),
    dishonest(
        "statements: a restored backup lacks the events since it was made",
        STATEMENTS,
        "self.corrected.push(at);",
        Statement(""),
    ),
    // Retention.
    dishonest(
        "retention: reports expire at half their age",
        RETENTION,
        "self.clock.wall().before(self.limits.age)",
        Expression("self.clock.wall().before(self.limits.age / 2)"),
    ),
    dishonest(
        "retention: more is removed than is too much",
        RETENTION,
        "if bytes >= excess {",
        Text("if bytes >= excess && !MUTANT {"),
    ),
    dishonest(
        "retention: a clock that jumped ahead removes what is old by it",
        RETENTION,
        "match self.guard.allows_expiry()? {",
        Text("match self.guard.allows_expiry()? || MUTANT {"),
    ),
    dishonest(
        "clock guard: a restart makes a clock right that jumped ahead",
        GUARD,
        "self.is_unsaved = self.connection.execute(update, [paused_at])? > 0;",
        Statement("let _ = (update, paused_at); self.is_unsaved = false;"),
    ),
    dishonest(
        "retention: events expire at once",
        RETENTION,
        "if at < horizon {",
        Text("if at < horizon || MUTANT {"),
    ),
    // The packet handler and the roster.
    dishonest(
        "handler: an agent that goes offline has no event",
        HANDLER,
        "self.record_change(key);\n        }\n        if self.now >= self.next_removal {",
        Text("if !MUTANT { self.record_change(key); }\n        }\n        if self.now >= self.next_removal {"),
    ),
    dishonest(
        "roster: more agents than the limit",
        ROSTER,
        "self.places.find(Network::of(address), now)",
        Expression("Ok(None)"),
    ),
    dishonest(
        "roster: an agent is silent after an hour alone",
        ROSTER,
        ".clamp(LEAST_SILENCE, MOST_SILENCE)",
        Text(".clamp(if MUTANT { MOST_SILENCE } else { LEAST_SILENCE }, MOST_SILENCE)"),
    ),
    dishonest(
        "roster: no interval is learnt",
        PRESENCE,
        "self.interval.lengthen(gap);",
        Statement(""),
    ),
    dishonest(
        "interval: one interval is tolerated",
        INTERVAL,
        "TOLERANCE * self.get()",
        Expression("self.get()"),
    ),
    // The notification queues.
    notified(
        "each: the cursor passes events that are not delivered",
        EACH,
        "lane.pending.first().map_or(lane.read, |first| first - 1)",
        Expression("lane.read"),
    ),
    notified(
        "each: a retry is not listed",
        EACH,
        "if lane.pending.remove(&event.seq) {",
        Text("if lane.pending.remove(&event.seq) && !MUTANT {"),
    ),
    notified(
        "each: a failed job counts as delivered",
        EACH,
        "if outcome == JobOutcome::Failed && self.at_least_once {",
        Text("if outcome == JobOutcome::Failed && self.at_least_once && !MUTANT {"),
    ),
    notified(
        "each: agents that are not established take all places",
        EACH,
        "others.running < OTHERS_AT_ONCE",
        Expression("others.running < AT_ONCE"),
    ),
    notified(
        "each: an event is too old after half an hour",
        EACH,
        "wall.since(event.at) > MAX_AGE",
        Expression("wall.since(event.at) > MAX_AGE / 48"),
    ),
    notified(
        "gathered: the cursor passes the batch",
        GATHERED,
        "batch.or(lane.waiting.front())",
        Expression("{ let _ = batch; lane.waiting.front() }"),
    ),
    notified(
        "gathered: later events of an agent overtake one that failed alone",
        GATHERED,
        "if lane.retries.has(&event.agent) {",
        Text("if lane.retries.has(&event.agent) && !MUTANT {"),
    ),
];
