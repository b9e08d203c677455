//! The store's files: names, owner and permissions.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use rustix::process::{Signal, geteuid};

use crate::startup::refused;
use hawk_testkit::store_file::*;
use hawk_testkit::*;

/// A user without files.
const UNPRIVILEGED: u32 = 65534;

/// Runs `launch` as [`UNPRIVILEGED`] if this process may.
fn as_unprivileged(launch: Launch) -> Launch {
    let ids = [
        format!("--reuid={UNPRIVILEGED}"),
        format!("--regid={UNPRIVILEGED}"),
    ];
    launch.under("setpriv", &[&ids[0], &ids[1], "--clear-groups"])
}

fn is_root() -> bool {
    if !geteuid().is_root() {
        skip("only the superuser can have files of two users");
    }
    geteuid().is_root()
}

/// Returns the modes of the store's files in `folder`, by name.
fn modes(folder: &Path) -> Vec<(String, u32)> {
    let files = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let name = |file: &fs::DirEntry| file.file_name().into_string().unwrap();
    let mut modes: Vec<_> = files
        .map(|file| {
            (
                name(&file),
                file.metadata().unwrap().permissions().mode() & 0o777,
            )
        })
        .filter(|(name, _)| name.starts_with("hawk.db"))
        .collect();
    modes.sort();
    modes
}

#[test]
fn a_second_server_is_refused_under_every_name_of_the_store() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    let other = StoreFile::new();
    symlink(store_file.store(), other.store()).unwrap();
    refused(other.launch(&[]), &["another hawk is writing it"]);
    let through = other.folder().join("through");
    symlink(store_file.folder(), &through).unwrap();
    let path = through.join("hawk.db");
    let launch = Launch::serve(&["--store", path.to_str().unwrap()]);
    refused(launch, &["another hawk is writing it"]);
    fs::remove_file(other.store()).unwrap();
    fs::hard_link(store_file.store(), other.store()).unwrap();
    refused(other.launch(&[]), &["hard link", "-samefile"]);
    server.connect().exchange(&report("still there"), REPORT);
}

#[test]
fn a_store_behind_a_symbolic_link_is_written_and_read_by_it() {
    let store_file = StoreFile::new();
    let other = StoreFile::new();
    symlink(store_file.store(), other.store()).unwrap();
    let server = other.serve(&[]);
    server.connect().exchange(&report("hello"), REPORT);
    for store_file in [&store_file, &other] {
        let exit = store_file.read(&["reports"]).run();
        assert!(exit.stdout[0].contains("hello"), "{exit:?}");
        // A server is writing it: the command prints no note.
        assert_eq!(exit.stderr, [""; 0]);
    }
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
    let names: Vec<_> = modes(other.folder())
        .into_iter()
        .map(|file| file.0)
        .collect();
    assert_eq!(names, ["hawk.db"], "no log or lock beside the link");
}

#[test]
fn a_link_at_the_locks_path_is_refused_and_not_followed() {
    let store_file = StoreFile::new();
    let precious = store_file.folder().join("precious");
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, store_file.folder().join("hawk.db-lock")).unwrap();
    refused(store_file.launch(&[]), &["hawk.db-lock", "remove it"]);
    assert_eq!(fs::read_to_string(precious).unwrap(), "precious");
}

#[test]
fn new_files_are_private_under_any_umask() {
    let store_file = StoreFile::new();
    let server = store_file
        .launch(&[])
        .under("sh", &["-c", "umask 0; exec \"$0\" \"$@\""])
        .start();
    server.connect().exchange(&report("hello"), REPORT);
    let names = ["hawk.db", "hawk.db-lock", "hawk.db-shm", "hawk.db-wal"];
    assert_eq!(
        modes(store_file.folder()),
        names.map(|name| (name.to_owned(), 0o600))
    );
}

#[test]
fn files_that_other_users_may_read_cause_a_warning_with_a_command() {
    let store_file = StoreFile::new();
    let server = store_file.serve(&[]);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
    fs::set_permissions(store_file.store(), Permissions::from_mode(0o644)).unwrap();
    let server = store_file.serve(&[]);
    let (line, _) = server.log().wait_for(0, |line| line.contains("chmod 600 "));
    let (_, command) = line.split_once("remove them: ").unwrap();
    assert!(
        std::process::Command::new("sh")
            .args(["-c", command])
            .status()
            .unwrap()
            .success()
    );
    let opened = modes(store_file.folder());
    // The log and its index have the file's former mode.
    assert!(opened.iter().all(|file| file.1 == 0o600), "{opened:?}");
}

#[test]
fn root_is_refused_where_another_user_could_replace_the_files() {
    if !is_root() {
        return;
    }
    let store_file = StoreFile::new();
    let folder = store_file.folder();
    let mode = |mode| fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
    for shared in [0o777, 0o1777] {
        mode(shared);
        refused(store_file.launch(&[]), &["chmod go-w", "--store-owner-ok"]);
    }
    mode(0o755);
    chown(folder, Some(UNPRIVILEGED), None).unwrap();
    refused(
        store_file.launch(&[]),
        &["belongs to user 65534", "--store-owner-ok"],
    );
    assert_eq!(modes(folder), [], "it made none");
    let server = store_file.serve(&["--store-owner-ok"]);
    server.connect().exchange(&report("hello"), REPORT);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
    chown(folder, Some(0), None).unwrap();
    chown(store_file.store(), Some(UNPRIVILEGED), None).unwrap();
    refused(store_file.launch(&[]), &["hawk.db belongs to user 65534"]);
}

#[test]
fn unwritable_files_are_refused_at_the_start() {
    if !is_root() {
        return;
    }
    let store_file = StoreFile::new();
    drop(store_file.serve(&[]));
    // Only the checked file belongs to another user.
    let hawk = store_file.folder().join("hawk");
    fs::copy(env!("CARGO_BIN_EXE_hawk"), &hawk).unwrap();
    let store = store_file.store();
    let launch = || {
        let args = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--store",
            store.to_str().unwrap(),
        ];
        as_unprivileged(Launch::program(&hawk, &args))
    };
    fs::set_permissions(&store, Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(store_file.folder(), Permissions::from_mode(0o755)).unwrap();
    let folder = store_file.folder().display().to_string();
    refused(
        launch(),
        &[&format!("{folder} cannot be written by user 65534")],
    );
    chown(store_file.folder(), Some(UNPRIVILEGED), None).unwrap();
    refused(
        launch(),
        &[
            &format!("{folder}/hawk.db cannot be written by user 65534"),
            "chown",
        ],
    );
    chown(&store, Some(UNPRIVILEGED), None).unwrap();
    refused(launch(), &["cannot be written by user 65534"]);
    for name in ["hawk.db-wal", "hawk.db-shm", "hawk.db-lock"] {
        let path = store_file.folder().join(name);
        if path.exists() {
            chown(path, Some(UNPRIVILEGED), None).unwrap();
        }
    }
    let server = launch().start();
    server.connect().exchange(&report("hello"), REPORT);
}

#[test]
fn every_command_refuses_an_empty_path() {
    for command in ["serve", "agents", "events", "reports"] {
        for path in ["", ":memory:", "file:hawk.db", "file:/tmp/hawk.db?mode=ro"] {
            let exit = Launch::hawk(&[command, "--store", path]).run();
            assert_eq!(exit.code, Some(2), "{exit:?}");
            assert!(exit.stderr[0].contains("give a path"), "{exit:?}");
        }
    }
}
