//! A store that moves from process to process, under load.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use hawk::restart::channel::MAX_SOCKETS;
use hawk_wire::{AgentName, Encoding, Packet, Report, encode_packet};
use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};
use tempfile::NamedTempFile;

use crate::during::BEFORE_AGENTS;
use crate::dynasty::{Dynasty, UnderWay};
use hawk_testkit::*;

const AGENTS: usize = 5;

const UPGRADES: u32 = 6;

/// The greatest number of reports in flight on a connection.
const DEPTH: i64 = 20;

#[test]
fn each_acknowledged_report_is_stored_once_over_all_processes() {
    let (dynasty, acknowledged) = upgrade_under_load(&[]);
    let store = Connection::open(dynasty.store()).unwrap();
    for (agent, acknowledged) in acknowledged.iter().enumerate() {
        assert!(*acknowledged > 0);
        let all: Vec<i64> = (0..*acknowledged).collect();
        assert_eq!(stored(&store, agent), all, "each once, and in order");
    }
    let counts: Vec<i64> = column(&store, "SELECT reports FROM agents ORDER BY name");
    assert_eq!(counts, acknowledged, "as the agents' rows have it");
    dynasty.stop();
}

/// Every process removes the oldest reports.
#[test]
fn the_last_acknowledged_reports_are_stored_while_the_first_are_removed() {
    let (dynasty, acknowledged) = upgrade_under_load(&["--retain-size", "1MiB"]);
    let store = Connection::open(dynasty.store()).unwrap();
    let rows: Vec<i64> = column(&store, "SELECT count(*) FROM reports");
    // With 4 KB each, the reports exceed the limit several times.
    assert!(rows[0] < acknowledged.iter().sum());
    for (agent, acknowledged) in acknowledged.iter().enumerate() {
        let stored = stored(&store, agent);
        let left: Vec<i64> =
            (*acknowledged - i64::try_from(stored.len()).unwrap()..*acknowledged).collect();
        assert_eq!(stored, left, "the last, each once, and in order");
    }
    dynasty.stop();
}

/// Also if there are more than the last message has room for.
#[test]
fn a_crowd_that_comes_while_the_last_batch_is_committed_moves_as_well() {
    const CROWD: usize = 2 * MAX_SOCKETS + 10;
    if !can_trace() {
        return;
    }
    let mut dynasty = Dynasty::start_with_store(&[]);
    let [mut reporter, mut probe] = [(); 2].map(|()| dynasty.connect());
    let mut crowd = Vec::new();
    let writer = Connection::open(dynasty.store()).unwrap();
    // On a slow machine the store may be said to hang before the crowd is there.
    let moved = eventually(|| {
        crowd.clear();
        dynasty.wait_until(|stats| stats.get("connections") == 2);
        let (under_way, asked) = hold_up(&dynasty, &writer, &mut reporter, &mut probe);
        crowd.extend((0..CROWD).map(|_| dynasty.connect()));
        dynasty.wait_until(|stats| stats.get("connections") == CROWD as u64 + 2);
        writer.execute_batch("ROLLBACK").unwrap();
        let moved = dynasty.expect_some_end(under_way, "the store has not answered");
        reporter.expect_line(REPORT);
        (0..asked).for_each(|_| probe.expect_line(HEARTBEAT));
        moved
    });
    assert_eq!(moved.unwrap().fields.get("connections"), CROWD as u64 + 2);
    crowd.iter_mut().for_each(Agent::expect_alive);
    dynasty.stop();
}

/// Reads have stopped, and the store has committed.
#[test]
fn a_successor_that_hangs_during_the_last_commit_delays_no_agent() {
    if !can_trace() {
        return;
    }
    let faults = NamedTempFile::new().unwrap();
    let path = faults.path().to_str().unwrap().to_owned();
    let mut dynasty = Dynasty::start_with_store_and(&[], |launch| launch.env("HAWK_FAULT", &path));
    let [mut reporter, mut probe] = [(); 2].map(|()| dynasty.connect());
    let writer = Connection::open(dynasty.store()).unwrap();
    fs::write(&path, "successor:batch-2 hang\ndeadline:quiesce 3600000\n").unwrap();
    let mut crowd = Vec::new();
    // On a slow machine the store may be said to hang before the crowd is there.
    let told = eventually(|| {
        crowd.clear();
        dynasty.wait_until(|stats| stats.get("connections") == 2);
        let (mut under_way, asked) = hold_up(&dynasty, &writer, &mut reporter, &mut probe);
        crowd.extend((0..=MAX_SOCKETS).map(|_| dynasty.connect()));
        dynasty.wait_until(|stats| stats.get("connections") == MAX_SOCKETS as u64 + 3);
        writer.execute_batch("ROLLBACK").unwrap();
        let told = under_way.client_ends();
        assert_eq!(told.code, Some(1), "{told:?}");
        reporter.expect_line(REPORT);
        (0..asked).for_each(|_| probe.expect_line(HEARTBEAT));
        let said = told.stderr.concat();
        (!said.contains("the store has not answered")).then_some(said)
    });
    let why = "rolled back at quiesce: the successor did not acknowledge what was copied in time";
    assert!(told.as_ref().unwrap().contains(why), "{told:?}");
    crowd.iter_mut().for_each(Agent::expect_alive);
    fs::write(&path, "").unwrap();
    dynasty.upgrade(&[]);
    crowd.iter_mut().for_each(Agent::expect_alive);
    dynasty.stop();
}

