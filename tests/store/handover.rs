//! Two handlers, one after the other on one store: the state of the second, and the rows
//! written during the hand-over.
//!
//! Both are in this process; `killed.rs` has two processes.

use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use hawk::handler::{PacketHandler, StoreDown};
use hawk::session::{Answer, Handler as _, Sender};
use hawk::stats::{ServerStatistics, Statistics};
use hawk::store::{Lock, Retention, Store};
use hawk::transfer::Transfer as _;
use hawk_time::Moment;
use hawk_wire::{Busy, Packet, Reply, Report};

use crate::turns::*;
use hawk_testkit::store_file::*;
use hawk_testkit::*;

/// Returns a first handler that has stored a report, and its agent.
fn begun(store_file: &StoreFile) -> (Turns, Session) {
    let mut from = Turns::first(store_file, KEEP_ALL);
    let mut session = Session::of(Some("web-01"));
    from.report(&mut session, "1");
    (from, session)
}

/// Returns the successor of `from`.
fn moved(store_file: &StoreFile, from: &mut Turns) -> Turns {
    from.quiesce();
    let mut to = from.successor(Store::open_standby(&store_file.store()).unwrap());
    from.keeper.begin_copy();
    move_the_rest(from, &mut to);
    to
}

fn agents(store_file: &StoreFile) -> Vec<String> {
    store_file.column(
        "SELECT coalesce(name, address) || ' ' || heartbeats || ' ' || reports || ' ' || state \
         FROM agents ORDER BY id",
    )
}

fn numbers(store_file: &StoreFile) -> Vec<i64> {
    store_file.column("SELECT id FROM agents ORDER BY id")
}

fn events(store_file: &StoreFile) -> i64 {
    store_file.column("SELECT count(*) FROM events")[0]
}

#[test]
fn after_a_hand_over_the_store_has_each_report_and_agent_once() {
    let store_file = StoreFile::new();
    let mut from = Turns::first(&store_file, KEEP_ALL);
    let mut sessions = [Some("web-01"), None, Some("web-02")].map(Session::of);
    let [named, unnamed, late] = &mut sessions;
    from.report(named, "1");
    from.heartbeat(named);
    from.report(unnamed, "2");

    let mut to = from.successor(Store::open_standby(&store_file.store()).unwrap());
    expect_locked(&store_file);
    from.keeper.begin_copy();
    let mut shown = 0;
    from.keeper.copy_some(1, &mut |slot, state| {
        shown += 1;
        apply(&mut to.keeper, slot, state);
    });
    assert_eq!(shown, 1);
    // The predecessor still serves.
    from.report(named, "3");
    from.heartbeat(named);
    let last = from.report(late, "4");
    expect_locked(&store_file);
    from.quiesce();
    assert!(from.kept.contains(&last), "it was answered");
    assert_eq!(from.discarded, []);
    assert_eq!(store_file.contents(), ["1", "2", "3", "4"]);
    let before = files(&store_file);
    let (known, told) = (numbers(&store_file), events(&store_file));
    assert_eq!(
        agents(&store_file),
        [
            "web-01 2 2 online",
            "10.0.0.7 0 1 online",
            "web-02 0 1 online"
        ]
    );

    move_the_rest(&mut from, &mut to);
    expect_locked(&store_file);
    from.keeper.leave(PATIENCE);
    expect_locked(&store_file);
    assert!(matches!(
        Store::open(store_file.store()),
        Err(hawk::store::OpenError::Lock(..))
    ));
    assert!(files(&store_file) == before, "it left everything as it was");

    to.keeper.resume();
    to.turn();
    for (session, content) in sessions.iter_mut().zip(["5", "6", "7"]) {
        let tag = session.tag;
        to.report(session, content);
        assert_eq!(session.tag, tag, "it is known by the same tag");
    }
    to.heartbeat(&mut sessions[0]);
    to.finish();
    assert_eq!(store_file.contents(), ["1", "2", "3", "4", "5", "6", "7"]);
    let times: Vec<i64> = store_file.column("SELECT received_at FROM reports ORDER BY seq");
    assert!(times.is_sorted());
    assert_eq!(
        agents(&store_file),
        [
            "web-01 3 3 online",
            "10.0.0.7 0 2 online",
            "web-02 0 2 online"
        ]
    );
    assert_eq!((numbers(&store_file), events(&store_file)), (known, told));
    assert!(!Lock::is_held(&store_file.store()).unwrap());
    assert!(
        !store_file.folder().join("hawk.db-wal").exists(),
        "nothing is left over"
    );
    store_file.expect_sound();
}

#[test]
fn the_successor_continues_the_sequence_numbers_after_all_rows_were_removed() {
    let store_file = StoreFile::new();
    let (mut from, mut session) = begun(&store_file);
    let session = &mut session;
    let mut to = moved(&store_file, &mut from);
    from.keeper.leave(PATIENCE);
    store_file
        .open()
        .execute_batch("DELETE FROM reports")
        .expect("no process has the store locked");
    to.keeper.resume();
    to.turn();
    to.report(session, "2");
    to.finish();
    let later: Vec<i64> = store_file.column("SELECT seq FROM reports");
    assert!(later.len() == 1 && later[0] > 1, "{later:?}");
}

