//! Checks that the run was as planned.

use crate::account::{Account, ErrorCount};
use crate::guest::Plan;

/// Returns all deviations.
pub(crate) fn wrong(plan: &Plan, account: &Account) -> Vec<String> {
    let all = plan.connections();
    let mut wrong = Vec::new();
    let mut expect = |what: String, found: u64, due: u64| {
        if found != due {
            wrong.push(format!("{what}: {found} instead of {due}"));
        }
    };
    let mut total = 0;
    for (sample, (count, _)) in account.stages.iter().zip(&plan.stages) {
        total += count;
        let statistics = &sample.statistics;
        let after = format!("after {total} connections:");
        expect(
            format!("{after} connections"),
            statistics.get("connections"),
            total,
        );
        expect(
            format!("{after} heartbeats"),
            statistics.get("heartbeats"),
            total,
        );
        expect(format!("{after} buffers in use"), statistics.buffers(), 0);
        expect(
            format!("{after} replies unread"),
            statistics.get("unsent"),
            0,
        );
    }
    let held = &account.held;
    expect(
        "connections at the end".into(),
        held.get("connections"),
        all,
    );
    expect(
        "closed by their deadline".into(),
        held.get("closed_idle_timeout"),
        plan.silent,
    );
    let closed = held.get("accepted") - held.get("connections");
    expect("closed in all".into(), closed, plan.silent);
    expect("failures to accept".into(), held.get("accept_errors"), 0);
    expect("errors".into(), held.get("errors"), 0);
    expect(
        "connections afterwards".into(),
        account.left.statistics.get("connections"),
        0,
    );
    expect(
        "buffers afterwards".into(),
        account.left.statistics.buffers(),
        0,
    );
    expect(
        "clients' tables".into(),
        account.tables.len() as u64,
        plan.stages.len() as u64,
    );
    expect(
        "connections in the clients' tables".into(),
        account.tables.iter().map(|table| table.idle).sum(),
        all,
    );
    for table in &account.tables {
        let of = format!("of the client with {}:", table.idle);
        // At least one for each in its interval; some connections have sent a third.
        let least = table.sent.heartbeats.min(table.idle);
        expect(format!("{of} second heartbeats"), least, table.idle);
        expect(
            format!("{of} replies"),
            table.answered,
            table.sent.heartbeats,
        );
        let errors = table.errors.iter().map(ErrorCount::to_string);
        let errors: Vec<_> = errors.collect();
        expect(
            format!("{of} errors ({})", errors.join(", ")),
            errors.len() as u64,
            0,
        );
        expect(format!("{of} passed"), table.passed.into(), 1);
    }
    let ends = account.ends.iter().filter(|end| !end.ends_with(" with 0"));
    wrong.extend(ends.cloned());
    wrong.extend(account.log.iter().filter(|line| !line.is_empty()).cloned());
    wrong
}
