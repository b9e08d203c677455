//! A store that is damaged, or was made to do harm: readers and a server that starts on it
//! refuse it or read it, and end.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hawk::store::{AgentQuery, Cursor, EventRow, Journal, Reader, ReportRow, Store};
use hawk_time::UnixNanos;
use rusqlite::Connection;

use super::pieces::Bytes;

/// How long all of it may take: some milliseconds are usual. SQLite waits for at most 5 s
/// for a lock, and no process holds one here.
const PATIENCE: Duration = Duration::from_secs(4);

/// No file of an input's size has as many rows, unless reading it goes round in circles.
const MOST_STEPS: usize = 10_000;

/// Steps of SQLite's machine that an input's statements may take, in thousands.
const MOST_WORK: u32 = 200;

/// What the first byte makes of the rest:
///
/// | byte modulo 4 | the store |
/// |---|---|
/// | 0 | just these bytes |
/// | 1 | a valid file with changes: three bytes of place, one of length, the bytes |
/// | 2 | a valid file, and a log of just these bytes |
/// | 3 | a valid file on which these statements were run, with a writable schema |
pub fn store(input: &[u8]) {
    let (kind, bytes) = input.split_first().unwrap_or((&0, &[]));
    let folder = folder();
    let path = folder.path().join("hawk.db");
    let valid = VALID.with_borrow(Vec::clone);
    match kind % 4 {
        0 => fs::write(&path, bytes).unwrap(),
        1 => fs::write(&path, changed(valid, bytes)).unwrap(),
        2 => {
            fs::write(&path, valid).unwrap();
            fs::write(folder.path().join("hawk.db-wal"), bytes).unwrap();
        }
        _ => {
            fs::write(&path, valid).unwrap();
            run(&path, bytes);
        }
    }
    let start = Instant::now();
    read(path.clone());
    if let Ok(mut store) = Store::open(path.clone()) {
        let _last = store.agents(1000, |_| {});
    }
    // What the server made of it can be read as well.
    read(path);
    let took = start.elapsed();
    assert!(took < PATIENCE, "it took {took:?}");
}

/// All that the commands which read a store ask of it.
fn read(path: PathBuf) {
    let Ok(reader) = Reader::open(path) else {
        return;
    };
    let _heard = reader.last_seen();
    let agents = reader.agents().unwrap_or_default();
    for agent in [
        AgentQuery::Name("web-01".to_owned()),
        AgentQuery::Address(std::net::Ipv4Addr::LOCALHOST.into()),
    ] {
        let _found = reader.find::<ReportRow>(&agent);
        let _found = reader.find::<EventRow>(&agent);
    }
    for time in [None, Some(UnixNanos::from_nanos(1_475_249_220_000_000_000))] {
        all::<ReportRow>(&reader, time);
        all::<EventRow>(&reader, time);
    }
    assert!(agents.len() < MOST_STEPS);
}

fn all<J: Journal>(reader: &Reader, since: Option<UnixNanos>) {
    let Ok(selection) = reader.select::<J>(None, since, None) else {
        return;
    };
    let _last = reader.last::<J>(3, &selection);
    let mut after = Cursor::START;
    for _ in 0..MOST_STEPS {
        let Ok(step) = reader.page::<J>(after, &selection) else {
            return;
        };
        if step.is_last {
            return;
        }
        assert!(step.next > after, "a step does not move on");
        after = step.next;
    }
    panic!("there is no end of it");
}

/// The bytes of a file with changes.
fn changed(mut file: Vec<u8>, input: &[u8]) -> Vec<u8> {
    let mut input = Bytes(input);
    while !input.0.is_empty() {
        let place = usize::from(input.byte()) << 16 | input.number();
        let text = input.text();
        let start = place % (file.len() + 1);
        let end = file.len().min(start + text.len());
        file[start..end].copy_from_slice(&text[..end - start]);
        if text.is_empty() {
            file.truncate(start);
        }
    }
    file
}

/// Runs the statements in `input`, as far as SQLite accepts them, within bounds.
fn run(path: &Path, input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    // Statements with file names would reach other files.
    let upper = text.to_ascii_uppercase();
    if [
        "ATTACH",
        "VACUUM",
        "LOAD_EXTENSION",
        "_DIRECTORY",
        "JOURNAL_MODE",
    ]
    .iter()
    .any(|word| upper.contains(word))
    {
        return;
    }
    let mut connection = Connection::open(path).unwrap();
    let mut left = MOST_WORK;
    let stop = move || {
        left = left.saturating_sub(1);
        left == 0
    };
    connection.progress_handler(1000, Some(stop)).unwrap();
    let writable = connection.pragma_update(None, "writable_schema", true);
    writable.unwrap();
    // A transaction that stays open is rolled back.
    let _outcome = connection.execute_batch(text);
}

thread_local! {
    /// A small store as hawk writes it.
    static VALID: RefCell<Vec<u8>> = RefCell::new(valid());
}

fn valid() -> Vec<u8> {
    let folder = folder();
    let path = folder.path().join("hawk.db");
    let store = Store::open(path.clone()).unwrap();
    drop(store);
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(ROWS).unwrap();
    drop(connection);
    fs::read(path).unwrap()
}

/// Some rows of each table, in the columns that every version has.
const ROWS: &str = "
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5)
    INSERT INTO agents (name, address, version, first_seen, last_seen, state, changed_at,
                        heartbeats, reports, interval)
    SELECT iif(i % 2, 'web-0' || i, NULL), '10.0.0.' || i, '1.0', i, 1000 + i,
           iif(i % 3, 'online', 'offline'), i, i, i, 1000000000 FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
    INSERT INTO reports (agent, peer, content, rand, timestamp)
    SELECT 1 + i % 5, '10.0.0.1:1', hex(zeroblob(i % 50)), i, i FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)
    INSERT INTO events (at, agent, state)
    SELECT i, 1 + i % 5, iif(i % 2, 'online', 'offline') FROM n;
";

/// A folder in memory, where there is one.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}
