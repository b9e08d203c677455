//! The server stops while commands run and others wait.

use rustix::process::Signal;

use crate::desk::*;
use hawk_testkit::*;

#[track_caller]
fn serve_with_six_events(desk: &Desk, args: &[&str]) -> (Server, Vec<Agent>) {
    let server = desk.serve(
        NOTE_AND_WAIT,
        &[&["--on-event-timeout", "1h"], args].concat(),
    );
    // Of agents that are not established two run at once.
    let agents = come_all(&server, 6);
    desk.wait_for(2);
    (server, agents)
}

#[test]
fn a_gentle_stop_runs_what_waits() {
    let desk = Desk::new();
    let (server, agents) = serve_with_six_events(&desk, &["--drain-timeout", "1h"]);
    server.signal(Signal::TERM);
    drop(agents);
    // Nothing but commands is left to wait for.
    server.log().wait_for(0, |line| line.contains("] served "));
    desk.wait_for(2);
    desk.let_go(6);
    let exit = server.wait_exit();
    assert_eq!(exit.code, Some(0));
    desk.wait_for(6);
    assert!(
        exit.stderr.last().unwrap().contains("] served "),
        "{exit:?}"
    );
}

#[test]
fn a_stop_gives_up_what_takes_too_long() {
    let desk = Desk::new();
    let (server, agents) = serve_with_six_events(&desk, &["--drain-timeout", "300ms"]);
    server.signal(Signal::TERM);
    drop(agents);
    // Its log ends when nobody holds it any more, commands included.
    let exit = server.wait_exit();
    assert_eq!(exit.code, Some(0));
    let line = "on-event commands given up: 2 are killed, for 4 events more none is run";
    assert!(exit.stderr.last().unwrap().contains(line), "{exit:?}");
    desk.wait_for(2);
}

#[test]
fn a_second_signal_kills_what_runs() {
    let desk = Desk::new();
    let (server, _agents) = serve_with_six_events(&desk, &["--drain-timeout", "1h"]);
    server.signal(Signal::TERM);
    server.log().wait_for(0, |line| line.contains("stopping"));
    server.signal(Signal::INT);
    assert_eq!(server.wait_exit().code, Some(1));
    desk.wait_for(2);
}
