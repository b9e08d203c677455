//! A committed batch is in the tables, whatever its contents.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::store::schema;
use crate::store::{AgentRecord, EventRecord, ReportRecord};
use hawk_time::UnixNanos;

/// A report: agent, port, time and content.
type Planned = (u8, u16, i64, String);

/// Reports that are committed together, or rolled back.
#[derive(Clone, Debug)]
struct Plan {
    reports: Vec<Planned>,
    kept: bool,
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    // Times come twice and more often: the clock is set back all the time.
    let report = (0..5_u8, 1..4_u16, 0..300_i64, "[a-zß]{0,3}");
    let plan = (prop::collection::vec(report, 0..120), any::<bool>())
        .prop_map(|(reports, kept)| Plan { reports, kept });
    prop::collection::vec(plan, 1..6)
}

fn open() -> Connection {
    let mut connection = Connection::open_in_memory().unwrap();
    schema::migrate(&mut connection).unwrap();
    connection
}

/// References of five agents, as the roster gives them; those of another generation are
/// of agents that have the same places.
fn reference(agent: u8, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(agent + 1)
}

fn prepare(connection: &Connection) -> Statements<'_> {
    let deliveries = Deliveries::begin(connection, Arc::default(), (0, 0), &Arc::default());
    Statements::prepare(connection, deliveries.unwrap()).unwrap()
}

fn agent(name: Option<&str>) -> AgentRecord<&str> {
    AgentRecord {
        name,
        last_seen: UnixNanos::from_nanos(2),
        ..AgentRecord::sample(None, UnixNanos::from_nanos(1))
    }
}

fn fill(batch: &mut Batch, plan: &Plan, generation: u32, next_rand: &mut i64) {
    let mut indices = [None; 5];
    for (agent, port, at, content) in &plan.reports {
        let name = format!("web-{agent}");
        // One of them has no name.
        let known = self::agent((*agent > 0).then_some(&*name));
        let index = *indices[usize::from(*agent)]
            .get_or_insert_with(|| batch.add_agent(reference(*agent, generation), &known));
        let report = ReportRecord {
            received_at: UnixNanos::from_nanos(*at),
            content,
            rand: *next_rand,
            timestamp: -*next_rand,
        };
        batch.add_report(index, ([10, 0, 0, 7], *port).into(), &report);
        *next_rand += 1;
    }
}

fn commit(statements: &mut Statements<'_>, batch: &mut Batch) {
    statements.begin().unwrap();
    statements.write(batch).unwrap();
    statements.commit().unwrap();
}

