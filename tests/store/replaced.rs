//! Files that are renamed, removed, replaced, truncated or held while a server has them open.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use hawk_testkit::store_file::*;
use hawk_testkit::*;

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Returns the contents of all reports in a file.
fn contents_of(path: &Path) -> Vec<String> {
    column(&open(path), "SELECT content FROM reports ORDER BY seq")
}

/// Starts a server on `place` and sends it `count` reports.
fn begun(store_file: &StoreFile, count: i64) -> (Server, Agent) {
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    (0..count).for_each(|rand| agent.exchange(&report_of("web-01", rand), REPORT));
    (server, agent)
}

fn reports(range: std::ops::Range<i64>) -> Vec<String> {
    range.map(|rand| format!("web-01 {rand}")).collect()
}

fn stop(server: Server) -> Exit {
    server.signal(Signal::TERM);
    let exit = server.wait_exit();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    exit
}

#[test]
fn a_file_renamed_alone_has_every_report_that_was_acknowledged() {
    let store_file = StoreFile::new();
    let (server, mut agent) = begun(&store_file, 200);
    let away = store_file.folder().join("away.db");
    fs::rename(store_file.store(), &away).unwrap();
    insist(&mut agent, &report_of("web-01", 200));
    stop(server);
    assert_eq!(store_file.contents(), reports(200..201));
    // A report that was answered busy may be in both.
    assert_eq!(contents_of(&away)[..200], reports(0..200));
    assert!(!beside(&away, "-wal").exists());
    store_file.expect_sound();
}

#[test]
fn a_rename_is_noticed_without_a_report_and_at_a_stop() {
    let store_file = StoreFile::new();
    let (server, _agent) = begun(&store_file, 3);
    let away = store_file.folder().join("away.db");
    fs::rename(store_file.store(), &away).unwrap();
    server
        .log()
        .wait_for(0, |line| line.contains("moved or removed"));
    server
        .log()
        .wait_for(0, |line| line.contains("available again"));
    assert_eq!(contents_of(&away), reports(0..3));
    let again = store_file.folder().join("again.db");
    fs::rename(store_file.store(), &again).unwrap();
    stop(server);
    assert_eq!(contents_of(&again), [""; 0]);
    assert!(!beside(&store_file.store(), "-wal").exists());
}

#[test]
fn a_folder_that_is_renamed_has_every_report_and_the_lock_is_taken_anew() {
    let store_file = StoreFile::new();
    let folder = store_file.folder().join("a");
    fs::create_dir(&folder).unwrap();
    let store = folder.join("hawk.db");
    let server = Server::start(&["--store", store.to_str().unwrap()]);
    let mut agent = server.connect();
    agent.exchange(&report_of("web-01", 0), REPORT);
    let away = store_file.folder().join("b");
    fs::rename(&folder, &away).unwrap();
    expect_busy(&mut agent, &report_of("web-01", 1));
    fs::create_dir(&folder).unwrap();
    insist(&mut agent, &report_of("web-01", 2));
    assert_eq!(contents_of(&away.join("hawk.db"))[0], "web-01 0");
    assert_eq!(contents_of(&store), reports(2..3));
    let second = Launch::serve(&["--store", store.to_str().unwrap()]).run();
    assert_eq!(second.code, Some(1), "{second:?}");
    // No server writes the other file.
    let other = Server::start(&["--store", away.join("hawk.db").to_str().unwrap()]);
    stop(other);
    stop(server);
}

#[test]
fn a_backup_can_be_put_in_place_under_a_running_server() {
    for removes_log in [false, true] {
        let store_file = StoreFile::new();
        let (server, mut agent) = begun(&store_file, 10);
        let backup = store_file.folder().join("backup.db");
        let into = format!("VACUUM INTO '{}'", backup.display());
        store_file.open().execute_batch(&into).unwrap();
        for name in ["pay-1", "pay-2"] {
            agent.exchange(&report_of(name, 1), REPORT);
        }
        if removes_log {
            for suffix in ["-wal", "-shm"] {
                fs::remove_file(beside(&store_file.store(), suffix)).unwrap();
            }
        }
        fs::rename(&backup, store_file.store()).unwrap();
        for (rand, name) in (20..).zip(["pay-2", "pay-1", "web-01"]) {
            insist(&mut agent, &report_of(name, rand));
        }
        stop(server);
        let rows: Vec<String> = store_file.column(
            "SELECT name || ': ' || content FROM reports JOIN agents ON agents.id = agent \
             WHERE rand >= 20 ORDER BY seq",
        );
        let expected = ["pay-2: pay-2 20", "pay-1: pay-1 21", "web-01: web-01 22"];
        assert_eq!(rows, expected);
        assert_eq!(store_file.contents()[..10], reports(0..10));
        store_file.expect_sound();
    }
}

#[test]
fn a_log_that_is_removed_costs_no_report() {
    let store_file = StoreFile::new();
    let (server, mut agent) = begun(&store_file, 10);
    fs::remove_file(beside(&store_file.store(), "-wal")).unwrap();
    insist(&mut agent, &report_of("web-01", 10));
    server.signal(Signal::KILL);
    server.wait_exit();
    let contents = store_file.contents();
    assert_eq!(contents[..10], reports(0..10));
    assert_eq!(contents.last().unwrap(), "web-01 10");
    store_file.expect_sound();
}

