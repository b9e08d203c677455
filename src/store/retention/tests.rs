//! Tests of retention.

use std::sync::Arc;

use super::*;
use crate::store::schema;
use hawk_time::ManualClock;

fn open() -> Connection {
    let mut connection = Connection::open_in_memory().unwrap();
    schema::migrate(&mut connection).unwrap();
    connection
}

fn count(connection: &Connection, table: &str) -> i64 {
    let query = format!("SELECT count(*) FROM {table}");
    connection.query_row(&query, [], |row| row.get(0)).unwrap()
}

const YEAR: Duration = Duration::from_secs(365 * 86_400);

#[test]
fn old_reports_are_removed_in_steps_and_young_reports_stay() {
    let connection = open();
    let old = UnixNanos::now().before(2 * YEAR).as_nanos();
    connection
        .execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
             INSERT INTO reports SELECT i, 1, '', '', 0, 0, ?1 + i, NULL FROM n",
            [old],
        )
        .unwrap();
    let now = UnixNanos::now().as_nanos();
    connection
        .execute(
            "INSERT INTO reports VALUES (NULL, 1, '', '', 0, 0, ?1, NULL)",
            [now],
        )
        .unwrap();
    let limits = Retention {
        age: YEAR,
        size: u64::MAX,
        ..Retention::UNLIMITED
    };
    let mut retainer = Retainer::prepare(&connection, limits, Clock::System, None).unwrap();
    let mut steps = Vec::new();
    while steps.last() != Some(&0) {
        steps.push(retainer.step(Added::default()).unwrap().reports);
    }
    assert_eq!(steps, [256, 256, 256, 232, 0]);
    assert_eq!(count(&connection, "reports"), 1);
    assert!(!retainer.is_behind());
}

#[test]
fn a_step_removes_only_the_excess_after_any_number_of_reports() {
    let connection = open();
    let now = UnixNanos::now().as_nanos();
    connection
        .execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
             INSERT INTO reports SELECT i, 1, '', hex(zeroblob(500)), 0, 0, ?1, NULL FROM n",
            [now],
        )
        .unwrap();
    let limits = Retention {
        age: YEAR,
        size: 8 << 20,
        ..Retention::UNLIMITED
    };
    let mut retainer = Retainer::prepare(&connection, limits, Clock::System, None).unwrap();
    let removed = retainer
        .step(Added {
            reports: 10_000,
            ..Added::default()
        })
        .unwrap();
    assert!(!retainer.is_behind());
    let taken = retainer.report_pages.unwrap() * retainer.page_size;
    assert!(taken <= 8 << 20);
    // One portion is 256 KB.
    assert!(taken > (8 << 20) - (300 << 10));
    assert_eq!(
        count(&connection, "reports"),
        10_000 - removed.reports.cast_signed()
    );
}

/// Fills a table from 1 to `count`: `row` may use `i`.
fn fill(connection: &Connection, table: &str, count: i64, row: &str) {
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?1)";
    let fill = format!("{numbers} INSERT INTO {table} SELECT {row} FROM n");
    connection.execute(&fill, [count]).unwrap();
}

const EVENT: &str = "NULL, 900000000000000000, 1, 'online', 'x', '10.0.0.7', '1', 0";

#[test]
fn agents_and_events_displace_no_reports() {
    let connection = open();
    let now = UnixNanos::now().as_nanos();
    fill(&connection, "events", 30_000, &format!("{EVENT}, 1"));
    let agent = "i, hex(zeroblob(60)) || i, '', '', 0, 9000000000000000000, 'offline', 0, 0, 0, 0, \
                 NULL, 1, 0, 1, 0, 0";
    fill(&connection, "agents", 5000, agent);
    fill(
        &connection,
        "reports",
        100,
        &format!("i, 1, '', 'x', 0, 0, {now}, NULL"),
    );
    let limits = Retention {
        size: 1 << 20,
        ..Retention::UNLIMITED
    };
    let mut retainer = Retainer::prepare(&connection, limits, Clock::System, None).unwrap();
    let removed = retainer.step(Added::default()).unwrap();
    assert!(retainer.bytes > limits.size);
    assert_eq!(removed, Removed::default());
    assert!(!retainer.is_behind());
}

