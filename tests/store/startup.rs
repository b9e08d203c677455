//! Stores that cannot be used are refused at the start, with advice.

use std::fs;

use hawk::store::schema;
use rusqlite::Connection;

use hawk_testkit::store_file::*;
use hawk_testkit::*;

/// Checks that the start fails with all of `words` in one line.
#[track_caller]
pub(crate) fn refused(launch: Launch, words: &[&str]) {
    let exit = launch.run();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stdout.is_empty(), "{exit:?}");
    let [line] = exit.stderr.as_slice() else {
        panic!("not one line: {exit:?}");
    };
    assert!(line.starts_with("hawk: cannot use the store: "), "{line}");
    for word in words {
        assert!(line.contains(word), "no {word:?} in: {line}");
    }
}

#[test]
fn a_missing_folder() {
    let store_file = StoreFile::new();
    let path = store_file.folder().join("no/hawk.db");
    let launch = Launch::serve(&["--store", path.to_str().unwrap()]);
    refused(launch, &["there is no folder", "/no;", "--store"]);
}

#[test]
fn a_port_that_is_taken_leaves_no_store_behind() {
    let store_file = StoreFile::new();
    let other = Server::start(&[]);
    let taken = other.address.to_string();
    let exit = store_file.launch(&["--listen", &taken]).run();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let [line] = exit.stderr.as_slice() else {
        panic!("not one line: {exit:?}");
    };
    assert!(line.starts_with("hawk: cannot listen on "), "{line}");
    let files = fs::read_dir(store_file.folder()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names.filter(|name| name.starts_with("hawk.db")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_file_that_is_no_database() {
    let store_file = StoreFile::new();
    fs::write(
        store_file.store(),
        "something else altogether, and quite long",
    )
    .unwrap();
    refused(
        store_file.launch(&[]),
        &["hawk.db", "not a database", "--store"],
    );
    fs::remove_file(store_file.store()).unwrap();
    fs::create_dir(store_file.store()).unwrap();
    refused(store_file.launch(&[]), &["hawk.db", "no regular file"]);
}

#[test]
fn a_database_of_another_program() {
    let store_file = StoreFile::new();
    let other = Connection::open(store_file.store()).unwrap();
    other
        .execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (7)")
        .unwrap();
    refused(store_file.launch(&[]), &["another program", "--store"]);
    assert_eq!(
        column::<i64>(&other, "SELECT x FROM t"),
        [7],
        "it is as it was"
    );
}

#[test]
fn a_store_of_a_newer_version() {
    let store_file = StoreFile::new();
    let mut newer = Connection::open(store_file.store()).unwrap();
    schema::migrate(&mut newer).unwrap();
    newer
        .pragma_update(None, "user_version", schema::VERSION + 1)
        .unwrap();
    refused(
        store_file.launch(&[]),
        &["version 3", "version 2", "newer hawk"],
    );
}

#[test]
fn a_store_that_another_server_writes() {
    let store_file = StoreFile::new();
    let first = store_file.serve(&[]);
    let pid = first.pid().as_raw_nonzero().to_string();
    refused(
        store_file.launch(&[]),
        &["another hawk is writing it", &pid],
    );
    first.connect().exchange(&report("still there"), REPORT);
}

#[test]
fn a_store_that_is_locked_for_long() {
    let store_file = StoreFile::new();
    let other = Connection::open(store_file.store()).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    refused(
        store_file.launch(&[]),
        &["hawk.db", "another program holds a lock"],
    );
}

#[test]
fn a_header_that_is_damaged() {
    let store_file = StoreFile::new();
    let mut store = Connection::open(store_file.store()).unwrap();
    schema::migrate(&mut store).unwrap();
    drop(store);
    let mut bytes = fs::read(store_file.store()).unwrap();
    bytes[100..].fill(0xAA);
    fs::write(store_file.store(), bytes).unwrap();
    refused(store_file.launch(&[]), &["hawk.db", "damaged", "backup"]);
}

#[test]
fn a_folder_that_cannot_be_written() {
    let store_file = StoreFile::new();
    // The superuser may write anywhere but in a folder of the kernel.
    let launch = Launch::serve(&["--store", "/proc/hawk.db"]);
    refused(launch, &["/proc/hawk.db"]);
    drop(store_file);
}
