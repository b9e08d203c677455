//! The bundled clients against the real server.

use hawk_testkit::*;

/// Runs a client against `server` and expects success.
#[track_caller]
fn content(server: &Server, command: &str, args: &[&str]) -> String {
    let address = server.address.to_string();
    let at = match command {
        "send" => vec!["--address", &address],
        _ => vec![address.as_str()],
    };
    let exit = Launch::hawk(&[&[command], at.as_slice(), args].concat()).run();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    exit.stdout.join("\n")
}

#[test]
fn the_load_client_finds_every_reply_right() {
    let server = Server::start(&[]);
    for encoding in ["classic", "compact"] {
        for load in [
            ["--interval", "100ms", "--heartbeat", "50ms"].as_slice(),
            &["--rate", "5000", "--size", "1000"],
            &["--saturate", "--depth", "128"],
            &["--saturate", "--depth", "3", "--size", "4000"],
            &["--saturate", "--kind", "heartbeat"],
        ] {
            let options = ["--count", "3000", "--encoding", encoding];
            content(&server, "load", &[&options, load].concat());
        }
    }
    let stats = server.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.get("heartbeats") + stats.get("reports"), 2 * 5 * 3000);
    assert_eq!(stats.get("errors"), 0);
    assert_eq!(stats.in_use(), [0; 5]);
}

#[test]
fn idle_connections_of_the_load_client_hold_nothing() {
    let server = Server::start(&[]);
    let load = ["--connections", "0", "--idle", "200", "--duration", "500ms"];
    content(&server, "load", &load);
    let stats = server.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.get("accepted"), 200);
    assert!(stats.get("reports") >= 200);
}

#[test]
fn send_and_ping_are_answered() {
    let server = Server::start(&["--log-packets"]);
    let sent = content(
        &server,
        "send",
        &["--agent", "web-01", "disk full", "è vero"],
    );
    assert!(sent.contains("2 reports taken"), "{sent}");
    assert!(content(&server, "ping", &[]).starts_with("heartBeat from "));
    let stats = server.stats();
    assert_eq!((stats.get("reports"), stats.get("heartbeats")), (2, 1));
    assert_eq!(server.count_logged(r#"agent="web-01" content="è vero""#), 1);
}
