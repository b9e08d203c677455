//! Too many connections, too few descriptors.

use std::time::Instant;

use rustix::process::Signal;

use hawk_testkit::*;

const BUSY: &str = "busy: too many connections";

#[test]
fn a_connection_beyond_the_limit_is_refused_and_a_freed_place_is_usable() {
    let server = Server::start(&["--max-connections", "2"]);
    let mut agents = [0, 1].map(|number| Agent::connect_as(number, server.address));
    agents.iter_mut().for_each(Agent::expect_alive);

    let mut newcomer = server.connect();
    newcomer.expect_line(BUSY);
    newcomer.expect_eof();
    drop(newcomer);
    let stats = server.wait_until(|stats| stats.get("connections") == 2);
    assert_eq!(stats.get("closed_too_many_connections"), 1);
    assert_eq!(stats.get("accepted"), 3);
    agents.iter_mut().for_each(Agent::expect_alive);

    let [left, mut stays] = agents;
    drop(left);
    server.wait_until(|stats| stats.get("connections") == 1);
    let mut newcomer = server.connect();
    newcomer.expect_alive();
    stays.expect_alive();
}

#[test]
fn a_turned_away_connection_takes_no_place() {
    let server = Server::start(&["--max-connections", "1"]);
    let agent = server.connect();
    server.wait_until(|stats| stats.get("connections") == 1);
    // It has its reply but stays connected; its place is free.
    let mut lingerer = server.connect();
    lingerer.expect_line(BUSY);
    drop(agent);
    server.wait_until(|stats| stats.get("closed_agent_closed") == 1);
    server.connect().expect_alive();
}

#[test]
fn turned_away_connections_that_have_sent_frames_get_their_reply() {
    let server = Server::start(&["--max-connections", "1"]);
    let mut agent = server.connect();
    agent.expect_alive();
    let suspended = server.suspend();
    let mut newcomers: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for newcomer in &mut newcomers {
        newcomer.send(&mixture(50).0);
    }
    drop(suspended);
    let stats = expect_turned_away(&server, newcomers);
    assert_eq!(stats.get("reports"), 0, "they were not served");
    agent.expect_alive();
}

#[test]
fn hundreds_of_connections_beyond_the_limit_are_all_refused_and_logged_in_few_lines() {
    let start = Instant::now();
    let server = Server::start(&["--max-connections", "1"]);
    let mut agent = server.connect();
    agent.expect_alive();
    let suspended = server.suspend();
    let newcomers: Vec<_> = (0..400).map(|_| server.connect()).collect();
    drop(suspended);
    expect_turned_away(&server, newcomers);
    assert!(server.count_logged("too many connections") <= lines_allowed(start));
    agent.expect_alive();
}

#[test]
fn without_descriptors_connections_wait_and_are_served_later() {
    let start = Instant::now();
    let server = Server::start(&[]);
    let mut first = server.connect();
    first.expect_alive();

    set_descriptor_limit(&server, limit_for(&server, 2));
    let mut agents: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for agent in &mut agents {
        agent.send(&heartbeat());
    }
    // Two fit; the others wait while the server retries.
    agents[0].expect_line(HEARTBEAT);
    agents[1].expect_line(HEARTBEAT);
    let stats = server.wait_until(|stats| stats.get("accept_errors") >= 3);
    assert_eq!(stats.get("accepted"), 3);
    assert!(server.count_logged("cannot accept") <= lines_allowed(start));
    first.expect_alive();

    // A closed connection makes room for a waiting one, without a new event.
    drop(agents.remove(0));
    agents[1].expect_line(HEARTBEAT);

    set_descriptor_limit(&server, most_descriptors());
    for agent in &mut agents[2..] {
        agent.expect_line(HEARTBEAT);
    }
    agents.iter_mut().for_each(Agent::expect_alive);
    assert!(server.count_logged("cannot accept") <= lines_allowed(start));
    assert_eq!(server.stats().get("accepted"), 11);
}

#[test]
fn a_closed_connection_makes_room_at_once_for_one_that_waits_for_a_descriptor() {
    let server = Server::start(&[]);
    let mut leaves = server.connect();
    leaves.expect_alive();
    set_descriptor_limit(&server, limit_for(&server, 0));
    let mut newcomer = server.connect();
    newcomer.send(&heartbeat());
    wait_until_accepting_fails(&server);

    // All of them are accepted in one turn, and the statistics are logged at its end. The time
    // until the next retry is longer.
    let suspended = server.suspend();
    leaves.shutdown_write();
    leaves.wait_delivered();
    let mark = server.log().count();
    server.signal(Signal::USR1);
    drop(suspended);
    let stats = Stats::wait_for(server.log(), mark);
    assert_eq!(stats.get("closed_agent_closed"), 1);
    assert_eq!(stats.get("accepted"), 2);
    newcomer.expect_line(HEARTBEAT);
}

