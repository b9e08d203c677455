//! `hawk load` against correct and faulty servers.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{
    Conduct, Ran, Seen, Server, address_without_listener, finish, finish_meanwhile, hawk,
};
use hawk_testkit::{Lines, ManyAgents, eventually, skip};

/// Runs `hawk load` and reads the figures that it writes as JSON.
pub(crate) fn load(server: &Server, arguments: &[&str]) -> (Ran, Value) {
    load_meanwhile(server, arguments, |_| {})
}

/// Does the same, and calls `meanwhile` once `hawk load` has started.
pub(crate) fn load_meanwhile(
    server: &Server,
    arguments: &[&str],
    meanwhile: impl FnOnce(rustix::process::Pid),
) -> (Ran, Value) {
    let file = tempfile();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hawk"));
    command.args(["load", &server.address(), "--json", &file]);
    command.args(arguments);
    let ran = finish_meanwhile(command, b"", meanwhile);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let figures = serde_json::from_str(&text).unwrap();
    (ran, figures)
}

fn tempfile() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("hawk-load-{}-{number}.json", std::process::id());
    let path = std::env::temp_dir().join(name);
    path.to_str().unwrap().to_owned()
}

/// Returns the count of the error of this kind with these words in its cause.
pub(crate) fn errors(figures: &Value, fault: &str, cause: &str) -> u64 {
    let errors = figures["errors"].as_array().unwrap();
    let matching = errors.iter().filter(|error| {
        error["fault"] == fault && error["cause"].as_str().unwrap().contains(cause)
    });
    matching.map(|error| error["count"].as_u64().unwrap()).sum()
}

const SATURATE: [&str; 4] = ["-s", "-n=1000", "-c=2", "--reply-timeout=60s"];

#[test]
fn agents_send_every_due_frame() {
    let server = Server::start(Conduct::Good);
    let (ran, figures) = load(
        &server,
        &[
            "--connections=3",
            "--senders=5",
            "--interval=100ms",
            "--heartbeat=200ms",
            "--duration=600ms",
        ],
    );
    ran.succeeded();
    assert_eq!(figures["sent"]["reports"], 3 * 5 * 6);
    assert_eq!(figures["sent"]["heartbeats"], 3 * 3);
    assert_eq!(figures["answered"], 99);
    assert_eq!(figures["passed"], true);
    let histogram = figures["histogram"].as_array().unwrap();
    let counts = histogram.iter().map(|it| it["count"].as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), 99);
    for from in ["from_intended", "from_sent"] {
        let quantiles = ["p50", "p90", "p99", "p99.9", "p99.99", "max"];
        let values = quantiles.map(|name| figures["latency"][from][name].as_u64().unwrap());
        assert!(values.is_sorted() && values[0] > 0, "{figures:#}");
    }
    for word in ["throughput", "p99.99", "█", "errors      none", "of CPU"] {
        assert!(ran.stdout.contains(word), "{}", ran.stdout);
    }
    let seen = server.seen();
    let contents = seen.iter().filter_map(|seen| match seen {
        Seen::Report { content, .. } => Some(content),
        _ => None,
    });
    assert!(contents.clone().all(|content| content.len() < 50));
    assert_eq!(contents.count(), 90);
}

#[test]
fn a_rate_is_kept() {
    let server = Server::start(Conduct::Good);
    let (ran, figures) = load(&server, &["--rate=2000", "-d=500ms", "-c=3"]);
    ran.succeeded();
    assert_eq!(figures["sent"]["reports"], 1000);
}

#[test]
fn saturation_ends_at_the_count_in_every_shape() {
    let server = Server::start(Conduct::Good);
    for options in [
        &["--depth=1"][..],
        &["--depth=50", "--encoding=compact", "--kind=heartbeat"],
        &["--depth=3000", "--size=1000"],
        &["--depth=9", "--size=40000", "--encoding=compact"],
    ] {
        let (ran, figures) = load(&server, &[&SATURATE, options].concat());
        ran.succeeded();
        assert_eq!(figures["answered"], 1000, "{figures:#}");
    }
}

#[test]
fn saturation_ends_in_time() {
    let server = Server::start(Conduct::Good);
    let (ran, figures) = load(&server, &["-s", "-c=2", "-d=1200ms"]);
    ran.succeeded();
    assert!(figures["answered"].as_u64() > Some(0));
    assert!(ran.stderr.contains("   1 s  sent "), "{}", ran.stderr);
}

#[test]
fn idle_connections_report_once_and_then_only_live() {
    let server = Server::start(Conduct::Good);
    let (ran, figures) = load(
        &server,
        &[
            "-c=0",
            "--idle=20",
            "--heartbeat=100ms",
            "-d=500ms",
            "--ramp=100ms",
        ],
    );
    ran.succeeded();
    assert_eq!(figures["sent"]["reports"], 0);
    assert_eq!(figures["sent_before"]["reports"], 20);
    let told = "; idle connections sent 20 reports, ";
    assert!(ran.stdout.contains(told), "{}", ran.stdout);
    assert!(figures["sent"]["heartbeats"].as_u64() >= Some(80));
    let seen = server.seen();
    let reports = seen.iter().filter(|it| matches!(it, Seen::Report { .. }));
    assert_eq!(reports.count(), 20);
}

