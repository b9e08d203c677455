//! `hawk send` and `hawk ping` against correct and faulty servers.

use std::io::Write as _;
use std::process::Stdio;

use crate::support::{Conduct, Seen, Server, address_without_listener, finish, hawk};
use hawk_testkit as real;

/// Returns a timeout: short if the test waits until it has passed.
fn timeout_for(conduct: Conduct) -> &'static str {
    match conduct {
        Conduct::Silent(1) | Conduct::Ends(0) | Conduct::Resets(0) => "300ms",
        _ => "60s",
    }
}

fn reports(server: &Server) -> Vec<(String, Option<String>)> {
    let seen = server.seen().into_iter();
    seen.filter_map(|seen| match seen {
        Seen::Report { content, agent } => Some((content, agent)),
        _ => None,
    })
    .collect()
}

#[test]
fn ping_prints_the_round_trip() {
    let server = Server::start(Conduct::Good);
    let ran = hawk(&["ping", &server.address()], b"");
    ran.succeeded();
    let expected = format!("heartBeat from {}: ", server.address());
    assert!(ran.stdout.starts_with(&expected), "{ran:?}");
    assert!(ran.stdout.ends_with(" ms\n"), "{ran:?}");
    assert!(server.seen().contains(&Seen::Heartbeat));
}

#[test]
fn ping_by_name_and_over_ipv6() {
    if let Ok(server) = Server::on("[::1]:0", Conduct::Good) {
        hawk(&["ping", &server.address()], b"").succeeded();
        hawk(&["send", "--address", &server.address(), "x"], b"").succeeded();
        let address = server.address();
        hawk(&["load", &address, "-s", "-n", "9", "-c", "2"], b"").succeeded();
    }
    let server = Server::start(Conduct::Good);
    let name = format!("localhost:{}", server.address.port());
    hawk(&["ping", &name], b"").succeeded();
    hawk(&["load", &name, "-s", "-n", "9", "-c", "2"], b"").succeeded();
}

#[test]
fn ping_fails_without_a_listener() {
    let address = address_without_listener();
    let ran = hawk(&["ping", &address], b"");
    ran.failed_with(&format!(
        "cannot connect to {address}: connection refused; is the server running there? start one with: hawk serve"
    ));
    assert_eq!(ran.stderr.lines().count(), 1);
    let ran = hawk(&["ping", "127.0.0.1"], b"");
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr.contains("write it like 127.0.0.1:9876"),
        "{ran:?}"
    );
}

#[test]
fn ping_fails_on_every_other_answer() {
    for (conduct, why) in [
        (
            Conduct::Wrong(1, "busy: too many connections\n"),
            "busy: too many",
        ),
        (
            Conduct::Wrong(1, "HTTP/1.1 400 Bad Request\r\n"),
            "not hawk's protocol",
        ),
        (
            Conduct::Wrong(1, "Report data has recive\n"),
            "answered a heartbeat with",
        ),
        (Conduct::Silent(1), "did not reply within 300ms"),
        (Conduct::Ends(0), "closed the connection without a reply"),
        (Conduct::Resets(0), "connection reset"),
    ] {
        let server = Server::start(conduct);
        let timeout = timeout_for(conduct);
        let ran = hawk(&["ping", &server.address(), "--timeout", timeout], b"");
        ran.failed_with(why);
        assert_eq!(ran.stderr.lines().count(), 1);
    }
}

#[test]
fn send_reports_its_arguments_in_order() {
    let server = Server::start(Conduct::Good);
    for encoding in ["classic", "compact"] {
        let address = server.address();
        let options = ["--address", &address, "--agent", "web-01", "--encoding"];
        let contents = ["disk 93 %", "<ü>", ""];
        let arguments = [&["send"], &options[..], &[encoding], &contents[..]].concat();
        let ran = hawk(&arguments, b"");
        ran.succeeded();
        assert_eq!(ran.stdout, format!("3 reports taken by {address}\n"));
        let agent = Some("web-01".to_owned());
        let expected = contents.map(|content| (content.to_owned(), agent.clone()));
        assert_eq!(reports(&server), expected);
    }
}

#[test]
fn send_reports_each_line_of_its_input() {
    let server = Server::start(Conduct::Good);
    let address = server.address();
    let ran = hawk(&["send", "--address", &address], b"one\r\n\ntwo");
    ran.succeeded();
    let contents: Vec<_> = reports(&server).into_iter().map(|(it, _)| it).collect();
    assert_eq!(contents, ["one", "", "two"]);

    let ran = hawk(&["send", "--address", &address], b"");
    ran.succeeded();
    assert!(ran.stdout.starts_with("0 reports"));
}

#[test]
fn send_takes_many_lines_beyond_its_window_and_all_buffers() {
    let server = Server::start(Conduct::Good);
    let line = format!("{}\n", "x".repeat(200));
    let ran = hawk(
        &["send", "--address", &server.address()],
        line.repeat(50_000).as_bytes(),
    );
    ran.succeeded();
    assert!(ran.stdout.starts_with("50000 reports taken"), "{ran:?}");
}

