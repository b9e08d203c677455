//! The file that a successor is made of, whatever is done to it meanwhile.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::process::Pid;
use tempfile::TempDir;

use crate::dynasty::Dynasty;

/// Puts a copy of hawk there, in one step, as `install` does.
fn install(path: &Path) {
    let fresh = path.with_extension("fresh");
    fs::copy(env!("CARGO_BIN_EXE_hawk"), &fresh).unwrap();
    fs::rename(fresh, path).unwrap();
}

/// Which file it is, whatever its name.
fn file(path: &Path) -> (u64, u64) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.dev(), metadata.ino())
}

/// The file that a process runs.
fn running(pid: Pid) -> (u64, u64) {
    file(&PathBuf::from(format!(
        "/proc/{}/exe",
        pid.as_raw_nonzero()
    )))
}

/// A server of a binary in a folder of its own, called by this name there.
fn start(name: &str) -> (TempDir, PathBuf, Dynasty) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hawk");
    install(&path);
    let dynasty = Dynasty::start_with(&[], |launch| launch.binary(name, folder.path()));
    assert_eq!(running(dynasty.pid()), file(&path));
    (folder, path, dynasty)
}

#[test]
fn what_lies_there_by_then_takes_over() {
    let (_folder, path, mut dynasty) = start("./hawk");
    let mut agent = dynasty.connect();
    for _ in 0..3 {
        install(&path);
        assert_ne!(running(dynasty.pid()), file(&path), "another file by now");
        dynasty.upgrade(&[]);
        assert_eq!(running(dynasty.pid()), file(&path));
        agent.expect_alive();
    }
    dynasty.stop();
}

#[test]
fn a_link_may_be_pointed_elsewhere_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let point = |to: &str| {
        symlink(to, at("fresh")).unwrap();
        fs::rename(at("fresh"), at("current")).unwrap();
    };
    install(&at("hawk-1"));
    install(&at("hawk-2"));
    point("hawk-1");
    let current = at("current");
    let name = current.to_str().unwrap();
    let mut dynasty = Dynasty::start_with(&[], |launch| launch.binary(name, folder.path()));
    let mut agent = dynasty.connect();
    for to in ["hawk-2", "hawk-1"] {
        point(to);
        dynasty.upgrade(&[]);
        assert_eq!(running(dynasty.pid()), file(&at(to)));
        agent.expect_alive();
    }
    dynasty.stop();
}

#[test]
fn what_is_not_there_or_no_program_does_not_take_over_and_what_comes_next_does() {
    let (_folder, path, mut dynasty) = start("./hawk");
    let mut agent = dynasty.connect();
    let write = |content: &[u8], mode: u32| {
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    // For another machine: the ELF header's e_machine is its 19th and 20th byte.
    let mut foreign = fs::read(&path).unwrap();
    foreign[18..20].copy_from_slice(&0x00F3_u16.to_le_bytes());
    type Attempt<'a> = (&'a dyn Fn(), &'a str);
    let attempts: [Attempt<'_>; 6] = [
        (&|| {}, "rolled back at preflight: there is no binary at"),
        (&|| fs::create_dir(&path).unwrap(), "is not a file"),
        (&|| write(&foreign, 0o644), "is not executable"),
        (
            &|| write(&foreign, 0o755),
            "rolled back at spawn: cannot start",
        ),
        (&|| write(b"", 0o755), "rolled back at spawn: cannot start"),
        (
            &|| write(b"words", 0o755),
            "rolled back at spawn: cannot start",
        ),
    ];
    for (put, why) in attempts {
        fs::remove_file(&path)
            .or_else(|_| fs::remove_dir(&path))
            .unwrap();
        put();
        dynasty.expect_refusal(&[], why);
        agent.expect_alive();
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        }
        install(&path);
        dynasty.upgrade(&[]);
        agent.expect_alive();
    }
    dynasty.stop();
}
