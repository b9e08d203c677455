//! `hawk load --chaos`: the faults that fail a run, and the faults that are only counted.
//!
//! Each chaotic connection has at least one life, also in a short run, and eight of them
//! show every conduct.

use serde_json::Value;

use crate::load::{errors, load, load_meanwhile};
use crate::support::{Conduct, Ill, Seen, Server, hawk};

/// Closed loop: 1,000 frames on two good connections, beside eight chaotic ones.
const CHAOS: [&str; 6] = [
    "-s",
    "-n=1000",
    "-c=10",
    "--chaos=80%",
    "--reply-timeout=60s",
    "--seed=4711",
];

const CONDUCTS: [&str; 8] = [
    "corrupt",
    "cut",
    "stall",
    "never_read",
    "trickle",
    "reset",
    "half_close",
    "junk",
];

/// The sum of a count over all conducts.
fn count(figures: &Value, key: &str) -> u64 {
    let conducts = figures["chaos"]["conducts"].as_array().unwrap();
    conducts.iter().map(|it| it[key].as_u64().unwrap()).sum()
}

#[test]
fn chaos_is_counted_by_conduct_in_either_loop_and_fails_nothing() {
    let server = Server::start(Conduct::Good);
    let open = [
        "--rate=1000",
        "-d=500ms",
        "-c=9",
        "--chaos=8",
        "--seed=4711",
        "--reply-timeout=60s",
    ];
    for options in [&CHAOS[..], &open] {
        let (ran, figures) = load(&server, options);
        ran.succeeded();
        assert_eq!(figures["passed"], true);
        assert_eq!(figures["chaos"]["seed"], 4711);
        assert_eq!(figures["chaos"]["connections"], 8);
        let conducts = figures["chaos"]["conducts"].as_array().unwrap();
        let found: Vec<_> = conducts.iter().map(|it| it["conduct"].as_str()).collect();
        assert_eq!(found, CONDUCTS.map(Some));
        assert!(conducts.iter().all(|it| it["lives"].as_u64() >= Some(1)));
        // A connection with too much junk is closed, perhaps before it has sent everything.
        let ended = count(&figures, "as_planned") + count(&figures, "closed_by_server");
        assert_eq!(count(&figures, "lives"), ended, "{figures:#}");
        assert!(count(&figures, "lines") > 0 && count(&figures, "bytes_sent") > 0);
        for word in [
            "8 connections, --seed 4711",
            "half-close",
            "errors      none",
        ] {
            assert!(ran.stdout.contains(word), "{}", ran.stdout);
        }
    }
}

#[test]
fn a_run_without_chaos_says_nothing_of_it() {
    let server = Server::start(Conduct::Good);
    let (ran, figures) = load(&server, &["-s", "-n=10", "-c=2", "--chaos=0"]);
    ran.succeeded();
    assert_eq!(figures["chaos"], Value::Null);
    assert!(!ran.stdout.contains("chaos"));
}

#[test]
fn errors_of_good_connections_fail_the_run() {
    let server = Server::start(Conduct::Wrong(10, "error: malformed JSON\n"));
    let (ran, figures) = load(&server, &CHAOS);
    ran.failed_with("wrong: error: malformed JSON");
    let all = figures["errors"].as_array().unwrap();
    let good = all.iter().find(|it| it["cause"] == "error: malformed JSON");
    assert!(good.unwrap()["count"].as_u64() >= Some(90), "{figures:#}");
}

#[test]
fn connections_turned_away_are_counted() {
    let server = Server::start(Conduct::Full(2));
    let (ran, figures) = load(&server, &CHAOS);
    ran.succeeded();
    assert!(count(&figures, "turned_away") > 0, "{figures:#}");
    assert_eq!(count(&figures, "wronged"), 0);
    assert!(ran.stdout.contains("turned away"), "{}", ran.stdout);
}

