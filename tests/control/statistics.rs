//! `hawk stats`: the lines of the log, live.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;

use serde_json::Value;

use crate::Place;
use hawk_testkit::*;

/// A line without its rates, which differ each time.
fn without_rates(line: &str) -> String {
    let words = line.split(' ').filter(|word| !word.contains("_per_s="));
    words.collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn number(object: &Value, kind: &str, key: &str) -> f64 {
    let number = object[kind][key].as_f64();
    number.unwrap_or_else(|| panic!("no {kind} {key} in {object}"))
}

#[test]
fn they_are_the_lines_of_the_log() {
    let place = Place::new();
    let store = place.folder.path().join("hawk.db");
    let server = place.serve(&["--store", store.to_str().unwrap(), "--on-event", "true"]);
    let mut agent = server.connect();
    agent.expect_alive();
    agent.exchange(&report("x"), REPORT);
    // The commit's log has been moved and the command has ended: nothing changes any more.
    server.wait_until(|stats| stats.hook("run") == 1 && stats.store("commits") > 0);
    let told = eventually(|| {
        let mark = server.log().count();
        let told = place.stats(&[]).run();
        assert_eq!(told.code, Some(0), "{told:?}");
        server.stats();
        let logged = server.log().since(mark);
        let logged = logged.iter().filter(|line| line.contains(" hawk::stats] "));
        let logged = logged.map(|line| without_rates(line.split_once("] ").unwrap().1));
        let same = told
            .stdout
            .iter()
            .map(|line| without_rates(line))
            .eq(logged);
        same.then_some(told.stdout)
    });
    let told = told.expect("the same lines");
    let heads: Vec<_> = told
        .iter()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let pool = ["pool"; CLASSES.len()];
    assert_eq!(
        heads,
        [&["stats", "agents", "store", "hook", "restart"][..], &pool].concat()
    );
    assert!(told[0].contains(" reports=1 "), "{told:?}");
    assert!(told[0].contains(" packets_per_s="), "{told:?}");
}

#[test]
fn as_json_they_are_one_object() {
    let place = Place::new();
    let server = place.serve(&[]);
    let mut agent = server.connect();
    agent.expect_alive();
    let told = place.stats(&["--json"]).run();
    assert_eq!((told.code, told.stdout.len()), (Some(0), 1), "{told:?}");
    let object: Value = serde_json::from_str(&told.stdout[0]).unwrap();
    assert_eq!(number(&object, "stats", "heartbeats"), 1.0);
    assert_eq!(number(&object, "agents", "online"), 1.0);
    assert_eq!(object.get("store"), None, "it has none");
    let classes = object["pool"].as_array().unwrap().iter();
    let classes: Vec<_> = classes
        .map(|class| class["class"].as_u64().unwrap())
        .collect();
    assert_eq!(classes, CLASSES);
    assert!(number(&object, "stats", "packets_per_s") >= 0.0);
}

#[test]
fn watched_they_come_again_and_again_until_the_server_ends() {
    let place = Place::new();
    let server = place.serve(&[]);
    let watch = place.stats(&["--watch", "--json", "--interval", "5ms"]);
    let mut watch = watch.spawn();
    let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let (_, mark) = watch.stdout.wait_for(0, |_| true);
    let mut agent = server.connect();
    (0..10).for_each(|_| agent.expect_alive());
    let (line, _) = watch.stdout.wait_for(mark, |line| {
        number(&parse(line), "stats", "heartbeats") == 10.0
    });
    // What was counted between two looks is what the rates say, to a tenth.
    let lines = watch.stdout.since(0);
    let last = lines.iter().position(|found| *found == line).unwrap();
    let lines: Vec<_> = lines[..=last].iter().map(|line| parse(line)).collect();
    let (mut counted, mut seconds) = (0.0, 0.0);
    for pair in lines.windows(2) {
        let [earlier, later] =
            [&pair[0], &pair[1]].map(|told| number(told, "clock", "monotonic_ns"));
        let span = (later - earlier) / 1e9;
        assert!(span >= 0.005, "{span}");
        counted += number(&pair[1], "stats", "packets_per_s") * span;
        seconds += span;
    }
    assert!(
        (counted - 10.0).abs() <= 0.051 * seconds,
        "{counted} in {seconds} s"
    );

    drop(agent);
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
    let exit = watch.wait_exit();
    assert_eq!((exit.code, exit.stderr.len()), (Some(1), 1), "{exit:?}");
}

#[test]
fn a_watching_client_asks_again_when_an_answer_is_cut_off() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path()).unwrap();
    let answer = "clock monotonic_ns=1\nstats connections=0 heartbeats=0 reports=0 bytes_in=0 \
                  bytes_out=0 packets_per_s=0.0\n";
    let server = std::thread::spawn(move || {
        for last in ["done\n", "", "done\n", "", ""] {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; 6];
            client.read_exact(&mut request).unwrap();
            client
                .write_all((answer.to_owned() + last).as_bytes())
                .unwrap();
        }
    });
    let exit = place
        .stats(&["--watch", "--json", "--interval", "1ms"])
        .run();
    server.join().unwrap();
    assert_eq!((exit.code, exit.stdout.len()), (Some(1), 2), "{exit:?}");
    assert!(
        exit.stderr[0].contains("before it had answered"),
        "{exit:?}"
    );
}

#[test]
fn watched_without_a_terminal_they_are_blocks_of_lines() {
    let place = Place::new();
    let _server = place.serve(&[]);
    let watch = place.stats(&["--watch", "--interval", "1ms"]).spawn();
    let mut mark = 0;
    for _ in 0..3 {
        (_, mark) = watch.stdout.wait_for(mark, str::is_empty);
    }
    let lines = watch.stdout.since(0);
    let block = 3 + CLASSES.len();
    for (index, line) in lines.iter().enumerate().take(3 * (block + 1)) {
        let expected = match index % (block + 1) {
            0 => "stats ",
            1 => "agents ",
            2 => "restart ",
            last if last == block => "",
            _ => "pool ",
        };
        assert!(line.starts_with(expected), "{index} {lines:#?}");
        assert_eq!(line.is_empty(), expected.is_empty(), "{index} {lines:#?}");
    }
}

/// A server that does not turn, such as one that was stopped with `kill -STOP`.
#[test]
fn a_client_that_waits_long_for_a_hand_over_says_so() {
    let place = Place::new();
    let _deaf = UnixListener::bind(place.path()).unwrap();
    let client = Launch::hawk(&["upgrade", "--control", place.path().to_str().unwrap()]);
    let client = client.spawn();
    let told = "hawk: no outcome after 10 s; waiting for one, up to 120 s in all";
    client.stderr.wait_for(0, |line| line == told);
}

#[test]
fn without_a_server_or_a_path_it_says_so() {
    let place = Place::new();
    let exit = place.stats(&[]).run();
    assert_eq!((exit.code, exit.stderr.len()), (Some(1), 1), "{exit:?}");
    let told = &exit.stderr[0];
    assert!(
        told.starts_with("hawk: cannot connect to the control socket "),
        "{told}"
    );
    assert!(
        told.contains("is the server running, with --control"),
        "{told}"
    );
    if !std::path::Path::new("/run/hawk/control").exists() {
        let exit = Launch::hawk(&["stats"]).run();
        assert_eq!(exit.code, Some(1));
        assert!(exit.stderr[0].contains("give --control PATH"), "{exit:?}");
    }
    let exit = place.stats(&["--interval", "1s"]).run();
    assert_eq!(exit.code, Some(2), "an interval is for --watch");
}
