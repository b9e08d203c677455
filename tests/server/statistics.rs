//! The contents of the statistics, and their times.

use hawk_wire::JUNK_LIMIT;

use hawk_testkit::*;

#[test]
fn a_known_exchange_is_counted_as_it_was() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let (mut sent, mut received) = (0, 0);
    let mut exchange = |frame: Vec<u8>, reply: &str| {
        agent.exchange(&frame, reply);
        sent += frame.len() as u64;
        received += reply.len() as u64 + 1;
    };
    exchange(heartbeat(), HEARTBEAT);
    exchange(heartbeat(), HEARTBEAT);
    exchange(report("x"), REPORT);
    exchange(frame(b""), EMPTY);
    exchange(wrong_sum(), WRONG_SUM);
    exchange([b"junk".to_vec(), heartbeat()].concat(), HEARTBEAT);
    let stats = server.stats();
    let expected = [
        ("connections", 1),
        ("accepted", 1),
        ("accept_errors", 0),
        ("heartbeats", 3),
        ("reports", 1),
        ("errors", 2),
        ("error_empty", 1),
        ("error_checksum_mismatch", 1),
        ("junk_bytes", 4 + wrong_sum().len() as u64),
        ("bytes_in", sent),
        ("bytes_out", received),
    ];
    for (key, value) in expected {
        assert_eq!(stats.get(key), value, "{key}");
    }
    assert!((6..=12).contains(&stats.get("reads")), "{stats:?}");
    assert_eq!(stats.get("writes"), 6);
    assert_eq!(stats.server.sum("error_"), 2);
    assert_eq!(stats.closed(), 0);
}

#[test]
fn input_after_the_end_was_decided_is_counted() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let before = JUNK_LIMIT as usize - 1;
    agent.send(&vec![b'j'; before]);
    server.wait_until(|stats| stats.get("bytes_in") == before as u64);
    let suspended = server.suspend();
    // The first read decides it, and takes less than half.
    let after = 150_000;
    agent.send(&vec![b'j'; after]);
    agent.shutdown_write();
    drop(suspended);
    agent.expect_eof();
    let stats = server.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.get("closed_junk_limit"), 1);
    assert_eq!(stats.get("bytes_in"), (before + after) as u64);
}

#[test]
fn the_end_of_every_connection_is_counted_under_one_cause() {
    let server = Server::start(&["--frame-timeout", "200ms"]);
    server.connect().expect_alive();
    let mut unfinished = server.connect();
    unfinished.send(b"\xFF\xFF");
    unfinished.expect_eof();
    drop(unfinished);
    let mut junk = server.connect();
    junk.send(&[b'j'; 256 * 1024]);
    junk.expect_eof();
    drop(junk);
    let stats = server.wait_until(|stats| stats.get("connections") == 0);
    for cause in ["agent_closed", "frame_timeout", "junk_limit"] {
        assert_eq!(stats.get(&format!("closed_{cause}")), 1, "{cause}");
    }
    assert_eq!((stats.get("accepted"), stats.closed()), (3, 3));
}

#[test]
fn statistics_come_by_themselves_at_each_interval_in_which_something_changed() {
    let server = Server::start(&["--stats-interval", "20ms"]);
    let mut agent = server.connect();
    let mut mark = 0;
    for heartbeats in 1..=5 {
        agent.expect_alive();
        let (_, behind) = server.log().wait_for(mark, |line| {
            let fields = Fields::parse(line);
            line.contains("] stats ") && fields.get("heartbeats") == heartbeats
        });
        mark = behind;
    }
    server
        .log()
        .wait_for(0, |line| line.contains("] pool class=69632 "));
}

#[test]
fn an_idle_server_does_not_repeat_its_statistics() {
    let server = Server::start(&["--stats-interval", "20ms"]);
    let clock = Clock::of("500ms");
    let mut agent = server.connect();
    agent.expect_alive();
    clock.wait();
    // Some twenty intervals are over; the next line of the log is the marker.
    let marker = server.stats();
    let lines = server.log().since(0);

    let server_lines: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("] stats "))
        .map(|line| Fields::parse(line).without("_per_s"))
        .collect();
    let [earlier @ .., last] = server_lines.as_slice() else {
        panic!("no statistics in {lines:#?}");
    };
    assert_eq!(last, &marker.server.without("_per_s"));
    assert!(
        earlier.windows(2).all(|pair| pair[0] != pair[1]),
        "{lines:#?}"
    );
    assert_eq!(
        earlier.last(),
        Some(last),
        "the state before the marker was told"
    );

    for size in CLASSES {
        let class = format!("] pool class={size} ");
        let told: Vec<_> = lines.iter().filter(|line| line.contains(&class)).collect();
        let states: Vec<_> = told.iter().map(|line| Fields::parse(line)).collect();
        let [earlier @ .., _marker] = states.as_slice() else {
            panic!("no class {size} in {lines:#?}");
        };
        assert!(
            earlier.windows(2).all(|pair| pair[0] != pair[1]),
            "{lines:#?}"
        );
    }
}
