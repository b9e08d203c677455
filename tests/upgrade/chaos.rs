//! Agents that break every rule while the server is replaced.

use std::fs;

use rustix::process::{Signal, kill_process};

use crate::dynasty::Dynasty;
use hawk_testkit::*;

/// Damage, stalls, resets, junk, unread replies: a connection in any state moves, and none
/// prevents a hand-over.
#[test]
fn agents_that_misbehave_do_not_prevent_a_hand_over() {
    const HANDOVERS: u64 = 12;
    let mut dynasty = Dynasty::start_with_store(&["--frame-timeout", "2s"]);
    let figures = dynasty.folder().join("figures");
    let address = dynasty.address().to_string();
    let options = ["load", &address, "--duration", "10m", "--connections", "40"];
    let chaos = ["--rate", "400", "--chaos", "50%", "--reply-timeout", "20s"];
    let json = ["--json", figures.to_str().unwrap()];
    let load = Launch::hawk(&[&options[..], &chaos, &json].concat());
    let mut load = load.env("RUST_BACKTRACE", "0").spawn();
    for generation in 2..2 + HANDOVERS {
        // Agents of every kind have come, done something and gone since the last time.
        let before = dynasty.wait_until(|stats| stats.get("connections") > 20);
        dynasty.wait_until(|stats| {
            let grown = |key| stats.get(key) > before.get(key);
            grown("accepted") && grown("errors") && grown("junk_bytes") && grown("reports")
        });
        let succession = dynasty.upgrade(&[]);
        assert_eq!(succession.fields.get("generation"), generation);
    }
    kill_process(load.pid(), Signal::INT).unwrap();
    let told = load.wait_exit();
    assert_eq!(told.code, Some(0), "{told:?}");
    let figures: serde_json::Value = serde_json::from_slice(&fs::read(figures).unwrap()).unwrap();
    assert_eq!(figures["errors"], serde_json::json!([]), "{figures:#}");
    dynasty.wait_until(|stats| stats.get("connections") == 0);
    dynasty.stop();
}
