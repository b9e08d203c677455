//! With a store: each event is delivered at least once, and the last event last.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::desk::*;
use hawk_testkit::*;

const SOON_OFFLINE: [&str; 4] = ["--offline-after", "300ms", "--start-grace", "1ms"];

/// Fails for agents with "bad" in their names until `$DESK/mended` exists.
const FAIL_IF_BAD: &str = "read -r event; case $event in *bad*) test -e $DESK/mended || exit 1 ;; \
                           esac; echo \"$event\" >> $DESK/events";

struct Stored {
    desk: Desk,
    store: String,
    control: String,
}

impl Stored {
    fn new() -> Self {
        let desk = Desk::new();
        let path = |name| desk.path(name).to_str().unwrap().to_owned();
        let (store, control) = (path("hawk.db"), path("control"));
        Self {
            desk,
            store,
            control,
        }
    }

    #[track_caller]
    fn serve(&self, command: &str, args: &[&str]) -> Server {
        let stored = ["--store", &self.store, "--control", &self.control];
        self.desk.serve(command, &[&stored[..], args].concat())
    }

    fn open(&self) -> Connection {
        Connection::open(&self.store).unwrap()
    }

    /// Returns the states of agents in the store.
    fn states(&self) -> BTreeMap<String, String> {
        let store = self.open();
        let mut agents = store.prepare("SELECT name, state FROM agents").unwrap();
        let rows = agents.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// Returns the numbers of all events in the store, by agent.
    fn table(&self) -> BTreeMap<String, Vec<i64>> {
        let store = self.open();
        let mut events = store
            .prepare("SELECT name, seq FROM events ORDER BY seq")
            .unwrap();
        let rows = events.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        group(rows.unwrap().map(Result::unwrap))
    }

    fn delivered(&self) -> BTreeMap<String, Vec<i64>> {
        group(self.desk.events().iter().map(name_and_seq))
    }

    /// Waits until all events of the table are delivered, and checks their order.
    #[track_caller]
    fn expect_all_delivered(&self) {
        let is_all = || {
            let (table, delivered) = (self.table(), self.delivered());
            let all = table.iter().all(|(agent, events)| {
                let delivered = delivered.get(agent);
                delivered.is_some_and(|delivered| delivered.last() == events.last())
            });
            all.then_some(())
        };
        assert!(
            eventually(is_all).is_some(),
            "{:#?} {:#?}",
            self.table(),
            self.delivered()
        );
        let delivered = self.delivered();
        for (agent, events) in self.table() {
            let mut first_times = delivered[&agent].clone();
            let mut seen = BTreeSet::new();
            first_times.retain(|seq| seen.insert(*seq));
            assert_eq!(first_times, events, "{agent} {:?}", delivered[&agent]);
        }
        let states = self.states();
        for event in self.desk.events().iter().rev() {
            let (agent, seq) = name_and_seq(event);
            if delivered[&agent].last() == Some(&seq) {
                assert_eq!(event["state"], states[&agent], "{agent}");
            }
        }
    }
}

fn name_and_seq(event: &Value) -> (String, i64) {
    let text = |key: &str| event[key].as_str().unwrap();
    (text("agent").to_owned(), text("seq").parse().unwrap())
}

fn group(events: impl Iterator<Item = (String, i64)>) -> BTreeMap<String, Vec<i64>> {
    let mut grouped: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (agent, seq) in events {
        grouped.entry(agent).or_default().push(seq);
    }
    grouped
}

#[track_caller]
fn upgrade(stored: &Stored) -> Pid {
    let upgrade = Launch::hawk(&["upgrade", "--control", &stored.control]).run();
    assert_eq!(upgrade.code, Some(0), "{upgrade:?}");
    successor_of(&upgrade)
}

/// Stops a successor gently.
fn stop(server: &Server, pid: Pid) {
    kill_process(pid, Signal::TERM).unwrap();
    server.wait_stdout_end();
}

#[test]
fn order_holds_across_an_upgrade_while_commands_run_and_wait() {
    let stored = Stored::new();
    let command = "read -r event; sleep 0.4; echo \"$event\" >> $DESK/events";
    let server = stored.serve(command, &SOON_OFFLINE);
    let names: Vec<_> = (0..6).map(|number| format!("agent-{number}")).collect();
    let mut agents: Vec<_> = names.iter().map(|name| come(&server, name)).collect();
    let offline = |line: &str| line.contains("agent offline");
    let count = || server.count_logged("agent offline");
    assert!(eventually(|| (count() >= 6).then_some(())).is_some());
    let pid = upgrade(&stored);
    // Online again, in the successor.
    for (agent, name) in agents.iter_mut().zip(&names).skip(3) {
        agent.exchange(&named_heartbeat(name), HEARTBEAT);
    }
    let (_, mark) = server.log().wait_for(0, offline);
    server.log().wait_for(mark, offline);
    stored.expect_all_delivered();
    stop(&server, pid);
}

#[test]
fn a_command_that_outlives_the_upgrade_is_not_overtaken() {
    let stored = Stored::new();
    // The first command runs longer than the predecessor waits for commands.
    let command = "read -r event; case $event in *online*) sleep 4 ;; esac; \
                   echo \"$event\" >> $DESK/events";
    let server = stored.serve(command, &SOON_OFFLINE);
    come(&server, "web-01");
    server
        .log()
        .wait_for(0, |line| line.contains("agent offline"));
    let pid = upgrade(&stored);
    stored.expect_all_delivered();
    stop(&server, pid);
}

#[test]
fn an_event_that_fails_holds_up_no_other_agent_and_is_delivered_later() {
    let stored = Stored::new();
    let server = stored.serve(FAIL_IF_BAD, &SOON_OFFLINE);
    come(&server, "bad");
    come(&server, "good");
    let delivered = || stored.delivered().get("good").map_or(0, Vec::len);
    assert!(eventually(|| (delivered() == 2).then_some(())).is_some());
    let stats = server.wait_until(|stats| stats.hook("retried") > 0);
    assert_eq!(stats.hook("waiting") + stats.hook("running"), 2);
    assert_eq!(stored.delivered().get("bad"), None);
    fs::write(stored.desk.path("mended"), "").unwrap();
    stored.expect_all_delivered();
    let stats = server.wait_until(|stats| stats.hook("delivered") == 4);
    assert_eq!(stats.hook("skipped") + stats.hook("missed"), 0);
}

#[test]
fn a_missing_command_is_tried_at_long_intervals_and_loses_no_event() {
    let stored = Stored::new();
    let server = stored.serve("$DESK/script", &[]);
    let _agents = come_all(&server, 100);
    let stats = server.wait_until(|stats| stats.hook("failed") > 5);
    assert!(stats.hook("run") < 20, "{stats:?}");
    let script = stored.desk.path("script");
    fs::write(&script, "#!/bin/sh\ncat >> $DESK/events\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, executable).unwrap();
    stored.expect_all_delivered();
}

#[test]
fn a_gathered_call_that_fails_is_repeated() {
    let stored = Stored::new();
    let command = "test -e $DESK/mended || exit 1; cat >> $DESK/events";
    let args = ["--store", &stored.store, "--offline-after", "300ms"];
    let more = ["--start-grace", "1ms", "--on-events", command];
    let launch = Launch::serve(&[&args[..], &more, &["--on-events-window", "50ms"]].concat());
    let launch = launch.env("DESK", stored.desk.path("").to_str().unwrap());
    let server = launch.start();
    for name in ["web-01", "web-02", "web-03"] {
        come(&server, name);
    }
    server.wait_until(|stats| stats.events("retried") > 0);
    fs::write(stored.desk.path("mended"), "").unwrap();
    stored.expect_all_delivered();
}

#[test]
fn four_commands_of_established_agents_run_at_once() {
    let stored = Stored::new();
    let server = stored.serve("true", &[]);
    drop(come_all(&server, 6));
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
    let made_old = "UPDATE agents SET hours = 3, state = 'offline'";
    assert_eq!(stored.open().execute(made_old, []), Ok(6));
    let server = stored.serve(NOTE_AND_WAIT, &["--on-event-timeout", "1h"]);
    let _agents = come_all(&server, 6);
    stored.desk.wait_for(4);
    let stats = server.wait_until(|stats| stats.hook("waiting") == 2);
    assert_eq!(stats.hook("running"), 4);
    stored.desk.release(6);
    stored.desk.wait_for(6);
}

#[test]
fn new_names_and_a_slow_command_do_not_hold_up_an_established_agent() {
    let stored = Stored::new();
    let server = stored.serve("true", &[]);
    come(&server, "old");
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
    let made_old = "UPDATE agents SET hours = 3, first_seen = first_seen - 86400000000000";
    assert_eq!(stored.open().execute(made_old, []), Ok(1));

    let command = "cat >> $DESK/events; sleep 0.2";
    let args = ["--offline-after", "2s", "--start-grace", "1ms"];
    let server = stored.serve(command, &args);
    let mut old = come(&server, "old");
    let _agents = come_all(&server, 500);
    old.exchange(&named_heartbeat("old"), HEARTBEAT);
    let is_offline = |event: &Value| event["agent"] == "old" && event["state"] == "offline";
    let place = || stored.desk.events().iter().position(is_offline);
    let place = eventually(place).expect("it is delivered");
    // The other events take 50 s, one after the other.
    assert!(place < 300, "{place}");
}

#[test]
fn after_a_kill_undelivered_events_are_delivered() {
    let stored = Stored::new();
    let command = "cat >> $DESK/events; sleep 0.05";
    let server = stored.serve(command, &["--offline-after", "1h"]);
    let agents = come_all(&server, 60);
    let some = || (stored.desk.events().len() >= 10).then_some(());
    assert!(eventually(some).is_some());
    server.signal(Signal::KILL);
    server.wait_exit();
    drop(agents);
    let before = stored.desk.events().len();
    assert!(before < 60);
    let _server = stored.serve(command, &["--offline-after", "1h"]);
    stored.expect_all_delivered();
    let again = stored.desk.events().len() - 60;
    assert!(again < 30, "{again} of {before} were delivered again");
}

#[test]
fn events_that_fail_at_a_stop_are_delivered_after_the_next_start() {
    let stored = Stored::new();
    let server = stored.serve("exit 1", &SOON_OFFLINE);
    come(&server, "web-01");
    server
        .log()
        .wait_for(0, |line| line.contains("agent offline"));
    server.wait_until(|stats| stats.hook("failed") > 0);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
    let _server = stored.serve(NOTE, &SOON_OFFLINE);
    stored.expect_all_delivered();
}

#[test]
fn a_gentle_stop_delivers_waiting_events() {
    let stored = Stored::new();
    let args = [&SOON_OFFLINE[..], &["--drain-timeout", "1h"]].concat();
    let server = stored.serve("cat >> $DESK/events; sleep 0.1", &args);
    let agents = come_all(&server, 20);
    server.signal(Signal::TERM);
    drop(agents);
    assert_eq!(server.wait_exit().code, Some(0));
    assert_eq!(stored.delivered().len(), 20);
}

#[test]
fn a_restored_file_and_a_new_command_start_at_the_end() {
    let stored = Stored::new();
    let server = stored.serve("exit 1", &[]);
    come(&server, "web-01");
    server.wait_until(|stats| stats.hook("failed") > 0);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
    let copy = stored.desk.path("copy");
    fs::copy(&stored.store, &copy).unwrap();
    fs::rename(&copy, &stored.store).unwrap();
    let server = stored.serve(NOTE, &[]);
    come(&server, "web-02");
    stored.desk.wait_for(1);
    assert_eq!(stored.desk.states(), ["web-02 online"]);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));

    let args = ["--store", &stored.store, "--offline-after", "1h"];
    let more = ["--on-events", NOTE, "--on-events-window", "1ms"];
    let launch = Launch::serve(&[&args[..], &more].concat());
    let launch = launch.env("DESK", stored.desk.path("").to_str().unwrap());
    let server = launch.start();
    come(&server, "web-03");
    stored.desk.wait_for(2);
    assert_eq!(stored.desk.states(), ["web-02 online", "web-03 online"]);
}
