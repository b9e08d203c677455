//! The messages of a hand-over to the service manager, before and after the commit.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::notify::Manager;
use hawk_testkit::*;

/// Ends the process, which is no child of this one.
struct Successor(Pid);

impl Drop for Successor {
    fn drop(&mut self) {
        kill_process(self.0, Signal::KILL).ok();
    }
}

/// A message of this process, other than the watchdog's.
#[track_caller]
fn news(manager: &Manager) -> (i32, Vec<String>) {
    let heard = std::iter::repeat_with(|| manager.hear_with_sender());
    let mut news = heard.filter(|(_, message)| message != &["WATCHDOG=1"]);
    news.next().unwrap()
}

/// What begins a reload, and the moment in it.
#[track_caller]
fn expect_reloading(manager: &Manager, of: Pid) {
    let (sender, message) = news(manager);
    assert_eq!(sender, of.as_raw_nonzero().get());
    assert_eq!(message[0], "RELOADING=1");
    let moment = message[1].strip_prefix("MONOTONIC_USEC=").unwrap();
    assert!(moment.parse::<u64>().unwrap() > 0);
}

#[test]
fn the_old_process_names_the_new_one_which_is_ready_and_watched_then() {
    let manager = Manager::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let launch = Launch::activated(OwnedFd::from(socket), &["--store", "none"]);
    let mut server = manager.watch(launch, "100000").start();
    let address = server.address;
    assert_eq!(news(&manager).1[0], "READY=1");
    let mut agent = server.connect();
    agent.expect_alive();

    server.signal(Signal::USR2);
    loop {
        let (sender, message) = news(&manager);
        assert_eq!(sender, server.pid().as_raw_nonzero().get());
        if message[0] == "RELOADING=1" {
            break;
        }
        assert!(message[0].starts_with("STATUS="), "{message:?}");
    }
    let (sender, message) = news(&manager);
    assert_eq!(sender, server.pid().as_raw_nonzero().get());
    let pid = message[0].strip_prefix("MAINPID=").expect("a pid");
    let pid: i32 = pid.parse().unwrap();
    let _successor = Successor(Pid::from_raw(pid).unwrap());
    let ready = format!("STATUS=Serving on {address}: connections=1");
    assert_eq!(news(&manager), (pid, vec!["READY=1".to_owned(), ready]));
    for _ in 0..3 {
        assert_eq!(
            manager.hear_with_sender(),
            (pid, vec!["WATCHDOG=1".to_owned()])
        );
    }
    assert_eq!(server.wait_end(), Some(0));
    agent.expect_alive();

    // What named the first process is not in the second one's environment.
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let names = environment.split(|&byte| byte == 0);
    let names = names.map(|pair| String::from_utf8_lossy(pair).into_owned());
    let names: Vec<_> = names
        .filter_map(|pair| pair.split_once('=').map(|(name, _)| name.to_owned()))
        .collect();
    for hidden in hawk::service::VARIABLES_OF_THIS_PROCESS {
        assert!(!names.iter().any(|name| name == hidden), "{hidden}");
    }
    for kept in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
        assert!(names.iter().any(|name| name == kept), "{kept}");
    }

    drop(agent);
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    loop {
        let (sender, message) = news(&manager);
        assert_eq!(sender, pid);
        if message[0] == "STOPPING=1" {
            break;
        }
    }
}

#[test]
fn a_reload_that_is_rolled_back_or_refused_ends_as_well() {
    let manager = Manager::new();
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let control = control.to_str().unwrap();
    let launch = Launch::serve(&["--control", control]);
    let server = manager.watch(launch, "100000").start();
    assert_eq!(news(&manager).1[0], "READY=1");
    let pid = server.pid().as_raw_nonzero().get();
    let ask = |binary: &Path| {
        let binary = binary.to_str().unwrap();
        Launch::hawk(&["upgrade", "--control", control, "--binary", binary]).run()
    };
    // One that does not begin, and one that fails when it has begun.
    for binary in ["/nowhere/hawk", "/bin/false"] {
        assert_eq!(ask(Path::new(binary)).code, Some(1));
        expect_reloading(&manager, server.pid());
        let (sender, message) = news(&manager);
        assert_eq!((sender, &*message[0]), (pid, "READY=1"));
    }

    // A hand-over under way continues, and the reload with it, when another is refused.
    let fifo = folder.path().join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let slow = script(folder.path(), &format!("read line < {}", fifo.display()));
    let slow = slow.to_str().unwrap();
    let mut first = Launch::hawk(&["upgrade", "--control", control, "--binary", slow]).spawn();
    expect_reloading(&manager, server.pid());
    let told = ask(Path::new("/bin/false"));
    assert!(told.stderr.concat().contains("another one is under way"));
    expect_reloading(&manager, server.pid());
    std::fs::write(&fifo, "go\n").unwrap();
    assert_eq!(first.wait_exit().code, Some(1));
    let (sender, message) = news(&manager);
    assert_eq!((sender, &*message[0]), (pid, "READY=1"));
    assert_eq!(manager.hear_with_sender().1, ["WATCHDOG=1"]);
    server.connect().expect_alive();
}

/// A program of these commands.
fn script(folder: &Path, commands: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;

    let path = folder.join("script");
    std::fs::write(&path, format!("#!/bin/sh\n{commands}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn process_1_of_a_container_does_not_hand_over() {
    let namespace = ["-Urpf", "--kill-child"];
    let can = Command::new("unshare").args(namespace).arg("true").output();
    if !can.is_ok_and(|tried| tried.status.success()) {
        skip("no process namespace can be made here (unshare -Urpf)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let control = control.to_str().unwrap();
    let launch = Launch::serve(&["--control", control]);
    let server = launch.under("unshare", &namespace).start();
    let mut agent = server.connect();
    let told = Launch::hawk(&["upgrade", "--control", control]).run();
    assert_eq!(told.code, Some(1));
    let said = told.stderr.concat();
    assert!(
        said.contains("refused: this server is process 1 of its container"),
        "{said}"
    );
    agent.expect_alive();
}
