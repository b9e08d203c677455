//! `--on-events`: many events in a call.

use std::time::Duration;

use crate::desk::*;
use hawk_testkit::*;

/// Appends the events to `$DESK/events`, and a line to `$DESK/calls`.
const NOTE_CALLS: &str = "cat >> $DESK/events; echo >> $DESK/calls";

fn launch(desk: &Desk, args: &[&str]) -> Launch {
    let defaults = ["--offline-after", "1h", "--on-events", NOTE_CALLS];
    let launch = Launch::serve(&[&defaults[..], args].concat());
    launch.env("DESK", desk.path("").to_str().unwrap())
}

#[test]
fn many_events_within_the_window_are_one_call() {
    let desk = Desk::new();
    let server = launch(&desk, &["--on-events-window", "2s"]).start();
    let agents = come_all(&server, 300);
    desk.wait_for(agents.len());
    let stats = server.wait_until(|stats| stats.events("running") == 0);
    assert_eq!(stats.events("delivered"), 300);
    assert!(stats.hook.is_none());
    // A slow machine may take longer than the window.
    let calls = desk.text("calls").lines().count();
    assert!(calls <= 3, "{calls}");
}

#[test]
fn both_commands_have_every_event() {
    let desk = Desk::new();
    let each = "cat >> $DESK/each";
    let server = launch(&desk, &["--on-events-window", "1ms", "--on-event", each]).start();
    let _agents = come_all(&server, 20);
    let stats =
        server.wait_until(|stats| (stats.hook("delivered"), stats.events("delivered")) == (20, 20));
    assert_eq!(stats.hook("run"), 20);
    assert_eq!(desk.text("each").lines().count(), 20);
    assert_eq!(desk.events().len(), 20);
}

#[test]
fn the_options_have_their_variables() {
    let desk = Desk::new();
    let started = std::time::Instant::now();
    let server = Launch::serve(&["--offline-after", "1h"])
        .env("HAWK_ON_EVENTS", NOTE_CALLS)
        .env("HAWK_ON_EVENTS_WINDOW", "300ms")
        .env("DESK", desk.path("").to_str().unwrap())
        .start();
    let _agent = come(&server, "web-01");
    desk.wait_for(1);
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[test]
fn an_event_that_always_fails_does_not_hold_up_the_others() {
    let desk = Desk::new();
    let command = "input=$(cat); case $input in *poison*) exit 1;; esac; \
                   printf '%s\\n' \"$input\" >> $DESK/events";
    let store = desk.path("hawk.db");
    let defaults = ["--offline-after", "1h", "--store", store.to_str().unwrap()];
    let launch = Launch::serve(&[&defaults[..], &["--on-events", command]].concat());
    let server = launch.env("DESK", desk.path("").to_str().unwrap()).start();
    let _poison = come(&server, "poison");
    let _agents = come_all(&server, 20);
    desk.wait_for(20);
    let stats = server.wait_until(|stats| stats.events("delivered") == 20);
    assert_eq!(stats.events("waiting") + stats.events("running"), 1);
    assert!(desk.events().iter().all(|event| event["agent"] != "poison"));
}