/// A hand-over at the last commit, which `writer` blocks until its `ROLLBACK`, with a report of
/// `reporter` in it. Returns how often `probe` was answered before reads stopped.
#[track_caller]
fn hold_up(
    dynasty: &Dynasty,
    writer: &Connection,
    reporter: &mut Agent,
    probe: &mut Agent,
) -> (UnderWay, usize) {
    let halt = Halt::behind("epoll_ctl", BEFORE_AGENTS + 1).unwrap();
    let under_way = dynasty.begin_up_to(&halt);
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    reporter.send(&report("the last one"));
    let held = dynasty.stats().get("held");
    halt.let_go(under_way.successor);
    // Once reads have stopped, only new connections are copied.
    let mut asked = 0;
    let quiet = eventually(|| {
        probe.send(&heartbeat());
        asked += 1;
        (dynasty.stats().get("held") > held).then_some(())
    });
    assert!(quiet.is_some(), "packets are taken on and on");
    (under_way, asked)
}

/// Hands over repeatedly while agents report. Returns the number of acknowledged reports of
/// each agent, which are all that it sent.
#[track_caller]
fn upgrade_under_load(args: &[&str]) -> (Dynasty, Vec<i64>) {
    // Agents that only report are judged, too.
    let args = [args, &["--offline-after", "1h"]].concat();
    let mut dynasty = Dynasty::start_with_store(&args);
    let (address, path) = (dynasty.address(), dynasty.store());
    let over = &AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| {
        let end = SetAtEnd(over);
        let agents: Vec<_> = (0..AGENTS)
            .map(|agent| scope.spawn(move || report_on(address, agent, over)))
            .collect();
        let lock = scope.spawn(|| expect_locked(&path, over));
        let readers = scope.spawn(|| read_on(&path, over));
        for _ in 0..UPGRADES {
            let before = dynasty.stats().get("reports");
            dynasty.wait_until(|stats| stats.get("reports") > before + 100);
            dynasty.upgrade(&[]);
        }
        drop(end);
        lock.join().unwrap();
        readers.join().unwrap();
        let acknowledged = agents.into_iter().map(|agent| agent.join().unwrap());
        acknowledged.collect::<Vec<i64>>()
    });
    let stats = dynasty.wait_until(|stats| stats.get("connections") == 0);
    let sum: i64 = acknowledged.iter().sum();
    assert_eq!(stats.get("reports"), u64::try_from(sum).unwrap());
    let store = Connection::open(dynasty.store()).unwrap();
    let events: Vec<String> = column(
        &store,
        "SELECT name || ' ' || state FROM events ORDER BY name",
    );
    let online: Vec<String> = (0..AGENTS)
        .map(|agent| format!("agent-{agent} online"))
        .collect();
    assert_eq!(
        events, online,
        "each came online once, and none went offline"
    );
    assert_eq!(column::<String>(&store, "PRAGMA integrity_check"), ["ok"]);
    (dynasty, acknowledged)
}

/// Reports until the end, and waits for all replies.
fn report_on(address: SocketAddr, agent: usize, over: &AtomicBool) -> i64 {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut replies = BufReader::new(socket.try_clone().unwrap());
    let (mut sent, mut answered) = (0, 0);
    let mut line = String::new();
    loop {
        while sent - answered < DEPTH && !over.load(Ordering::Relaxed) {
            socket.write_all(&report_of(agent, sent)).unwrap();
            sent += 1;
        }
        if answered == sent {
            return answered;
        }
        line.clear();
        replies.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), REPORT);
        answered += 1;
    }
}

/// A unique report.
fn report_of(agent: usize, number: i64) -> Vec<u8> {
    let name = format!("agent-{agent}");
    let packet = Packet::Report(Report {
        content: format!("{number} {}", "x".repeat(4000)).into(),
        rand: number,
        timestamp: 1_475_249_220,
        agent: Some(AgentName::new(&name).unwrap()),
    });
    let mut frame = Vec::new();
    encode_packet(&packet, Encoding::Compact, &mut frame).unwrap();
    frame
}

/// No other process gets the lock of the store at any time.
fn expect_locked(store: &Path, over: &AtomicBool) {
    let mut path = store.as_os_str().to_owned();
    path.push("-lock");
    let file = std::fs::File::open(path).unwrap();
    while !over.load(Ordering::Relaxed) {
        let got = flock(&file, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(got, Err(rustix::io::Errno::WOULDBLOCK));
        std::thread::yield_now();
    }
}

/// The commands that read succeed meanwhile.
fn read_on(store: &Path, over: &AtomicBool) {
    let store = store.to_str().unwrap();
    while !over.load(Ordering::Relaxed) {
        for command in ["agents", "reports", "events"] {
            let exit = Launch::hawk(&[command, "--store", store]).run();
            assert_eq!(exit.code, Some(0), "{exit:?}");
        }
    }
}

fn stored(store: &Connection, agent: usize) -> Vec<i64> {
    let query = format!(
        "SELECT rand FROM reports JOIN agents ON agents.id = agent WHERE name = 'agent-{agent}' \
         ORDER BY seq"
    );
    column(store, &query)
}

#[track_caller]
fn column<T: rusqlite::types::FromSql>(store: &Connection, query: &str) -> Vec<T> {
    let mut statement = store.prepare(query).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}