#[test]
fn idle_connections_may_begin_with_a_heartbeat() {
    let server = Server::start(Conduct::Good);
    let (ran, figures) = load(
        &server,
        &[
            "-c=0",
            "--idle=20",
            "--greeting=heartbeat",
            "--heartbeat=100ms",
            "-d=300ms",
        ],
    );
    ran.succeeded();
    // The first frame of each connection precedes the measurement.
    assert!(figures["sent"]["heartbeats"].as_u64() >= Some(60));
    assert_eq!(figures["sent"]["reports"], 0);
    let seen = server.seen();
    let heartbeats = seen.iter().filter(|it| matches!(it, Seen::Heartbeat));
    assert!(heartbeats.count() >= 80);
    assert!(!seen.iter().any(|it| matches!(it, Seen::Report { .. })));
}

/// Connections that wait to be accepted at a time: half of the usual backlog.
const MOST_WAITING: usize = 2048;

#[test]
fn no_more_newcomers_wait_than_a_backlog_holds() {
    let all = MOST_WAITING + 500;
    let many = ManyAgents::wait(2 * all);
    if many.most < 2 * all {
        return skip("it takes some thousand open files (ulimit -Hn)");
    }
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&server).listen(4096).unwrap();
    let address = server.local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawk"));
    command.args(["load", &address, "-c=0", "--greeting=heartbeat", "-d=1ms"]);
    command.arg("--heartbeat=1h");
    // No reply counts as lost, also on a slow machine.
    command.args([&format!("--idle={all}"), "--reply-timeout=100s"]);
    let client = command.stderr(Stdio::piped()).stdout(Stdio::null());
    let mut client = client.spawn().unwrap();
    let told = Lines::collect(client.stderr.take().unwrap());
    let mut agents: Vec<_> = (0..MOST_WAITING)
        .map(|_| server.accept().unwrap().0)
        .collect();
    // The client prints the number of open connections once a second, also if it is
    // unchanged.
    let stands = |line: &str| line == "opening: 2,048 connections";
    let (_, mark) = told.wait_for(0, stands);
    told.wait_for(mark, stands);
    server.set_nonblocking(true).unwrap();
    let none = server.accept().unwrap_err();
    assert_eq!(none.kind(), std::io::ErrorKind::WouldBlock);
    // Each answered connection makes room for one more.
    server.set_nonblocking(false).unwrap();
    for answered in 0..all {
        agents[answered].write_all(b"heartBeat\n").unwrap();
        if agents.len() < all {
            agents.push(server.accept().unwrap().0);
        }
    }
    for agent in &mut agents {
        std::io::copy(agent, &mut std::io::sink()).unwrap();
        agent.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let ended = eventually(|| client.try_wait().unwrap());
    assert!(ended.is_some_and(|status| status.success()), "{told}");
}

#[test]
fn by_default_connections_come_from_one_address() {
    let server = Server::start(Conduct::Good);
    let (ran, _) = load(&server, &["-s", "-n=30", "-c=6"]);
    ran.succeeded();
    let from = Seen::Connection("127.0.0.1".parse().unwrap());
    assert_eq!(server.seen().iter().filter(|it| **it == from).count(), 6);
}

#[test]
fn connections_come_from_several_addresses() {
    let server = Server::start(Conduct::Good);
    let (ran, _) = load(&server, &["-s", "-n=30", "-c=6", "--sources=3"]);
    ran.succeeded();
    let seen = server.seen();
    for address in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
        let from = Seen::Connection(address.parse().unwrap());
        assert_eq!(seen.iter().filter(|it| **it == from).count(), 2);
    }
}

#[test]
fn wrong_replies_fail_the_run_by_their_text() {
    let server = Server::start(Conduct::Wrong(10, "error: malformed JSON\n"));
    let (ran, figures) = load(&server, &SATURATE);
    ran.failed_with("wrong: error: malformed JSON");
    let wrong = errors(&figures, "wrong", "error: malformed JSON");
    assert_eq!(wrong + figures["answered"].as_u64().unwrap(), 1000);
    assert!((90..=100).contains(&wrong));
    assert_eq!(figures["passed"], false);
    assert!(ran.stdout.contains("wrong: error: malformed JSON"));
}

#[test]
fn a_right_line_for_the_wrong_frame_is_wrong() {
    let server = Server::start(Conduct::Wrong(10, "heartBeat\n"));
    let (ran, figures) = load(&server, &SATURATE);
    ran.failed_with("wrong: \"heartBeat\" to a report");
    assert!(errors(&figures, "wrong", "heartBeat") >= 90);
}

#[test]
fn replies_that_never_come_are_lost() {
    let server = Server::start(Conduct::Silent(300));
    let (ran, figures) = load(&server, &["-s", "-n=1000", "-c=1", "--reply-timeout=2s"]);
    ran.failed_with("3 lost: no reply by the end");
    assert_eq!(figures["answered"], 997);
}

