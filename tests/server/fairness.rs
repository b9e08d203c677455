//! Agents that use too much or read too little do not delay others.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use hawk::session::OUTPUT_HIGH_WATER;
use hawk_wire::{FRAME_OVERHEAD, MAX_REPLY_LINE};

use hawk_testkit::*;

/// Short frames with long replies: little input with much output.
const KINDS: [(&[u8], &str); 3] = [
    (b"", EMPTY),
    (b"\x02", "error: unknown encoding"),
    (b"x", "error: malformed JSON"),
];

/// `rounds` of all kinds, and the replies to them.
pub(crate) fn verbose(rounds: usize) -> (Vec<u8>, Vec<u8>) {
    let frames = KINDS.map(|(data, _)| frame(data)).concat();
    let replies = KINDS.map(|(_, reply)| format!("{reply}\n")).concat();
    (frames.repeat(rounds), replies.into_bytes().repeat(rounds))
}

/// Bytes of the longest class of receive buffer.
const LONGEST_BUFFER: usize = 69_632;

/// Bytes of unsent replies to [`KINDS`].
fn unsent(stats: &Stats) -> u64 {
    let names = ["error_empty", "error_unknown_encoding", "error_malformed"];
    let counts = names.map(|name| stats.get(name));
    let replies = counts.iter().zip(KINDS);
    let bytes: u64 = replies
        .map(|(n, (_, reply))| n * (reply.len() as u64 + 1))
        .sum();
    bytes - stats.get("bytes_out")
}

#[test]
fn a_slow_reader_is_paused_costs_little_and_gets_every_reply() {
    const ROUNDS: usize = 130_000;
    let server = Server::start(&[]);
    let mut slow = Agent::connect_narrow(server.address);
    let (sent, replies) = verbose(ROUNDS);
    let length = sent.len() as u64;
    let mut sender = slow.sender();
    let sending = std::thread::spawn(move || sender.write_all(&sent).unwrap());

    // It is read until its replies back up: beyond the mark there are only the replies to one
    // window of the shortest frames.
    let most = (OUTPUT_HIGH_WATER + LONGEST_BUFFER / FRAME_OVERHEAD * MAX_REPLY_LINE) as u64;
    let stats = server.wait_until(|stats| unsent(stats) > OUTPUT_HIGH_WATER as u64);
    assert!(unsent(&stats) <= most && stats.get("bytes_in") < length);

    let before = stats.get("bytes_in");
    let mut others: Vec<_> = (0..5).map(|_| server.connect()).collect();
    for _ in 0..100 {
        for other in &mut others {
            other.exchange(&frame(b""), EMPTY);
        }
    }
    let stats = server.stats();
    assert_eq!(
        stats.get("bytes_in") - before,
        500 * frame(b"").len() as u64
    );
    assert!(unsent(&stats) <= most);

    slow.widen();
    slow.expect_replies(&replies);
    sending.join().unwrap();
    slow.exchange(&report("and on it goes"), REPORT);
}

#[test]
fn an_agent_that_never_reads_is_closed_at_its_output_timeout() {
    let server = Server::start(&["--idle-timeout", "300ms"]);
    let agent = Agent::connect_narrow(server.address);
    let mut sender = agent.sender();
    let sending = std::thread::spawn(move || {
        let block = verbose(1_000).0;
        while sender.write_all(&block).is_ok() {}
    });
    let stats = server.wait_until(|stats| stats.get("connections") == 0 && stats.closed() > 0);
    assert_eq!(stats.get("closed_output_timeout"), 1, "{stats:?}");
    assert_eq!(stats.in_use(), [0; 5]);
    sending.join().unwrap();
    server.connect().expect_alive();
}

#[test]
fn an_agent_at_full_speed_does_not_starve_others() {
    let server = Server::start(&[]);
    // A slow machine needs some milliseconds a turn here: few rounds are enough.
    let greedy: Vec<_> = (0..2).map(|_| flood(&server)).collect();
    server.wait_until(|stats| stats.get("heartbeats") > 5_000);
    let mut others: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for _ in 0..50 {
        for other in &mut others {
            other.send(&report("me too"));
        }
        for other in &mut others {
            other.expect_line(REPORT);
        }
    }
    // The busy agent sent all the while.
    let stats = server.stats();
    server.wait_until(|later| later.get("heartbeats") > stats.get("heartbeats"));
    for (socket, threads) in greedy {
        socket.shutdown(Shutdown::Both).ok();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

#[test]
fn long_input_of_one_agent_is_handled_over_several_turns() {
    const QUEUED: usize = 3_500;
    let server = Server::start(&["--log-packets"]);
    let (mut greedy, mut other) = (server.connect(), server.connect());
    greedy.expect_alive();
    other.expect_alive();
    let mark = server.log().count();
    let suspended = server.suspend();
    greedy.send(&frame(b"\0{}").repeat(QUEUED));
    greedy.wait_delivered();
    other.send(&report("me too"));
    other.wait_delivered();
    drop(suspended);
    other.expect_line(REPORT);
    greedy.expect_replies("heartBeat\n".repeat(QUEUED).as_bytes());
    // Packets are logged when they are handled.
    let (_, behind) = server.log().wait_for(mark, |line| line.contains("me too"));
    let before = behind - mark;
    assert!(before < QUEUED / 2, "it had to wait for {before} others");
}

/// A thread that sends without end and one that reads all replies, until the socket is shut
/// down.
fn flood(server: &Server) -> (TcpStream, [std::thread::JoinHandle<()>; 2]) {
    let agent = server.connect();
    let (mut sender, mut receiver) = (agent.sender(), agent.sender());
    let sending = std::thread::spawn(move || {
        let block = heartbeat().repeat(2_000);
        while sender.write_all(&block).is_ok() {}
    });
    let reading = std::thread::spawn(move || {
        let mut discard = vec![0; 64 * 1024];
        while receiver.read(&mut discard).is_ok_and(|read| read > 0) {}
    });
    (agent.sender(), [sending, reading])
}

#[test]
fn slow_readers_do_not_keep_the_buffers_that_others_need() {
    let server = Server::start(&["--pool-limit", "139264"]);
    let mut slow: Vec<Agent> = Vec::new();
    let mut sent = 0;
    for _ in 0..2 {
        let mut agent = Agent::connect_narrow(server.address);
        let before = unsent(&server.stats());
        let of_it = |stats: &Stats| unsent(stats).saturating_sub(before);
        // How much the kernel takes beyond the mark depends on earlier connections,
        // `tcp_no_metrics_save` in ip-sysctl.rst.
        let over = eventually(|| {
            // Replies back up to half of the mark ...
            let (some, _) = verbose(200);
            while of_it(&server.stats()) < OUTPUT_HIGH_WATER as u64 / 2 {
                agent.send(&some);
                sent += some.len() as u64;
            }
            // ... and one read brings the rest.
            let suspended = server.suspend();
            let (many, _) = verbose(2_300);
            agent.send(&many);
            sent += many.len() as u64;
            drop(suspended);
            let is_over = |stats: &Stats| of_it(stats) > OUTPUT_HIGH_WATER as u64;
            let stats = server.wait_until(|stats| is_over(stats) || stats.get("bytes_in") == sent);
            is_over(&stats).then_some(())
        });
        assert!(over.is_some(), "the kernel takes it all");
        slow.push(agent);
    }
    server.connect().expect_alive();
}
