//! Deadlines and limits: a hand-over neither extends a deadline nor raises a limit.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::dynasty::Dynasty;
use hawk_testkit::*;

/// A deadline that each process restarts would never expire.
#[test]
fn deadlines_count_on_from_process_to_process() {
    let timeouts = ["--frame-timeout", "2s", "--idle-timeout", "3s"];
    let mut dynasty = Dynasty::start(&timeouts);
    let start = Instant::now();
    let mut in_mid_frame = dynasty.connect();
    in_mid_frame.send(&report("never finished")[..30]);
    let mut silent = dynasty.connect();
    let mut ended = [false; 2];
    while ended != [true; 2] {
        assert!(start.elapsed() < PATIENCE, "{ended:?}");
        dynasty.upgrade(&[]);
        let agents = [&mut in_mid_frame, &mut silent];
        for (agent, ended) in agents.into_iter().zip(&mut ended) {
            *ended = *ended || agent.ends_within(Duration::from_millis(1));
        }
    }
    assert!(start.elapsed() >= Duration::from_secs(3), "nor is it early");
    drop((in_mid_frame, silent));
    let stats = dynasty.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.get("closed_frame_timeout"), 1, "{stats:?}");
    assert_eq!(stats.get("closed_idle_timeout"), 1, "{stats:?}");
    dynasty.stop();
}

#[test]
fn an_address_has_as_many_connections_as_before_and_no_more() {
    let mut dynasty = Dynasty::start(&["--max-connections-per-ip", "2"]);
    let mut agents = vec![dynasty.connect(), dynasty.connect()];
    agents.iter_mut().for_each(Agent::expect_alive);
    // The connection is turned away and lingers in both processes: the agent keeps its side open.
    let mut turned_away = dynasty.connect();
    turned_away.expect_line("busy: too many from one address");
    for _ in 0..3 {
        dynasty.upgrade(&[]);
        let mut another = dynasty.connect();
        another.expect_line("busy: too many from one address");
        another.expect_eof();
        let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        Agent::connect_from(other, dynasty.address()).expect_alive();

        drop(agents.pop());
        dynasty.wait_until(|stats| stats.get("connections") <= 1);
        agents.push(dynasty.connect());
        agents.iter_mut().for_each(Agent::expect_alive);
    }
    turned_away.expect_eof();
    drop((agents, turned_away));
    let stats = dynasty.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.get("closed_too_many_from_address"), 4);
    dynasty.stop();
}

#[test]
fn a_rate_is_no_higher_because_there_are_many_processes() {
    let mut dynasty = Dynasty::start(&["--rate-limit", "10"]);
    let mut eager = dynasty.connect();
    let (sent, replies) = mixture(60);
    let start = Instant::now();
    let mut sender = eager.sender();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.write_all(&sent).unwrap());
        let upgrades = scope.spawn(|| {
            for _ in 0..5 {
                dynasty.upgrade(&[]);
            }
        });
        eager.expect_replies(&replies);
        // A burst of ten, and ten in each of five seconds.
        assert!(start.elapsed() >= Duration::from_millis(4900));
        upgrades.join().unwrap();
    });
    eager.expect_alive();
    assert!(dynasty.stats().get("rate_limited") >= 1);
    dynasty.stop();
}