#[test]
fn send_names_the_line_that_does_not_fit_and_counts_the_lines_before() {
    let server = Server::start(Conduct::Good);
    let long = "x".repeat(70_000);
    let address = server.address();
    let ran = hawk(&["send", "--address", &address, "short", &long], b"");
    ran.failed_with("stopped, with 1 reports taken before: CONTENT 2 is too long for a report");
    let input = format!("short\n{long}{long}{long}\n");
    let ran = hawk(&["send", "--address", &address], input.as_bytes());
    ran.failed_with("stopped, with 1 reports taken before: line 2 is too long for a report");
    let ran = hawk(&["send", "--address", &address], b"a\nb\n\xFF\n");
    ran.failed_with("stopped, with 2 reports taken before: line 3 is not UTF-8 text");
}

#[test]
fn send_fails_unless_every_report_is_taken() {
    for (conduct, why) in [
        (
            Conduct::Wrong(3, "busy: too many connections\n"),
            "6667 of 10000 reports were taken; ",
        ),
        (Conduct::Wrong(3, "nonsense\n"), "replied \"nonsense\""),
        (Conduct::Wrong(9_999, LONG), "not hawk's protocol"),
        (Conduct::Silent(1), "did not reply within 300ms"),
        (Conduct::Twice(17), "not hawk's protocol"),
        (Conduct::Ends(0), "closed the connection without a reply"),
        (Conduct::Resets(0), "0 of "),
    ] {
        let server = Server::start(conduct);
        let timeout = timeout_for(conduct);
        let arguments = ["send", "--timeout", timeout, "--address", &server.address()];
        let ran = hawk(&arguments, "x\n".repeat(10_000).as_bytes());
        ran.failed_with(why);
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }
    hawk(
        &["send", "--address", &address_without_listener(), "x"],
        b"",
    )
    .failed_with("cannot connect");
}

#[test]
fn send_repeats_reports_without_an_answer() {
    let input: String = (0..1000).map(|number| format!("{number}\n")).collect();
    let server = Server::start(Conduct::Ends(100));
    let arguments = ["send", "--timeout", "60s", "--address", &server.address()];
    let ran = hawk(&arguments, input.as_bytes());
    ran.succeeded();
    let told = format!("1000 reports taken by {}\n", server.address());
    assert_eq!(ran.stdout, told);
    let contents = reports(&server).into_iter().map(|(content, _)| content);
    let all: std::collections::BTreeSet<_> = contents.collect();
    assert_eq!(all.len(), 1000);
    // A missing reply on an open connection.
    let server = Server::start(Conduct::Silent(999));
    let arguments = ["send", "--timeout", "1s", "--address", &server.address()];
    let ran = hawk(&arguments, input.as_bytes());
    ran.failed_with("999 of 1000 reports were taken: ");
}

#[test]
fn ping_and_send_take_the_server_in_the_same_ways() {
    let server = Server::start(Conduct::Good);
    let name = format!("localhost:{}", server.address.port());
    for address in [server.address(), name] {
        for arguments in [
            &["ping"][..],
            &["send", "x"],
            &["load", "-s", "-n=9", "-c=2"],
        ] {
            hawk(&[arguments, &["--address", &address]].concat(), b"").succeeded();
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hawk"));
            command.args(arguments).env("HAWK_ADDRESS", &address);
            finish(command, b"").succeeded();
        }
        // An argument outranks the variable.
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hawk"));
        command
            .args(["ping", &address])
            .env("HAWK_ADDRESS", address_without_listener());
        finish(command, b"").succeeded();
    }
}

/// No newline within any length of reply.
static LONG: &str = "0123456789012345678901234567890123456789012345678901234567890123456789";

#[test]
fn a_reader_that_has_gone_away_is_no_failure() {
    let server = Server::start(Conduct::Good);
    let mut shell = std::process::Command::new("sh");
    let script = "\"$0\" ping \"$1\" | true; \"$0\" load \"$1\" -s -n 10 | true";
    shell.args(["-c", script, env!("CARGO_BIN_EXE_hawk"), &server.address()]);
    let ran = finish(shell, b"");
    ran.succeeded();
    assert!(!ran.stderr.contains("hawk: "), "{ran:?}");
}

/// A `hawk send` that reads from a pipe which stays open.
struct Piped {
    process: std::process::Child,
    input: std::process::ChildStdin,
}

impl Piped {
    fn start(address: &str) -> Self {
        let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_hawk"))
            .args(["send", "--address", address, "--timeout", "20s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        Self { process, input }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn end(self) -> std::process::Output {
        drop(self.input);
        self.process.wait_with_output().unwrap()
    }
}

#[test]
fn send_loses_no_line_of_a_pipe_that_pauses() {
    let server = real::Server::start(&["--idle-timeout", "100ms"]);
    let mut piped = Piped::start(&server.address.to_string());
    for (number, line) in ["one", "two", "three"].into_iter().enumerate() {
        let number = number as u64;
        piped.say(line);
        server.wait_until(|stats| {
            stats.get("reports") == number + 1 && stats.get("closed_idle_timeout") == number + 1
        });
    }
    let output = piped.end();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("3 reports taken"), "{said}");
    assert_eq!(server.stats().get("accepted"), 3);
}

#[test]
fn send_continues_after_a_restart_of_the_server() {
    let server = real::Server::start(&[]);
    let address = server.address.to_string();
    let mut piped = Piped::start(&address);
    piped.say("one");
    server.wait_until(|stats| stats.get("reports") == 1);
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
    // This client finds no server for a while.
    piped.say("two");
    let server = real::Server::start(&["--listen", &address]);
    server.wait_until(|stats| stats.get("reports") == 1);
    piped.say("three");
    let output = piped.end();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(server.stats().get("reports"), 2);
}
