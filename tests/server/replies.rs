//! Every row of the table of replies.

use hawk_wire::Encoding;

use hawk_testkit::*;

#[test]
fn the_original_clients_heartbeat_gets_the_original_reply() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    agent.send(ORIGINAL_HEARTBEAT);
    agent.expect_replies(b"heartBeat\n");
    assert_eq!(heartbeat(), ORIGINAL_HEARTBEAT);
}

#[test]
fn good_packets_are_answered_in_both_encodings_with_and_without_a_name() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    for encoding in [Encoding::Classic, Encoding::Compact] {
        for name in [None, Some("web-01")] {
            agent.exchange(&heartbeat_packet(encoding, name), HEARTBEAT);
            agent.exchange(&report_packet("any <text>", encoding, name), REPORT);
        }
    }
    let stats = server.stats();
    assert_eq!((stats.get("heartbeats"), stats.get("reports")), (4, 4));
}

#[test]
fn go_writes_what_derived_json_readers_refuse_and_gets_its_reply() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    for data in [
        // Escapes, null, a key twice, a lone surrogate, an unknown key.
        "\x01{\"content\":\"\\u003cb\\u003e\",\"rand\":null}",
        "\x01{\"content\":\"a\",\"content\":\"b\",\"more\":[{}]}",
        "\x01{\"content\":\"\\ud800\"}",
        // A line break and an escaped slash inside base64.
        "{\"PacketType\":1,\"PacketContent\":\"e3\\n0=\"}",
        "{\"PacketType\":1,\"PacketContent\":\"eyJjb250ZW50IjoiPz8\\/In0=\"}",
        " {\"PacketContent\":\"e30=\",\"PacketType\":0,\"PacketType\":1}\n",
    ] {
        agent.exchange(&frame(data.as_bytes()), REPORT);
    }
}

#[test]
fn every_refusal_has_its_text_and_its_counter_and_the_connection_stays() {
    let cases: &[(&[u8], &str, &str)] = &[
        (b"", "error: empty data", "empty"),
        (b"\x00", "error: empty data", "empty"),
        (
            b"{\"PacketType\":1,\"PacketContent\":\"\"}",
            "error: empty data",
            "empty",
        ),
        (b"\x02{}", "error: unknown encoding", "unknown_encoding"),
        (b"hello", "error: malformed JSON", "malformed"),
        (b"\x00{", "error: malformed JSON", "malformed"),
        (b"{}", "error: missing field", "missing_field"),
        (
            b"{\"PacketType\":1}",
            "error: missing field",
            "missing_field",
        ),
        (b"\x01[]", "error: wrong type", "wrong_type"),
        (b"\x01{\"content\":7}", "error: wrong type", "wrong_type"),
        (
            b"\x01{\"rand\":9223372036854775808}",
            "error: number out of range",
            "out_of_range",
        ),
        (
            b"{\"PacketType\":256,\"PacketContent\":\"e30=\"}",
            "error: number out of range",
            "out_of_range",
        ),
        (
            b"{\"PacketType\":2,\"PacketContent\":\"e30=\"}",
            "error: unknown packet type",
            "unknown_packet_type",
        ),
        (
            b"{\"PacketType\":1,\"PacketContent\":\"e30\"}",
            "error: bad base64",
            "bad_base64",
        ),
        (
            b"\x00{\"agent\":\"\"}",
            "error: bad agent name",
            "bad_agent_name",
        ),
        (
            b"\x00{\"agent\":\"a\\u001b[31m\"}",
            "error: bad agent name",
            "bad_agent_name",
        ),
    ];
    let server = Server::start(&[]);
    let mut agent = server.connect();
    for (data, reply, _) in cases {
        agent.exchange(&frame(data), reply);
        agent.expect_alive();
    }
    agent.exchange(&wrong_sum(), WRONG_SUM);
    agent.expect_alive();

    let stats = server.stats();
    assert_eq!(stats.get("errors"), cases.len() as u64 + 1);
    assert_eq!(stats.get("error_checksum_mismatch"), 1);
    for (_, _, name) in cases {
        let count = cases.iter().filter(|(.., other)| other == name).count();
        assert_eq!(stats.get(&format!("error_{name}")), count as u64, "{name}");
    }
    assert_eq!(stats.get("connections"), 1);
}

#[test]
fn an_agents_name_of_128_bytes_is_good_and_one_of_129_is_not() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    for (length, reply) in [(128, HEARTBEAT), (129, "error: bad agent name")] {
        let data = format!("\0{{\"agent\":\"{}\"}}", "n".repeat(length));
        agent.exchange(&frame(data.as_bytes()), reply);
    }
}

#[test]
fn thousands_of_frames_at_once_are_answered_in_order() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let (sent, replies) = mixture(7_000);
    let mut sender = agent.sender();
    std::thread::scope(|scope| {
        // On a thread: the server need not take all input before the test reads.
        scope.spawn(move || std::io::Write::write_all(&mut sender, &sent).unwrap());
        agent.expect_replies(&replies);
    });
    agent.expect_alive();
}

#[test]
fn agents_get_their_own_replies_only() {
    let server = Server::start(&[]);
    let mut agents: Vec<_> = (0..20).map(|_| server.connect()).collect();
    let kinds = [
        (heartbeat(), HEARTBEAT),
        (report("x"), REPORT),
        (frame(b""), EMPTY),
    ];
    for round in 0..10 {
        for (number, agent) in agents.iter_mut().enumerate() {
            agent.send(&kinds[(number + round) % kinds.len()].0);
        }
        for (number, agent) in agents.iter_mut().enumerate() {
            agent.expect_line(kinds[(number + round) % kinds.len()].1);
        }
    }
}