#[test]
fn a_reply_too_many_is_extra() {
    let server = Server::start(Conduct::Twice(1000));
    let (ran, figures) = load(&server, &["-s", "-n=1000", "-c=1"]);
    ran.failed_with("1 extra: ");
    assert_eq!(figures["answered"], 1000);
}

#[test]
fn replies_after_the_timeout_are_late() {
    let server = Server::start(Conduct::Tardy);
    let (ran, figures) = load(
        &server,
        &["--rate=1000", "-n=50", "-c=2", "--reply-timeout=2s"],
    );
    ran.failed_with("50 late: reply after more than 2s");
    assert_eq!(figures["answered"], 50);
}

#[test]
fn the_report_names_how_a_server_ended() {
    for (conduct, cause) in [
        (Conduct::Ends(100), "closed by the server"),
        (Conduct::Resets(100), "connection reset"),
    ] {
        for traffic in [&["-s", "-n=1000000"][..], &["--rate=20000", "-d=60s"]] {
            let server = Server::start(conduct);
            let (ran, figures) = load(&server, &[traffic, &["-c=2"]].concat());
            ran.failed_with(cause);
            assert_eq!(errors(&figures, "connection", ""), 2, "{figures:#}");
            let lost = errors(&figures, "lost", "");
            let sent = figures["sent"]["reports"].as_u64().unwrap()
                + figures["sent"]["heartbeats"].as_u64().unwrap();
            assert_eq!(figures["answered"].as_u64().unwrap() + lost, sent);
        }
    }
}

#[test]
fn a_server_that_does_not_close_is_reported() {
    let server = Server::start(Conduct::Lingers);
    let (ran, figures) = load(&server, &["-s", "-n=10", "-c=2", "--reply-timeout=2s"]);
    ran.failed_with("2 connection: left open by the server");
    assert_eq!(figures["answered"], 10);
}

#[test]
fn a_server_that_reads_and_never_answers_does_not_hang_the_run() {
    let server = Server::start(Conduct::Silent(1));
    let (ran, figures) = load(
        &server,
        &["--rate=5000", "-d=500ms", "-c=2", "--reply-timeout=2s"],
    );
    ran.failed_with("lost: no reply by the end");
    assert_eq!(figures["answered"], 0);
    assert!(errors(&figures, "lost", "") >= 2500);
}

#[test]
fn a_missing_server_is_one_line() {
    let address = address_without_listener();
    for traffic in [&["load", &address][..], &["load", &address, "-s", "-c=500"]] {
        let ran = hawk(traffic, b"");
        ran.failed_with(&format!(
            "cannot connect to {address}: connection refused; is the server running there?"
        ));
        assert_eq!(ran.stderr.lines().count(), 1);
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn too_few_descriptors_are_one_line() {
    let server = Server::start(Conduct::Good);
    let mut shell = std::process::Command::new("sh");
    let script = "ulimit -n 64 && exec \"$0\" load \"$1\" -c 100";
    shell.args(["-c", script, env!("CARGO_BIN_EXE_hawk"), &server.address()]);
    let ran = finish(shell, b"");
    ran.failed_with("100 connections need 116 open files, but the limit is 64");
    assert_eq!(ran.stderr.lines().count(), 1);
}

#[test]
fn an_interrupted_run_ends_with_its_figures() {
    let server = Server::start(Conduct::Good);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hawk"));
    command.args(["load", &server.address(), "-s", "-c=1", "-d=1h"]);
    let ran = finish_meanwhile(command, b"", |process| {
        while matches!(server.wait(), Seen::Connection(_)) {}
        rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    });
    ran.succeeded();
    assert!(ran.stdout.contains("errors      none"), "{ran:?}");
}

#[test]
fn a_missed_limit_on_p99_fails_the_run() {
    let server = Server::start(Conduct::Good);
    let (ran, figures) = load(&server, &[&SATURATE[..], &["--max-p99=1ns"]].concat());
    ran.failed_with("is above --max-p99");
    assert_eq!(figures["errors"], Value::Array(Vec::new()));
    let (ran, _) = load(&server, &[&SATURATE[..], &["--max-p99=1h"]].concat());
    ran.succeeded();
    assert!(ran.stdout.contains("p99 limit   3,600,000.000 ms"));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (options, why) in [
        (
            &["--size=70000"][..],
            "content of 70000 bytes does not fit a frame",
        ),
        (&["-c=0"], "without connections"),
        (&["--json=/nonexistent/x"], "cannot create /nonexistent/x"),
    ] {
        let server = Server::start(Conduct::Good);
        let address = server.address();
        hawk(&[&["load", &address], options].concat(), b"").failed_with(why);
    }
    let ran = hawk(&["load", "--rate=5", "--saturate"], b"");
    assert_eq!(ran.code, Some(2));
    let ran = hawk(&["load", "--depth=5"], b"");
    assert_eq!(ran.code, Some(2));
}
