//! Timeouts: silent, slow and stuck connections are closed, delayed ones are not.

use std::time::{Duration, Instant};

use hawk_testkit::*;

#[test]
fn a_silent_agent_is_closed_at_the_idle_timeout() {
    let server = Server::start(&["--idle-timeout", "300ms"]);
    let start = Instant::now();
    let mut agent = server.connect();
    agent.expect_eof();
    assert!(start.elapsed() >= Duration::from_millis(300));
    drop(agent);
    let stats = server.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.get("closed_idle_timeout"), 1);
}

#[test]
fn the_idle_timeout_counts_from_the_last_frame_that_passed() {
    let server = Server::start(&["--idle-timeout", "1s"]);
    let clock = Clock::of("300ms");
    let mut agent = server.connect();
    clock.wait();
    let start = Instant::now();
    agent.expect_alive();
    agent.expect_eof();
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[test]
fn every_frame_that_passes_keeps_an_agent_alive() {
    let server = Server::start(&["--idle-timeout", "2s"]);
    let clock = Clock::of("250ms");
    let mut agents = [server.connect(), server.connect(), server.connect()];
    let mut silent = server.connect();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        agents[0].exchange(&heartbeat(), HEARTBEAT);
        agents[1].exchange(&report("x"), REPORT);
        // It passes as a frame, which is enough.
        agents[2].exchange(&frame(b"{}"), "error: missing field");
        clock.wait();
    }
    silent.expect_eof();
    agents.iter_mut().for_each(Agent::expect_alive);
}

#[test]
fn trickled_junk_does_not_keep_an_agent_alive() {
    let server = Server::start(&["--idle-timeout", "500ms"]);
    let mut agent = server.connect();
    let start = Instant::now();
    let mut sent = 0;
    while !agent.ends_within(Duration::from_millis(20)) {
        assert!(start.elapsed() < PATIENCE, "junk keeps it alive");
        agent.send(b"j");
        sent += 1;
    }
    assert!(start.elapsed() >= Duration::from_millis(500));
    assert!(sent > 0);
    drop(agent);
    server.wait_until(|stats| stats.get("closed_idle_timeout") == 1);
}

#[test]
fn wrong_sums_do_not_keep_an_agent_alive() {
    let server = Server::start(&["--idle-timeout", "500ms"]);
    let clock = Clock::of("50ms");
    let mut agent = server.connect();
    let start = Instant::now();
    while agent.try_send(&wrong_sum()).is_ok() {
        assert!(start.elapsed() < PATIENCE, "wrong sums keep it alive");
        clock.wait();
    }
    server.wait_until(|stats| stats.get("closed_idle_timeout") == 1);
}

#[test]
fn slow_heartbeats_stretch_the_idle_timeout_to_three_times_their_interval() {
    let server = Server::start(&["--idle-timeout", "1500ms"]);
    let clock = Clock::of("1s");
    let mut agent = server.connect();
    agent.expect_alive();
    let first_answered = Instant::now();
    clock.wait();
    let second_sent = Instant::now();
    agent.expect_alive();
    // At least the interval that the server measured, which it counts in whole milliseconds.
    let interval = second_sent - first_answered - Duration::from_millis(1);
    agent.expect_eof();
    let silence = second_sent.elapsed();
    assert!(silence >= 3 * interval, "{silence:?} after {interval:?}");
}

#[test]
fn a_partial_frame_is_closed_at_the_frame_timeout() {
    let server = Server::start(&["--frame-timeout", "300ms"]);
    let frame = heartbeat();
    let mut agents = Vec::new();
    for length in [1, 2, 4, 50, frame.len() - 1] {
        // At the start of the stream, and behind a frame.
        let mut pair = [server.connect(), server.connect()];
        pair[1].expect_alive();
        for mut agent in pair {
            let start = Instant::now();
            agent.send(&frame[..length]);
            agents.push((start, agent));
        }
    }
    for (start, mut agent) in agents {
        agent.expect_eof();
        assert!(start.elapsed() >= Duration::from_millis(300));
    }
    let stats = server.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.get("closed_frame_timeout"), 10);
    assert_eq!(stats.in_use(), [0; 5]);
}

