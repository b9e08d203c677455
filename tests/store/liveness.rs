//! Who is alive, and when that changes.

use rustix::process::Signal;

use crate::place::*;
use crate::support::*;

const EVENTS: &str = "SELECT coalesce(name, address) || ' ' || state FROM events ORDER BY seq";

#[track_caller]
fn wait_for_events(place: &Place, expected: &[&str]) {
    let found = eventually(|| (place.column::<String>(EVENTS) == expected).then_some(()));
    assert!(found.is_some(), "{:?}", place.column::<String>(EVENTS));
}

fn named_heartbeat(name: &str) -> Vec<u8> {
    heartbeat_packet(hawk::wire::Encoding::Classic, Some(name))
}

#[test]
fn silence_makes_offline_and_a_packet_online_again() {
    let place = Place::new();
    let server = place.serve(&["--offline-after", "200ms", "--start-grace", "1ms"]);
    let mut agent = server.connect();
    agent.exchange(&named_heartbeat("web-01"), HEARTBEAT);
    wait_for_events(&place, &["web-01 online", "web-01 offline"]);
    let line = |line: &str| line.contains("agent offline agent=\"web-01\" address=127.0.0.1");
    server.log().wait_for(0, line);
    // On the same connection, or on any other.
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
    wait_for_events(&place, &all);
    let state = "SELECT state FROM agents WHERE changed_at = (SELECT max(at) FROM events)";
    assert_eq!(place.column::<String>(state), ["offline"]);
}

#[test]
fn a_ping_leaves_no_agent_and_no_event() {
    let place = Place::new();
    let server = place.serve(&[]);
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
    // An agent that was heard is not seen anew by a probe.
    agent.exchange(&named_heartbeat("web-02"), HEARTBEAT);
    let last_seen = || place.column::<i64>("SELECT last_seen FROM agents");
    let seen = eventually(|| (last_seen().len() == 1).then(&last_seen)).unwrap();
    agent.exchange(&frame(b"\x00{\"probe\":true}"), HEARTBEAT);
    server.signal(Signal::TERM);
    server.wait_exit();
    assert_eq!(last_seen(), seen);
    assert_eq!(place.column::<i64>("SELECT heartbeats FROM agents"), [1]);
    assert_eq!(place.column::<String>(EVENTS), ["web-02 online"]);
}

#[test]
fn a_reconnect_is_no_event() {
    let place = Place::new();
    let server = place.serve(&[]);
    for _ in 0..20 {
        server
            .connect()
            .exchange(&named_heartbeat("web-01"), HEARTBEAT);
        server.connect().exchange(&heartbeat(), HEARTBEAT);
    }
    server.signal(Signal::TERM);
    server.wait_exit();
    assert_eq!(
        place.column::<String>(EVENTS),
        ["web-01 online", "127.0.0.1 online"]
    );
    assert_eq!(
        place.column::<i64>("SELECT heartbeats FROM agents"),
        [20, 20]
    );
}

#[test]
fn a_restart_raises_no_alarm_before_its_grace_is_over() {
    let place = Place::new();
    let server = place.serve(&[]);
    server
        .connect()
        .exchange(&named_heartbeat("web-01"), HEARTBEAT);
    server
        .connect()
        .exchange(&named_heartbeat("web-02"), HEARTBEAT);
    let online = ["web-01 online", "web-02 online"];
    wait_for_events(&place, &online);
    server.signal(Signal::KILL);
    server.wait_exit();

    let offline_after = ["--offline-after", "300ms"];
    let server = place.serve(&[offline_after, ["--start-grace", "1h"]].concat());
    assert_eq!(server.stats().agents.get("online"), 2);
    server
        .connect()
        .exchange(&named_heartbeat("web-01"), HEARTBEAT);
    server.signal(Signal::TERM);
    server.wait_exit();
    assert_eq!(place.column::<String>(EVENTS), online);

    let server = place.serve(&[offline_after, ["--start-grace", "1ms"]].concat());
    let mut agent = server.connect();
    let offline = eventually(|| {
        // One of them is there.
        agent.exchange(&named_heartbeat("web-01"), HEARTBEAT);
        let events = place.column::<String>(EVENTS);
        (events.last().unwrap() == "web-02 offline").then_some(events)
    });
    assert_eq!(offline.unwrap().len(), 3);
    assert_eq!(
        place.column::<i64>("SELECT id FROM agents"),
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
    let place = Place::new();
    let server = place.serve(&[]);
    let mut agent = server.connect();
    for number in 0..1000 {
        agent.send(&named_heartbeat(&format!("agent-{number}")));
        agent.expect_line(HEARTBEAT);
    }
    let count = eventually(|| {
        let count: Vec<i64> = place.column("SELECT count(*) FROM events");
        (count == [1000]).then_some(())
    });
    assert!(count.is_some());
    let lines = server.count_logged("agent online");
    assert!((50..500).contains(&lines), "{lines}");
}
