//! A journal of several pages: each row is returned once.

use hawk::store::{AgentFilter, AgentId, Cursor, Reader, ReportRow, Selection, schema};
use hawk_time::UnixNanos;
use rusqlite::Connection;

use hawk_testkit::store_file::*;

/// More than two pages.
const ROWS: i64 = 25_000;

/// Reports of a row in `times`.
const BLOCK: i64 = 4096;

/// Returns a store in which every 1,000th report is of agent 2, all others of agent 1. The time of
/// each is ten times its number.
fn filled(store_file: &StoreFile) -> Reader {
    let mut store = Connection::open(store_file.store()).unwrap();
    schema::migrate(&mut store).unwrap();
    store
        .execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO reports
             SELECT i, 1 + (i % 1000 = 0), 'peer', 'text', i, i, i * 10, NULL FROM n",
            [ROWS],
        )
        .unwrap();
    summarise(&store);
    Reader::open(store_file.store()).unwrap()
}

/// Writes the rows of `times` as the server does.
fn summarise(store: &Connection) {
    store
        .execute(
            "INSERT OR REPLACE INTO times
             SELECT min(seq), max(seq), min(received_at), max(received_at) FROM reports
             GROUP BY (seq - 1) / ?1 HAVING count(*) = ?1",
            [BLOCK],
        )
        .unwrap();
}

fn of(reader: &Reader, agent: Option<AgentFilter>) -> Selection {
    reader.select::<ReportRow>(agent, None, None).unwrap()
}

fn between(reader: &Reader, since: i64, until: i64) -> Selection {
    let times = [since, until].map(|time| Some(UnixNanos::from_nanos(time)));
    reader
        .select::<ReportRow>(None, times[0], times[1])
        .unwrap()
}

/// Returns the `rand` of all reports from `cursor` on, and the number of pages.
fn collect(reader: &Reader, mut cursor: Cursor, selection: &Selection) -> (Vec<i64>, usize) {
    let mut found = Vec::new();
    for pages in 1.. {
        let page = reader.page::<ReportRow>(cursor, selection).unwrap();
        found.extend(page.rows.iter().map(|row| row.rand));
        assert!(page.is_last || page.next > cursor, "the cursor advances");
        cursor = page.next;
        if page.is_last {
            return (found, pages);
        }
    }
    unreachable!("the journal ends");
}

#[test]
fn all_rows_are_returned_once_and_in_order() {
    let store_file = StoreFile::new();
    let reader = filled(&store_file);
    let (all, steps) = collect(&reader, Cursor::START, &of(&reader, None));
    assert_eq!(all, (1..=ROWS).collect::<Vec<_>>());
    assert_eq!(steps, 3);
    let (few, _) = collect(
        &reader,
        Cursor::START,
        &of(&reader, Some(AgentFilter::id(AgentId(2)))),
    );
    assert_eq!(few, (1..=25).map(|i| i * 1000).collect::<Vec<_>>());
}

#[test]
fn the_last_rows_are_found_at_any_distance() {
    let store_file = StoreFile::new();
    let reader = filled(&store_file);
    let last = |count, selection: &Selection| {
        let start = reader.last::<ReportRow>(count, selection).unwrap();
        collect(&reader, start, selection).0
    };
    let all = of(&reader, None);
    for count in [1, 9_999, 10_000, 10_001, 24_999, 25_000, 30_000] {
        let expected: Vec<_> = ((ROWS - count).max(0) + 1..=ROWS).collect();
        let found = last(u64::try_from(count).unwrap(), &all);
        assert_eq!(found, expected, "{count}");
    }
    assert_eq!(last(0, &all), [0; 0]);
    let second = AgentFilter::id(AgentId(2));
    let found = last(12, &of(&reader, Some(second.clone())));
    assert_eq!(found, (14..=25).map(|i| i * 1000).collect::<Vec<_>>());
    let since = Some(UnixNanos::from_nanos(200_000));
    let since = reader.select::<ReportRow>(Some(second), since, None);
    assert_eq!(
        last(12, &since.unwrap()),
        (20..=25).map(|i| i * 1000).collect::<Vec<_>>()
    );
    let early = between(&reader, 0, 30_001);
    assert_eq!(last(2, &early), [2999, 3000]);
    let late = between(&reader, ROWS * 10 + 1, i64::MAX);
    assert_eq!(collect(&reader, Cursor::START, &late).0, [0; 0]);
}

#[test]
fn times_are_found_anywhere_in_the_journal() {
    let store_file = StoreFile::new();
    let reader = filled(&store_file);
    // In the second block one clock was ahead for a moment, and another was behind.
    let store = store_file.open();
    store
        .execute_batch(
            "UPDATE reports SET received_at = 9000000000 WHERE seq BETWEEN 5000 AND 5004;
             UPDATE reports SET received_at = 5 WHERE seq = 20000;",
        )
        .unwrap();
    summarise(&store);
    let found = |since, until| {
        let (rands, steps) = collect(&reader, Cursor::START, &between(&reader, since, until));
        assert!(steps <= 2, "{steps} steps");
        rands
    };
    let ahead: Vec<i64> = (5000..=5004).collect();
    assert_eq!(found(240_000, 240_020), [24_000, 24_001]);
    let mut since = ahead.clone();
    since.extend(24_999..=25_000);
    assert_eq!(found(249_990, i64::MAX), since);
    assert_eq!(found(1_000_000, i64::MAX), ahead);
    assert_eq!(found(0, 30), [1, 2, 20_000]);
    assert_eq!(found(40_960, 40_980), [4096, 4097], "where two blocks meet");
    assert_eq!(found(249_990, 249_991), [24_999], "behind the last block");
}

#[test]
fn a_report_of_version_1_has_its_time_in_its_key() {
    let store_file = StoreFile::new();
    let reader = filled(&store_file);
    let store = store_file.open();
    store
        .execute_batch(
            "UPDATE reports SET received_at = NULL WHERE seq <= 10000;
             UPDATE store SET first_timed = 10001;
             DELETE FROM times WHERE first < 8193;
             UPDATE times SET first = 10001 WHERE first = 8193;",
        )
        .unwrap();
    let found = |since, until| collect(&reader, Cursor::START, &between(&reader, since, until)).0;
    assert_eq!(found(9_998, 100_011), [9_998, 9_999, 10_000, 10_001]);
    assert_eq!(found(7, 9), [7, 8]);
    assert_eq!(found(240_000, 240_001), [24_000]);
}

#[test]
fn a_page_of_long_reports_has_few_rows() {
    let store_file = StoreFile::new();
    let reader = filled(&store_file);
    let store = store_file.open();
    store
        .execute_batch("UPDATE reports SET content = printf('%.*c', 60000, 'x') WHERE rand <= 100")
        .unwrap();
    let all = of(&reader, None);
    let page = reader.page::<ReportRow>(Cursor::START, &all).unwrap();
    assert_eq!(page.rows.len(), 18, "those that make a mebibyte");
    assert!(!page.is_last);
    let (all, _) = collect(&reader, Cursor::START, &all);
    assert_eq!(all, (1..=ROWS).collect::<Vec<_>>());
}
