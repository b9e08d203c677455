//! What moves, and that nobody notices.

use rustix::process::{Signal, kill_process};

use crate::dynasty::Dynasty;
use crate::support::*;

#[test]
fn agents_go_on_with_another_process() {
    let mut dynasty = Dynasty::start(&[]);
    let sockets = dynasty.listening_sockets();
    assert_eq!(sockets.len(), 1);
    let mut idle = dynasty.connect();
    idle.expect_alive();
    let mut in_mid_frame = dynasty.connect();
    let whole = report("begun in one process and ended in another");
    let (begun, rest) = whole.split_at(20);
    in_mid_frame.send(begun);
    in_mid_frame.wait_delivered();

    let succession = dynasty.upgrade(&[]);
    assert_eq!(succession.fields.get("generation"), 2);
    assert_eq!(succession.fields.get("connections"), 2);
    assert_eq!(dynasty.listening_sockets(), sockets, "the same socket");

    in_mid_frame.send(rest);
    in_mid_frame.expect_line(REPORT);
    idle.expect_alive();
    dynasty.connect().expect_alive();
    let stats = dynasty.stats();
    assert_eq!(stats.get("accepted"), 3, "what was counted moves as well");
    assert_eq!(stats.get("reports"), 1);

    let again = dynasty.upgrade(&[]);
    assert_eq!(again.fields.get("generation"), 3);
    idle.expect_alive();
    in_mid_frame.expect_alive();
    dynasty.stop();
}

#[test]
fn a_frame_may_be_cut_by_the_move_at_any_byte() {
    let mut dynasty = Dynasty::start(&[]);
    let whole = report("x");
    let mut agents: Vec<Agent> = (0..whole.len()).map(|_| dynasty.connect()).collect();
    for (cut, agent) in agents.iter_mut().enumerate() {
        agent.send(&whole[..cut]);
        agent.wait_delivered();
    }
    let succession = dynasty.upgrade(&[]);
    assert_eq!(succession.fields.get("connections"), whole.len() as u64);
    for (cut, agent) in agents.iter_mut().enumerate() {
        agent.send(&whole[cut..]);
        agent.expect_line(REPORT);
        agent.expect_silence();
    }
    dynasty.stop();
}

#[test]
fn sigusr2_does_it_too() {
    let mut dynasty = Dynasty::start(&[]);
    let mut agent = dynasty.connect();
    agent.expect_alive();
    kill_process(dynasty.pid(), Signal::USR2).unwrap();
    dynasty.expect_successor();
    agent.expect_alive();
    dynasty.stop();
}

#[test]
fn what_was_acknowledged_is_in_the_store_once() {
    let mut dynasty = Dynasty::start_with_store(&[]);
    let mut agent = dynasty.connect();
    for generation in 1..=4 {
        for number in 0..20 {
            agent.exchange(&report(&format!("{generation}.{number}")), REPORT);
        }
        if generation < 4 {
            dynasty.upgrade(&[]);
        }
    }
    let store = rusqlite::Connection::open(dynasty.store()).unwrap();
    let mut rows = store
        .prepare("SELECT content FROM reports ORDER BY received_at")
        .unwrap();
    let stored: Vec<String> = rows
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let sent = (1..=4).flat_map(|one| (0..20).map(move |two| format!("{one}.{two}")));
    assert_eq!(stored, sent.collect::<Vec<_>>());
    let events: i64 = store
        .query_row("SELECT count(*) FROM events", [], |row| row.get(0))
        .unwrap();
    assert_eq!(events, 1, "it came online once");
    dynasty.stop();
}
