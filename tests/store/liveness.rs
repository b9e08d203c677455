//! The states of agents and their changes.

use rustix::process::Signal;

use hawk_testkit::store_file::*;
use hawk_testkit::*;

const EVENTS: &str = "SELECT coalesce(name, address) || ' ' || state FROM events ORDER BY seq";

#[track_caller]
fn wait_for_events(store_file: &StoreFile, expected: &[&str]) {
    let found = eventually(|| (store_file.column::<String>(EVENTS) == expected).then_some(()));
    assert!(found.is_some(), "{:?}", store_file.column::<String>(EVENTS));
}

fn named_heartbeat(name: &str) -> Vec<u8> {
    heartbeat_packet(hawk_wire::Encoding::Classic, Some(name))
}

#[test]
fn silence_makes_offline_and_a_packet_online_again() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&["--offline-after", "200ms", "--start-grace", "1ms"]);
    let mut agent = server.connect();
    agent.exchange(&named_heartbeat("web-01"), HEARTBEAT);
    wait_for_events(&store_file, &["web-01 online", "web-01 offline"]);
    let line = |line: &str| line.contains("agent offline agent=\"web-01\" address=127.0.0.1");
    server.log().wait_for(0, line);
    // On the same connection or on another.
    drop(agent);
    server
        .connect()
        .exchange(&named_heartbeat("web-01"), HEARTBEAT);
    let all = [
        "web-01 online",
        "web-01 offline",
        "web-01 online",
        "web-01 offline",
    ];
    wait_for_events(&store_file, &all);
    let state = "SELECT state FROM agents WHERE changed_at = (SELECT max(at) FROM events)";
    assert_eq!(store_file.column::<String>(state), ["offline"]);
}

#[test]
fn a_ping_leaves_no_agent_and_no_event() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    for _ in 0..2 {
        let ping = Launch::hawk(&["ping", &server.address.to_string()]).run();
        assert_eq!(ping.code, Some(0), "{:?}", ping.stderr);
    }
    // In the other encoding, and under a name.
    let mut agent = server.connect();
    agent.exchange(
        &frame(b"\x00{\"agent\":\"web-01\",\"probe\":true}"),
        HEARTBEAT,
    );
    assert_eq!(server.stats().agents.get("known"), 0);
    // A probe does not change the time of an agent's last packet.
    agent.exchange(&named_heartbeat("web-02"), HEARTBEAT);
    let last_seen = || store_file.column::<i64>("SELECT last_seen FROM agents");
    let seen = eventually(|| (last_seen().len() == 1).then(&last_seen)).unwrap();
    agent.exchange(&frame(b"\x00{\"probe\":true}"), HEARTBEAT);
    server.signal(Signal::TERM);
    server.wait_exit();
    assert_eq!(last_seen(), seen);
    assert_eq!(
        store_file.column::<i64>("SELECT heartbeats FROM agents"),
        [1]
    );
    assert_eq!(store_file.column::<String>(EVENTS), ["web-02 online"]);
}

#[test]
fn irregular_reports_cause_no_event() {
    let store_file = StoreFile::new();
    let changes = store_file.folder().join("changes");
    let command = format!("cat >> {}", changes.display());
    let server = store_file.serve(&["--start-grace", "1ms", "--on-event", &command]);
    let address = server.address.to_string();
    for line in ["one", "two"] {
        let send = Launch::hawk(&["send", "--address", &address, "--agent", "cron", line]).run();
        assert_eq!(send.code, Some(0), "{:?}", send.stderr);
    }
    let stats = server.stats().agents;
    assert_eq!(
        ["known", "online", "unwatched"].map(|key| stats.get(key)),
        [1, 0, 1]
    );
    // After its first heartbeat it is judged.
    server
        .connect()
        .exchange(&named_heartbeat("cron"), HEARTBEAT);
    wait_for_events(&store_file, &["cron online"]);
    let passed_on = eventually(|| {
        std::fs::read_to_string(&changes)
            .ok()
            .filter(|it| !it.is_empty())
    });
    assert_eq!(passed_on.unwrap().lines().count(), 1);
}

#[test]
fn an_unwatched_agent_is_not_offline_after_the_next_start() {
    let store_file = StoreFile::new();
    let start = || store_file.serve(&["--start-grace", "1ms"]);
    let server = start();
    server.connect().exchange(
        &report_packet("x", hawk_wire::Encoding::Classic, Some("cron")),
        REPORT,
    );
    server.signal(Signal::TERM);
    server.wait_exit();
    let server = start();
    assert_eq!(server.stats().agents.get("unwatched"), 1);
    server.signal(Signal::TERM);
    server.wait_exit();
    assert_eq!(store_file.column::<String>(EVENTS), [""; 0]);
    assert_eq!(store_file.column::<i64>("SELECT watched FROM agents"), [0]);
    let listed = store_file.read(&["agents"]).run();
    assert!(
        listed.stdout[1].contains("unwatched"),
        "{:?}",
        listed.stdout
    );
    let offline = store_file.read(&["agents", "--offline"]).run();
    assert_eq!(offline.stdout.len(), 1, "{:?}", offline.stdout);
}

