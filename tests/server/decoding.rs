//! Frames in pieces, between junk, or damaged.

use hawk_wire::{Encoding, JUNK_LIMIT};

use hawk_testkit::*;

/// Bytes that no candidate can hide in.
fn junk(bytes: usize) -> Vec<u8> {
    vec![b'j'; bytes]
}

#[test]
fn frames_that_come_byte_by_byte_are_answered() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let stream = [heartbeat(), frame(b""), report("bit by bit"), wrong_sum()].concat();
    agent.send_in_pieces(&stream, 1);
    agent.expect_lines(&[HEARTBEAT, EMPTY, REPORT, WRONG_SUM]);
    agent.expect_alive();
}

#[test]
fn a_stream_may_be_cut_at_any_offset() {
    let server = Server::start(&[]);
    let heartbeat = heartbeat_packet(Encoding::Compact, None);
    let stream = [b"j\xFF", frame(b"").as_slice(), &heartbeat, &wrong_sum()].concat();
    let mut agent = server.connect();
    for cut in 0..=stream.len() {
        let (head, tail) = stream.split_at(cut);
        agent.send(head);
        // A reply to this agent means that the head was read.
        server.connect().expect_alive();
        agent.send(tail);
        agent.expect_lines(&[EMPTY, HEARTBEAT, WRONG_SUM]);
    }
    agent.expect_alive();
}

#[test]
fn a_reply_does_not_wait_for_what_follows_its_frame() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let next = report("the next frame, of which half is there");
    let (head, tail) = next.split_at(20);
    agent.send(&[&heartbeat(), head].concat());
    agent.expect_line(HEARTBEAT);
    agent.exchange(tail, REPORT);
}

#[test]
fn a_frame_without_data_is_refused_and_affects_no_other() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let mut other = server.connect();
    agent.exchange(b"\xFF\xFF\x00\x00\x00\x00\xFF\xFE", EMPTY);
    agent.expect_alive();
    other.expect_alive();
}

#[test]
fn the_longest_frame_is_answered_however_it_comes() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let longest = long_report(LONGEST_DATA);
    assert_eq!(longest.len(), 65_543);
    for piece in [longest.len(), 30_000, 1_000] {
        agent.send_in_pieces(&longest, piece);
        agent.expect_line(REPORT);
    }
    agent.expect_alive();
}

#[test]
fn frames_around_the_size_of_a_read_are_answered_in_order_among_short_ones() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let mut sent = Vec::new();
    let mut replies = String::new();
    // Lengths of FE00 and more are special; stay below, except for the last.
    for data in [65_000, 20, 64_512, 4_096, 65_023, 16_384, LONGEST_DATA] {
        sent.extend_from_slice(&long_report(data));
        sent.extend_from_slice(&heartbeat());
        replies += &format!("{REPORT}\n{HEARTBEAT}\n");
    }
    let mut sender = agent.sender();
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut sender, &sent).unwrap());
        agent.expect_replies(replies.as_bytes());
    });
}

#[test]
fn junk_is_answered_with_nothing_and_costs_no_frame() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let stray: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\xFF",
        b"\xFF\xFE",
        b"\xFF\xFF\xFF",
        b"\x00\x00\x00\x00",
        // A head with a length beyond the input.
        b"\xFF\xFF\xF0\x00 and so on",
    ];
    for bytes in stray {
        agent.send(&[bytes, heartbeat().as_slice()].concat());
        agent.expect_line(HEARTBEAT);
        // The same in pieces, so that the junk is decoded alone.
        agent.send_in_pieces(bytes, 1);
        agent.exchange(&report("after junk"), REPORT);
    }
    let bytes: usize = stray.iter().map(|bytes| 2 * bytes.len()).sum();
    let stats = server.stats();
    assert_eq!(stats.get("junk_bytes"), bytes as u64);
    assert_eq!(stats.get("errors"), 0);
    assert_eq!(server.count_logged("junk:"), 1, "logged at a limited rate");
}

#[test]
fn a_damaged_frame_costs_only_itself() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let good = report("undamaged");
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 0xFF;
        let mut shortened = good.clone();
        shortened.remove(at);
        let mut lengthened = good.clone();
        lengthened.insert(at, 0xFF);
        for damaged in [flipped, shortened, lengthened] {
            agent.send(&[damaged.as_slice(), &heartbeat()].concat());
        }
    }
    agent.shutdown_write();
    let lines = agent.read_to_end();
    let heartbeats = lines.lines().filter(|line| *line == HEARTBEAT).count();
    assert_eq!(heartbeats, 3 * good.len());
}

#[test]
fn junk_below_the_limit_is_forgiven_with_each_frame_that_passes() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    for _ in 0..3 {
        agent.send(&junk(JUNK_LIMIT as usize - 1));
        agent.exchange(&heartbeat(), HEARTBEAT);
    }
    let stats = server.stats();
    assert_eq!(stats.get("junk_bytes"), 3 * (u64::from(JUNK_LIMIT) - 1));
    assert_eq!(stats.get("connections"), 1);
}

#[test]
fn junk_up_to_the_limit_ends_the_connection_behind_its_replies() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let mut other = server.connect();
    let (sent, replies) = mixture(100);
    // The last frame of the mixture passes, so that the count starts behind it.
    let last = heartbeat();
    agent.send(&[sent, last, junk(JUNK_LIMIT as usize)].concat());
    agent.expect_replies(&replies);
    agent.expect_line(HEARTBEAT);
    agent.expect_eof();
    drop(agent);
    let stats = server.wait_until(|stats| stats.get("connections") == 1);
    assert_eq!(stats.get("closed_junk_limit"), 1);
    other.expect_alive();
}

#[test]
fn a_wrong_sum_is_junk_too() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let damaged = wrong_sum();
    let enough = JUNK_LIMIT as usize / damaged.len() + 1;
    agent.send(&damaged.repeat(enough));
    // The limit is in the last of them, which is complete.
    for _ in 0..enough {
        agent.expect_line(WRONG_SUM);
    }
    agent.expect_eof();
    drop(agent);
    let stats = server.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.get("closed_junk_limit"), 1);
    assert_eq!(stats.get("junk_bytes"), u64::from(JUNK_LIMIT));
}

#[test]
fn urgent_data_among_frames_delays_none_of_them() {
    // A missed frame would be found at the idle timeout.
    let server = Server::start(&["--idle-timeout", "1h"]);
    let mut early = server.connect();
    early.expect_alive();
    let suspended = server.suspend();
    // A connection that was served before, and a new one.
    let mut agents = [early, server.connect()];
    for agent in &mut agents {
        agent.send(&heartbeat());
        agent.send_urgent(b'!');
        agent.send(&[heartbeat(), report("behind it"), heartbeat()].concat());
        agent.wait_delivered();
    }
    drop(suspended);
    for agent in &mut agents {
        agent.expect_lines(&[HEARTBEAT, HEARTBEAT, REPORT, HEARTBEAT]);
        agent.expect_alive();
    }
    assert_eq!(server.stats().get("junk_bytes"), 0);
}
