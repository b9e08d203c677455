//! Connections that end in all ways leave nothing behind.

use hawk_testkit::*;

#[test]
fn every_way_to_end_a_connection_is_counted_and_leaves_none_open() {
    let server = Server::start(&[]);
    let mut stays = server.connect();
    let partial = report("never finished");
    for round in 0..600 {
        let mut agent = server.connect();
        match round % 6 {
            // Closed, perhaps before the server has accepted it.
            0 => agent.reset(),
            1 => drop(agent),
            2 => {
                agent.expect_alive();
                agent.reset();
            }
            3 => {
                agent.send(&partial[..60]);
                agent.reset();
            }
            4 => {
                agent.send(&mixture(70).0);
                drop(agent);
            }
            _ => {
                agent.send(&heartbeat());
                agent.shutdown_write();
                agent.expect_line(HEARTBEAT);
                agent.expect_eof();
            }
        }
    }
    stays.expect_alive();
    let stats = server.wait_until(|stats| stats.get("connections") == 1);
    assert_eq!(stats.get("accepted"), 601);
    assert_eq!(stats.closed(), 600);
    let (lost, closed) = ("closed_connection_lost", "closed_agent_closed");
    assert_eq!(stats.get(lost) + stats.get(closed), 600);
    assert_eq!(stats.in_use(), [0; 5]);
}

#[test]
fn a_reused_slot_gets_no_replies_of_the_connection_before() {
    let server = Server::start(&["--max-connections", "1"]);
    for round in 0..50 {
        let mut old = server.connect();
        old.expect_alive();
        // Its replies, its end and the next connection's frames arrive together.
        let suspended = server.suspend();
        old.send(&mixture(20).0);
        old.reset_delivered();
        let mut new = server.connect();
        new.send(&report("new"));
        drop(suspended);
        new.expect_line(REPORT);
        new.expect_alive();
        drop(new);
        let gone = 2 * round + 2;
        server.wait_until(|stats| stats.closed() == gone && stats.get("connections") == 0);
    }
}