/// The lines of a handler's statistics.
fn statistics(handler: &PacketHandler) -> Vec<String> {
    let mut statistics = Statistics::new(Moment::now(), ServerStatistics::default());
    handler.statistics(&mut statistics);
    statistics.lines().split_off(1)
}

#[test]
fn the_successor_continues_the_counters() {
    let store_file = StoreFile::new();
    let (mut from, mut session) = begun(&store_file);
    let session = &mut session;
    let mut to = moved(&store_file, &mut from);
    from.keeper.leave(PATIENCE);
    to.keeper.resume();
    to.turn();
    let commit = to.report(session, "2");
    to.until_kept(commit);
    let lines = statistics(&to.keeper);
    let store = lines
        .iter()
        .find(|line| line.starts_with("store "))
        .unwrap();
    assert!(store.contains(" commits=2 reports=2 failed=0 "), "{store}");
    assert!(lines[0].starts_with("agents known=1 online=1 established=0 refused=0 evicted=0 "));
    to.finish();
}

#[test]
fn after_a_rollback_the_predecessor_resumes() {
    let store_file = StoreFile::new();
    let mut from = Turns::first(&store_file, KEEP_ALL);
    let session = &mut Session::of(Some("web-01"));
    // A failed attempt does not affect the next.
    for round in 0..3 {
        from.report(session, &format!("{round} before"));
        let mut to = from.successor(Store::open_standby(&store_file.store()).unwrap());
        from.keeper.begin_copy();
        from.quiesce();
        move_the_rest(&mut from, &mut to);
        expect_locked(&store_file);
        // The successor ends, and its writer thread has touched nothing.
        to.keeper.leave(PATIENCE);
        from.keeper.end_copy();
        while from.bell.try_recv().is_ok() {}
        from.keeper.resume();
        from.bell
            .recv_timeout(PATIENCE)
            .expect("the paused agent is served at once");
        from.turn();
        expect_locked(&store_file);
        let commit = from.report(session, &format!("{round} after"));
        from.until_kept(commit);
        assert_eq!(from.keeper.changes(), 0);
    }
    from.finish();
    let expected = [
        "0 before", "0 after", "1 before", "1 after", "2 before", "2 after",
    ];
    assert_eq!(store_file.contents(), expected);
    assert_eq!(events(&store_file), 1);
    assert_eq!(agents(&store_file), ["web-01 0 6 online"]);
}

#[test]
fn an_aborted_quiesce_loses_nothing() {
    let store_file = StoreFile::new();
    let mut from = Turns::first(&store_file, KEEP_ALL);
    let session = &mut Session::of(Some("web-01"));
    for round in 0..200 {
        from.report(session, &round.to_string());
        from.keeper.quiesce();
        if round % 2 == 0 {
            from.turn();
        }
        from.keeper.resume();
        from.turn();
    }
    from.finish();
    let expected: Vec<String> = (0..200).map(|round| round.to_string()).collect();
    assert_eq!(store_file.contents(), expected);
}