#[test]
fn a_connection_that_waits_for_a_descriptor_is_answered_before_a_stop() {
    let server = Server::start(&[]);
    set_descriptor_limit(&server, limit_for(&server, 0));
    let mut agents: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for agent in &mut agents {
        agent.send(&heartbeat());
        agent.wait_delivered();
    }
    // Accepting has just failed, and is retried later.
    wait_until_accepting_fails(&server);
    let suspended = server.suspend();
    set_descriptor_limit(&server, most_descriptors());
    server.signal(Signal::TERM);
    drop(suspended);
    server.expect_a_heartbeat_each_and_a_stop(agents);
}

#[test]
fn the_limit_stays_exact_for_all_ways_in_which_turned_away_connections_end() {
    const MOST: usize = 3;
    // More than may linger at a time.
    const NEWCOMERS: usize = 70;
    let server = Server::start(&["--max-connections", &MOST.to_string()]);
    let mut agents: Vec<_> = (0..MOST)
        .map(|number| Agent::connect_as(number, server.address))
        .collect();
    agents.iter_mut().for_each(Agent::expect_alive);
    let (mut accepted, mut newcomers) = (MOST, 0);
    let all_gone = |newcomers: usize| {
        let stats = server.wait_until(|stats| stats.get("connections") == MOST as u64);
        assert_eq!(stats.get("closed_too_many_connections"), newcomers as u64);
    };
    for number in 0..MOST {
        let round = number as u64 + 1;
        // They read their reply and close.
        for number in 0..NEWCOMERS {
            let mut newcomer = server.connect();
            newcomer.expect_line(BUSY);
            match number % 3 {
                0 => newcomer.reset(),
                1 => newcomer.expect_eof(),
                _ => drop(newcomer),
            }
        }
        accepted += NEWCOMERS;
        newcomers += NEWCOMERS;
        all_gone(newcomers);
        // They close before the server accepts them, or nearly so.
        let suspended = server.suspend();
        for number in 0..NEWCOMERS {
            let mut newcomer = server.connect();
            newcomer.send(&heartbeat());
            newcomer.wait_delivered();
            match number % 3 {
                0 => newcomer.reset_delivered(),
                1 => newcomer.shutdown_write(),
                _ => drop(newcomer),
            }
        }
        drop(suspended);
        accepted += NEWCOMERS;
        newcomers += NEWCOMERS;
        server.wait_until(|stats| stats.get("accepted") == accepted as u64);
        all_gone(newcomers);

        // A free place is usable while others linger, and it is one place.
        let mut lingerers: Vec<_> = (0..NEWCOMERS).map(|_| server.connect()).collect();
        lingerers
            .iter_mut()
            .for_each(|lingerer| lingerer.expect_line(BUSY));
        drop(agents.remove(0));
        server.wait_until(|stats| stats.get("closed_agent_closed") == round);
        // From the address of the closed connection.
        agents.push(Agent::connect_as(number, server.address));
        agents.iter_mut().for_each(Agent::expect_alive);
        let mut newcomer = server.connect();
        newcomer.expect_line(BUSY);
        newcomer.expect_eof();
        drop((lingerers, newcomer));
        accepted += NEWCOMERS + 2;
        newcomers += NEWCOMERS + 1;
        all_gone(newcomers);
    }
    assert_eq!(server.stats().closed(), (newcomers + MOST) as u64);
}

fn wait_until_accepting_fails(server: &Server) {
    let before = server.stats().get("accept_errors");
    server.wait_until(|stats| stats.get("accept_errors") > before);
}

/// Expects that all new connections are turned away, and one agent stays.
#[track_caller]
fn expect_turned_away(server: &Server, mut newcomers: Vec<Agent>) -> Stats {
    for newcomer in &mut newcomers {
        newcomer.expect_line(BUSY);
        newcomer.expect_eof();
    }
    let all = newcomers.len() as u64;
    drop(newcomers);
    let stats = server.wait_until(|stats| stats.get("connections") == 1);
    assert_eq!(stats.get("closed_too_many_connections"), all);
    stats
}
