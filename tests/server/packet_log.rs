//! `--log-packets`: one line a packet, with any content.

use hawk_wire::Encoding;

use hawk_testkit::*;

#[test]
fn each_packet_is_one_line_with_its_fields() {
    let server = Server::start(&["--log-packets"]);
    let mut agent = server.connect();
    agent.expect_alive();
    agent.exchange(&report("some text"), REPORT);
    // Later lines of the log are behind the packets.
    server.stats();
    let lines = server.log().since(0);
    let packets: Vec<_> = lines
        .iter()
        .filter(|line| line.contains(" peer=127.0.0.1:"))
        .collect();
    assert_eq!(packets.len(), 2, "{lines:#?}");
    let ends = [
        "agent=\"\" version=\"1.0\" timestamp=1475249220",
        "agent=\"\" content=\"some text\" rand=3413719555719190332 timestamp=1475249220",
    ];
    for (line, end) in packets.into_iter().zip(ends) {
        assert!(line.ends_with(end), "{line}");
    }
}

#[test]
fn no_packet_can_forge_a_line_or_control_the_terminal() {
    let server = Server::start(&["--log-packets"]);
    let mut agent = server.connect();
    let nasty = "a\nstats connections=0\r\u{1b}[31mred\u{7}\0\u{85}\u{2028}\u{202e}\u{3164}\"=b\\";
    for encoding in [Encoding::Classic, Encoding::Compact] {
        agent.exchange(&report_packet(nasty, encoding, None), REPORT);
    }
    server.stats();
    let lines = server.log().since(0);
    let packets: Vec<_> = lines
        .iter()
        .filter(|l| l.contains("report peer="))
        .collect();
    assert_eq!(packets.len(), 2, "{lines:#?}");
    let escaped = "content=\"a\\nstats connections=0\\r\\u{1b}[31mred\\u{7}\\0\\u{85}\
        \\u{2028}\\u{202e}\\u{3164}\\\"=b\\\\\" rand=";
    for line in packets {
        assert!(line.contains(escaped), "{line}");
    }
    for line in lines {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

#[test]
fn an_agents_name_belongs_to_its_connection_only() {
    let server = Server::start(&["--log-packets"]);
    let mut named = server.connect();
    let mut other = server.connect();
    named.exchange(
        &heartbeat_packet(Encoding::Classic, Some("web-01")),
        HEARTBEAT,
    );
    named.exchange(&report("by web-01"), REPORT);
    named.exchange(
        &report_packet("renamed", Encoding::Compact, Some("web \"02\"")),
        REPORT,
    );
    named.exchange(&report("by web 02"), REPORT);
    other.exchange(&report("without a name"), REPORT);
    for (content, agent) in [
        ("by web-01", "agent=\"web-01\""),
        ("renamed", "agent=\"web \\\"02\\\"\""),
        ("by web 02", "agent=\"web \\\"02\\\"\""),
        ("without a name", "agent=\"\""),
    ] {
        let (line, _) = server.log().wait_for(0, |line| line.contains(content));
        assert!(line.contains(agent), "{line}");
    }
}
