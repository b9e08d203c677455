//! Hand-overs that are refused, after which the server continues.

use hawk::store::schema;
use rusqlite::Connection;

use crate::dynasty::Dynasty;
use hawk_testkit::*;

#[test]
fn one_with_other_sockets_or_another_store_changes_nothing() {
    let mut dynasty = Dynasty::start(&[]);
    let mut agent = dynasty.connect();
    agent.expect_alive();
    let hawk = env!("CARGO_BIN_EXE_hawk");
    let store = dynasty.store();
    for (environment, why) in [
        (
            "unset HAWK_CONTROL".to_owned(),
            "rolled back at pre-copy: the successor says: the predecessor has a control socket, \
             and this process has none",
        ),
        (
            format!(
                "for it; do shift; [ \"$it\" = none ] && it={}; set -- \"$@\" \"$it\"; done",
                store.display()
            ),
            "rolled back at prepare: the successor says: cannot use the store",
        ),
    ] {
        let binary = dynasty.script(&format!("{environment}\nexec {hawk} \"$@\""));
        dynasty.expect_refusal(&["--binary", &binary], why);
        agent.expect_alive();
    }
    assert!(!store.exists(), "no store before the commit");
    dynasty.upgrade(&[]);
    agent.expect_alive();
    dynasty.stop();
}

/// As an older build finds it after a downgrade, or while a newer one runs.
#[test]
fn one_that_does_not_know_the_stores_tables_changes_nothing() {
    let mut dynasty = Dynasty::start_with_store(&[]);
    let mut agent = dynasty.connect();
    agent.exchange(&report("before"), REPORT);
    let store = Connection::open(dynasty.store()).unwrap();
    let set_version = |version: i32| store.pragma_update(None, "user_version", version).unwrap();
    set_version(schema::VERSION + 1);
    let why = format!("has tables of version {}", schema::VERSION + 1);
    for _ in 0..2 {
        let told = dynasty.ask(&[]);
        let said = told.stderr.concat();
        assert!(
            said.contains("rolled back at prepare: the successor says: cannot use the store: "),
            "{said}"
        );
        assert!(said.contains(&why), "{said}");
        agent.exchange(&report("meanwhile"), REPORT);
        assert_eq!(dynasty.family(), [dynasty.pid()], "and no other process");
    }
    set_version(schema::VERSION);
    dynasty.upgrade(&[]);
    agent.exchange(&report("after"), REPORT);
    let rows: i64 = store
        .query_row("SELECT count(*) FROM reports", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 4);
    dynasty.stop();
}
