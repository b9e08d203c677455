//! The files of a store are removed or replaced while a server writes them: rows and states
//! belong to the right agents.

use rusqlite::Connection;

use hawk_testkit::store_file::*;
use hawk_testkit::*;

/// Removes some of the store's files under the server.
fn remove(store_file: &StoreFile, endings: &[&str]) {
    for ending in endings {
        std::fs::remove_file(store_file.folder().join(format!("hawk.db{ending}"))).unwrap();
    }
}

fn named_heartbeat(name: &str) -> Vec<u8> {
    heartbeat_packet(hawk_wire::Encoding::Compact, Some(name))
}

/// Checks that each report is shown under the name at the start of its content.
#[track_caller]
fn expect_owners(store_file: &StoreFile, expected: &[&str]) {
    let rows = "SELECT name || ': ' || content FROM reports JOIN agents ON id = agent ORDER BY seq";
    let expected: Vec<String> = expected
        .iter()
        .map(|content| format!("{}: {content}", content.split(' ').next().unwrap()))
        .collect();
    assert_eq!(store_file.column::<String>(rows), expected);
}

#[test]
fn after_the_files_are_removed_reports_and_states_have_the_right_agents() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&["--offline-after", "1h"]);
    let mut agents = ["a", "b", "c"].map(|name| (name, server.connect()));
    for (name, agent) in &mut agents {
        agent.exchange(&report_of(name, 1), REPORT);
    }
    remove(&store_file, &["", "-wal", "-shm"]);
    // In another order than before, so that the new file gives each agent another number.
    for (name, agent) in agents.iter_mut().rev().take(2) {
        insist(agent, &report_of(name, 2));
    }
    expect_owners(&store_file, &["c 2", "b 2"]);
    // The new file has all agents, including agents that sent nothing since.
    let known = "SELECT name FROM agents WHERE state = 'online' ORDER BY name";
    let found =
        eventually(|| (store_file.column::<String>(known) == ["a", "b", "c"]).then_some(()));
    assert!(found.is_some(), "{:?}", store_file.column::<String>(known));
    agents[0].1.exchange(&named_heartbeat("a"), HEARTBEAT);
    insist(&mut agents[0].1, &report_of("a", 2));
    expect_owners(&store_file, &["c 2", "b 2", "a 2"]);
    assert_eq!(store_file.column::<i64>("SELECT opened FROM store"), [1]);
    store_file.expect_sound();
}

#[test]
fn after_a_backup_is_put_in_place_reports_have_the_right_agents() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&["--offline-after", "1h"]);
    let mut agents = ["a", "b", "c", "d"].map(|name| (name, server.connect()));
    for (name, agent) in &mut agents[..2] {
        agent.exchange(&report_of(name, 1), REPORT);
    }
    let backup = store_file.folder().join("backup");
    let copy = format!("VACUUM INTO '{}'", backup.display());
    store_file.open().execute_batch(&copy).unwrap();
    Connection::open(&backup)
        .unwrap()
        .execute_batch("INSERT INTO cursors VALUES ('on-event', 'other', 1)")
        .unwrap();
    for (name, agent) in &mut agents[2..] {
        agent.exchange(&report_of(name, 1), REPORT);
    }
    remove(&store_file, &["-wal", "-shm"]);
    std::fs::rename(backup, store_file.store()).unwrap();
    for (name, agent) in agents.iter_mut().rev() {
        insist(agent, &report_of(name, 2));
    }
    expect_owners(&store_file, &["a 1", "b 1", "d 2", "c 2", "b 2", "a 2"]);
    let cursors: Vec<i64> = store_file.column("SELECT seq FROM cursors WHERE seq = 1");
    assert_eq!(cursors, [0; 0], "a copy does not know what was passed on");
    store_file.expect_sound();
}

#[test]
fn events_of_a_batch_that_fails_are_stored_before_later_ones() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&["--offline-after", "1s", "--start-grace", "1ms"]);
    let mut agent = server.connect();
    agent.exchange(&named_heartbeat("web-01"), HEARTBEAT);
    let events = "SELECT state FROM events ORDER BY seq";
    let wait_for = |expected: &[&str]| {
        let found = eventually(|| (store_file.column::<String>(events) == expected).then_some(()));
        assert!(found.is_some(), "{:?}", store_file.column::<String>(events));
    };
    wait_for(&["online"]);
    // While it is locked, the agent goes offline and comes back: the batch with the first
    // event fails, and the second event is in another batch or waits.
    let other = store_file.open();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    server
        .log()
        .wait_for(0, |line| line.contains("agent offline"));
    agent.exchange(&named_heartbeat("web-01"), HEARTBEAT);
    server
        .log()
        .wait_for(0, |line| line.contains("store unavailable"));
    other.execute_batch("ROLLBACK").unwrap();
    let alternating = |row: usize| {
        let states = store_file.column::<String>(events);
        let expected = ["online", "offline"].into_iter().cycle().take(row);
        (states.len() >= row).then(|| assert!(states.iter().take(row).eq(expected), "{states:?}"))
    };
    assert!(eventually(|| alternating(3)).is_some());
    let last = "SELECT (SELECT state FROM events ORDER BY seq DESC LIMIT 1) = state FROM agents";
    assert!(eventually(|| (store_file.column::<bool>(last) == [true]).then_some(())).is_some());
}
