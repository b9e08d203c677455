//! The socket's file: its owner, its lifetime, and how it is replaced.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use crate::Place;
use hawk_testkit::skip;

#[test]
fn it_is_there_for_its_user_while_the_server_runs() {
    for signals in [&[Signal::TERM][..], &[Signal::TERM, Signal::INT]] {
        let place = Place::new();
        let server = place.serve(&["--drain-timeout", "1h"]);
        let mode = fs::metadata(place.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        // The second signal has something to interrupt.
        let _agent = (signals.len() > 1).then(|| server.connect());
        for (count, signal) in signals.iter().enumerate() {
            server.signal(*signal);
            if count + 1 < signals.len() {
                server.log().wait_for(0, |line| line.contains("stopping"));
            }
        }
        server.wait_exit();
        assert!(!place.path().exists());
    }
}

#[test]
fn the_socket_of_a_killed_server_is_replaced() {
    let place = Place::new();
    let server = place.serve(&[]);
    server.signal(Signal::KILL);
    server.wait_exit();
    assert!(place.path().exists());
    assert_eq!(place.stats(&[]).run().code, Some(1), "no server listens");
    let _server = place.serve(&[]);
    assert_eq!(place.stats(&[]).run().code, Some(0));
}

#[test]
fn the_socket_of_a_live_server_is_refused_and_still_serves() {
    let place = Place::new();
    let server = place.serve(&[]);
    let exit = place.launch(&[]).run();
    assert_eq!((exit.code, &*exit.stdout), (Some(1), &[][..]), "{exit:?}");
    let told = exit.stderr.last().unwrap();
    assert!(
        told.starts_with("hawk: a running program serves the control socket "),
        "{told}"
    );
    assert!(told.contains("--control of its own"), "{told}");
    server.connect().expect_alive();
    assert_eq!(place.stats(&[]).run().code, Some(0));
}

#[test]
fn another_file_is_refused_and_left_alone() {
    let place = Place::new();
    fs::write(place.path(), "dear data").unwrap();
    let exit = place.launch(&[]).run();
    assert_eq!(exit.code, Some(1));
    let told = exit.stderr.last().unwrap();
    assert!(told.contains("is no socket"), "{told}");
    assert_eq!(fs::read(place.path()).unwrap(), b"dear data");
}

#[test]
fn clients_that_say_nothing_hold_no_agent_up() {
    let place = Place::new();
    let server = place.serve(&[]);
    let silent: Vec<_> = (0..12)
        .map(|_| UnixStream::connect(place.path()).unwrap())
        .collect();
    let mut agent = server.connect();
    (0..100).for_each(|_| agent.expect_alive());
    drop(silent);
    assert_eq!(place.stats(&[]).run().code, Some(0));
    assert_eq!(server.count_logged("WARN"), 0);
}

/// An operator may open the socket for statistics. That lets no other user run a program.
#[test]
fn another_user_may_read_statistics_and_have_no_program_run() {
    if !rustix::process::geteuid().is_root() {
        return skip("only the superuser can be another user");
    }
    let place = Place::new();
    let server = place.serve(&[]);
    let all = fs::Permissions::from_mode(0o777);
    fs::set_permissions(place.folder.path(), all.clone()).unwrap();
    fs::set_permissions(place.path(), all.clone()).unwrap();
    // Where the other user can reach it.
    let hawk = place.folder.path().join("hawk");
    fs::copy(env!("CARGO_BIN_EXE_hawk"), &hawk).unwrap();
    fs::set_permissions(&hawk, all).unwrap();
    let ask = |args: &[&str]| {
        let output = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&hawk)
            .args(args)
            .arg("--control")
            .arg(place.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), told)
    };
    assert_eq!(ask(&["stats"]), (Some(0), String::new()));
    for args in [&["upgrade"][..], &["upgrade", "--binary", "/bin/true"]] {
        let (code, told) = ask(args);
        assert_eq!(code, Some(1));
        assert!(
            told.starts_with("hawk: refused: user 65534 (process "),
            "{told}"
        );
        assert!(
            told.contains("only the server's own user, 0, and the superuser may"),
            "{told}"
        );
    }
    let is_refusal = |line: &str| line.contains("upgrade refused: user 65534 (process ");
    let (_, mark) = server.log().wait_for(0, is_refusal);
    server.log().wait_for(mark, is_refusal);
    assert_eq!(server.count_logged("handing over"), 0);
    server.connect().expect_alive();
}
