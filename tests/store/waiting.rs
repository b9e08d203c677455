//! Replies that wait for the disk.

use hawk_testkit::store_file::*;
use hawk_testkit::*;

#[test]
fn replies_keep_their_order_and_other_connections_do_not_wait() {
    let store_file = StoreFile::new();
    let server = store_file.serve_faulty(&[]);
    server
        .connect()
        .exchange(&report("the store works"), REPORT);
    store_file.fault("sync=hang");
    let mut waits = server.connect();
    waits.send(
        &[
            report_of("a", 1),
            heartbeat(),
            wrong_sum(),
            report_of("a", 2),
        ]
        .concat(),
    );
    // The server has the report, the disk does not.
    server.wait_until(|stats| stats.get("bytes_in") > 350);
    let mut beats = server.connect();
    (0..3).for_each(|_| beats.exchange(&heartbeat(), HEARTBEAT));
    waits.expect_silence();
    assert_eq!(
        server.stats().get("reports"),
        1,
        "not counted before it is kept"
    );
    store_file.fault("");
    for line in [REPORT, HEARTBEAT, WRONG_SUM, REPORT] {
        waits.expect_line(line);
    }
    assert_eq!(store_file.contents().len(), 3);
}

#[test]
fn an_agent_that_waits_for_the_store_is_neither_closed_nor_offline() {
    let store_file = StoreFile::new();
    let server = store_file.serve_faulty(&["--idle-timeout", "300ms", "--start-grace", "1ms"]);
    store_file.fault("sync=hang");
    let mut waits = server.connect();
    waits.send(&report_of("web-01", 1));
    // Many rounds of the timer wheel that would close it.
    let idle = server.connect();
    let closed = server.wait_until(|stats| stats.get("closed_idle_timeout") == 1);
    assert_eq!(closed.get("connections"), 1);
    drop(idle);
    server.wait_until(|stats| {
        let store = stats.store.as_ref().unwrap();
        format!("{store:?}").contains("stalled")
    });
    store_file.fault("");
    waits.expect_line(REPORT);
    waits.exchange(&heartbeat(), HEARTBEAT);
}

#[test]
fn a_slow_store_pauses_reading_and_loses_nothing() {
    // More than one batch takes, although a connection with some 2,000 pending replies is
    // paused.
    const AGENTS: i64 = 16;
    const REPORTS: i64 = 4000;
    let store_file = StoreFile::new();
    let server = store_file.serve_faulty(&["--idle-timeout", "1s", "--frame-timeout", "1s"]);
    store_file.fault("sync=hang");
    let mut senders = Vec::new();
    for number in 0..AGENTS {
        let mut agent = server.connect();
        senders.push(std::thread::spawn(move || {
            let name = format!("agent-{number}");
            let mut socket = agent.sender();
            let writer = std::thread::spawn(move || {
                for rand in 0..REPORTS {
                    std::io::Write::write_all(&mut socket, &report_of(&name, rand)).unwrap();
                }
            });
            (0..REPORTS).for_each(|_| agent.expect_line(REPORT));
            writer.join().unwrap();
        }));
    }
    let full = server.wait_until(|stats| {
        stats.get("held") > 0 && format!("{:?}", stats.store).contains("stalled")
    });
    // Two batches at most, and the rest of a read.
    let all = AGENTS * REPORTS * report_of("agent-0", 0).len().cast_signed() as i64;
    assert!(full.get("bytes_in").cast_signed() < all);
    assert_eq!(server.stats().closed(), 0);
    store_file.fault("");
    senders
        .into_iter()
        .for_each(|sender| sender.join().unwrap());
    let all = AGENTS * REPORTS;
    assert_eq!(
        store_file.column::<i64>("SELECT count(DISTINCT content) FROM reports"),
        [all]
    );
    assert_eq!(
        store_file.column::<i64>("SELECT count(*) FROM reports"),
        [all]
    );
}

#[test]
fn end_of_file_waits_for_pending_replies() {
    let store_file = StoreFile::new();
    let server = store_file.serve_faulty(&[]);
    store_file.fault("sync=hang");
    let mut half_closed = server.connect();
    half_closed.send(&[report_of("a", 1), heartbeat()].concat());
    half_closed.shutdown_write();
    let mut connected = server.connect();
    connected.send(&report_of("b", 1));
    server.wait_until(|stats| stats.get("bytes_in") > 200);
    server.signal(rustix::process::Signal::TERM);
    server.log().wait_for(0, |line| line.contains("stopping"));
    half_closed.expect_silence();
    store_file.fault("");
    for line in [REPORT, HEARTBEAT] {
        half_closed.expect_line(line);
    }
    half_closed.expect_eof();
    connected.expect_line(REPORT);
    connected.expect_eof();
    assert_eq!(server.wait_exit().code, Some(0));
    assert_eq!(store_file.contents().len(), 2);
}

#[test]
fn acknowledged_on_receipt_does_not_wait() {
    let store_file = StoreFile::new();
    let server = store_file.serve_faulty(&["--ack", "received"]);
    store_file.fault("sync=hang");
    let mut agent = server.connect();
    (0..50).for_each(|rand| agent.exchange(&report_of("web-01", rand), REPORT));
    assert_eq!(store_file.contents().len(), 0);
    store_file.fault("");
    server.wait_until(|stats| stats.store("reports") == 50);
    assert_eq!(store_file.contents().len(), 50);
}

#[test]
fn a_hanging_store_does_not_block_the_stop() {
    let store_file = StoreFile::new();
    let server = store_file.serve_faulty(&["--drain-timeout", "200ms"]);
    store_file.fault("sync=hang");
    let mut agent = server.connect();
    agent.send(&report_of("a", 1));
    server.wait_until(|stats| stats.get("bytes_in") > 50);
    server.signal(rustix::process::Signal::TERM);
    let exit = server.wait_exit();
    assert_eq!(exit.code, Some(1));
    let told = |line: &String| line.contains("the store did not finish in 200ms");
    assert!(exit.stderr.iter().any(told), "{exit:?}");
}
