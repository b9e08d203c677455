//! A journal that is longer than a step: nothing is left out or shown twice.

use hawk::store::{AgentId, Cursor, Reader, ReportRow, schema};
use hawk::time::UnixNanos;
use rusqlite::Connection;

use crate::place::*;

/// More than two steps.
const ROWS: i64 = 25_000;

/// Every 1,000th is of agent 2, all others of agent 1.
fn filled(place: &Place) -> Reader {
    let mut store = Connection::open(place.store()).unwrap();
    schema::migrate(&mut store).unwrap();
    store
        .execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO reports SELECT i * 10, 1 + (i % 1000 = 0), 'peer', 'text', i, i FROM n",
            [ROWS],
        )
        .unwrap();
    Reader::open(place.store()).unwrap()
}

/// The `rand` of all from `cursor` on, and how many steps that took.
fn collect(reader: &Reader, mut cursor: Cursor, of: Option<&[AgentId]>) -> (Vec<i64>, usize) {
    let mut found = Vec::new();
    for steps in 1.. {
        let step = reader.step::<ReportRow>(cursor, of).unwrap();
        found.extend(step.rows.iter().map(|row| row.rand));
        assert!(step.is_last || step.next > cursor, "it gets on");
        cursor = step.next;
        if step.is_last {
            return (found, steps);
        }
    }
    unreachable!("steps end");
}

#[test]
fn all_are_shown_once_and_in_order() {
    let place = Place::new();
    let reader = filled(&place);
    let (all, steps) = collect(&reader, Cursor::START, None);
    assert_eq!(all, (1..=ROWS).collect::<Vec<_>>());
    assert_eq!(steps, 3);
    let (few, _) = collect(&reader, Cursor::START, Some(&[AgentId(2)]));
    assert_eq!(few, (1..=25).map(|i| i * 1000).collect::<Vec<_>>());
}

#[test]
fn the_last_are_found_however_far_back() {
    let place = Place::new();
    let reader = filled(&place);
    let last = |count, of, least| {
        let start = reader.last::<ReportRow>(count, of, least).unwrap();
        collect(&reader, start, of).0
    };
    for count in [1, 9_999, 10_000, 10_001, 24_999, 25_000, 30_000] {
        let expected: Vec<_> = ((ROWS - count).max(0) + 1..=ROWS).collect();
        let found = last(u64::try_from(count).unwrap(), None, Cursor::START);
        assert_eq!(found, expected, "{count}");
    }
    assert_eq!(last(0, None, Cursor::START), [0; 0]);
    let of: Option<&[AgentId]> = Some(&[AgentId(2)]);
    let found = last(12, of, Cursor::START);
    assert_eq!(found, (14..=25).map(|i| i * 1000).collect::<Vec<_>>());
    let since = reader.since::<ReportRow>(UnixNanos::from_nanos(200_000));
    assert_eq!(
        last(12, of, since.unwrap()),
        (20..=25).map(|i| i * 1000).collect::<Vec<_>>()
    );
    let late = reader.since::<ReportRow>(UnixNanos::from_nanos(ROWS * 10 + 1));
    assert_eq!(collect(&reader, late.unwrap(), None).0, [0; 0]);
}

#[test]
fn a_step_of_long_reports_is_a_short_one() {
    let place = Place::new();
    let reader = filled(&place);
    let store = place.open();
    store
        .execute_batch("UPDATE reports SET content = printf('%.*c', 60000, 'x') WHERE rand <= 100")
        .unwrap();
    let step = reader.step::<ReportRow>(Cursor::START, None).unwrap();
    assert_eq!(step.rows.len(), 18, "those that make a mebibyte");
    assert!(!step.is_last);
    let (all, _) = collect(&reader, Cursor::START, None);
    assert_eq!(all, (1..=ROWS).collect::<Vec<_>>());
}
