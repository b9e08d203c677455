//! A process that is killed while its writer is parked, and its successor.

use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};

use hawk::store::{Lock, Store};

use crate::turns::*;
use hawk_testkit::store_file::*;
use hawk_testkit::*;

/// Path of the store of the process to be killed.
const STORE: &str = "HAWK_TEST_STORE";

const REPORTS: usize = 50;

#[test]
fn the_successor_of_a_process_killed_while_parked_has_everything() {
    let store_file = StoreFile::new();
    Turns::first(&store_file, KEEP_ALL).finish();
    let lock = Lock::take(&store_file.store()).unwrap();
    let mut killed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed::the_one_that_is_killed"])
        .args(["--ignored", "--nocapture"])
        .env(STORE, store_file.store())
        .stdin(Stdio::from(lock.share().try_clone().unwrap()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = Lines::collect(killed.stdout.take().unwrap());
    said.wait_for(0, |line| line.ends_with("parked"));
    let examined = Store::open_standby(&store_file.store()).unwrap();
    let before = files(&store_file);
    killed.kill().unwrap();
    killed.wait().unwrap();
    expect_locked(&store_file);
    assert!(
        files(&store_file) == before,
        "no process has changed the files"
    );

    let mut turns = Turns::new(100);
    turns
        .keeper
        .store_in(examined.start(lock, KEEP_ALL).unwrap());
    turns.keeper.resume();
    let session = &mut Session::of(Some("web-01"));
    turns.report(session, &REPORTS.to_string());
    turns.finish();
    let expected: Vec<String> = (0..=REPORTS).map(|report| report.to_string()).collect();
    assert_eq!(store_file.contents(), expected);
    store_file.expect_sound();
}

/// Writes the store with the lock on stdin, and blocks until it is killed.
#[test]
#[ignore = "the test above runs it, in a process of its own"]
fn the_one_that_is_killed() {
    let Some(store) = std::env::var_os(STORE).map(std::path::PathBuf::from) else {
        return;
    };
    let shared = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let lock = Lock::adopt(shared, &store).unwrap();
    let examined = Store::open_standby(&store).unwrap();
    let mut turns = Turns::new(100);
    turns
        .keeper
        .store_in(examined.start(lock, KEEP_ALL).unwrap());
    turns.keeper.resume();
    let session = &mut Session::of(Some("web-01"));
    let last = (0..REPORTS).map(|report| turns.report(session, &report.to_string()));
    let last = last.last().unwrap();
    turns.quiesce();
    assert!(turns.kept.contains(&last));
    println!("parked");
    // Only a failure takes this long.
    std::thread::sleep(10 * PATIENCE);
}
