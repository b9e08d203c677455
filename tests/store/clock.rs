//! A clock that is wrong: reports keep the order of arrival, and none is removed.

use hawk_testkit::store_file::*;
use hawk_testkit::*;

const HOUR: i64 = 3_600_000_000_000;

#[test]
fn reports_of_a_clock_that_was_ahead_hide_no_later_ones() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    server.connect().exchange(&report("old"), REPORT);
    drop(server);
    store_file
        .open()
        .execute(
            "INSERT INTO reports (agent, peer, content, rand, timestamp, received_at)
             SELECT agent, peer, 'ahead', 1, 1, received_at + ?1 FROM reports",
            [HOUR],
        )
        .unwrap();
    let server = store_file.serve(&[]);
    let follower = store_file.read(&["reports", "--follow"]).spawn();
    follower.stdout.wait_for(0, |line| line.contains("ahead"));
    server.connect().exchange(&report("new"), REPORT);
    follower.stdout.wait_for(0, |line| line.contains("\"new\""));
    let shown = |args: &[&str]| store_file.read(&[&["reports"], args].concat()).run().stdout;
    let last = shown(&["--last", "1"]);
    assert!(last[0].contains("\"new\""), "{last:?}");
    let since = shown(&["--since", "30m"]);
    assert_eq!(since.len(), 3, "{since:?}");
    let until = shown(&["--until", "1ms", "--last", "1"]);
    assert!(until[0].contains("\"new\""), "{until:?}");
    assert_eq!(store_file.contents(), ["old", "ahead", "new"]);
}

#[test]
fn a_store_of_which_all_is_too_old_is_kept_until_the_clock_is_confirmed() {
    let store_file = StoreFile::new();
    let control = store_file.folder().join("control");
    let control = control.to_str().unwrap();
    let server = store_file.serve(&[]);
    server.connect().exchange(&report("old"), REPORT);
    drop(server);
    store_file
        .open()
        .execute_batch(&format!(
            "UPDATE reports SET received_at = received_at - 5 * {HOUR};
             UPDATE agents SET last_seen = last_seen - 5 * {HOUR}, state = 'offline';"
        ))
        .unwrap();
    let server = store_file.serve(&["--retain", "2h", "--control", control]);
    server
        .log()
        .wait_for(0, |line| line.contains("expiry by age is paused"));
    server.connect().exchange(&report("new"), REPORT);
    assert_eq!(store_file.contents(), ["old", "new"]);
    let paused = || server.stats().store("expiry_paused");
    assert!(eventually(|| (paused() == 1).then_some(())).is_some());
    let confirm = || Launch::hawk(&["confirm-clock", "--control", control]).run();
    let exit = confirm();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let gone = eventually(|| (store_file.contents() == ["new"]).then_some(()));
    assert!(gone.is_some(), "{:?}", store_file.contents());
    assert!(eventually(|| (paused() == 0).then_some(())).is_some());
    let exit = confirm();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr[0].contains("nothing to confirm"), "{exit:?}");
}
