//! Stops of the server while commands run and events wait.

use rustix::process::Signal;

use crate::desk::*;
use hawk_testkit::*;

#[track_caller]
fn serve_with_six_events(desk: &Desk, args: &[&str]) -> (Server, Vec<Agent>) {
    let server = desk.serve(
        NOTE_AND_WAIT,
        &[&["--on-event-timeout", "1h"], args].concat(),
    );
    // Two commands for agents that are not established run at once.
    let agents = come_all(&server, 6);
    desk.wait_for(2);
    (server, agents)
}

#[test]
fn a_gentle_stop_delivers_waiting_events_without_a_store() {
    let desk = Desk::new();
    let (server, agents) = serve_with_six_events(&desk, &["--drain-timeout", "1h"]);
    server.signal(Signal::TERM);
    drop(agents);
    // The server waits for commands alone.
    server.log().wait_for(0, |line| line.contains("] served "));
    desk.wait_for(2);
    desk.release(6);
    let exit = server.wait_exit();
    assert_eq!(exit.code, Some(0));
    desk.wait_for(6);
    assert!(
        exit.stderr.last().unwrap().contains("] served "),
        "{exit:?}"
    );
}

#[test]
fn a_stop_kills_commands_after_the_drain_timeout() {
    let desk = Desk::new();
    let (server, agents) = serve_with_six_events(&desk, &["--drain-timeout", "300ms"]);
    server.signal(Signal::TERM);
    drop(agents);
    // The log ends once the server and all commands have closed it.
    let exit = server.wait_exit();
    assert_eq!(exit.code, Some(0));
    let line = "on-event commands given up: 2 are killed, for 4 events more none is run";
    assert!(exit.stderr.last().unwrap().contains(line), "{exit:?}");
    desk.wait_for(2);
}

#[test]
fn a_second_signal_kills_running_commands() {
    let desk = Desk::new();
    let (server, _agents) = serve_with_six_events(&desk, &["--drain-timeout", "1h"]);
    server.signal(Signal::TERM);
    server.log().wait_for(0, |line| line.contains("stopping"));
    server.signal(Signal::INT);
    assert_eq!(server.wait_exit().code, Some(1));
    desk.wait_for(2);
}
