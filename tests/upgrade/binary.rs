//! The binary of a successor: the file that is at the server's path at the hand-over, and not the
//! file that was there at its start.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use hawk::restart::channel::BUILD;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::builds::NEXT;
use crate::dynasty::Dynasty;
use hawk_testkit::*;

/// The build under test, by its path.
const THIS: &str = env!("CARGO_BIN_EXE_hawk");

/// A folder with programs, which are hard links to builds.
struct Place(TempDir);

impl Place {
    /// Creates the folder with the build under test as `hawk`.
    fn new() -> Self {
        // On the file system of the builds, because of the hard links.
        let place = Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        place.lay(THIS, "hawk");
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces the file `name` by `build`, as a package manager does.
    fn lay(&self, build: &str, name: &str) {
        let new = self.at("new");
        fs::hard_link(build, &new).unwrap();
        fs::rename(&new, self.at(name)).unwrap();
        assert!(
            !new.exists(),
            "it was there already, and renaming did nothing"
        );
    }

    /// Replaces the symbolic link `name`.
    fn link(&self, target: &str, name: &str) {
        let new = self.at("new");
        symlink(target, &new).unwrap();
        fs::rename(new, self.at(name)).unwrap();
    }

    /// Starts a server in the folder with a shell and `command`.
    fn start(&self, command: &str) -> Dynasty {
        let script = format!("cd {}; {command} \"$@\"", self.0.path().display());
        Dynasty::start_with(&[], |launch| launch.under("sh", &["-c", &script]))
    }
}

impl Dynasty {
    /// Asserts the version of the serving build.
    #[track_caller]
    fn expect_build(&self, stamp: &str) {
        let line = self.restart_line();
        assert!(line.contains(&format!(" version={stamp}")), "{line}");
    }
}

#[test]
fn the_present_file_at_the_path_is_started() {
    for command in [
        "exec $PWD/hawk",
        "exec ./hawk",
        "exec bin/../hawk",
        "PATH=$PWD:$PATH exec hawk",
        "PATH=bin:.:$PATH exec hawk",
    ] {
        let place = Place::new();
        fs::create_dir(place.at("bin")).unwrap();
        let mut dynasty = place.start(command);
        let mut agent = dynasty.connect();
        dynasty.expect_build(BUILD);
        for (build, stamp) in [(NEXT.binary(), NEXT.stamp), (THIS, BUILD)] {
            place.lay(build, "hawk");
            dynasty.upgrade(&[]);
            dynasty.expect_build(stamp);
            agent.expect_alive();
        }
        place.lay(NEXT.binary(), "hawk");
        let mark = dynasty.log().count();
        dynasty.signal(Signal::USR2);
        let successor = |line: &str| line.contains("] took over version=test-next ");
        dynasty.log().wait_for(mark, successor);
        agent.expect_alive();
        dynasty.expect_successor_since(mark);
        dynasty.stop();
    }
}

#[test]
fn a_link_is_followed_where_it_leads_now() {
    for (link, to, command) in [
        ("current", ["1", "2"], "exec ./current/hawk"),
        ("hawk-1", ["1/hawk", "2/hawk"], "exec $PWD/hawk-1"),
    ] {
        let place = Place::new();
        for (folder, build) in [("1", THIS), ("2", NEXT.binary())] {
            fs::create_dir(place.at(folder)).unwrap();
            place.lay(build, &format!("{folder}/hawk"));
        }
        place.link(to[0], link);
        let mut dynasty = place.start(command);
        let mut agent = dynasty.connect();
        for (to, stamp) in [(to[1], NEXT.stamp), (to[0], BUILD)] {
            place.link(to, link);
            dynasty.upgrade(&[]);
            dynasty.expect_build(stamp);
            agent.expect_alive();
        }
        dynasty.stop();
    }
}

/// The new file at the path.
type Mess = fn(&Path);

/// Files at the path, and the result of the hand-over.
const NO_SUCCESSORS: [(&str, Mess, &str); 11] = [
    ("nothing", |_| {}, "preflight: there is no binary at"),
    (
        "a link to nothing",
        |path| symlink("nowhere", path).unwrap(),
        "preflight: there is no binary at",
    ),
    (
        "a folder",
        |path| fs::create_dir(path).unwrap(),
        "preflight: {} is not a file",
    ),
    (
        "a socket",
        |path| drop(UnixListener::bind(path).unwrap()),
        "preflight: {} is not a file",
    ),
    (
        "a text",
        |path| fs::write(path, "hawk\n").unwrap(),
        "preflight: {} is not executable",
    ),
    (
        "a text that claims to be a program",
        |path| write_program(path, b"hawk\n"),
        "spawn: cannot start {}: Exec format error",
    ),
    (
        "a program for another machine",
        |path| {
            // The ELF header's e_machine is its 19th and 20th byte.
            let mut program = fs::read(THIS).unwrap();
            program[18..20].copy_from_slice(&0x00F3_u16.to_le_bytes());
            write_program(path, &program);
        },
        "spawn: cannot start {}: Exec format error",
    ),
    (
        "nothing but a name",
        |path| write_program(path, b""),
        "spawn: cannot start {}: Exec format error",
    ),
    (
        "a script without an interpreter",
        |path| write_program(path, b"#!/nowhere/sh\n"),
        "spawn: cannot start {}: No such file or directory",
    ),
    (
        "a program of which the end is missing",
        |path| write_program(path, &fs::read(THIS).unwrap()[..1 << 20]),
        "hello: the successor ended (signal: ",
    ),
    (
        "another program",
        |path| write_program(path, b"#!/bin/sh\nexit 3\n"),
        "hello: the successor ended (exit status: 3)",
    ),
];

fn write_program(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_file_that_is_no_successor_changes_nothing() {
    let place = Place::new();
    let path = place.at("hawk");
    let mut dynasty = place.start("exec ./hawk");
    let mut agent = dynasty.connect();
    let mut in_mid_frame = dynasty.connect();
    let whole = report("begun before many attempts");
    let mut bytes = whole.chunks(1);
    for (what, mess, why) in NO_SUCCESSORS {
        in_mid_frame.send(bytes.next().unwrap());
        in_mid_frame.wait_delivered();
        fs::remove_file(&path).unwrap();
        mess(&path);
        let why = why.replace("{}", path.to_str().unwrap());
        dynasty.expect_refusal(&[], &format!("rolled back at {why}"));
        agent.expect_alive();
        assert_eq!(dynasty.family(), [dynasty.pid()], "{what}");
        // The next hand-over succeeds.
        match path.is_dir() {
            true => fs::remove_dir(&path).unwrap(),
            false => drop(fs::remove_file(&path)),
        }
        place.lay(THIS, "hawk");
        dynasty.upgrade(&[]);
        agent.expect_alive();
    }
    in_mid_frame.send(&bytes.flatten().copied().collect::<Vec<_>>());
    in_mid_frame.expect_line(REPORT);
    dynasty.stop();
}

#[test]
fn a_program_that_is_still_written_is_refused() {
    let place = Place::new();
    let mut dynasty = place.start("exec ./hawk");
    let mut agent = dynasty.connect();
    agent.expect_alive();
    let half = place.at("half");
    fs::copy("/bin/true", &half).unwrap();
    let writer = OpenOptions::new().append(true).open(&half).unwrap();
    fs::rename(half, place.at("hawk")).unwrap();
    dynasty.expect_refusal(&[], "rolled back at spawn: cannot start");
    drop(writer);
    place.lay(NEXT.binary(), "hawk");
    dynasty.upgrade(&[]);
    dynasty.expect_build(NEXT.stamp);
    agent.expect_alive();
    dynasty.stop();
}

/// The path is that of the start, also after a move of the folder.
#[test]
fn a_moved_folder_is_not_searched() {
    // Built first: a build takes longer than the idle limit.
    let next = NEXT.binary();
    let place = Place::new();
    fs::create_dir(place.at("1")).unwrap();
    place.lay(THIS, "1/hawk");
    let mut dynasty = place.start("cd 1; exec ./hawk");
    let mut agent = dynasty.connect();
    fs::rename(place.at("1"), place.at("2")).unwrap();
    let path = place.at("1/hawk");
    let why = format!("preflight: there is no binary at {}", path.display());
    dynasty.expect_refusal(&[], &why);
    agent.expect_alive();
    fs::create_dir(place.at("1")).unwrap();
    place.lay(next, "1/hawk");
    dynasty.upgrade(&[]);
    dynasty.expect_build(NEXT.stamp);
    agent.expect_alive();
    dynasty.stop();
}

#[test]
fn a_server_whose_folder_is_gone_hands_over_again_and_again() {
    let place = Place::new();
    fs::create_dir(place.at("gone")).unwrap();
    let mut dynasty = place.start("hawk=$PWD/hawk; cd gone; exec $hawk");
    let mut agent = dynasty.connect();
    fs::remove_dir(place.at("gone")).unwrap();
    for (build, stamp) in [(NEXT.binary(), NEXT.stamp), (THIS, BUILD)] {
        place.lay(build, "hawk");
        dynasty.upgrade(&[]);
        dynasty.expect_build(stamp);
        agent.expect_alive();
    }
    dynasty.stop();
}

/// In the folder of `hawk upgrade`, and not in that of the server.
#[test]
fn a_relative_binary_is_resolved_in_the_folder_of_the_client() {
    let place = Place::new();
    fs::create_dir(place.at("elsewhere")).unwrap();
    place.lay(NEXT.binary(), "elsewhere/hawk");
    let mut dynasty = place.start("exec ./hawk");
    let mut agent = dynasty.connect();
    dynasty.upgrade_from(&place.at("elsewhere"), &["--binary", "./hawk"]);
    dynasty.expect_build(NEXT.stamp);
    agent.expect_alive();
    dynasty.stop();
}
