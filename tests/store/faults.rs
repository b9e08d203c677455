//! Failing disks, and files that other programs lock, move or damage.

use rusqlite::Connection;
use rustix::process::Signal;

use hawk_testkit::store_file::*;
use hawk_testkit::*;

/// Under a fault, the server answers busy at once, stores no part of the batch, logs `said`, and
/// recovers by itself.
fn survives(fault: &str, said: &str) {
    let store_file = StoreFile::new();
    let server = store_file.serve_faulty(&[]);
    let mut agent = server.connect();
    agent.exchange(&report_of("web-01", 1), REPORT);
    store_file.fault(fault);
    // In one read, so that all of it is in one batch.
    let suspended = server.suspend();
    agent.send(&[report_of("web-01", 2), heartbeat(), report_of("web-01", 3)].concat());
    drop(suspended);
    for line in [BUSY, HEARTBEAT, BUSY] {
        agent.expect_line(line);
    }
    // The store is down now: replies do not wait for it.
    (4..50).for_each(|rand| expect_busy(&mut agent, &report_of("web-01", rand)));
    let line = |line: &str| line.contains("store unavailable") && line.contains(said);
    server.log().wait_for(0, line);
    assert_eq!(
        server.count_logged("store unavailable"),
        1,
        "one line, and not one each"
    );
    let stats = server.stats();
    assert_eq!((stats.get("busy"), stats.store("discarded")), (48, 2));

    store_file.fault("");
    server
        .log()
        .wait_for(0, |line| line.contains("store available again"));
    insist(&mut agent, &report_of("web-01", 2));
    agent.exchange(&report_of("web-01", 3), REPORT);
    assert_eq!(store_file.contents(), ["web-01 1", "web-01 2", "web-01 3"]);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
    assert_eq!(store_file.column::<i64>("SELECT reports FROM agents"), [3]);
    // Its heartbeats are counted too.
    assert_eq!(
        store_file.column::<i64>("SELECT heartbeats FROM agents"),
        [1]
    );
    store_file.expect_sound();
}

#[test]
fn repeated_faults_do_not_flood_the_log() {
    const TIMES: usize = 12;
    let start = std::time::Instant::now();
    let store_file = StoreFile::new();
    let server = store_file.serve_faulty(&[]);
    let mut agent = server.connect();
    for _ in 0..TIMES {
        store_file.fault("sync=5");
        expect_busy(&mut agent, &report_of("web-01", 1));
        store_file.fault("");
        insist(&mut agent, &report_of("web-01", 1));
    }
    assert_eq!(server.stats().store("failed"), TIMES as u64);
    // A few in each 10 s.
    let intervals = usize::try_from(start.elapsed().as_secs() / 10).unwrap() + 1;
    for text in ["store unavailable", "store available again"] {
        assert!(server.count_logged(text) <= 5 * intervals, "{text}");
    }
}

#[test]
fn a_full_disk() {
    survives("write=28", "free some space");
}

#[test]
fn a_disk_that_fails_to_write() {
    survives("write=5", "disk I/O error");
}

#[test]
fn a_disk_that_fails_to_sync() {
    survives("sync=5", "disk I/O error");
}

#[test]
fn a_disk_that_writes_half() {
    survives("torn", "disk I/O error");
}

#[test]
fn a_torn_write_before_a_kill_loses_no_acknowledged_report() {
    let store_file = StoreFile::new();
    let server = store_file.serve_faulty(&[]);
    let mut agent = server.connect();
    (0..10).for_each(|rand| agent.exchange(&report_of("web-01", rand), REPORT));
    store_file.fault("torn");
    expect_busy(&mut agent, &report_of("web-01", 10));
    server.signal(Signal::KILL);
    server.wait_exit();
    let server = store_file.serve(&[]);
    server.connect().exchange(&report_of("web-01", 11), REPORT);
    let rands: Vec<i64> = store_file.column("SELECT rand FROM reports ORDER BY seq");
    assert_eq!(rands, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11]);
    store_file.expect_sound();
}

#[test]
fn a_file_that_another_program_has_locked() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    agent.exchange(&report_of("web-01", 1), REPORT);
    let other = store_file.open();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    expect_busy(&mut agent, &report_of("web-01", 2));
    server
        .log()
        .wait_for(0, |line| line.contains("another program holds a lock"));
    agent.exchange(&heartbeat(), HEARTBEAT);
    other.execute_batch("ROLLBACK").unwrap();
    server
        .log()
        .wait_for(0, |line| line.contains("store available again"));
    insist(&mut agent, &report_of("web-01", 2));
    assert_eq!(store_file.contents(), ["web-01 1", "web-01 2"]);
}

#[test]
fn other_programs_may_read_while_the_server_writes() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    agent.exchange(&report_of("web-01", 1), REPORT);
    let reader = store_file.open();
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(column::<i64>(&reader, "SELECT rand FROM reports"), [1]);
    agent.exchange(&report_of("web-01", 2), REPORT);
    assert_eq!(
        column::<i64>(&reader, "SELECT rand FROM reports"),
        [1],
        "its own view"
    );
    reader.execute_batch("ROLLBACK").unwrap();
    assert_eq!(column::<i64>(&reader, "SELECT rand FROM reports"), [1, 2]);
}

#[test]
fn a_file_that_was_moved_is_not_written() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    agent.exchange(&report_of("web-01", 1), REPORT);
    let away = store_file.folder().join("away");
    std::fs::create_dir(&away).unwrap();
    for name in ["hawk.db", "hawk.db-wal", "hawk.db-shm"] {
        std::fs::rename(store_file.folder().join(name), away.join(name)).unwrap();
    }
    expect_busy(&mut agent, &report_of("web-01", 2));
    server
        .log()
        .wait_for(0, |line| line.contains("moved or removed"));
    server
        .log()
        .wait_for(0, |line| line.contains("store available again"));
    insist(&mut agent, &report_of("web-01", 2));
    assert_eq!(store_file.contents(), ["web-01 2"]);
    // The new file has the agents too.
    assert_eq!(
        store_file.column::<String>("SELECT name FROM agents"),
        ["web-01"]
    );
}

#[test]
fn a_file_that_is_damaged_while_it_is_in_use() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    agent.exchange(&report_of("web-01", 1), REPORT);
    server.signal(Signal::TERM);
    server.wait_exit();
    damage(&store_file);
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    expect_busy(&mut agent, &report_of("web-01", 2));
    server
        .log()
        .wait_for(0, |line| line.contains("it is damaged"));
    agent.exchange(&heartbeat(), HEARTBEAT);
}

/// Overwrites the reports' first page, which the start does not read.
fn damage(store_file: &StoreFile) {
    let (page, size): (u64, u64) = {
        let connection = Connection::open(store_file.store()).unwrap();
        let number = |sql: &str| connection.query_row(sql, [], |row| row.get(0)).unwrap();
        (
            number("SELECT rootpage FROM sqlite_schema WHERE name = 'events'"),
            number("PRAGMA page_size"),
        )
    };
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(store_file.store())
        .unwrap();
    let garbage = vec![0xAA; usize::try_from(size).unwrap()];
    std::os::unix::fs::FileExt::write_all_at(&file, &garbage, (page - 1) * size).unwrap();
}