#[test]
fn expiry_keeps_up_with_reports_that_are_longer_than_those_it_removes() {
    let connection = open();
    let now = UnixNanos::now().as_nanos();
    fill(
        &connection,
        "reports",
        50_000,
        &format!("i, 1, '', 'x', 0, 0, {now}, NULL"),
    );
    let limits = Retention {
        size: 1 << 20,
        ..Retention::UNLIMITED
    };
    let mut retainer = Retainer::prepare(&connection, limits, Clock::System, None).unwrap();
    while retainer.is_behind || retainer.report_pages.is_none() {
        retainer.step(Added::default()).unwrap();
    }
    let reports = |connection: &Connection| {
        let pages = "SELECT count(*) FROM dbstat WHERE name = 'reports'";
        connection
            .query_row(pages, [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    assert_eq!(retainer.report_pages, Some(reports(&connection)));
    for round in 0..20 {
        let before = pages_in_use(&connection).unwrap();
        let row = "NULL, 1, '', hex(zeroblob(4000)), 0, 0, 0, NULL";
        fill(
            &connection,
            "reports",
            50,
            &row.replace("0, NULL", &format!("{now}, NULL")),
        );
        retainer.next_check = Moment::now();
        let added = Added {
            reports: 50,
            report_pages: pages_in_use(&connection).unwrap() - before,
            ..Added::default()
        };
        let removed = retainer.step(added).unwrap();
        assert_eq!(removed.early, removed.reports);
        assert_eq!(retainer.report_pages, Some(reports(&connection)), "{round}");
        let bytes = reports(&connection) * retainer.page_size;
        assert!(bytes <= 1 << 20, "{round}: {bytes}");
    }
    // Of long reports no more than necessary is removed.
    assert!(reports(&connection) * retainer.page_size > 900 << 10);
}

#[test]
fn events_of_agents_that_are_not_established_have_a_bound_of_their_own() {
    let connection = open();
    fill(&connection, "events", 500, &format!("{EVENT}, 1"));
    fill(
        &connection,
        "events",
        MAX_OTHER_EVENTS + 3000,
        &format!("{EVENT}, 0"),
    );
    connection
        .execute(
            "INSERT INTO other_events SELECT seq FROM events WHERE NOT established",
            [],
        )
        .unwrap();
    let mut retainer =
        Retainer::prepare(&connection, Retention::UNLIMITED, Clock::System, None).unwrap();
    let mut removed = 0;
    while retainer.is_behind() {
        removed += retainer.step(Added::default()).unwrap().events;
    }
    assert_eq!(removed, 3000);
    let others = "events WHERE NOT established";
    assert_eq!(count(&connection, others), MAX_OTHER_EVENTS);
    assert_eq!(count(&connection, "other_events"), MAX_OTHER_EVENTS);
    assert_eq!(count(&connection, "events WHERE established"), 500);
    // Of established agents as well, however many others come between.
    retainer.events = MAX_EVENTS + 20;
    let removed = retainer.step(Added::default()).unwrap().events;
    assert_eq!(removed, 20);
    assert_eq!(count(&connection, "events WHERE established"), 480);
    let oldest = "SELECT min(seq) FROM events WHERE established";
    let oldest: i64 = connection.query_row(oldest, [], |row| row.get(0)).unwrap();
    assert_eq!(oldest, 21);
}

#[test]
fn old_events_are_removed_from_both_tables() {
    let connection = open();
    for established in ["0", "1"] {
        let event = EVENT.replace("900000000000000000", "1");
        fill(
            &connection,
            "events",
            10,
            &format!("{event}, {established}"),
        );
    }
    fill(&connection, "events", 2, &format!("{EVENT}, 0"));
    connection
        .execute(
            "INSERT INTO other_events SELECT seq FROM events WHERE NOT established",
            [],
        )
        .unwrap();
    let limits = Retention {
        age: 100 * YEAR,
        ..Retention::UNLIMITED
    };
    connection
        .execute(
            "UPDATE events SET at = -9000000000000000000 WHERE at = 1",
            [],
        )
        .unwrap();
    let mut retainer = Retainer::prepare(&connection, limits, Clock::System, None).unwrap();
    let removed = retainer.step(Added::default()).unwrap();
    assert_eq!(removed, Removed::default(), "age is not counted");
    assert_eq!(
        (
            count(&connection, "events"),
            count(&connection, "other_events")
        ),
        (2, 2)
    );
    assert_eq!((retainer.events, retainer.other_events), (0, 2));
}

#[test]
fn events_are_removed_by_age_in_their_order() {
    let day = 86_400_000_000_000;
    // What is left of events of these ages in days.
    let left = |ages: &[i64]| -> Vec<i64> {
        let connection = open();
        let now = UnixNanos::now().as_nanos();
        for age in ages {
            let event = EVENT.replace("900000000000000000", &(now - age * day).to_string());
            fill(&connection, "events", 1, &format!("{event}, 1"));
        }
        let limits = Retention {
            age: YEAR,
            ..Retention::UNLIMITED
        };
        let clock = Arc::new(ManualClock::new(Moment::from_nanos(1), UnixNanos::now()));
        let manual = Clock::Manual(Arc::clone(&clock));
        let mut retainer = Retainer::prepare(&connection, limits, manual, None).unwrap();
        for _ in 0..20 {
            retainer.step(Added::default()).unwrap();
            clock.advance(SLOW_INTERVAL);
        }
        let mut rows = connection
            .prepare("SELECT at FROM events ORDER BY seq")
            .unwrap();
        let rows = rows.query_map([], |row| row.get::<_, i64>(0)).unwrap();
        rows.map(|at| (now - at.unwrap()) / day).collect()
    };
    // The clock was ahead, and then set right or back.
    assert_eq!(left(&[-50, 400, 20]), [20]);
    assert_eq!(left(&[400, -50, 399, -60, 20]), [-60, 20]);
    assert_eq!(left(&[-50, 20]), [-50, 20]);
    // An agent's last event does not go before an earlier one.
    assert_eq!(left(&[20, 400, 19]), [20, 400, 19]);
    let mut many = vec![-50; 1000];
    many.push(400);
    assert_eq!(left(&many), [0; 0]);
}

/// What is left of reports of these times, as ages in days, with the last received now.
fn left(ages: &[i64]) -> Vec<i64> {
    let connection = open();
    let now = UnixNanos::now().as_nanos();
    for age in ages.iter().chain([&0]) {
        let time = now - age * 86_400_000_000_000;
        let insert = "INSERT INTO reports VALUES (NULL, 1, '', '', ?2, 0, ?1, NULL)";
        connection.execute(insert, (time, age)).unwrap();
    }
    let limits = Retention {
        age: YEAR,
        ..Retention::UNLIMITED
    };
    let mut retainer = Retainer::prepare(&connection, limits, Clock::System, None).unwrap();
    while retainer.step(Added::default()).unwrap().reports > 0 {}
    let mut rows = connection
        .prepare("SELECT rand FROM reports ORDER BY seq")
        .unwrap();
    let rows = rows.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn a_future_time_does_not_stop_expiry() {
    assert_eq!(left(&[-50, 400, 399, 20]), [20, 0]);
    assert_eq!(left(&[400, -50, 399, -60, 20]), [-60, 20, 0]);
    assert_eq!(left(&[-50, 20]), [-50, 20, 0]);
    // More of them than a portion.
    let mut many = vec![-50; 1000];
    many.push(400);
    assert_eq!(left(&many), [0]);
    // What arrived behind a younger report is not removed before it.
    assert_eq!(left(&[20, 400, 19]), [20, 400, 19, 0]);
}

#[test]
fn a_clock_that_jumped_ahead_removes_nothing_until_it_is_confirmed() {
    let connection = open();
    let start = UnixNanos::from_nanos(1_475_249_220_000_000_000);
    let manual = Arc::new(ManualClock::new(Moment::from_nanos(1), start));
    let insert = "INSERT INTO reports VALUES (NULL, 1, '', '', 0, 0, ?1, NULL)";
    connection.execute(insert, [start.as_nanos()]).unwrap();
    let limits = Retention {
        age: YEAR,
        ..Retention::UNLIMITED
    };
    let clock = Clock::Manual(Arc::clone(&manual));
    let mut retainer = Retainer::prepare(&connection, limits, clock, None).unwrap();
    let step = |retainer: &mut Retainer<'_>| retainer.step(Added::default()).unwrap().reports;
    assert_eq!(step(&mut retainer), 0);
    manual.set(manual.now(), start.after(2 * YEAR));
    manual.advance(SLOW_INTERVAL);
    assert_eq!(step(&mut retainer), 0);
    assert!(retainer.is_paused());
    retainer.confirm_clock();
    assert_eq!(step(&mut retainer), 1);
    assert!(!retainer.is_paused());
}

#[test]
fn silent_agents_are_removed_unless_they_are_online() {
    let connection = open();
    let old = UnixNanos::now().before(2 * YEAR).as_nanos();
    for (state, seen) in [("offline", old), ("online", old), ("offline", i64::MAX)] {
        connection
            .execute(
                "INSERT INTO agents VALUES
                    (NULL, ?1, '', '', 0, ?2, ?3, 0, 0, 0, 0, NULL, 1, 0, 1, 0, 0)",
                (format!("{state} {seen}"), seen, state),
            )
            .unwrap();
    }
    let limits = Retention {
        age: YEAR,
        size: u64::MAX,
        ..Retention::UNLIMITED
    };
    let mut retainer = Retainer::prepare(&connection, limits, Clock::System, None).unwrap();
    retainer.step(Added::default()).unwrap();
    assert_eq!(count(&connection, "agents"), 2);
    assert_eq!(count(&connection, "agents WHERE last_seen < 9e18"), 1);
}

#[test]
fn a_check_of_agents_is_bounded() {
    let connection = open();
    connection
        .execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
             INSERT INTO agents SELECT
                3 * i, i, '', '', 0, 0, 'offline', 0, 0, 0, 0, NULL, 1, 0, 1, 0, 0 FROM n",
            [],
        )
        .unwrap();
    // The newest time in the store says that the clock is right.
    connection
        .execute(
            "INSERT INTO reports VALUES (NULL, 1, '', '', 0, 0, ?1, NULL)",
            [UnixNanos::now().as_nanos()],
        )
        .unwrap();
    let limits = Retention {
        age: YEAR,
        size: u64::MAX,
        ..Retention::UNLIMITED
    };
    let mut retainer = Retainer::prepare(&connection, limits, Clock::System, None).unwrap();
    let mut left = Vec::new();
    for _ in 0..5 {
        let now = Moment::now();
        (retainer.next_check, retainer.next_slow_check) = (now, now);
        retainer.step(Added::default()).unwrap();
        left.push(count(&connection, "agents"));
        if left.len() == 3 {
            // It comes in behind those that were looked at: after the last.
            let add = "INSERT INTO agents VALUES
                (1, 'x', '', '', 0, 0, 'offline', 0, 0, 0, 0, NULL, 1, 0, 1, 0, 0)";
            connection.execute(add, []).unwrap();
        }
    }
    assert_eq!(left, [1500, 500, 0, 1, 0]);
}

mod surplus {
    use super::*;
    use crate::store::schema;

    /// (name, state, last seen, hours)
    fn open(agents: &[(&str, &str, i64, Option<u32>)]) -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        for (name, state, last_seen, hours) in agents {
            connection
                .execute(
                    "INSERT INTO agents (name, address, version, first_seen, last_seen, state,
                        changed_at, heartbeats, reports, interval, hours)
                     VALUES (?1, '10.0.0.7', '1', 0, ?2, ?3, 0, 2, 0, 0, ?4)",
                    (name, last_seen, state, hours),
                )
                .unwrap();
        }
        connection
    }

    fn names(connection: &Connection, query: &str) -> Vec<String> {
        let mut found = connection.prepare(query).unwrap();
        let rows = found.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    #[test]
    fn agents_online_beyond_the_limit_are_marked_offline_with_an_event() {
        let connection = open(&[
            ("steady", "online", 1, Some(3)),
            ("new", "online", 9, Some(1)),
            ("newer", "online", 10, Some(1)),
            ("gone", "offline", 11, Some(3)),
        ]);
        mark_surplus_offline(&connection, 3).unwrap();
        assert_eq!(names(&connection, "SELECT name FROM events"), [""; 0]);
        mark_surplus_offline(&connection, 2).unwrap();
        let events = "SELECT name || state || established || agent FROM events";
        assert_eq!(names(&connection, events), ["newoffline02"]);
        let online = "SELECT name FROM agents WHERE state = 'online'";
        assert_eq!(names(&connection, online), ["steady", "newer"]);
        assert_eq!(names(&connection, "SELECT 'x' FROM other_events"), ["x"]);
    }

    #[test]
    fn an_agent_beyond_the_limit_that_only_reported_is_unwatched_and_has_no_event() {
        let connection = open(&[
            ("beats", "online", 1, None),
            ("reports", "online", 2, None),
            ("often", "online", 3, None),
        ]);
        connection
            .execute_batch("UPDATE agents SET heartbeats = 0 WHERE name = 'reports'")
            .unwrap();
        mark_surplus_offline(&connection, 1).unwrap();
        assert_eq!(names(&connection, "SELECT name FROM events"), ["beats"]);
        let rows = "SELECT name || state || watched FROM agents";
        assert_eq!(
            names(&connection, rows),
            ["beatsoffline1", "reportsoffline0", "oftenonline1"]
        );
    }

    #[test]
    fn beyond_the_limit_agents_that_are_silent_longest_and_not_established_are_removed() {
        let connection = open(&[
            ("steady", "offline", 1, Some(3)),
            ("old", "offline", 2, Some(2)),
            ("older", "offline", 1, None),
            ("new", "offline", 3, Some(1)),
            ("online", "online", 0, Some(1)),
        ]);
        let mut surplus = SurplusAgents::new(&connection, UnixNanos::from_nanos(3)).unwrap();
        assert_eq!(surplus.step(&connection, 9).unwrap(), Some(2));
        assert_eq!(surplus.step(&connection, 9).unwrap(), None);
        let left = names(&connection, "SELECT name FROM agents");
        assert_eq!(left, ["steady", "new", "online"]);
    }
}