#[test]
fn a_name_that_two_machines_use_is_logged_and_a_move_is_not() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let from = |last: u8| Agent::connect_from([127, 0, 0, last].into(), server.address);
    let beat = |agent: &mut Agent, name: &str| agent.exchange(&named_heartbeat(name), HEARTBEAT);
    let clock = Clock::of("120ms");
    // One machine moves twice and opens a connection each time; its old connections stay open.
    let mut old = Vec::new();
    for last in [2, 3, 2] {
        let mut agent = from(last);
        for _ in 0..3 {
            beat(&mut agent, "laptop");
            clock.wait();
        }
        old.push(agent);
    }
    assert_eq!(server.stats().agents.get("cloned"), 0);
    let mut clones = [from(4), from(5)];
    for _ in 0..3 {
        for agent in &mut clones {
            beat(agent, "web-01");
        }
        clock.wait();
    }
    server.log().wait_for(0, |line| {
        line.contains("agent cloned") && line.contains("agent=\"web-01\"")
    });
    assert_eq!(server.stats().agents.get("cloned"), 1);
    assert_eq!(server.count_logged("agent cloned"), 1);
    server.signal(Signal::TERM);
    server.wait_exit();
    let listed = store_file.read(&["agents", "--json"]).run();
    let cloned: Vec<bool> = listed
        .stdout
        .iter()
        .map(|line| line.contains("\"cloned\":true"))
        .collect();
    assert_eq!(cloned, [false, true], "{:?}", listed.stdout);
}

#[test]
fn a_reconnect_is_no_event() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    for _ in 0..20 {
        server
            .connect()
            .exchange(&named_heartbeat("web-01"), HEARTBEAT);
        server.connect().exchange(&heartbeat(), HEARTBEAT);
    }
    server.signal(Signal::TERM);
    server.wait_exit();
    assert_eq!(
        store_file.column::<String>(EVENTS),
        ["web-01 online", "127.0.0.1 online"]
    );
    assert_eq!(
        store_file.column::<i64>("SELECT heartbeats FROM agents"),
        [20, 20]
    );
}

#[test]
fn a_restart_causes_no_offline_event_before_its_grace_is_over() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    server
        .connect()
        .exchange(&named_heartbeat("web-01"), HEARTBEAT);
    server
        .connect()
        .exchange(&named_heartbeat("web-02"), HEARTBEAT);
    let online = ["web-01 online", "web-02 online"];
    wait_for_events(&store_file, &online);
    server.signal(Signal::KILL);
    server.wait_exit();

    let offline_after = ["--offline-after", "300ms"];
    let server = store_file.serve(&[offline_after, ["--start-grace", "1h"]].concat());
    assert_eq!(server.stats().agents.get("online"), 2);
    server
        .connect()
        .exchange(&named_heartbeat("web-01"), HEARTBEAT);
    server.signal(Signal::TERM);
    server.wait_exit();
    assert_eq!(store_file.column::<String>(EVENTS), online);

    let server = store_file.serve(&[offline_after, ["--start-grace", "1ms"]].concat());
    let mut agent = server.connect();
    let offline = eventually(|| {
        // One of them is connected.
        agent.exchange(&named_heartbeat("web-01"), HEARTBEAT);
        let events = store_file.column::<String>(EVENTS);
        (events.last().unwrap() == "web-02 offline").then_some(events)
    });
    assert_eq!(offline.unwrap().len(), 3);
    assert_eq!(
        store_file.column::<i64>("SELECT id FROM agents"),
        [1, 2],
        "the same rows"
    );
}

#[test]
fn without_a_store_changes_are_logged() {
    let server = Server::start(&["--offline-after", "200ms", "--start-grace", "1ms"]);
    server.connect().exchange(&heartbeat(), HEARTBEAT);
    for state in ["online", "offline"] {
        let line = format!("agent {state} agent=127.0.0.1 address=127.0.0.1");
        server.log().wait_for(0, |logged| logged.contains(&line));
    }
    let stats = server.stats();
    assert_eq!(
        (stats.agents.get("known"), stats.agents.get("online")),
        (1, 0)
    );
}

#[test]
fn a_thousand_changes_are_a_thousand_events_and_a_few_lines() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    for number in 0..1000 {
        agent.send(&named_heartbeat(&format!("agent-{number}")));
        agent.expect_line(HEARTBEAT);
    }
    let count = eventually(|| {
        let count: Vec<i64> = store_file.column("SELECT count(*) FROM events");
        (count == [1000]).then_some(())
    });
    assert!(count.is_some());
    let lines = server.count_logged("agent online");
    assert!((50..500).contains(&lines), "{lines}");
}
