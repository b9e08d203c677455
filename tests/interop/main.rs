//! hawk and Go: the agents in the field are Go programs, so a Go program says
//! whether hawk understands them.
//!
//! `agent/` is that program. It needs the Go toolchain (Debian: `golang-go`);
//! without it these tests say so and pass, except where `CI` is `true`.

// Helpers outside of the test functions fail as loudly as these do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod agent;
mod decoding;
mod differences;
mod inputs;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The server under test; it ends with this value.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hawk"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut server = Self {
            child,
            address: String::new(),
        };
        let (first_line, received) = mpsc::channel();
        thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines();
            // The receiver may have given up; then there is nobody to tell.
            drop(first_line.send(lines.next()));
            // Read on, so that the server never writes into a closed pipe.
            lines.for_each(drop);
        });
        let line = match received.recv_timeout(Duration::from_secs(20)) {
            Ok(Some(Ok(line))) => line,
            other => panic!("the server did not say where it listens: {other:?}"),
        };
        server.address = line
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("the server's first line is {line:?}"))
            .to_owned();
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Either fails only when the server has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_go_agent_gets_the_right_line_for_every_frame() {
    let Some(agent) = agent::built() else { return };
    let server = Server::start();
    let output = Command::new(agent)
        .args(["-addr", &server.address])
        .output()
        .unwrap();
    let summary = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{summary}");
    let numbers: Vec<u32> = summary
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    assert!(
        matches!(numbers[..], [frames, right] if frames == right && frames > 6_000),
        "{summary}"
    );
}
