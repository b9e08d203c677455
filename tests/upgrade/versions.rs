//! Different builds: upgrades, downgrades, and builds without a common format.

use hawk::restart::channel::BUILD;
use hawk_wire::Encoding;
use rusqlite::Connection;

use crate::builds::{AFTER_NEXT, NEXT};
use crate::dynasty::Dynasty;
use hawk_testkit::*;

/// The build under test, by its path.
const THIS: &str = env!("CARGO_BIN_EXE_hawk");

/// The generations: program, format of the state that it received, and version.
fn course() -> [(&'static str, u64, &'static str); 6] {
    let [next, after_next] = [NEXT.binary(), AFTER_NEXT.binary()];
    [
        (next, 1, NEXT.stamp),
        // Both have two formats and use the newest.
        (next, 2, NEXT.stamp),
        (after_next, 2, AFTER_NEXT.stamp),
        // The way back is the same.
        (next, 2, NEXT.stamp),
        (THIS, 1, BUILD),
        (THIS, 1, BUILD),
    ]
}

const NAME: &str = "web-01";

/// A frame may rest while a build is made.
const PATIENT: [&str; 4] = ["--frame-timeout", "1h", "--idle-timeout", "1h"];

#[test]
fn agents_stay_connected_over_upgrades_and_downgrades() {
    let mut dynasty = Dynasty::start(&PATIENT);
    expect_unnoticed_upgrades(&mut dynasty);
    dynasty.stop();
}

#[test]
fn a_store_stays_in_use_over_upgrades_and_downgrades() {
    let mut dynasty = Dynasty::start_with_store(&PATIENT);
    let reports = expect_unnoticed_upgrades(&mut dynasty);
    let store = Connection::open(dynasty.store()).unwrap();
    let query = format!(
        "SELECT count(*) FROM reports JOIN agents ON agents.id = agent WHERE name = '{NAME}'"
    );
    let stored: i64 = store.query_row(&query, [], |row| row.get(0)).unwrap();
    assert_eq!(usize::try_from(stored), Ok(reports));
    dynasty.stop();
}

/// Upgrades from build to build. Returns the number of acknowledged reports of [`NAME`].
#[track_caller]
fn expect_unnoticed_upgrades(dynasty: &mut Dynasty) -> usize {
    let course = course();
    let mut narrow = Agent::connect_narrow(dynasty.address());
    let owed = dynasty.back_up(&mut narrow);
    let mut named = dynasty.connect();
    let report = report_packet("x", Encoding::Compact, Some(NAME));
    named.exchange(&report, REPORT);
    let mut in_mid_frame = dynasty.connect();
    // Each process receives a part of it.
    let whole = self::report("begun in one build and ended in another");
    let mut parts = whole.chunks(whole.len().div_ceil(course.len() + 1));
    in_mid_frame.send(parts.next().unwrap());
    in_mid_frame.wait_delivered();
    let junk = dynasty.stats().get("junk_bytes");
    for (generation, (binary, format, stamp)) in (2..).zip(course) {
        let mark = dynasty.log().count();
        let succession = dynasty.upgrade(&["--binary", binary]);
        assert_eq!(succession.fields.get("generation"), generation);
        assert_eq!(succession.fields.get("format"), format);
        assert_eq!(succession.fields.text("version"), stamp);
        assert_eq!(succession.fields.text("binary"), format!("{binary:?}"));
        assert_eq!(succession.fields.get("connections"), 3);
        let said = format!("version={stamp} generation={generation} ");
        let took_over = format!("] took over {said}");
        dynasty
            .log()
            .wait_for(mark, |line| line.contains(&took_over));
        let line = dynasty.restart_line();
        assert!(line.starts_with(&format!("restart {said}")), "{line}");
        named.exchange(&report, REPORT);
        in_mid_frame.send(parts.next().unwrap());
        in_mid_frame.wait_delivered();
    }
    assert_eq!(parts.next(), None);
    in_mid_frame.expect_line(REPORT);
    in_mid_frame.expect_alive();
    narrow.widen();
    narrow.expect_replies(&owed);
    narrow.expect_alive();
    dynasty.connect().expect_alive();
    assert_eq!(dynasty.stats().get("junk_bytes"), junk);
    course.len() + 1
}

/// In either direction the predecessor reports it to the operator.
#[test]
fn builds_without_a_format_in_common_do_not_hand_over() {
    let mut dynasty = Dynasty::start(&PATIENT);
    let mut agent = dynasty.connect();
    let mut in_mid_frame = dynasty.connect();
    let whole = report("begun before a refusal");
    let mut bytes = whole.chunks(1);
    let mut expect_refusal = |dynasty: &Dynasty, binary: &str, why: &str| {
        in_mid_frame.send(bytes.next().unwrap());
        in_mid_frame.wait_delivered();
        let why = format!(
            "rolled back at hello: {why}; upgrade through a build between them, or restart"
        );
        for _ in 0..2 {
            dynasty.expect_refusal(&["--binary", binary], &why);
            agent.expect_alive();
        }
        assert_eq!(dynasty.family(), [dynasty.pid()], "and no other process");
    };
    let theirs = AFTER_NEXT.stamp;
    let why = format!("build {theirs} reads snapshots of formats 2 to 2, and build {BUILD} 1 to 1");
    expect_refusal(&dynasty, AFTER_NEXT.binary(), &why);
    // The next hand-over succeeds.
    dynasty.upgrade(&["--binary", NEXT.binary()]);
    dynasty.upgrade(&["--binary", AFTER_NEXT.binary()]);
    let why = format!("build {BUILD} reads snapshots of formats 1 to 1, and build {theirs} 2 to 2");
    expect_refusal(&dynasty, THIS, &why);
    dynasty.upgrade(&["--binary", NEXT.binary()]);
    dynasty.upgrade(&["--binary", THIS]);
    in_mid_frame.send(&bytes.flatten().copied().collect::<Vec<_>>());
    in_mid_frame.expect_line(REPORT);
    agent.expect_alive();
    dynasty.stop();
}

#[test]
fn a_binary_says_which_build_it_is() {
    for (binary, stamp) in [(THIS, BUILD), (NEXT.binary(), NEXT.stamp)] {
        let output = std::process::Command::new(binary).arg("--version").output();
        let told = output.unwrap().stdout;
        assert_eq!(String::from_utf8_lossy(&told), format!("hawk {stamp}\n"));
    }
}
