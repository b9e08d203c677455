//! `--follow`: rows are shown as they arrive.

use rustix::process::Signal;

use hawk_testkit::store_file::*;
use hawk_testkit::*;

#[test]
fn reports_are_shown_as_they_arrive() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    for number in 1..=15 {
        agent.exchange(&report_of("web-01", number), REPORT);
    }
    let follower = store_file.read(&["reports", "--follow", "--json"]).spawn();
    let (first, mark) = follower.stdout.wait_for(0, |_| true);
    assert!(first.contains("\"rand\":6,"), "the last ten: {first}");
    let (_, mark) = follower
        .stdout
        .wait_for(mark, |line| line.contains("\"rand\":15,"));
    agent.exchange(&report_of("web-01", 16), REPORT);
    let (_, mark) = follower
        .stdout
        .wait_for(mark, |line| line.contains("\"rand\":16,"));
    // A restart of the server does not end it.
    server.signal(Signal::TERM);
    server.wait_exit();
    let server = store_file.serve(&[]);
    server.connect().exchange(&report_of("web-01", 17), REPORT);
    let (_, end) = follower
        .stdout
        .wait_for(mark, |line| line.contains("\"rand\":17,"));
    assert_eq!(end, 12, "each once");
}

#[test]
fn events_are_shown_as_they_arrive() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&["--offline-after", "300ms", "--start-grace", "1ms"]);
    let follower = store_file.read(&["events", "-f"]).spawn();
    server.connect().exchange(&heartbeat(), HEARTBEAT);
    let (_, mark) = follower
        .stdout
        .wait_for(0, |line| line.ends_with("  online   127.0.0.1  127.0.0.1"));
    follower.stdout.wait_for(mark, |line| {
        line.ends_with("  offline  127.0.0.1  127.0.0.1")
    });
}

#[test]
fn following_a_store_ends_when_it_is_replaced() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    server.connect().exchange(&report("hello"), REPORT);
    let mut follower = store_file.read(&["reports", "--follow"]).spawn();
    follower.stdout.wait_for(0, |line| line.contains("hello"));
    std::fs::rename(store_file.store(), store_file.folder().join("kept.db")).unwrap();
    let exit = follower.wait_exit();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let last = exit.stderr.last().unwrap();
    assert!(last.contains("was moved away or replaced"), "{last}");
}
