//! A full or read-only disk: a small tmpfs.

use std::ffi::CStr;
use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use rustix::process::Signal;

use hawk_testkit::store_file::*;
use hawk_testkit::*;

/// A small file system mounted on a folder, unmounted when dropped.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        Self::mount_sized(at, c"size=2m,mode=0700")
    }

    fn mount_sized(at: &'a Path, size: &CStr) -> Option<Self> {
        let mounted = mount("tmpfs", at, "tmpfs", MountFlags::empty(), Some(size));
        #[allow(clippy::print_stderr)] // A skipped test must be visible.
        if mounted.is_err() {
            eprintln!("SKIPPED: mounting a tmpfs takes the superuser");
        }
        mounted.ok().map(|()| Self(at))
    }
}

impl Small<'_> {
    /// Remounts it read-only.
    fn freeze(&self) {
        mount_remount(self.0, MountFlags::RDONLY, "").unwrap();
    }

    fn thaw(&self) {
        mount_remount(self.0, MountFlags::empty(), "").unwrap();
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).ok();
    }
}

#[test]
fn a_disk_that_fills_up_and_is_cleared() {
    let store_file = StoreFile::new();
    let disk = store_file.folder().join("disk");
    fs::create_dir(&disk).unwrap();
    let Some(_mounted) = Small::mount(&disk) else {
        return;
    };
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let store = disk.join("hawk.db");
    let server = Server::start(&["--store", store.to_str().unwrap()]);
    let mut agent = server.connect();
    let content = "x".repeat(500);
    let mut taken = 0;
    let full = eventually(|| {
        agent.send(&report(&content));
        match agent.line().as_str() {
            REPORT => taken += 1,
            BUSY => return Some(()),
            other => panic!("not an answer: {other}"),
        }
        None
    });
    assert!(full.is_some() && taken > 0);
    server
        .log()
        .wait_for(0, |line| line.contains("free some space"));
    let rows = "SELECT count(*) FROM reports";
    fs::remove_file(&ballast).unwrap();
    insist(&mut agent, &report(&content));
    assert_eq!(column::<i64>(&open(&store), rows), [taken + 1]);
    assert_eq!(
        column::<String>(&open(&store), "PRAGMA integrity_check"),
        ["ok"]
    );
}

#[test]
fn on_a_disk_smaller_than_the_limits_the_oldest_reports_make_room() {
    let store_file = StoreFile::new();
    let disk = store_file.folder().join("disk");
    fs::create_dir(&disk).unwrap();
    let Some(_mounted) = Small::mount_sized(&disk, c"size=40m,mode=0700") else {
        return;
    };
    let store = disk.join("hawk.db");
    let args = ["--store", store.to_str().unwrap(), "--retain-free", "30%"];
    let server = Server::start(&args);
    let mut agent = server.connect();
    let burst = report(&"x".repeat(10_000)).repeat(100);
    // Some three times the size of the disk.
    for _ in 0..120 {
        agent.send(&burst);
        (0..100).for_each(|_| agent.expect_line(REPORT));
    }
    agent.exchange(&report("the last"), REPORT);
    let contents = column::<String>(&open(&store), "SELECT content FROM reports ORDER BY seq");
    assert_eq!(contents.last().unwrap(), "the last");
    assert!(contents.len() > 500, "{}", contents.len());
    let stats = server.stats();
    assert_eq!(stats.store("failed"), 0);
    assert_eq!(stats.store("expired"), stats.store("expired_early"));
    let line = "reports are removed before they are older than --retain";
    assert_eq!(server.count_logged(line), 1, "once an hour");
}

#[test]
fn a_store_on_a_disk_that_cannot_be_written_is_still_read() {
    let store_file = StoreFile::new();
    let disk = store_file.folder().join("disk");
    fs::create_dir(&disk).unwrap();
    let Some(mounted) = Small::mount(&disk) else {
        return;
    };
    let store = disk.join("hawk#1?.db");
    let store = store.to_str().unwrap();
    let read = || Launch::hawk(&["reports", "--store", store]).run();
    let shown = || {
        let exit = read();
        assert_eq!(exit.code, Some(0), "{exit:?}");
        exit.stdout.len()
    };
    for (number, signal) in [(1, Signal::TERM), (2, Signal::KILL)] {
        let server = Server::start(&["--store", store]);
        server.connect().exchange(&report("hello"), REPORT);
        server.signal(signal);
        server.wait_exit();
        mounted.freeze();
        assert_eq!(shown(), number, "{signal:?}");
        mounted.thaw();
    }
    // Only the log has the second report, and its index is gone.
    fs::remove_file(format!("{store}-shm")).unwrap();
    mounted.freeze();
    let exit = read();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr[0].contains("hawk#1?.db-wal"), "{exit:?}");
    mounted.thaw();
    assert_eq!(shown(), 2);
}
