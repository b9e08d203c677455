//! hawk and Go: deployed agents are Go programs, so a Go program checks whether hawk
//! understands them.
//!
//! `agent/` is that program. It needs the Go toolchain (Debian: `golang-go`). Without it
//! these tests print a line and pass, or fail if `CI` is `true`.

// Helpers outside of the test functions may panic like them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod agent;
mod decoding;
mod differences;
mod inputs;

use std::process::Command;

use hawk_testkit::Server;

#[test]
fn a_go_agent_gets_the_right_line_for_every_frame() {
    let Some(agent) = agent::built() else { return };
    let server = Server::start(&[]);
    let output = Command::new(agent)
        .args(["-addr", &server.address.to_string()])
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