#[test]
fn trickling_a_frame_does_not_move_its_deadline() {
    let server = Server::start(&["--frame-timeout", "400ms"]);
    let mut agent = server.connect();
    let start = Instant::now();
    let long = long_report(20_000);
    let mut bytes = long.chunks(1);
    while !agent.ends_within(Duration::from_millis(20)) {
        assert!(start.elapsed() < PATIENCE, "trickling keeps it alive");
        agent.send(bytes.next().unwrap());
    }
    drop(agent);
    server.wait_until(|stats| stats.get("closed_frame_timeout") == 1);
}

#[test]
fn a_candidate_within_refused_bytes_is_dropped_and_the_connection_stays() {
    let server = Server::start(&["--frame-timeout", "200ms"]);
    let mut agent = server.connect();
    for dropped in 1..=3 {
        // The first byte is junk, so that the following partial frame is suspect.
        agent.send(b"j\xFF\xFF\x01\x00abc");
        server.wait_until(|stats| stats.get("candidates_dropped") == dropped);
        agent.expect_alive();
    }
    let stats = server.stats();
    assert_eq!(stats.get("junk_bytes"), 3 * 8);
    assert_eq!(stats.get("connections"), 1);
}

#[test]
fn a_frame_in_the_shadow_of_a_dropped_candidate_is_answered() {
    let server = Server::start(&["--frame-timeout", "200ms"]);
    let mut agent = server.connect();
    // The candidate's length ends in the frame behind it. The FF of that frame refutes it only once
    // the frame is complete; part of the frame waits behind the candidate.
    let whole = report("in the shadow");
    let (head, tail) = whole.split_at(1);
    agent.send(&[b"j\xFF\xFF\x40\x00", head].concat());
    server.wait_until(|stats| stats.in_use()[0] == 1);
    agent.exchange(tail, REPORT);
}

#[test]
fn a_frame_within_a_false_one_is_answered_before_a_timeout_closes() {
    for cause in ["frame", "idle"] {
        let server = Server::start(&[&format!("--{cause}-timeout"), "300ms"]);
        let start = Instant::now();
        let mut agent = server.connect();
        agent.send(&hidden_report());
        agent.expect_line(REPORT);
        assert!(start.elapsed() >= Duration::from_millis(300), "{cause}");
        agent.expect_eof();
        drop(agent);
        let stats = server.wait_until(|stats| stats.get("connections") == 0);
        assert_eq!(stats.get(&format!("closed_{cause}_timeout")), 1);
        assert_eq!(stats.in_use(), [0; 5]);
    }
}

#[test]
fn an_idle_agent_gets_the_replies_that_it_has_not_read_and_a_clean_end() {
    let server = Server::start(&["--idle-timeout", "500ms"]);
    let clock = Clock::of("700ms");
    // Most of the replies are still in the kernel when the server closes: a reset would destroy
    // them.
    let mut agent = Agent::connect_narrow(server.address);
    let (sent, replies) = mixture(700);
    agent.send(&sent);
    clock.wait();
    // The server closes by now; input that it does not read would reset the connection.
    agent.send(b"junk");
    agent.widen();
    agent.expect_replies(&replies);
    agent.expect_eof();
}

#[test]
fn a_server_that_was_stopped_reads_its_input_before_it_enforces_deadlines() {
    let server = Server::start(&["--idle-timeout", "500ms"]);
    let clock = Clock::of("1s");
    let mut agent = server.connect();
    agent.expect_alive();
    let suspended = server.suspend();
    agent.send(&heartbeat());
    agent.wait_delivered();
    clock.wait();
    drop(suspended);
    agent.expect_line(HEARTBEAT);
}
