//! The input of commands, and the order of calls.

use std::collections::BTreeSet;
use std::time::Duration;

use rusqlite::Connection;
use rustix::process::Signal;

use crate::desk::*;
use hawk_testkit::*;

const SOON_OFFLINE: [&str; 4] = ["--offline-after", "200ms", "--start-grace", "1ms"];

#[test]
fn each_change_runs_a_command_once() {
    let desk = Desk::new();
    let server = desk.serve(NOTE, &SOON_OFFLINE);
    come(&server, "web-01");
    server.connect().exchange(&report("text"), REPORT);
    let events = desk.wait_for(4);
    for (agent, named, version) in [("web-01", true, "1.0"), ("127.0.0.1", false, "")] {
        let of_agent: Vec<_> = events.iter().filter(|e| e["agent"] == agent).collect();
        let [online, offline] = of_agent[..] else {
            panic!("{events:#?}");
        };
        assert_eq!(online["state"], "online");
        assert_eq!(offline["state"], "offline");
        for event in [online, offline] {
            assert_eq!(event["named"], named);
            assert_eq!(event["address"], "127.0.0.1");
            assert_eq!(event["version"], version);
            assert_eq!(event.as_object().unwrap().len(), 7, "{event}");
        }
        assert_eq!(online["at"], online["last_seen"]);
        assert_eq!(offline["last_seen"], online["last_seen"]);
        let time =
            |text: &serde_json::Value| humantime::parse_rfc3339(text.as_str().unwrap()).unwrap();
        let silence = time(&offline["at"]).duration_since(time(&offline["last_seen"]));
        assert!(silence.unwrap() >= Duration::from_millis(200), "{offline}");
    }
    let stats = server.wait_until(|stats| stats.hook("delivered") == 4);
    assert_eq!(stats.hook("run"), 4);
    assert_eq!(stats.hook.unwrap().sum(""), 8, "nothing else is counted");
}

#[test]
fn a_store_has_the_same_events() {
    let desk = Desk::new();
    let store = desk.path("hawk.db");
    let store_at = ["--store", store.to_str().unwrap()];
    let server = desk.serve(NOTE, &[&store_at[..], &SOON_OFFLINE].concat());
    come(&server, "web-01");
    let events = desk.wait_for(2);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
    let store = Connection::open(store).unwrap();
    let mut stored = store
        .prepare("SELECT at, state FROM events ORDER BY seq")
        .unwrap();
    let rows = stored.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let rows: Vec<(i64, String)> = rows.unwrap().map(Result::unwrap).collect();
    let told = events.iter().map(|event| {
        let at = humantime::parse_rfc3339(event["at"].as_str().unwrap()).unwrap();
        let at = at.duration_since(std::time::UNIX_EPOCH).unwrap();
        let state = event["state"].as_str().unwrap().to_owned();
        (i64::try_from(at.as_nanos()).unwrap(), state)
    });
    assert_eq!(told.collect::<Vec<_>>(), rows);
}

#[test]
fn without_the_option_there_is_no_line_in_the_statistics() {
    let server = Server::start(&[]);
    server.connect().expect_alive();
    assert_eq!(server.stats().hook, None);
}

#[test]
fn each_of_many_changes_at_once_runs_a_command() {
    let desk = Desk::new();
    let server = desk.serve(NOTE, &[]);
    let agents = come_all(&server, 300);
    let events = desk.wait_for(300);
    let names: BTreeSet<_> = events.iter().map(|e| e["agent"].to_string()).collect();
    assert_eq!(names.len(), agents.len());
}

#[test]
fn an_event_waits_for_the_previous_event_of_its_agent_alone() {
    let desk = Desk::new();
    let server = desk.serve(NOTE_AND_WAIT, &SOON_OFFLINE);
    drop(come(&server, "web-01"));
    let is_offline = |line: &str| line.contains("agent offline agent=\"web-01\"");
    server.log().wait_for(0, is_offline);
    drop(come(&server, "web-02"));
    server.wait_until(|stats| (stats.hook("running"), stats.hook("waiting")) == (2, 2));
    desk.wait_for(2);
    assert_eq!(desk.states(), ["web-01 online", "web-02 online"]);
    desk.release(4);
    desk.wait_for(4);
    let after = BTreeSet::from_iter(desk.states().split_off(2));
    let expected = ["web-01 offline", "web-02 offline"].map(str::to_owned);
    assert_eq!(after, BTreeSet::from(expected));
}

#[test]
fn an_event_has_the_beginning_of_a_long_version() {
    let desk = Desk::new();
    let server = desk.serve(NOTE, &[]);
    // Each byte is invalid UTF-8, and becomes a character of three bytes.
    let version = [0x80; 65_000];
    let heartbeat = [b"\x00{\"version\":\"", &version[..], b"\",\"timestamp\":1}"].concat();
    server.connect().exchange(&frame(&heartbeat), HEARTBEAT);
    let events = desk.wait_for(1);
    assert_eq!(events[0]["version"], "\u{FFFD}".repeat(42));
}

#[test]
fn the_option_has_its_variable() {
    let desk = Desk::new();
    let server = Launch::serve(&[])
        .env("HAWK_ON_EVENT", "cat >> $EVENTS")
        .env("EVENTS", desk.path("events").to_str().unwrap())
        .start();
    come(&server, "web-01");
    desk.wait_for(1);
}
