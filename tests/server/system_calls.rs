//! System calls for a batch of frames, as strace(1) sees them and as the statistics count them.
//!
//! Each batch is one write of less than a segment, so that it arrives in one piece, and is sent
//! when all of the one before is answered. The counts do not depend on the speed of the agent
//! or of the server, traced or not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::process::Signal;

use hawk_testkit::*;

/// Frames that an agent sends before it waits for their replies.
const DEPTH: usize = 16;

const BATCHES: usize = 50;

const AGENTS: usize = 4;

/// Calls for each connection, and not for its frames: to watch it, to read its end of file and to
/// close it; and one to spare.
const CALLS_PER_AGENT: usize = 4;

#[test]
fn a_batch_costs_a_read_and_a_write_without_a_store() {
    let batch = [heartbeat(), report("load average 0.42")].concat();
    let replies = format!("{HEARTBEAT}\n{REPORT}\n");
    expect_a_read_and_a_write_each(&[], &batch.repeat(DEPTH / 2), &replies.repeat(DEPTH / 2));
}

#[test]
fn a_batch_costs_a_read_and_a_write_with_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hawk.db");
    let batch = report("load average 0.42").repeat(DEPTH);
    let replies = format!("{REPORT}\n").repeat(DEPTH);
    expect_a_read_and_a_write_each(&["--store", path.to_str().unwrap()], &batch, &replies);
}

#[track_caller]
fn expect_a_read_and_a_write_each(args: &[&str], batch: &[u8], replies: &str) {
    if !can_trace() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace");
    // As a grandchild, so that the process is still a child of the test; a file for each
    // thread, so that no call is split; and without the bytes.
    let strace = ["-D", "-ff", "-s", "0", "-o", file.to_str().unwrap()];
    let server = Launch::serve(args).under("strace", &strace).start();
    let mut agents: Vec<_> = (0..AGENTS).map(|_| server.connect()).collect();
    for _ in 0..BATCHES {
        agents.iter_mut().for_each(|agent| agent.send(batch));
        for agent in &mut agents {
            agent.expect_replies(replies.as_bytes());
        }
    }
    drop(agents);
    server.wait_until(|stats| stats.get("connections") == 0);
    server.signal(Signal::TERM);
    let pid = server.pid();
    let exit = server.wait_exit();
    assert_eq!(exit.code, Some(0), "{:#?}", exit.stderr);
    let told = exit.stderr.iter().rfind(|line| line.contains("] served "));
    let told = Fields::parse(told.expect("what it served"));

    let file = file.with_extension(pid.as_raw_nonzero().to_string());
    let calls = Calls::of_connections(&file);
    assert_eq!(calls.accepted, AGENTS);
    // The statistics agree with the trace:
    assert_eq!(calls.reads.fruitful as u64, told.get("reads"), "{calls:?}");
    assert_eq!(
        calls.writes.fruitful as u64,
        told.get("writes"),
        "{calls:?}"
    );
    // a read and a write for each batch,
    assert_eq!(calls.reads.fruitful, AGENTS * BATCHES, "{calls:?}");
    assert_eq!(calls.writes.fruitful, AGENTS * BATCHES, "{calls:?}");
    // and no other calls except those for each connection.
    assert_eq!(calls.watched, AGENTS, "{calls:?}");
    let besides = calls.watched + calls.reads.vain + calls.writes.vain + calls.others;
    assert!(besides <= AGENTS * CALLS_PER_AGENT, "{calls:?}");
}

/// The system calls of one thread on the connections that it accepted.
#[derive(Debug, Default)]
struct Calls {
    accepted: usize,
    /// Calls of epoll_ctl(2).
    watched: usize,
    reads: Outcomes,
    writes: Outcomes,
    others: usize,
}

/// Calls that moved bytes, and calls that did not.
#[derive(Debug, Default)]
struct Outcomes {
    fruitful: usize,
    vain: usize,
}

impl Calls {
    /// Reads a file that strace has written.
    fn of_connections(file: &Path) -> Self {
        let mut calls = Self::default();
        let mut connections = BTreeSet::new();
        for line in fs::read_to_string(file).unwrap().lines() {
            let Some((name, arguments, result)) = parse(line) else {
                continue;
            };
            let on = arguments[usize::from(name == "epoll_ctl") * 2];
            let is_on_connection = connections.contains(on);
            match name {
                "accept4" if result >= 0 => {
                    calls.accepted += 1;
                    connections.insert(result.to_string());
                }
                _ if !is_on_connection => {}
                "epoll_ctl" => calls.watched += 1,
                "read" | "readv" | "recvfrom" | "recvmsg" => calls.reads.count(result),
                "write" | "writev" | "sendto" | "sendmsg" => calls.writes.count(result),
                _ => calls.others += 1,
            }
            if name == "close" {
                connections.remove(on);
            }
        }
        calls
    }
}

impl Outcomes {
    fn count(&mut self, result: i64) {
        match result > 0 {
            true => self.fruitful += 1,
            false => self.vain += 1,
        }
    }
}

/// Returns the name, arguments and result of a call; `None` if the line is no call, or has no
/// result.
fn parse(line: &str) -> Option<(&str, Vec<&str>, i64)> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments = arguments
        .trim_end()
        .trim_end_matches(')')
        .split(", ")
        .collect();
    let result = result.split(' ').next()?.parse().ok()?;
    Some((name, arguments, result))
}
