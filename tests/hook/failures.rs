//! Commands that fail, hang, or ignore signals.

use rustix::process::Pid;

use crate::desk::*;
use hawk_testkit::*;

#[test]
fn a_command_that_fails_is_logged_and_counted() {
    let desk = Desk::new();
    for (command, outcome) in [
        ("exit 3", "exit status: 3"),
        // The signal that no process can ignore.
        ("kill -s KILL $$", "signal: 9 (SIGKILL)"),
        ("/nowhere/notify", "exit status: 127"),
    ] {
        let server = desk.serve(command, &[]);
        come(&server, "web-01");
        let line = format!(
            "WARN  hawk::notify::runner] the on-event command ended with {outcome} \
             agent=\"web-01\" state=online left_out=0"
        );
        server.log().wait_for(0, |logged| logged.contains(&line));
        let stats = server.wait_until(|stats| stats.hook("run") == 1);
        assert_eq!((stats.hook("failed"), stats.hook("timed_out")), (1, 0));
    }
}

#[test]
fn many_failures_are_one_line() {
    let desk = Desk::new();
    let server = desk.serve("exit 1", &[]);
    let _agents = come_all(&server, 100);
    server.wait_until(|stats| stats.hook("failed") == 100);
    let lines = server.count_logged("the on-event command ended");
    // One line in ten seconds; the machine may be slow.
    assert!((1..10).contains(&lines), "{lines}");
}

#[test]
fn a_hanging_command_is_killed_with_its_process_group() {
    let desk = Desk::new();
    let command = "read -r event; case $event in \
                   *hangs*) tail -f /dev/null & echo $! > $DESK/pid; wait ;; \
                   *) echo \"$event\" >> $DESK/events ;; esac";
    let server = desk.serve(command, &["--on-event-timeout", "200ms"]);
    come(&server, "hangs");
    come(&server, "web-01");
    desk.wait_for(1);
    let line = "the on-event command took longer than 200ms and was killed agent=\"hangs\" \
                state=online left_out=0";
    server.log().wait_for(0, |logged| logged.contains(line));
    let stats = server.wait_until(|stats| stats.hook("run") == 2);
    assert_eq!((stats.hook("failed"), stats.hook("timed_out")), (0, 1));
    let started = Pid::from_raw(desk.text("pid").trim().parse().unwrap()).unwrap();
    let gone = eventually(|| (!is_running(started)).then_some(()));
    assert!(gone.is_some(), "{started:?} is still there");
    assert_eq!(children_of(server.pid()), []);
}

#[test]
fn the_place_of_a_killed_command_is_free() {
    let desk = Desk::new();
    let command = "read -r event; case $event in *hangs*) exec tail -f /dev/null ;; \
                   *) echo \"$event\" >> $DESK/events ;; esac";
    let server = desk.serve(command, &["--on-event-timeout", "200ms"]);
    for number in 0..4 {
        come(&server, &format!("hangs-{number}"));
    }
    come_all(&server, 3);
    desk.wait_for(3);
    let stats = server.wait_until(|stats| stats.hook("run") == 7);
    assert_eq!(stats.hook("timed_out"), 4);
}

#[test]
fn a_command_need_not_read() {
    let desk = Desk::new();
    let server = desk.serve("exec true", &[]);
    let version = "x".repeat(65_000);
    let heartbeat = format!("\x00{{\"version\":\"{version}\",\"timestamp\":1}}");
    server
        .connect()
        .exchange(&frame(heartbeat.as_bytes()), HEARTBEAT);
    come(&server, "web-01");
    let stats = server.wait_until(|stats| stats.hook("run") == 2);
    assert_eq!(stats.hook("failed"), 0);
}

#[test]
fn an_empty_command_is_refused_and_an_empty_variable_counts_as_unset() {
    for args in [
        ["--on-event", ""],
        ["--on-events", ""],
        ["--on-event-timeout", "0s"],
        ["--on-events-window", "0s"],
    ] {
        let exit = Launch::serve(&args).run();
        assert_eq!(exit.code, Some(2), "{exit:?}");
        assert!(exit.stderr[0].contains("--on-event"), "{exit:?}");
    }
    let server = Launch::serve(&[]).env("HAWK_ON_EVENT", "").start();
    server.connect().expect_alive();
    assert_eq!(server.stats().hook, None);
}
