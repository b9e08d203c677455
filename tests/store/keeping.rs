//! Acknowledged reports are in the table.

use hawk_testkit::store_file::*;
use hawk_testkit::*;

#[test]
fn a_report_is_in_the_table_once_its_reply_is_read() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    for (rand, text) in ["plain", "", "späße \u{1f980} \0\n\"<&>"]
        .into_iter()
        .enumerate()
    {
        agent.exchange(&report(text), REPORT);
        assert_eq!(store_file.contents().len(), rand + 1);
        assert_eq!(store_file.contents().last().unwrap(), text);
    }
    let peers: Vec<String> = store_file.column("SELECT peer FROM reports");
    assert_eq!(peers, vec![agent.local_addr().to_string(); 3]);
    let fields = "SELECT rand || ' ' || timestamp FROM reports";
    let expected = "3413719555719190332 1475249220";
    assert_eq!(store_file.column::<String>(fields), [expected; 3]);
    let agents =
        "SELECT address || ' ' || reports || ' ' || watched FROM agents WHERE name IS NULL";
    assert_eq!(store_file.column::<String>(agents), ["127.0.0.1 3 0"]);
    let times: Vec<i64> = store_file.column("SELECT received_at FROM reports ORDER BY seq");
    assert!(
        times.is_sorted() && times[0] > 1_700_000_000_000_000_000,
        "{times:?}"
    );
}

#[test]
fn an_agents_name_applies_to_its_whole_connection() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    agent.exchange(
        &heartbeat_packet(hawk_wire::Encoding::Classic, Some("web-01")),
        HEARTBEAT,
    );
    agent.exchange(&report("from web-01"), REPORT);
    agent.exchange(&report_of("web-02", 1), REPORT);
    agent.exchange(&report("from web-02"), REPORT);
    let names = "SELECT name FROM reports JOIN agents ON id = agent ORDER BY seq";
    assert_eq!(
        store_file.column::<String>(names),
        ["web-01", "web-02", "web-02"]
    );
    let counts = "SELECT name || ' ' || heartbeats || ' ' || reports || ' ' || version \
                  FROM agents ORDER BY name";
    assert_eq!(
        store_file.column::<String>(counts),
        ["web-01 1 1 1.0", "web-02 0 2 "]
    );
}

#[test]
fn heartbeats_are_stored_without_a_report() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    (0..5).for_each(|_| agent.exchange(&heartbeat(), HEARTBEAT));
    let noted = eventually(|| {
        let counts: Vec<i64> = store_file.column("SELECT heartbeats FROM agents");
        (counts == [5]).then_some(())
    });
    assert!(noted.is_some());
}

#[test]
fn without_a_store_reports_are_answered_and_no_file_is_made() {
    let store_file = StoreFile::new();
    let server = Server::start(&["--store", "none"]);
    server.connect().exchange(&report("gone"), REPORT);
    assert!(!store_file.store().exists());
    assert!(server.stats().store.is_none());
}

#[test]
fn a_stop_leaves_one_file_that_the_next_start_continues() {
    let store_file = StoreFile::new();
    for start in 1..=3_i64 {
        let server = store_file.serve(&[]);
        let mut agent = server.connect();
        agent.exchange(&report_of("web-01", start), REPORT);
        server.signal(rustix::process::Signal::TERM);
        assert_eq!(server.wait_exit().code, Some(0));
        assert!(
            !store_file.folder().join("hawk.db-wal").exists(),
            "the log is in the file"
        );
        assert_eq!(
            store_file.column::<i64>("SELECT count(*) FROM reports"),
            [start]
        );
        assert_eq!(
            store_file.column::<i64>("SELECT reports FROM agents"),
            [start]
        );
    }
    store_file.expect_sound();
}

#[test]
fn reports_received_before_a_stop_are_stored_and_answered() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agents: Vec<Agent> = (0..20).map(|_| server.connect()).collect();
    let suspended = server.suspend();
    for (number, agent) in agents.iter_mut().enumerate() {
        let reports = (0..10).map(|rand| report_of(&format!("agent-{number}"), rand));
        agent.send(&reports.collect::<Vec<_>>().concat());
    }
    server.signal(rustix::process::Signal::TERM);
    drop(suspended);
    for agent in &mut agents {
        (0..10).for_each(|_| agent.expect_line(REPORT));
        agent.expect_eof();
    }
    assert_eq!(server.wait_exit().code, Some(0));
    assert_eq!(store_file.contents().len(), 200);
}

#[test]
fn reports_of_an_agent_that_disconnects_are_stored() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let mut agent = server.connect();
    agent.send(&[report_of("web-01", 1), report_of("web-01", 2)].concat());
    drop(agent);
    let mut other = server.connect();
    other.send(&report_of("web-02", 3));
    other.shutdown_write();
    other.expect_line(REPORT);
    other.expect_eof();
    server.wait_until(|stats| stats.store("reports") == 3);
    assert_eq!(store_file.contents().len(), 3);
}

#[test]
fn many_batches_have_each_report_of_many_agents_once() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let address = server.address;
    let senders: Vec<_> = (0..8)
        .map(|number| {
            std::thread::spawn(move || {
                let mut agent = Agent::connect(address);
                for burst in 0..20 {
                    let name = format!("agent-{number}");
                    let reports = (0..100).map(|rand| report_of(&name, burst * 100 + rand));
                    agent.send(&reports.collect::<Vec<_>>().concat());
                    (0..100).for_each(|_| agent.expect_line(REPORT));
                }
            })
        })
        .collect();
    senders
        .into_iter()
        .for_each(|sender| sender.join().unwrap());
    let per_agent = "SELECT count(DISTINCT rand) * 10000 + count(*) FROM reports GROUP BY agent";
    assert_eq!(store_file.column::<i64>(per_agent), [20_002_000; 8]);
    let in_order = "SELECT count(*) FROM (SELECT rand - lag(rand) OVER \
                    (PARTITION BY agent ORDER BY seq) AS step FROM reports) WHERE step <> 1";
    assert_eq!(store_file.column::<i64>(in_order), [0]);
    assert_eq!(
        store_file.column::<i64>("SELECT reports FROM agents"),
        [2000; 8]
    );
}
