//! Signals: their meanings, and that none ends the server by its default action.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};

use hawk_testkit::*;

/// Signals that would end a process by default, have no meaning to the server and report no
/// fault: signal(7).
fn meaningless() -> Vec<Signal> {
    let named = [
        Signal::ALARM,
        Signal::VTALARM,
        Signal::PROF,
        Signal::IO,
        Signal::XCPU,
        Signal::XFSZ,
        Signal::STKFLT,
        Signal::POWER,
        Signal::PIPE,
    ];
    named.to_vec()
}

fn send_all(pid: Pid) {
    for signal in meaningless().into_iter().chain([Signal::HUP, Signal::USR1]) {
        kill_process(pid, signal).unwrap();
    }
    // Signals without a name in rustix: the first and the last of the real-time signals.
    for number in ["35", "64"] {
        let pid = pid.as_raw_nonzero().to_string();
        let sent = std::process::Command::new("kill")
            .args(["-s", number, &pid])
            .status();
        assert!(sent.unwrap().success(), "kill -s {number}");
    }
}

#[test]
fn only_stop_signals_end_the_server() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    send_all(server.pid());
    agent.expect_alive();
    server.log().wait_for(0, |line| {
        line.contains("SIGHUP: there is no configuration file")
    });
    server.log().wait_for(0, |line| {
        line.contains("signal 14 (SIGALRM) has no meaning")
    });
    server.stats();
    agent.expect_alive();
}

#[test]
fn no_signal_ends_a_server_that_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hawk.db");
    // The store cannot be opened while another program locks it.
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let starting = Launch::serve(&["--store", path.to_str().unwrap()]).spawn();
    let caught = eventually(|| catches(starting.pid(), Signal::HUP).then_some(()));
    assert!(caught.is_some(), "SIGHUP is not caught");
    send_all(starting.pid());
    other.execute_batch("ROLLBACK").unwrap();
    starting
        .stdout
        .wait_for(0, |line| line.starts_with("listening on "));
}

/// Returns whether a process has a handler for a signal (proc_pid_status(5)).
fn catches(pid: Pid, signal: Signal) -> bool {
    let path = Path::new("/proc")
        .join(pid.as_raw_nonzero().to_string())
        .join("status");
    let status = fs::read_to_string(path).unwrap();
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:\t"));
    let caught = u64::from_str_radix(caught.unwrap(), 16).unwrap();
    caught >> (signal.as_raw() - 1) & 1 == 1
}

#[test]
fn no_signal_ends_a_server_that_stops() {
    let server = Server::start(&["--drain-timeout", "1m"]);
    let mut agent = server.connect();
    agent.expect_alive();
    server.signal(Signal::TERM);
    agent.expect_eof();
    send_all(server.pid());
    drop(agent);
    assert_eq!(server.wait_exit().code, Some(0));
}

#[test]
fn sigquit_stops_as_sigterm_does() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    agent.expect_alive();
    server.signal(Signal::QUIT);
    agent.expect_eof();
    drop(agent);
    assert_eq!(server.wait_exit().code, Some(0));
}
