//! What is in a batch is in the tables, whatever is in it.

use proptest::prelude::*;

use super::*;
use crate::store::schema;
use crate::store::{Agent, Report};
use crate::time::UnixNanos;

/// A report: whose, from which port, when, and what it says.
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

/// The number that each agent got, as the server would remember it.
type Ids = [Option<i64>; 5];

fn fill(batch: &mut Batch, plan: &Plan, ids: &Ids, next_rand: &mut i64) {
    let mut indices = [None; 5];
    for (agent, port, at, content) in &plan.reports {
        let who = usize::from(*agent);
        let name = format!("web-{agent}");
        let index = *indices[who].get_or_insert_with(|| {
            batch.add_agent(
                u64::from(*agent),
                &Agent {
                    id: ids[who],
                    // One of them has no name.
                    name: (who > 0).then_some(&*name),
                    address: [10, 0, 0, 7].into(),
                    version: "1.0",
                    first_seen: UnixNanos::from_nanos(1),
                    last_seen: UnixNanos::from_nanos(2),
                    online: true,
                    changed_at: UnixNanos::from_nanos(1),
                    interval: 0,
                },
            )
        });
        let report = Report {
            received_at: UnixNanos::from_nanos(*at),
            content,
            rand: *next_rand,
            timestamp: -*next_rand,
        };
        batch.add_report(index, ([10, 0, 0, 7], *port).into(), &report);
        *next_rand += 1;
    }
}

/// All reports, with their agents' names, in the order of `rand`.
fn stored(connection: &Connection) -> Vec<(i64, Option<String>, String, String, i64)> {
    let mut statement = connection
        .prepare(
            "SELECT rand, name, peer, content, timestamp \
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
        ))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

proptest! {
    #[test]
    fn what_was_committed_is_in_the_tables_and_nothing_else(plans in plans(), forgetful: bool) {
        let connection = open();
        let mut statements = Statements::prepare(&connection).unwrap();
        let mut batch = Batch::default();
        let (mut expected, mut ids, mut next_rand) = (Vec::new(), Ids::default(), 0);
        for (number, plan) in plans.iter().enumerate() {
            batch.reset(number as u64 + 1);
            let first_rand = next_rand;
            fill(&mut batch, plan, &ids, &mut next_rand);
            statements.begin().unwrap();
            statements.write(&mut batch).unwrap();
            if !plan.kept {
                statements.rollback().unwrap();
                continue;
            }
            statements.commit().unwrap();
            if !forgetful {
                for (agent, id, _) in batch.agents() {
                    ids[usize::try_from(agent).unwrap()] = id;
                }
            }
            let reports = (first_rand..).zip(&plan.reports);
            expected.extend(reports.map(|(rand, (agent, port, _, content))| {
                let name = (*agent > 0).then(|| format!("web-{agent}"));
                (rand, name, format!("10.0.0.7:{port}"), content.clone(), -rand)
            }));
        }
        prop_assert_eq!(stored(&connection), expected.clone());
        let counted: i64 = connection
            .query_row("SELECT coalesce(sum(reports), 0) FROM agents", [], |row| row.get(0))
            .unwrap();
        prop_assert_eq!(usize::try_from(counted).unwrap(), expected.len());
    }
}

#[test]
fn a_time_that_is_taken_gives_way_to_the_next() {
    let connection = open();
    let mut statements = Statements::prepare(&connection).unwrap();
    for number in 1..=3 {
        let mut batch = Batch::default();
        batch.reset(number);
        // Each batch has the same forty times.
        let reports = (0..40).map(|at| (1, 1, at * 10, String::new()));
        let plan = Plan {
            reports: reports.collect(),
            kept: true,
        };
        let mut rand = i64::try_from(number).unwrap() * 1000;
        fill(&mut batch, &plan, &Ids::default(), &mut rand);
        statements.begin().unwrap();
        statements.write(&mut batch).unwrap();
        statements.commit().unwrap();
    }
    let mut times = connection
        .prepare("SELECT received_at FROM reports WHERE rand % 1000 = 7 ORDER BY rand")
        .unwrap();
    let times = times.query_map([], |row| row.get(0)).unwrap();
    let times: Vec<i64> = times.map(Result::unwrap).collect();
    assert_eq!(times, [70, 71, 73]);
}

#[test]
fn reports_keep_the_time_at_which_they_were_received() {
    let connection = open();
    let mut statements = Statements::prepare(&connection).unwrap();
    // One behind the other; with gaps; behind what another batch has left; before
    // it all, because the clock was set back; and at the last moment there is.
    let batches: [Vec<i64>; 5] = [
        (1000..1100).collect(),
        (0..100).map(|n| 2000 + n + n / 3).collect(),
        (2133..2140).collect(),
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
        fill(&mut batch, &plan, &Ids::default(), &mut next_rand);
        statements.begin().unwrap();
        statements.write(&mut batch).unwrap();
        statements.commit().unwrap();
    }
    let mut times = connection
        .prepare("SELECT received_at FROM reports ORDER BY rand")
        .unwrap();
    let times = times.query_map([], |row| row.get(0)).unwrap();
    let times: Vec<i64> = times.map(Result::unwrap).collect();
    assert_eq!(times, batches.concat());
}

#[test]
fn an_agent_whose_row_was_removed_gets_another() {
    let connection = open();
    let mut statements = Statements::prepare(&connection).unwrap();
    let plan = Plan {
        reports: vec![(1, 1, 1, String::new())],
        kept: true,
    };
    let mut ids = Ids::default();
    let mut write = |at, ids: &Ids| {
        let mut batch = Batch::default();
        batch.reset(1);
        let mut plan = plan.clone();
        plan.reports[0].2 = at;
        fill(&mut batch, &plan, ids, &mut 0);
        statements.write(&mut batch).unwrap();
        let mut written = batch.agents();
        written.next().unwrap().1
    };
    ids[1] = write(1, &ids);
    assert_eq!((ids[1], write(2, &ids)), (Some(1), Some(1)));
    connection.execute("DELETE FROM agents", []).unwrap();
    assert_eq!(write(3, &ids), Some(2));
}
