//! Closing, from either side, loses no reply.

use std::io::Write as _;
use std::time::Instant;

use hawk_wire::JUNK_LIMIT;

use hawk_testkit::*;

#[test]
fn an_agent_that_ends_its_side_gets_every_reply_and_an_end_of_file() {
    let server = Server::start(&[]);
    let (sent, replies) = mixture(300);
    let mut agent = server.connect();
    agent.send(&sent);
    agent.shutdown_write();
    agent.expect_replies(&replies);
    agent.expect_eof();
    let stats = server.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.get("closed_agent_closed"), 1);
}

#[test]
fn data_and_end_of_file_that_come_together_are_answered() {
    let server = Server::start(&[]);
    let mut early = server.connect();
    early.expect_alive();
    let suspended = server.suspend();
    // A connection that was served before, and a new one.
    let mut agents = [early, server.connect()];
    for agent in &mut agents {
        agent.send(&[heartbeat(), report("last words")].concat());
        agent.shutdown_write();
        agent.wait_delivered();
    }
    drop(suspended);
    for agent in &mut agents {
        agent.expect_lines(&[HEARTBEAT, REPORT]);
        agent.expect_eof();
    }
    server.wait_until(|stats| stats.get("closed_agent_closed") == 2);
}

#[test]
fn more_than_a_turns_work_and_an_end_of_file_that_come_together_are_answered() {
    // More frames, and in the second case more bytes, than the budget of a turn.
    for (frame, reply, count) in [(frame(b""), EMPTY, 5_000), (long_report(9_000), REPORT, 10)] {
        let server = Server::start(&[]);
        let mut agent = server.connect();
        agent.expect_alive();
        let suspended = server.suspend();
        agent.send(&frame.repeat(count));
        agent.shutdown_write();
        drop(suspended);
        agent.expect_replies(format!("{reply}\n").repeat(count).as_bytes());
        agent.expect_eof();
    }
}

#[test]
fn half_a_frame_at_the_end_is_junk_and_the_frames_before_it_are_answered() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let half = &report("never finished")[..50];
    agent.send(&[&heartbeat(), half].concat());
    agent.shutdown_write();
    agent.expect_line(HEARTBEAT);
    agent.expect_eof();
    let stats = server.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.get("junk_bytes"), 50);
    assert_eq!(stats.in_use(), [0; 5]);
}

#[test]
fn a_frame_within_a_false_one_is_found_at_the_end_of_file() {
    let server = Server::start(&[]);
    let mut agent = server.connect_hiding_a_report();
    agent.shutdown_write();
    agent.expect_line(REPORT);
    agent.expect_eof();
    let stats = server.wait_until(|stats| stats.get("junk_bytes") == 1);
    assert_eq!(stats.in_use(), [0; 5]);
}

#[test]
fn an_agent_that_sends_junk_past_the_limit_gets_all_replies_and_a_clean_end() {
    let server = Server::start(&[]);
    let clock = Clock::of("300ms");
    // Most of the replies are still in the kernel when the server closes: a reset would destroy
    // them.
    let mut agent = Agent::connect_narrow(server.address);
    let (sent, replies) = mixture(700);
    agent.send(&sent);
    agent.send(&[b'j'; 2 * JUNK_LIMIT as usize]);
    clock.wait();
    // The server closes by now; input that it does not read would reset the connection.
    agent.send(&[b'j'; JUNK_LIMIT as usize]);
    agent.widen();
    agent.expect_replies(&replies);
    agent.expect_eof();
}

#[test]
fn a_reset_is_counted_and_affects_no_other_connection() {
    let server = Server::start(&[]);
    let mut other = server.connect();
    let mut agent = server.connect();
    agent.expect_alive();
    agent.send(&heartbeat()[..40]);
    server.wait_until(|stats| stats.in_use()[0] == 1);
    agent.reset();
    let stats = server.wait_until(|stats| stats.get("connections") == 1);
    assert_eq!(stats.get("closed_connection_lost"), 1);
    assert_eq!(stats.in_use(), [0; 5]);
    other.expect_alive();
}

#[test]
fn agents_that_never_stop_sending_are_cut_off_after_their_end_of_file() {
    let server = Server::start(&[]);
    // Many agents, so that each has more input at each of its turns.
    let agents: Vec<_> = (0..16).map(|_| server.connect()).collect();
    let deadline = Instant::now() + PATIENCE / 2;
    let floods: Vec<_> = agents
        .iter()
        .map(|agent| {
            let mut sender = agent.sender();
            std::thread::spawn(move || {
                while sender.write_all(&[b'j'; 256 * 1024]).is_ok() {
                    assert!(Instant::now() < deadline, "it is read for ever");
                }
            })
        })
        .collect();
    for mut agent in agents {
        agent.expect_eof();
    }
    for flood in floods {
        flood.join().unwrap();
    }
    let stats = server.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.get("closed_junk_limit"), 16);
}

#[test]
fn input_sent_before_an_agent_left_is_handled_without_replies() {
    // More than two turns' frames in one read.
    let short = long_report(15).repeat(2_500);
    // More bytes than a read takes, because part of the buffer is in use: the rest is in the
    // kernel when the connection breaks.
    let long = [long_report(60_000), long_report(15).repeat(1_400)].concat();
    for (sent, reports, before) in [(short, 2_500, 0), (long, 1_401, 40_000)] {
        let server = Server::start(&[]);
        let mut agents: Vec<_> = (0..5).map(|_| server.connect()).collect();
        for agent in &mut agents {
            agent.expect_alive();
            agent.send(&sent[..before]);
        }
        let arrived = 5 * (heartbeat().len() + before) as u64;
        server.wait_until(|stats| stats.get("bytes_in") == arrived);
        let suspended = server.suspend();
        for mut agent in agents {
            agent.send(&sent[before..]);
            agent.wait_delivered();
        }
        drop(suspended);
        let stats = server.wait_until(|stats| stats.get("connections") == 0);
        assert_eq!(stats.get("reports"), 5 * reports);
        let causes = ["closed_connection_lost", "closed_agent_closed"];
        let ends: u64 = causes.map(|cause| stats.get(cause)).iter().sum();
        assert_eq!((ends, stats.closed()), (5, 5), "{stats:?}");
        assert_eq!(stats.in_use(), [0; 5]);
    }
}
