//! A disk that is really full: a small tmpfs.

use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::place::*;
use crate::support::*;

/// A file system of 2 MiB at a folder, for as long as this lives.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        mount("tmpfs", at, "tmpfs", MountFlags::empty(), Some(c"size=2m")).ok()?;
        Some(Self(at))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).ok();
    }
}

#[test]
fn a_disk_that_fills_up_and_is_cleared() {
    let place = Place::new();
    let disk = place.folder().join("disk");
    fs::create_dir(&disk).unwrap();
    let Some(_mounted) = Small::mount(&disk) else {
        eprintln!("SKIPPED: mounting a tmpfs takes the superuser");
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
    let again = eventually(|| {
        agent.send(&report(&content));
        (agent.line() == REPORT).then_some(())
    });
    assert!(again.is_some());
    assert_eq!(column::<i64>(&open(&store), rows), [taken + 1]);
    assert_eq!(
        column::<String>(&open(&store), "PRAGMA integrity_check"),
        ["ok"]
    );
}
