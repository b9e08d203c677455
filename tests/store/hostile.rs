//! Hostile files are refused, or read in bounded time.

use std::fs;
use std::time::{Duration, Instant};

use hawk::store::schema;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use hawk_testkit::store_file::*;
use hawk_testkit::*;

/// Returns a store after running `sql`, which may edit the schema.
fn crafted(sql: &str) -> StoreFile {
    let store_file = StoreFile::new();
    let mut store = Connection::open(store_file.store()).unwrap();
    schema::migrate(&mut store).unwrap();
    store
        .set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)
        .unwrap();
    store
        .execute_batch(&format!("PRAGMA writable_schema = ON; {sql}"))
        .unwrap();
    store_file
}

/// Checks that every command that uses the store ends soon, with this exit code if given.
#[track_caller]
fn ends(store_file: &StoreFile, code: Option<i32>, words: &str) {
    let start = Instant::now();
    for command in ["serve", "agents", "events", "reports"] {
        let exit = match command {
            "serve" if code.is_some() => store_file.launch(&[]).run(),
            "serve" => continue,
            command => store_file.read(&[command]).run(),
        };
        assert!(exit.code.is_some(), "{command}: {exit:?}");
        assert!(code.is_none() || exit.code == code, "{command}: {exit:?}");
        let said = exit.stderr.iter().any(|line| line.contains(words));
        assert!(said || words.is_empty(), "{command}: {exit:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_schema_with_code_in_it_is_refused_by_name() {
    for (sql, words) in [
        (
            "CREATE TRIGGER evil AFTER INSERT ON reports BEGIN DELETE FROM reports; END",
            "the trigger \"evil\"",
        ),
        (
            "DROP TABLE reports; CREATE VIEW reports AS WITH RECURSIVE n(i) AS \
             (SELECT 1 UNION ALL SELECT i FROM n) SELECT i AS seq FROM n",
            "the view \"reports\"",
        ),
        (
            "CREATE INDEX slow ON reports (abs(length(hex(zeroblob(1000000)))))",
            "the index \"slow\"",
        ),
        (
            "DROP TABLE events; CREATE VIRTUAL TABLE events USING fts5 (seq, at)",
            "virtual table \"events\"",
        ),
        (
            "UPDATE sqlite_schema SET sql = replace(sql, 'rand  ', 'rand2 ') WHERE name = 'reports'",
            "another table \"reports\"",
        ),
    ] {
        ends(&crafted(sql), Some(1), words);
    }
}

#[test]
fn foreign_rows_are_read_in_bounded_time() {
    let values = "(9223372036854775807, -1, '', x'00ff', -9223372036854775808, \
                   9223372036854775807, -9223372036854775808, 9223372036854775807)";
    let store_file = crafted(
        &format!(
            "INSERT INTO reports VALUES {values};
         INSERT INTO agents VALUES (-9223372036854775808, NULL, 'no address', '', \
            -9223372036854775808, 9223372036854775807, 'online', 9223372036854775807, \
            -1, -1, -9223372036854775808, -1, 99, -1, 7, -1, -1);
         INSERT INTO events VALUES (9223372036854775807, -9223372036854775808, 1, 'online', \
            NULL, NULL, NULL, -1, 7)"
        )
        .replace("x'00ff'", "char(0, 27, 8238)"),
    );
    ends(&store_file, None, "");
    // The greatest sequence number is in use: the server refuses reports and keeps running.
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    agent.send(&report("x"));
    let line = agent.line();
    assert!([REPORT, BUSY].contains(&line.as_str()), "{line}");
    agent.exchange(&heartbeat(), HEARTBEAT);
}

/// Overwrites every page after the first with the bytes that `fill` returns for its number.
fn overwrite(store_file: &StoreFile, fill: impl Fn(usize) -> Option<u8>) {
    let mut bytes = fs::read(store_file.store()).unwrap();
    let size = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    for (number, page) in bytes.chunks_mut(size).enumerate().skip(1) {
        if let Some(byte) = fill(number) {
            page.fill(byte);
        }
    }
    fs::write(store_file.store(), bytes).unwrap();
}

#[test]
fn damaged_pages_crash_no_process() {
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
        INSERT INTO reports SELECT i, 1, '', hex(zeroblob(20)), 0, 0, NULL, NULL FROM n;
        INSERT INTO events (at, agent, state) VALUES (1, 1, 'online')";
    for byte in [0x00, 0x05, 0x0d, 0xff] {
        let store_file = crafted(rows);
        overwrite(&store_file, |number| (number % 2 == 1).then_some(byte));
        ends(&store_file, None, "");
    }
}

#[test]
fn a_cycle_of_pages_is_read_in_bounded_time() {
    // Many leaves, and many references from the root to each.
    let store_file = crafted(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO reports SELECT i, 1, '', hex(zeroblob(40)), 0, 0, NULL, NULL FROM n",
    );
    let root: usize = {
        let store = Connection::open(store_file.store()).unwrap();
        let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'reports'";
        store.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let mut bytes = fs::read(store_file.store()).unwrap();
    let size = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    let page = &mut bytes[(root - 1) * size..root * size];
    assert_eq!(page[0], 5, "an interior page");
    let cells = usize::from(u16::from_be_bytes([page[3], page[4]]));
    let cell = |page: &[u8], index: usize| {
        let at = 12 + 2 * index;
        usize::from(u16::from_be_bytes([page[at], page[at + 1]]))
    };
    let first = cell(page, 0);
    let child: [u8; 4] = page[first..first + 4].try_into().unwrap();
    for index in 0..cells {
        let at = cell(page, index);
        page[at..at + 4].copy_from_slice(&child);
    }
    page[8..12].copy_from_slice(&child);
    fs::write(store_file.store(), bytes).unwrap();
    let exit = store_file.read(&["reports"]).run();
    assert_eq!(exit.code, Some(1), "{:?}", exit.stderr);
    assert!(
        exit.stderr.last().unwrap().contains("damaged"),
        "{:?}",
        exit.stderr
    );
    ends(&store_file, None, "");
}