#[test]
fn a_server_may_break_off_a_connection_at_any_time() {
    let server = Server::start(Conduct::Unfair(Ill::Resets));
    let (ran, figures) = load(&server, &CHAOS);
    ran.succeeded();
    assert!(count(&figures, "reset_by_server") > 0, "{figures:#}");
}

#[test]
fn a_server_may_end_a_connection_that_stalls() {
    let server = Server::start(Conduct::Unfair(Ill::Ends));
    // The first life of the only agent is a stall of 25 s after whole frames.
    let options = [
        "--rate=10",
        "-d=1h",
        "-c=2",
        "--chaos=1",
        "--seed=26",
        "--reply-timeout=60s",
    ];
    let (ran, figures) = load_meanwhile(&server, &options, |process| {
        while server.wait() != Seen::Parted {}
        rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    });
    ran.succeeded();
    assert!(count(&figures, "closed_by_server") > 0, "{figures:#}");
}

#[test]
fn a_broken_protocol_fails_the_run_on_good_and_chaotic_connections() {
    for (ill, fault, cause) in [
        (
            Ill::Says("error: bad base64\n"),
            "wrong",
            "\"error: bad base64\" instead of \"Report data has recive\"",
        ),
        (Ill::Says("hello\n"), "wrong", "unknown line \"hello\""),
        (
            Ill::Says("busy: too many connections\nheartBeat\n"),
            "",
            "answers nothing",
        ),
        (Ill::Twice, "", ""),
        (Ill::Silent, "", ""),
    ] {
        let server = Server::start(Conduct::Unfair(ill));
        let (ran, figures) = load(&server, &CHAOS);
        ran.failed_with("on a chaotic connection (");
        assert_eq!(figures["answered"], 1000, "good ones are not concerned");
        assert!(count(&figures, "wronged") > 0, "{figures:#}");
        if !fault.is_empty() {
            assert!(errors(&figures, fault, cause) > 0, "{figures:#}");
        }
    }
}

#[test]
fn a_server_that_does_not_close_chaotic_connections_fails_the_run() {
    let server = Server::start(Conduct::Unfair(Ill::Lingers));
    let options = ["-s", "-n=1000", "-c=9", "--chaos=8", "--reply-timeout=2s"];
    let (ran, _) = load(&server, &options);
    ran.failed_with("left open by the server after our end of file, on a chaotic connection");
}

#[test]
fn the_same_seed_makes_the_same_bytes() {
    let reports = || {
        let server = Server::start(Conduct::Good);
        // The first agent corrupts its frames.
        let options = ["-s", "-n=10", "-c=2", "--chaos=1", "--seed=16"];
        load(&server, &options).0.succeeded();
        let seen = server.seen().into_iter();
        let chaotic = seen.filter_map(|seen| match seen {
            Seen::Report { content, agent } if agent.as_deref() == Some("chaos-1") => Some(content),
            _ => None,
        });
        chaotic.collect::<Vec<_>>()
    };
    let (once, again) = (reports(), reports());
    // One of them may have begun another life.
    let length = once.len().min(again.len());
    assert!(length > 0);
    assert_eq!(once[..length], again[..length]);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (options, code) in [
        (&["-c=8", "--chaos=8"][..], 1),
        (&["-c=8", "--chaos=9"], 1),
        (&["-c=8", "--idle=1", "--chaos=9"], 1),
        (&["--chaos=100%"], 1),
        (&["--chaos=101%"], 2),
        (&["--chaos=some"], 2),
        (&["--seed=1"], 2),
    ] {
        let server = Server::start(Conduct::Good);
        let ran = hawk(&[&["load", &server.address()], options].concat(), b"");
        assert_eq!(ran.code, Some(code), "{options:?}: {ran:?}");
    }
    let server = Server::start(Conduct::Good);
    let options = ["-c=8", "--idle=1", "--chaos=8", "-d=100ms"];
    hawk(&[&["load", &server.address()], &options[..]].concat(), b"").succeeded();
}