fn numbers(connection: &Connection, query: &str) -> Vec<i64> {
    let mut statement = connection.prepare(query).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// All reports, with their agents' names, in the order of `rand`.
fn stored(connection: &Connection) -> Vec<(i64, Option<String>, String, String, i64, i64)> {
    let mut statement = connection
        .prepare(
            "SELECT rand, name, peer, content, timestamp, received_at \
             FROM reports JOIN agents ON id = agent ORDER BY rand",
        )
        .unwrap();
    let rows = statement.query_map([], |row| {
        Ok((
            row.get(0)?,
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
            row.get(5)?,
        ))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

proptest! {
    #[test]
    fn the_tables_have_exactly_the_committed_reports(plans in plans(), forgetful: bool) {
        let connection = open();
        let mut statements = prepare(&connection);
        let mut batch = Batch::default();
        let (mut expected, mut next_rand, mut generation) = (Vec::new(), 0, 1);
        for (number, plan) in plans.iter().enumerate() {
            batch.reset(number as u64 + 1);
            let first_rand = next_rand;
            fill(&mut batch, plan, generation, &mut next_rand);
            statements.begin().unwrap();
            statements.write(&mut batch).unwrap();
            if !plan.kept {
                statements.rollback().unwrap();
                continue;
            }
            statements.commit().unwrap();
            generation += u32::from(forgetful);
            let reports = (first_rand..).zip(&plan.reports);
            expected.extend(reports.map(|(rand, (agent, port, at, content))| {
                let name = (*agent > 0).then(|| format!("web-{agent}"));
                let peer = format!("10.0.0.7:{port}");
                (rand, name, peer, content.clone(), -rand, *at)
            }));
        }
        prop_assert_eq!(stored(&connection), expected.clone());
        let counted = numbers(&connection, "SELECT coalesce(sum(reports), 0) FROM agents");
        prop_assert_eq!(usize::try_from(counted[0]).unwrap(), expected.len());
        // In the order of arrival, and with each agent's reports linked back from its row.
        let in_order = numbers(&connection, "SELECT rand FROM reports ORDER BY seq");
        prop_assert!(in_order.is_sorted());
        let unlinked = "SELECT count(*) FROM reports AS r WHERE r.seq - back IS NOT \
            (SELECT max(seq) FROM reports AS s WHERE s.agent = r.agent AND s.seq < r.seq)";
        prop_assert_eq!(numbers(&connection, unlinked), [0]);
        let not_last = "SELECT count(*) FROM agents WHERE last_report IS NOT \
            (SELECT max(seq) FROM reports WHERE agent = id)";
        prop_assert_eq!(numbers(&connection, not_last), [0]);
    }
}

#[test]
fn reports_have_their_time_of_arrival_in_any_order() {
    let connection = open();
    let mut statements = prepare(&connection);
    // The same times in each batch, then earlier ones, then the last that there is.
    let batches: [Vec<i64>; 5] = [
        (1000..1100).collect(),
        (1000..1100).collect(),
        vec![7; 40],
        (500..700).chain([3000, 3001]).chain(700..710).collect(),
        vec![3002, i64::MAX - 1, i64::MAX],
    ];
    let mut next_rand = 0;
    for times in &batches {
        let mut batch = Batch::default();
        let reports = times.iter().map(|&at| (1, 1, at, String::new()));
        let plan = Plan {
            reports: reports.collect(),
            kept: true,
        };
        fill(&mut batch, &plan, 1, &mut next_rand);
        commit(&mut statements, &mut batch);
    }
    let times = numbers(&connection, "SELECT received_at FROM reports ORDER BY rand");
    assert_eq!(times, batches.concat());
    let seqs = numbers(&connection, "SELECT seq FROM reports ORDER BY rand");
    assert_eq!(seqs, (1..=455).collect::<Vec<_>>());
}

#[test]
fn an_agent_whose_row_was_removed_gets_another() {
    let connection = open();
    let mut statements = prepare(&connection);
    let write = |statements: &mut Statements<'_>| {
        let plan = Plan {
            reports: vec![(1, 1, 1, String::new())],
            kept: true,
        };
        let mut batch = Batch::default();
        fill(&mut batch, &plan, 1, &mut 0);
        commit(statements, &mut batch);
        batch.agents[0].id
    };
    assert_eq!((write(&mut statements), write(&mut statements)), (1, 1));
    connection.execute("DELETE FROM agents", []).unwrap();
    assert_eq!(write(&mut statements), 2);
    // The number of its row is another agent's, as after a backup was restored.
    let swap = "UPDATE agents SET name = 'other'";
    connection.execute(swap, []).unwrap();
    assert_eq!(write(&mut statements), 3);
    let owners = "SELECT count(*) FROM reports JOIN agents ON id = agent WHERE name = 'other'";
    assert_eq!(numbers(&connection, owners), [1], "the one before the swap");
    // Another writer, as after a restart, finds it by its name.
    let mut statements = prepare(&connection);
    assert_eq!(write(&mut statements), 3);
}

#[test]
fn a_removed_agent_leaves_its_reports_and_events() {
    let connection = open();
    let mut statements = prepare(&connection);
    let mut batch = Batch::default();
    let event = EventRecord::sample(false);
    let unnamed = EventRecord {
        name: None,
        ..event
    };
    let report = ReportRecord::sample(UnixNanos::from_nanos(1));
    let peer = ([10, 0, 0, 7], 1).into();
    let [named_index, unnamed_index] = [(0, Some("web-01")), (1, None)].map(|(at, name)| {
        let index = batch.add_agent(reference(at, 1), &agent(name));
        batch.add_report(index, peer, &report);
        index
    });
    batch.add_event(reference(0, 1), Some(named_index), &event);
    batch.remove_agent(reference(0, 1), event.name, event.address);
    batch.add_event(reference(1, 1), Some(unnamed_index), &unnamed);
    // It is inserted again at once, at the same place.
    let again = batch.add_agent(reference(0, 2), &agent(Some("web-01")));
    batch.add_report(again, peer, &report);
    batch.remove_agent(reference(1, 1), None, event.address);
    commit(&mut statements, &mut batch);
    assert_eq!(numbers(&connection, "SELECT id FROM agents"), [3]);
    assert_eq!(numbers(&connection, "SELECT agent FROM reports"), [1, 2, 3]);
    let events = "SELECT count(*) FROM events WHERE address = '10.0.0.7' AND version = '1.0' \
                  AND last_seen = 2 AND at = 3 AND established = 0 AND state = 'offline'";
    assert_eq!(numbers(&connection, events), [2]);
    assert_eq!(
        numbers(&connection, "SELECT agent FROM events ORDER BY name"),
        [2, 1]
    );
    // An event of an agent that has no row any more.
    batch.reset(2);
    batch.add_event(reference(1, 1), None, &unnamed);
    batch.add_event(reference(0, 2), None, &event);
    commit(&mut statements, &mut batch);
    let agents = "SELECT agent FROM events WHERE seq > 2 ORDER BY seq";
    assert_eq!(numbers(&connection, agents), [0, 3]);
}

#[test]
fn every_4096_reports_have_a_row_of_times() {
    let connection = open();
    let mut next_rand = 0;
    let mut write = |statements: &mut Statements<'_>, times: std::ops::Range<i64>, kept| {
        let mut batch = Batch::default();
        let reports = times.map(|at| (1, 1, at, String::new()));
        let plan = Plan {
            reports: reports.collect(),
            kept,
        };
        fill(&mut batch, &plan, 1, &mut next_rand);
        statements.begin().unwrap();
        statements.write(&mut batch).unwrap();
        match kept {
            true => statements.commit().unwrap(),
            false => statements.rollback().unwrap(),
        }
    };
    let mut statements = prepare(&connection);
    write(&mut statements, 10_000..13_000, true);
    write(&mut statements, 50_000..59_000, false);
    // A successor process.
    let mut statements = prepare(&connection);
    write(&mut statements, 20_000..23_000, true);
    write(&mut statements, 0..3000, true);
    let times = |column| {
        numbers(
            &connection,
            &format!("SELECT {column} FROM times ORDER BY first"),
        )
    };
    assert_eq!(times("first"), [1, 4097]);
    assert_eq!(times("last"), [4096, 8192]);
    assert_eq!(times("earliest"), [10_000, 0]);
    assert_eq!(times("latest"), [21_095, 22_999]);
}

/// A change of a store between two batches.
#[derive(Clone, Debug)]
enum StoreChange {
    /// Number of reports, and their time.
    Batch(u8, i64),
    /// A batch that fails.
    Failed(u8, i64),
    /// The oldest, the newest or all reports are removed.
    DeleteOldest,
    DeleteNewest,
    DeleteAll,
    /// A successor process.
    Restart,
}

fn changes() -> impl Strategy<Value = Vec<StoreChange>> {
    let time = prop_oneof![0..10_i64, any::<i64>()];
    let change = prop_oneof![
        4 => (1..40_u8, time.clone()).prop_map(|(reports, time)| StoreChange::Batch(reports, time)),
        1 => (1..40_u8, time).prop_map(|(reports, time)| StoreChange::Failed(reports, time)),
        1 => Just(StoreChange::DeleteOldest),
        1 => Just(StoreChange::DeleteNewest),
        1 => Just(StoreChange::DeleteAll),
        2 => Just(StoreChange::Restart),
    ];
    prop::collection::vec(change, 1..30)
}

proptest! {
    /// Whatever the clock does, and although rows and even all of them go. Where the newest
    /// rows alone are removed behind the server's back, a writer that has seen them
    /// does not use their numbers again.
    #[test]
    fn sequence_numbers_only_grow(changes in changes(), older in any::<bool>()) {
        let mut connection = Connection::open_in_memory().unwrap();
        if older {
            let rows = "INSERT INTO reports VALUES (1475249220000000001, 1, '', '', -1, 0)";
            schema::older(&connection, rows);
        }
        schema::migrate(&mut connection).unwrap();
        let mut statements = prepare(&connection);
        let (mut greatest, mut next_rand) = (0, 0);
        let mut newest_removed = false;
        for (number, change) in (1..).zip(changes) {
            match change {
                StoreChange::Batch(reports, time) | StoreChange::Failed(reports, time) => {
                    let mut batch = Batch::default();
                    batch.reset(number);
                    let first_rand = next_rand;
                    let reports = (0..reports).map(|port| (port % 5, 1, time, String::new()));
                    let plan = Plan { reports: reports.collect(), kept: true };
                    fill(&mut batch, &plan, 1, &mut next_rand);
                    statements.begin().unwrap();
                    statements.write(&mut batch).unwrap();
                    if let StoreChange::Failed(..) = change {
                        statements.rollback().unwrap();
                        continue;
                    }
                    statements.commit().unwrap();
                    let query = format!("SELECT seq FROM reports WHERE rand >= {first_rand} ORDER BY rand");
                    for seq in numbers(&connection, &query) {
                        prop_assert!(seq > greatest, "{} after {}", seq, greatest);
                        greatest = seq;
                    }
                    newest_removed = false;
                }
                StoreChange::DeleteOldest => {
                    let delete = "DELETE FROM reports WHERE seq <= (SELECT avg(seq) FROM reports)";
                    connection.execute(delete, []).unwrap();
                }
                StoreChange::DeleteNewest => {
                    let delete = "DELETE FROM reports WHERE seq > (SELECT avg(seq) FROM reports)";
                    newest_removed |= connection.execute(delete, []).unwrap() > 0;
                }
                StoreChange::DeleteAll => {
                    connection.execute("DELETE FROM reports", []).unwrap();
                }
                StoreChange::Restart if newest_removed => {}
                StoreChange::Restart => statements = prepare(&connection),
            }
        }
    }
}

#[test]
fn a_store_without_a_free_number_refuses_reports() {
    let connection = open();
    let full = format!(
        "INSERT INTO reports VALUES ({}, 1, '', '', 0, 0, 1, NULL)",
        i64::MAX
    );
    connection.execute(&full, []).unwrap();
    let mut statements = prepare(&connection);
    let mut batch = Batch::default();
    let plan = Plan {
        reports: vec![(1, 1, 1, String::new())],
        kept: true,
    };
    fill(&mut batch, &plan, 1, &mut 0);
    statements.begin().unwrap();
    let error = statements.write(&mut batch).unwrap_err().to_string();
    assert!(error.contains("no sequence number is left"), "{error}");
}

#[test]
fn a_row_in_another_state_than_its_agent_gets_the_event_that_it_lacks() {
    let connection = open();
    let write = |statements: &mut Statements<'_>, online: bool, has_event: bool| {
        let mut batch = Batch::default();
        let agent = AgentRecord {
            online,
            ..agent(Some("web-01"))
        };
        let index = batch.add_agent(reference(0, 1), &agent);
        if has_event {
            batch.add_event(reference(0, 1), Some(index), &EventRecord::sample(online));
        }
        commit(statements, &mut batch);
    };
    let offline = "SELECT state = 'offline' FROM events ORDER BY seq";
    write(&mut prepare(&connection), true, true);
    // A backup was restored: the event of this state is in another file.
    let mut statements = prepare(&connection);
    write(&mut statements, false, false);
    assert_eq!(numbers(&connection, offline), [0, 1]);
    write(&mut statements, false, false);
    write(&mut statements, true, true);
    assert_eq!(numbers(&connection, offline), [0, 1, 0]);
    // As after a restart: the event is in the batch.
    write(&mut prepare(&connection), false, true);
    assert_eq!(numbers(&connection, offline), [0, 1, 0, 1]);
}

#[test]
fn an_event_without_a_row_in_its_batch_sets_the_state_of_the_row() {
    let connection = open();
    let mut statements = prepare(&connection);
    let event = EventRecord::sample(false);
    let mut batch = Batch::default();
    batch.add_agent(reference(0, 1), &agent(Some("web-01")));
    commit(&mut statements, &mut batch);
    batch.reset(2);
    batch.add_event(reference(0, 1), None, &event);
    commit(&mut statements, &mut batch);
    let state = "SELECT state = 'offline' AND changed_at = 3 FROM agents";
    assert_eq!(numbers(&connection, state), [1]);
    // An agent of the same name has come since, and is online.
    batch.reset(3);
    batch.add_agent(reference(0, 2), &agent(Some("web-01")));
    batch.add_event(reference(0, 1), None, &event);
    commit(&mut statements, &mut batch);
    assert_eq!(numbers(&connection, state), [0]);
}

#[test]
fn agents_that_are_online_in_another_file_and_not_in_the_roster_go_offline() {
    let connection = open();
    let mut batch = Batch::default();
    for (number, name) in ["known", "absent", "late"].into_iter().enumerate() {
        let number = u8::try_from(number).unwrap();
        batch.add_agent(reference(number, 1), &agent(Some(name)));
    }
    commit(&mut prepare(&connection), &mut batch);
    let mut statements = prepare(&connection);
    batch.reset(2);
    batch.add_agent(reference(0, 1), &agent(Some("known")));
    commit(&mut statements, &mut batch);
    let online = "SELECT count(*) FROM agents WHERE state = 'online'";
    assert_eq!(
        numbers(&connection, online),
        [3],
        "the roster is not complete"
    );
    batch.reset(3);
    batch.add_agent(reference(1, 1), &agent(Some("late")));
    batch.complete_agents(UnixNanos::from_nanos(7), statements.rewrite);
    assert!(batch.is_urgent());
    commit(&mut statements, &mut batch);
    assert_eq!(numbers(&connection, online), [2]);
    let event = "SELECT at FROM events WHERE name = 'absent' AND state = 'offline'";
    assert_eq!(numbers(&connection, event), [7]);
    let changed = "SELECT changed_at FROM agents WHERE name = 'absent' AND state = 'offline'";
    assert_eq!(numbers(&connection, changed), [7]);
    assert_eq!(numbers(&connection, "SELECT count(*) FROM events"), [1]);
}
