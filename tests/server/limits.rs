//! Too many connections, too few descriptors.

use std::time::Instant;

use rustix::process::Signal;

use hawk_testkit::*;

const BUSY: &str = "busy: too many connections";

#[test]
fn beyond_the_limit_a_newcomer_is_told_so_and_a_place_freed_is_usable() {
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
fn a_newcomer_that_is_turned_away_takes_nobodys_place() {
    let server = Server::start(&["--max-connections", "1"]);
    let agent = server.connect();
    server.wait_until(|stats| stats.get("connections") == 1);
    // It has its line but stays connected; the place is free all the same.
    let mut lingerer = server.connect();
    lingerer.expect_line(BUSY);
    drop(agent);
    server.wait_until(|stats| stats.get("closed_agent_closed") == 1);
    server.connect().expect_alive();
}

#[test]
fn newcomers_that_have_sent_frames_are_told_all_the_same() {
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
fn hundreds_of_newcomers_at_once_are_all_told_and_logged_in_few_lines() {
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
fn running_out_of_descriptors_is_survived_and_those_who_wait_are_served_later() {
    let start = Instant::now();
    let server = Server::start(&[]);
    let mut first = server.connect();
    first.expect_alive();

    set_descriptor_limit(&server, limit_for(&server, 2));
    let mut agents: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for agent in &mut agents {
        agent.send(&heartbeat());
    }
    // Two fit; the others wait, and it tries again and again.
    agents[0].expect_line(HEARTBEAT);
    agents[1].expect_line(HEARTBEAT);
    let stats = server.wait_until(|stats| stats.get("accept_errors") >= 3);
    assert_eq!(stats.get("accepted"), 3);
    assert!(server.count_logged("cannot accept") <= lines_allowed(start));
    first.expect_alive();

    // Who leaves makes room for who waits, without another newcomer.
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
fn who_leaves_makes_room_at_once_for_who_waits_for_a_descriptor() {
    let server = Server::start(&[]);
    let mut leaves = server.connect();
    leaves.expect_alive();
    set_descriptor_limit(&server, limit_for(&server, 0));
    let mut newcomer = server.connect();
    newcomer.send(&heartbeat());
    wait_until_accepting_fails(&server);

    // All that it finds when it goes on comes in one turn, at whose end it tells
    // how things are. The time until it would try again is longer.
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
fn who_waits_for_a_descriptor_is_answered_before_a_stop_if_there_is_one_by_then() {
    let server = Server::start(&[]);
    set_descriptor_limit(&server, limit_for(&server, 0));
    let mut agents: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for agent in &mut agents {
        agent.send(&heartbeat());
        agent.wait_delivered();
    }
    // It has just failed, and leaves them alone for a while.
    wait_until_accepting_fails(&server);
    let suspended = server.suspend();
    set_descriptor_limit(&server, most_descriptors());
    server.signal(Signal::TERM);
    drop(suspended);
    server.expect_a_heartbeat_each_and_a_stop(agents);
}

#[test]
fn the_limit_stays_exact_however_those_who_were_turned_away_leave() {
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
        // They read their line and go.
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
        // They are gone, or all but gone, before the server has seen them.
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

        // A place freed is usable while they linger, and it is one place.
        let mut lingerers: Vec<_> = (0..NEWCOMERS).map(|_| server.connect()).collect();
        lingerers
            .iter_mut()
            .for_each(|lingerer| lingerer.expect_line(BUSY));
        drop(agents.remove(0));
        server.wait_until(|stats| stats.get("closed_agent_closed") == round);
        // From the address of the one that left.
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

/// All newcomers are told and let go, and one agent stays.
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
