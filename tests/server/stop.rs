//! Signals: a drain, a stop at once, and statistics on request.

use std::io::Write as _;
use std::net::TcpStream;

use rustix::process::Signal;

use hawk_testkit::*;

#[test]
fn sigterm_and_sigint_answer_earlier_input_and_end_with_success() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start(&["--drain-timeout", "1h"]);
        let mut agents: Vec<_> = (0..10).map(|_| server.connect()).collect();
        let idle = server.connect();
        let (sent, replies) = mixture(1_000);
        for agent in &mut agents {
            agent.expect_alive();
        }
        let suspended = server.suspend();
        for agent in &mut agents {
            agent.send(&sent[..60_000]);
            agent.wait_delivered();
        }
        server.signal(signal);
        drop(suspended);
        for agent in &mut agents {
            let lines = agent.read_to_end();
            let all = String::from_utf8_lossy(&replies);
            assert!(all.starts_with(&lines) && lines.len() > 1000, "{lines}");
        }
        drop((agents, idle));
        let exit = server.wait_exit();
        assert_eq!(exit.code, Some(0), "{exit:?}");
        let served = exit.stderr.last().unwrap();
        let heartbeats = Fields::parse(served).get("heartbeats");
        assert!(served.contains("] served ") && heartbeats > 10, "{served}");
    }
}

#[test]
fn every_frame_sent_before_the_signal_is_answered() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    agent.expect_alive();
    let (sent, replies) = mixture(1_400);
    let suspended = server.suspend();
    // As much as fits the sockets, whole frames only.
    let frames = 7 * 10;
    let (part, answers) = (mixture(frames).0.len(), mixture(frames).1.len());
    agent.send(&sent[..part]);
    agent.wait_delivered();
    server.signal(Signal::TERM);
    drop(suspended);
    agent.expect_replies(&replies[..answers]);
    agent.expect_eof();
    drop(agent);
    assert_eq!(server.wait_exit().code, Some(0));
}

#[test]
fn agents_in_the_backlog_are_answered_before_the_stop() {
    let server = Server::start(&[]);
    let suspended = server.suspend();
    let mut agents: Vec<_> = (0..200).map(|_| server.connect()).collect();
    for agent in &mut agents {
        agent.send(&heartbeat());
    }
    agents.iter().for_each(Agent::wait_delivered);
    server.signal(Signal::TERM);
    drop(suspended);
    server.expect_a_heartbeat_each_and_a_stop(agents);
}

#[test]
fn a_frame_within_a_false_one_is_answered_before_the_stop() {
    let server = Server::start(&[]);
    let mut agent = server.connect_hiding_a_report();
    server.signal(Signal::TERM);
    agent.expect_line(REPORT);
    agent.expect_eof();
    drop(agent);
    assert_eq!(server.wait_exit().code, Some(0));
}

#[test]
fn a_stopping_server_accepts_no_connections() {
    let server = Server::start(&["--drain-timeout", "1h"]);
    // It delays the stop until it closes.
    let _agent = never_reads(&server);
    server.signal(Signal::TERM);
    server.log().wait_for(0, |line| line.contains("stopping"));
    let refused = TcpStream::connect(server.address).map_err(|error| error.kind());
    assert_eq!(refused.err(), Some(std::io::ErrorKind::ConnectionRefused));
}

#[test]
fn an_agent_that_sends_without_end_cannot_delay_the_stop() {
    let server = Server::start(&["--drain-timeout", "500ms"]);
    let mut agent = server.connect();
    agent.expect_alive();
    let (mut sender, mut receiver) = (agent.sender(), agent.sender());
    let flood = std::thread::spawn(move || {
        let block = heartbeat().repeat(1_000);
        while sender.write_all(&block).is_ok() {}
    });
    let drain = std::thread::spawn(move || {
        std::io::copy(&mut receiver, &mut std::io::sink()).ok();
    });
    server.wait_until(|stats| stats.get("heartbeats") > 10_000);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
    flood.join().unwrap();
    drain.join().unwrap();
}

#[test]
fn an_agent_that_never_reads_cannot_delay_the_stop() {
    let server = Server::start(&["--drain-timeout", "300ms"]);
    let _agent = never_reads(&server);
    server.signal(Signal::TERM);
    let exit = server.wait_exit();
    assert_eq!(exit.code, Some(0));
    let served = Fields::parse(exit.stderr.last().unwrap());
    assert_eq!(served.get("closed_shutdown"), 1, "{exit:?}");
}

#[test]
fn a_second_signal_ends_the_server_at_once_with_an_error() {
    let server = Server::start(&["--drain-timeout", "1h"]);
    let _agent = never_reads(&server);
    server.signal(Signal::TERM);
    server.log().wait_for(0, |line| line.contains("stopping"));
    server.signal(Signal::INT);
    let exit = server.wait_exit();
    assert_eq!(exit.code, Some(1));
    let told = |line: &String| line.contains("second signal");
    assert!(exit.stderr.iter().any(told), "{exit:?}");
}

#[test]
fn sigusr1_logs_all_statistics_each_time() {
    let server = Server::start(&[]);
    for _ in 0..2 {
        let mark = server.log().count();
        let stats = server.stats();
        assert_eq!(stats.pool.len(), CLASSES.len());
        // The line of the start may be among them.
        let mut lines = server.log().since(mark);
        lines.retain(|line| line.contains("hawk::stats"));
        // One line of the server, one of agents, one of restarts, and one for each class.
        assert_eq!(lines.len(), 3 + CLASSES.len(), "{lines:?}");
    }
    server.connect().expect_alive();
}

/// An agent that is paused because of its unread replies.
fn never_reads(server: &Server) -> Agent {
    let agent = Agent::connect_narrow(server.address);
    let mut sender = agent.sender();
    std::thread::spawn(move || {
        let block = frame(b"").repeat(8 * 1024);
        while sender.write_all(&block).is_ok() {}
    });
    let unsent = |stats: &Stats| 18 * stats.get("errors") - stats.get("bytes_out");
    server.wait_until(|stats| unsent(stats) > 64 * 1024);
    agent
}
