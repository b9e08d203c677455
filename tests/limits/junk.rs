//! Junk: each kind has a defined answer, and does not affect other connections.

use std::time::Instant;

use hawk_wire::JUNK_LIMIT;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use hawk_testkit::*;

const LIMIT: usize = JUNK_LIMIT as usize;

/// The first bytes of a TLS 1.3 ClientHello, as an HTTPS client would send them: record
/// header, handshake header, version, and a random.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\
    \x8f\x1c\xff\xff\x00\x10\x9a\x4b\x77\xff\xfe\x21\x5d\x90\xaa\xc3\x0e\x62\x19\xf4\
    \x20\x13\x02\x13\x03\x13\x01\xc0\x2c\xc0\x30\x00\x9f";

const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: hawk:9876\r\n\
    User-Agent: curl/8.14.1\r\nAccept: */*\r\n\r\n";

/// Returns more bytes of each kind than the junk limit. They contain no frame, and no
/// candidate that gets a reply.
fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    // Some more, because the last candidate may stay undecided.
    let full = |piece: &[u8]| piece.repeat(LIMIT / piece.len() + 16);
    let mut random = SmallRng::seed_from_u64(1);
    let noise: Vec<u8> = (0..LIMIT + 1_000).map(|_| random.random()).collect();
    vec![
        ("one byte", full(b"x")),
        ("random", noise),
        ("http", full(REQUEST)),
        ("tls", full(CLIENT_HELLO)),
        // A wrong length: the next candidate refutes each.
        ("longest claims", full(b"\xFF\xFF\xFF\xFD{\"PacketType\":1")),
        (
            "too short a claim",
            full(b"\xFF\xFF\x00\x02{\"PacketType\":1}\x11\x22\xFF\xFE"),
        ),
        // The most candidates possible, one byte apart.
        ("marks", full(b"\xFF")),
        ("two marks", full(b"\xFF\xFF\x00")),
        (
            "marks at each end",
            full(b"\xFF\xFF\x00\x01a\x00\x00\xFF\xFD"),
        ),
        // The decoder must search each to its end before the wrong trailer refuses it.
        ("long and wrong at the end", {
            full(
                &[
                    b"\xFF\xFF\xF0\x00".to_vec(),
                    vec![b'x'; 0xF000],
                    b"\0\0\xFF\x00".to_vec(),
                ]
                .concat(),
            )
        }),
    ]
}

#[test]
fn junk_of_every_kind_is_answered_with_nothing_counted_and_closed_at_its_limit() {
    let start = Instant::now();
    let server = Server::start(&[]);
    let mut other = server.connect();
    let kinds = kinds();
    for (number, (kind, junk)) in (1..).zip(&kinds) {
        let mut agent = server.connect();
        // Part of it a byte at a time, so that a fast server reads each byte by itself.
        let (slowly, rest) = junk.split_at(300);
        for byte in slowly.chunks(1) {
            agent.send(byte);
            other.expect_alive();
        }
        // The server may close it before the last byte is sent.
        agent.try_send(rest).ok();
        assert_eq!(agent.read_to_end(), "", "{kind}");
        drop(agent);
        let stats = server.wait_until(|stats| stats.get("connections") == 1);
        assert_eq!(stats.get("closed_junk_limit"), number, "{kind}");
        assert_eq!(stats.get("junk_bytes"), number * LIMIT as u64, "{kind}");
        assert_eq!((stats.get("errors"), stats.closed()), (0, number), "{kind}");
        assert_eq!(stats.in_use(), [0; 5], "{kind}");
        other.expect_alive();
    }
    assert!(server.count_logged("junk:") <= lines_allowed(start));
}

#[test]
fn candidates_that_run_up_to_one_checksum_get_one_line_each_and_no_more() {
    let server = Server::start(&[]);
    let mut other = server.connect();
    let mut agent = server.connect();
    // Two candidates, one byte apart, with claimed lengths that end at the same end marker:
    // the decoder searches and sums all bytes for both.
    let mut piece = b"\xFF\xFF\xFF\xFF\xFE".to_vec();
    piece.resize(0x1_0005, b'x');
    piece.extend(b"\xFF\xFE");
    for _ in 0..3 {
        agent.send(&piece);
        agent.expect_lines(&[WRONG_SUM, WRONG_SUM]);
        other.expect_alive();
    }
    agent.expect_alive();
    assert_eq!(server.stats().get("error_checksum_mismatch"), 6);
}

#[test]
fn json_that_is_hard_to_read_is_answered_as_any_other() {
    const MALFORMED: &str = "error: malformed JSON";
    let server = Server::start(&[]);
    let mut other = server.connect();
    let mut agent = server.connect();
    let compact = |text: String| frame(format!("\x01{text}").as_bytes());
    let many = |piece: &str| piece.repeat(60_000 / piece.len());
    let nested = 30_000;
    let cases = [
        (
            format!("{{\"more\":{}{}}}", "[".repeat(nested), "]".repeat(nested)),
            REPORT,
        ),
        (format!("{{\"more\":{}", "[".repeat(2 * nested)), MALFORMED),
        (
            format!("{{{}\"more\":{{}}{}", many("\"a\":{"), ""),
            MALFORMED,
        ),
        (format!("{{\"content\":\"{}\"}}", many("\\u0041")), REPORT),
        (format!("{{\"content\":\"{}\"}}", many("\\ud800")), REPORT),
        (
            format!("{{{}\"rand\":1}}", many("\"content\":\"a\",")),
            REPORT,
        ),
        (
            format!("{{\"rand\":{}}}", many("9")),
            "error: number out of range",
        ),
        (format!("{{\"more\":{}}}", many("9")), REPORT),
        (format!("{{\"rand\":1{}}}", many(" ")), REPORT),
        (format!("{{\"{}\":1}}", many("\\n")), REPORT),
    ];
    for (text, reply) in cases {
        agent.exchange(&compact(text.clone()), reply);
        other.expect_alive();
    }
    agent.expect_alive();
    assert_eq!(server.stats().get("junk_bytes"), 0);
}
