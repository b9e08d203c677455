//! Rows that are too old or too many are removed, and their space is reused.

use hawk_testkit::store_file::*;
use hawk_testkit::*;

#[test]
fn beyond_the_size_the_oldest_reports_are_removed_and_the_file_does_not_grow() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&["--retain-size", "1MiB"]);
    let mut agent = server.connect();
    let content = "x".repeat(1000);
    let burst = report(&content).repeat(100);
    let mut sizes = Vec::new();
    // Some eight times the size limit.
    for round in 0..80 {
        agent.send(&burst);
        (0..100).for_each(|_| agent.expect_line(REPORT));
        if round % 10 == 9 {
            // Until retention has caught up: reports arrive faster than it checks.
            let caught_up = eventually(|| (kept(&store_file) < 1000).then_some(()));
            assert!(caught_up.is_some(), "{} are kept", kept(&store_file));
            sizes.push(std::fs::metadata(store_file.store()).unwrap().len());
        }
    }
    assert!(sizes.iter().all(|size| *size <= 4 << 20), "{sizes:?}");
    let kept = kept(&store_file);
    assert!((100..1000).contains(&kept), "{kept}");
    server.wait_until(|stats| stats.store("expired").cast_signed() + kept == 8000);
    // The newest reports are stored without a gap.
    agent.exchange(&report("the last"), REPORT);
    assert_eq!(store_file.contents().last().unwrap(), "the last");
    // The counters include removed reports.
    assert_eq!(
        store_file.column::<i64>("SELECT reports FROM agents"),
        [8001]
    );
    store_file.expect_sound();
}

fn kept(store_file: &StoreFile) -> i64 {
    store_file.column("SELECT count(*) FROM reports")[0]
}

#[test]
fn beyond_the_age_reports_events_and_silent_agents_are_removed() {
    let store_file = StoreFile::new();
    let ages = [
        "--retain",
        "500ms",
        "--offline-after",
        "100ms",
        "--start-grace",
        "1ms",
    ];
    {
        let server = store_file.serve(&ages);
        server.connect().exchange(&report_of("web-01", 1), REPORT);
        let gone = eventually(|| store_file.contents().is_empty().then_some(()));
        assert!(gone.is_some());
    }
    // Agents and events are checked less often, and at every start.
    let server = store_file.serve(&ages);
    let left = "SELECT (SELECT count(*) FROM agents) + (SELECT count(*) FROM events)";
    let gone = eventually(|| (store_file.column::<i64>(left) == [0]).then_some(()));
    assert!(gone.is_some());
    server.connect().exchange(&report_of("web-01", 2), REPORT);
    assert_eq!(
        store_file.column::<i64>("SELECT id FROM agents"),
        [2],
        "a number is not used twice"
    );
}

fn stopped(server: Server) {
    server.signal(rustix::process::Signal::TERM);
    server.wait_exit();
}

/// Adds rows to a table, one for each `i` from 1 to `count`.
fn fill(store_file: &StoreFile, into: &str, count: u32, row: &str) {
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?1)";
    let fill = format!("{numbers} INSERT INTO {into} SELECT {row} FROM n");
    let store = rusqlite::Connection::open(store_file.store()).unwrap();
    store.execute(&fill, [count]).unwrap();
}

const AGENT: &str = "agents (name, address, version, first_seen, last_seen, state, changed_at, \
                     heartbeats, reports, interval, hours)";

#[test]
fn agents_and_events_displace_no_report() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    (0..50).for_each(|_| agent.exchange(&report("old"), REPORT));
    stopped(server);
    let now = hawk_time::UnixNanos::now().as_nanos();
    let event = format!("{now} - i, 1, 'online'");
    fill(&store_file, "events (at, agent, state)", 30_000, &event);
    let row =
        format!("hex(randomblob(60)), '10.0.0.1', '', 1, {now} - i, 'offline', 1, 1, 0, 0, 1");
    fill(&store_file, AGENT, 10_000, &row);
    let server = store_file.serve(&["--retain-size", "1MiB"]);
    let mut agent = server.connect();
    (0..50).for_each(|_| agent.exchange(&report("new"), REPORT));
    let stats = server.wait_until(|stats| stats.store("bytes") > 2 << 20);
    assert_eq!(stats.store("expired"), 0);
    assert_eq!(kept(&store_file), 100);
}

#[test]
fn reports_of_a_removed_agent_stay() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&["--max-agents", "1"]);
    for name in ["web-01", "web-02"] {
        let taken = eventually(|| {
            let mut agent = server.connect();
            agent.send(&heartbeat_packet(hawk_wire::Encoding::Compact, Some(name)));
            agent.send(&report_of(name, 1));
            (agent.line() == HEARTBEAT && agent.line() == REPORT).then_some(())
        });
        assert!(taken.is_some());
    }
    let names = || store_file.column::<String>("SELECT name FROM agents");
    assert!(eventually(|| (names() == ["web-02"]).then_some(())).is_some());
    assert_eq!(kept(&store_file), 2);
    let events = "SELECT name || ' ' || state || ' ' || established FROM events ORDER BY seq";
    let expected = ["web-01 online 0", "web-01 offline 0", "web-02 online 0"];
    assert_eq!(store_file.column::<String>(events), expected);
    store_file.expect_sound();
}

#[test]
fn after_a_kill_agents_beyond_the_limit_are_offline_with_an_event() {
    let store_file = StoreFile::new();
    stopped(store_file.serve(&[]));
    let now = hawk_time::UnixNanos::now().as_nanos();
    let row = |hours, prefix| {
        format!(
            "'{prefix}' || i, '10.0.0.' || (i % 9), '', {now} - i, {now} - i, 'online', 1, 1, 0, 0, \
             {hours}"
        )
    };
    fill(&store_file, AGENT, 3000, &row(1, "invented-"));
    fill(&store_file, AGENT, 50, &row(3, "web-"));
    let server = store_file.serve(&[
        "--max-agents",
        "1000",
        "--offline-after",
        "200ms",
        "--start-grace",
        "1ms",
    ]);
    let online = "SELECT count(*) FROM agents WHERE state = 'online'";
    let silent = eventually(|| (store_file.column::<i64>(online) == [0]).then_some(()));
    assert!(
        silent.is_some(),
        "{:?} are online",
        store_file.column::<i64>(online)
    );
    let all = "SELECT count(DISTINCT name) FROM events WHERE state = 'offline'";
    let declared = eventually(|| (store_file.column::<i64>(all) == [3050]).then_some(()));
    assert!(declared.is_some(), "{:?}", store_file.column::<i64>(all));
    let few = eventually(|| {
        let left = store_file.column::<i64>("SELECT count(*) FROM agents")[0];
        (left <= 1001).then_some(())
    });
    assert!(few.is_some());
    let established = "SELECT count(*) FROM agents WHERE hours = 3";
    assert_eq!(store_file.column::<i64>(established), [50]);
    let stats = server.wait_until(|stats| stats.store("dropped_agents") >= 2000);
    assert_eq!(stats.agents.get("established"), 50);
    assert_eq!(
        server.count_logged("more than --max-agents"),
        2,
        "at the start, and once an hour"
    );
    store_file.expect_sound();
}