#[test]
fn nothing_is_acknowledged_into_a_log_that_was_truncated() {
    let store_file = StoreFile::new();
    let (server, mut agent) = begun(&store_file, 50);
    let log = OpenOptions::new()
        .write(true)
        .open(beside(&store_file.store(), "-wal"));
    let log = log.unwrap();
    for length in [log.metadata().unwrap().len() / 2, 0] {
        log.set_len(length).unwrap();
        expect_busy(&mut agent, &report_of("web-01", 100));
        server.log().wait_for(0, |line| {
            line.contains("log (-wal) was overwritten or truncated")
        });
        for rand in 200..220 {
            insist(&mut agent, &report_of("web-01", rand));
        }
    }
    server.signal(Signal::KILL);
    server.wait_exit();
    let contents = store_file.contents();
    let taken = (200..220).filter(|rand| contents.contains(&format!("web-01 {rand}")));
    assert_eq!(taken.count(), 20);
    store_file.expect_sound();
}

#[test]
fn nothing_is_acknowledged_into_an_overwritten_file() {
    let store_file = StoreFile::new();
    let (server, mut agent) = begun(&store_file, 50);
    let backup = store_file.folder().join("backup.db");
    let into = format!("VACUUM INTO '{}'", backup.display());
    store_file.open().execute_batch(&into).unwrap();
    fs::write(store_file.store(), vec![b'x'; 100_000]).unwrap();
    expect_busy(&mut agent, &report_of("web-01", 100));
    server
        .log()
        .wait_for(0, |line| line.contains("overwritten or truncated"));
    agent.exchange(&heartbeat(), HEARTBEAT);
    expect_busy(&mut agent, &report_of("web-01", 101));
    assert_eq!(
        fs::read(store_file.store()).unwrap(),
        vec![b'x'; 100_000],
        "it is left alone"
    );
    fs::rename(&backup, store_file.store()).unwrap();
    insist(&mut agent, &report_of("web-01", 102));
    stop(server);
    let contents = store_file.contents();
    assert_eq!(contents[..50], reports(0..50));
    assert_eq!(contents.last().unwrap(), "web-01 102");
    store_file.expect_sound();
}

#[test]
fn a_file_that_is_truncated_does_not_end_the_server() {
    for length in [0, 100, 5000] {
        let store_file = StoreFile::new();
        let (server, mut agent) = begun(&store_file, 50);
        let store = OpenOptions::new()
            .write(true)
            .open(store_file.store())
            .unwrap();
        store.set_len(length).unwrap();
        agent.send(&report_of("web-01", 100));
        assert_eq!(agent.line(), BUSY);
        agent.exchange(&heartbeat(), HEARTBEAT);
        // After its removal the server creates a new file.
        fs::remove_file(store_file.store()).unwrap();
        insist(&mut agent, &report_of("web-01", 101));
        stop(server);
        assert!(store_file.contents().contains(&"web-01 101".to_owned()));
        store_file.expect_sound();
    }
}

#[test]
fn a_lock_that_is_removed_is_taken_again() {
    let store_file = StoreFile::new();
    let (server, mut agent) = begun(&store_file, 1);
    fs::remove_file(beside(&store_file.store(), "-lock")).unwrap();
    agent.exchange(&report_of("web-01", 1), REPORT);
    let second = store_file.launch(&[]).run();
    assert_eq!(second.code, Some(1), "{second:?}");
    stop(server);
}

#[test]
fn a_stop_waits_for_no_reader_and_loses_nothing() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&["--drain-timeout", "2s"]);
    let mut agent = server.connect();
    agent.exchange(&report_of("web-01", 0), REPORT);
    let reader = store_file.open();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM reports")
        .unwrap();
    agent.exchange(&report_of("web-01", 1), REPORT);
    drop(agent);
    let start = Instant::now();
    let exit = stop(server);
    // SQLite would wait for the reader's lock.
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(
        !exit
            .stderr
            .iter()
            .any(|line| line.contains("may be missing")),
        "{exit:?}"
    );
    reader.execute_batch("ROLLBACK").unwrap();
    drop(reader);
    assert_eq!(store_file.contents(), reports(0..2));
}

#[test]
fn the_log_shrinks_after_a_reader_has_ended() {
    let store_file = StoreFile::new();
    let (server, mut agent) = begun(&store_file, 1);
    let log = beside(&store_file.store(), "-wal");
    let reader = store_file.open();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM reports")
        .unwrap();
    let long = report(&"x".repeat(40_000));
    while fs::metadata(&log).unwrap().len() < 20 << 20 {
        agent.send(&long.repeat(20));
        (0..20).for_each(|_| agent.expect_line(REPORT));
    }
    let size = fs::metadata(&log).unwrap().len();
    assert_eq!(server.stats().store("wal_bytes"), size);
    reader.execute_batch("ROLLBACK").unwrap();
    let shrunk = eventually(|| (fs::metadata(&log).unwrap().len() < 1 << 20).then_some(()));
    assert!(shrunk.is_some(), "{size}");
    server.wait_until(|stats| stats.store("wal_bytes") < 1 << 20);
    agent.exchange(&report_of("web-01", 1), REPORT);
    stop(server);
    store_file.expect_sound();
}

#[test]
fn a_limit_on_file_sizes_acts_like_a_full_disk() {
    let store_file = StoreFile::new();
    let server = store_file
        .launch(&[])
        .under("prlimit", &["--fsize=3000000"])
        .start();
    let mut agent = server.connect();
    let long = report(&"x".repeat(45_000));
    let refused = (0..200).find_map(|_| {
        agent.send(&long);
        Some(agent.line()).filter(|line| line != REPORT)
    });
    assert_eq!(refused.as_deref(), Some(BUSY));
    agent.exchange(&heartbeat(), HEARTBEAT);
    server.log().wait_for(0, |line| line.contains("ulimit -f"));
}
