//! A fleet that connects at once, and a fleet that disappears.

use std::fs;

use crate::crowd::{Crowd, backlog};
use hawk_testkit::*;

/// As many as fit the usual limit of 20,000 open files, in the server and in the
/// test.
const FLEET: usize = 19_000;

#[test]
fn a_fleet_that_reconnects_at_once_is_answered_and_reaped_when_it_breaks_off() {
    let many = ManyAgents::wait(FLEET);
    match Namespace::new() {
        Some(network) => network.within(|| {
            let server = Server::start(&[]);
            let before = ListenDrops::of(server.pid());
            answer_and_reap(&server, many.most);
            assert_eq!(ListenDrops::of(server.pid()), before);
        }),
        // Other programs may change the machine's own counters.
        None => answer_and_reap(&Server::start(&[]), many.most),
    }
}

#[track_caller]
fn answer_and_reap(server: &Server, fleet: usize) {
    let mut other = server.connect();
    other.expect_alive();
    let descriptors = descriptors_of(server.pid()).len();
    let crowd = Crowd::storm(server, fleet);
    other.expect_alive();
    let fleet = fleet as u64;
    let stats = server.stats();
    assert_eq!(stats.get("connections"), fleet + 1);
    assert_eq!(stats.get("heartbeats"), fleet + 2);
    assert_eq!((stats.closed(), stats.get("accept_errors")), (0, 0));
    assert_eq!(stats.in_use(), [0; 5]);

    crowd.reset();
    let stats = server.wait_until(|stats| stats.get("connections") == 1);
    assert_eq!(stats.get("closed_connection_lost"), fleet);
    assert_eq!(stats.closed(), fleet);
    assert_eq!(stats.in_use(), [0; 5]);
    assert_eq!(descriptors_of(server.pid()).len(), descriptors);
    other.expect_alive();
}

#[test]
fn a_fleet_that_is_gone_without_a_word_is_reaped_at_the_idle_timeout() {
    let many = ManyAgents::wait(FLEET);
    let (Some(here), Some(there)) = (Namespace::new(), Namespace::new()) else {
        return;
    };
    here.connect("10.0.0.1/24", &there, "10.0.0.2/24");
    let args = ["--listen", "10.0.0.1:0", "--idle-timeout", "4s"];
    // All of them come from one address.
    let args = [&args[..], &["--max-connections-per-ip", "20000"]].concat();
    let server = here.within(|| Server::start(&args));
    let descriptors = descriptors_of(server.pid()).len();
    let crowd = there.within(|| Crowd::storm(&server, many.most));
    there.ip(&["link", "set", "cable", "down"]);
    // On a slow machine the first agents may be closed as idle before the last have
    // connected; the last have just connected.
    assert!(server.stats().get("connections") > 0);

    let stats = server.wait_until(|stats| stats.get("connections") == 0);
    let fleet = many.most as u64;
    assert_eq!(stats.get("heartbeats"), fleet);
    assert_eq!(stats.get("closed_idle_timeout"), fleet);
    assert_eq!(stats.closed(), fleet);
    assert_eq!(stats.in_use(), [0; 5]);
    assert_eq!(descriptors_of(server.pid()).len(), descriptors);
    drop(crowd);
    here.within(|| server.connect().expect_alive());
}

#[test]
fn an_agent_is_answered_when_it_retries_after_a_full_backlog() {
    let Some(network) = Namespace::new() else {
        return;
    };
    network.within(|| {
        fs::write("/proc/sys/net/core/somaxconn", "16").unwrap();
        let server = Server::start(&[]);
        let before = ListenDrops::of(server.pid());
        let suspended = server.suspend();
        std::thread::scope(|scope| {
            for _ in 0..3 * backlog() {
                scope.spawn(|| server.connect().expect_alive());
            }
            let dropped = eventually(|| {
                let now = ListenDrops::of(server.pid());
                (now.overflows > before.overflows && now.drops > before.drops).then_some(())
            });
            dropped.expect("the backlog is full");
            drop(suspended);
        });
        let stats = server.wait_until(|stats| stats.get("connections") == 0);
        assert_eq!(stats.get("heartbeats"), 3 * 16);
        assert_eq!(stats.get("closed_agent_closed"), 3 * 16);
    });
}