#[test]
fn a_quiesce_fails_while_the_store_hangs_and_loses_nothing() {
    let store_file = StoreFile::new();
    let (mut from, mut session) = begun(&store_file);
    let session = &mut session;
    from.quiesce();
    from.keeper.resume();
    from.turn();
    let other = store_file.open();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let commit = from.report(session, "2");
    from.keeper.quiesce();
    let error = from.until(|turns| match turns.keeper.is_quiet() {
        Ok(quiet) => {
            assert!(!quiet);
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(error, StoreDown::Stalled);
    from.keeper.resume();
    other.execute_batch("ROLLBACK").unwrap();
    from.until_kept(commit);
    from.finish();
    assert_eq!(store_file.contents(), ["1", "2"]);
}

#[test]
fn a_quiesce_fails_while_the_store_is_down() {
    let store_file = StoreFile::new();
    let mut from = Turns::first(&store_file, KEEP_ALL);
    let session = &mut Session::of(Some("web-01"));
    let commit = from.report(session, "1");
    from.until_kept(commit);
    // A folder at its path: the file can be neither opened nor created.
    let away = store_file.folder().join("away");
    std::fs::rename(store_file.store(), &away).unwrap();
    std::fs::create_dir(store_file.store()).unwrap();
    let commit = from.report(session, "refused");
    from.keeper.quiesce();
    let error = from.until(|turns| turns.keeper.is_quiet().err());
    assert_eq!(error, StoreDown::Unavailable);
    assert_eq!(from.discarded, [commit]);
    from.keeper.resume();
    // A new file is created.
    std::fs::remove_dir(store_file.store()).unwrap();
    from.until(|turns| {
        let commit = turns.turn_with(|keeper| {
            let name = session.name.map(Rc::from);
            let sender = Sender {
                peer: "10.0.0.7:4711".parse().unwrap(),
                agent: name.as_ref(),
                gap: None,
            };
            let packet = Packet::Report(Report {
                content: "2".into(),
                rand: 1,
                timestamp: 2,
                agent: None,
            });
            keeper.handle(sender, &mut session.tag, &packet)
        });
        matches!(commit, Answer::AfterCommit(_)).then_some(())
    });
    from.quiesce();
    from.keeper.resume();
    from.finish();
    assert_eq!(store_file.contents(), ["2"]);
}

#[test]
fn nothing_is_removed_while_the_writer_is_parked() {
    const OLD: i64 = 100_000;
    let store_file = StoreFile::new();
    Turns::first(&store_file, KEEP_ALL).finish();
    store_file
        .open()
        .execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {OLD}) \
             INSERT INTO reports SELECT i, 1, '', '', 0, 0, i, NULL FROM n; \
             INSERT INTO agents (address, version, first_seen, last_seen, state, changed_at,
                 heartbeats, reports, interval)
             VALUES ('10.0.0.9', '', 0, unixepoch() * 1000000000, 'online', 0, 0, 0, 0)"
        ))
        .unwrap();
    // Retention has many steps to take, one every 10 ms.
    let mut from = Turns::first(
        &store_file,
        Retention {
            age: Duration::from_secs(3600),
            ..KEEP_ALL
        },
    );
    from.quiesce();
    let looks = store_file.open();
    let version = || column::<i64>(&looks, "PRAGMA data_version");
    let (before, left) = (
        version(),
        column::<i64>(&looks, "SELECT count(*) FROM reports"),
    );
    assert!(left[0] > 0, "some are to be removed yet");
    while from.bell.try_recv().is_ok() {}
    let silent = from.bell.recv_timeout(Duration::from_millis(200));
    assert_eq!(silent, Err(mpsc::RecvTimeoutError::Timeout));
    assert_eq!(version(), before, "no process has written");
    from.keeper.resume();
    from.until(|_| (column::<i64>(&looks, "SELECT count(*) FROM reports") == [0]).then_some(()));
    from.finish();
}

#[test]
fn no_agent_goes_offline_during_a_hand_over() {
    let store_file = StoreFile::new();
    let mut from = Turns::first(&store_file, KEEP_ALL);
    let session = &mut Session::of(Some("web-01"));
    from.heartbeat(session);
    from.quiesce();
    let told = events(&store_file);
    // Longer than any hand-over may take.
    from.ahead += 30 * SILENCE;
    from.turn();
    let now = Moment::now().after(from.ahead);
    let next = from.keeper.deadline();
    assert!(next.is_none_or(|next| next > now), "there is nothing to do");
    let mut to = from.successor(Store::open_standby(&store_file.store()).unwrap());
    from.keeper.begin_copy();
    move_the_rest(&mut from, &mut to);
    for turns in [&mut from, &mut to] {
        turns.ahead += SILENCE;
        turns.keeper.resume();
        turns.turn();
        turns.ahead += SILENCE / 2;
        turns.turn();
        let lines = statistics(&turns.keeper);
        assert!(lines[0].starts_with("agents known=1 online=1 established=0 refused=0 evicted=0 "));
        turns.ahead += 60 * SILENCE;
        turns.turn();
        turns.quiesce();
        turns.keeper.resume();
    }
    drop(from);
    to.finish();
    assert_eq!(told, 1);
}

#[test]
fn an_agent_with_a_moved_connection_is_not_removed() {
    // One address may have a quarter of the places.
    let mut from = Turns::new(8);
    let mut sessions = ["web-01", "web-02"].map(|name| Session::of(Some(name)));
    sessions
        .iter_mut()
        .for_each(|session| from.heartbeat(session));
    let mut to = Turns::new(8);
    from.keeper.begin_copy();
    from.quiesce();
    move_the_rest(&mut from, &mut to);
    to.keeper.resume();
    to.turn();
    let known = |turns: &mut Turns| {
        let lines = statistics(&turns.keeper);
        let (bounds, _) = lines[0].split_once(" unwatched=").unwrap();
        bounds.to_owned()
    };
    // Both are connected and have sent nothing to the successor.
    let refused = to.try_heartbeat(&mut Session::of(Some("web-03")));
    assert_eq!(refused, Answer::Now(Reply::Busy(Busy::TooManyAgents)));
    let all = "agents known=2 online=2 established=0 refused=1 evicted=0";
    assert_eq!(known(&mut to), all);
    // The first agent has no session any more.
    to.keeper.detach(sessions[0].tag.unwrap());
    to.heartbeat(&mut Session::of(Some("web-04")));
    let all = "agents known=2 online=2 established=0 refused=1 evicted=1";
    assert_eq!(known(&mut to), all);
    let tag = sessions[1].tag;
    to.heartbeat(&mut sessions[1]);
    assert_eq!(sessions[1].tag, tag);
    assert_eq!(known(&mut to), all);
}
