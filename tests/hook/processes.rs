//! Commands as processes: their number, environment and limits.

use crate::desk::*;
use hawk_testkit::*;

#[test]
fn two_commands_for_new_agents_run_at_once_and_do_not_block_the_server() {
    let desk = Desk::new();
    let server = desk.serve(NOTE_AND_WAIT, &["--on-event-timeout", "1h"]);
    let mut agents = come_all(&server, 6);
    desk.wait_for(2);
    let stats = server.wait_until(|stats| stats.hook("waiting") == 4);
    assert_eq!(stats.hook("running"), 2);
    assert_eq!(children_of(server.pid()).len(), 2);
    for _ in 0..100 {
        for (number, agent) in agents.iter_mut().enumerate() {
            agent.exchange(&named_heartbeat(&format!("agent-{number}")), HEARTBEAT);
        }
    }
    desk.release(1);
    desk.wait_for(3);
    let stats = server.wait_until(|stats| stats.hook("waiting") == 3);
    assert_eq!(stats.hook("running"), 2);
    desk.release(5);
    desk.wait_for(6);
    let stats = server.wait_until(|stats| stats.hook("run") == 6);
    assert_eq!((stats.hook("running"), stats.hook("waiting")), (0, 0));
    assert_eq!(children_of(server.pid()), [], "no zombies");
}

#[test]
fn the_output_of_a_command_goes_to_the_log() {
    let desk = Desk::new();
    let server = desk.serve("echo on stdout; echo on stderr >&2; cat", &[]);
    let listening = format!("listening on {}", server.address);
    come(&server, "web-01");
    for said in ["on stdout", "on stderr"] {
        server.log().wait_for(0, |line| line == said);
    }
    server
        .log()
        .wait_for(0, |line| line.starts_with("{\"at\":"));
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait_exit().stdout, [listening]);
}

#[test]
fn a_command_has_the_environment_without_service_variables_and_options() {
    let desk = Desk::new();
    let launch = desk.launch("env >> $DESK/env; echo >> $DESK/events", &[]);
    // None of the values is valid, which is logged and harmless.
    let names = hawk::service::VARIABLES;
    let launch = names
        .iter()
        .fold(launch, |launch, name| launch.env(name, "7"));
    let launch = launch.env("LISTEN_PID", "1").env("WATCHDOG_X", "7");
    let server = launch.env("HAWK_DRAIN_TIMEOUT", "9s").start();
    let _agent = come(&server, "web-01");
    server.wait_until(|stats| stats.hook("run") == 1);
    let env = desk.text("env");
    assert!(env.contains("DESK="), "{env}");
    for line in env.lines() {
        for hidden in ["NOTIFY_SOCKET=", "WATCHDOG_", "LISTEN_", "HAWK_"] {
            assert!(!line.starts_with(hidden), "{env}");
        }
    }
}

/// The limit is raised for connections alone, also by a successor, which is started with the
/// raised limit.
#[test]
fn a_command_has_the_limit_of_open_files_with_which_hawk_was_started() {
    let desk = Desk::new();
    let control = desk.path("control");
    let control = control.to_str().unwrap();
    let command = "ulimit -Sn >> $DESK/limits; cat >> $DESK/events";
    let launch = desk.launch(command, &["--control", control]);
    let launch = launch.under("prlimit", &["--nofile=512:1024"]);
    let mut server = launch.start();
    let _first = come(&server, "web-01");
    desk.wait_for(1);
    let mut pid = None;
    for generation in 2..4 {
        let upgrade = Launch::hawk(&["upgrade", "--control", control]).run();
        assert_eq!(upgrade.code, Some(0), "{upgrade:?}");
        if pid.is_none() {
            assert_eq!(server.wait_end(), Some(0));
        }
        pid = Some(successor_of(&upgrade));
        let _agent = come(&server, &format!("web-0{generation}"));
        desk.wait_for(generation);
    }
    assert_eq!(desk.text("limits"), "512\n".repeat(3));
    rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::TERM).unwrap();
    server.wait_stdout_end();
}

#[test]
fn a_command_of_a_successor_has_no_variable_of_the_hand_over() {
    let desk = Desk::new();
    let control = desk.path("control");
    let control = control.to_str().unwrap();
    let command = "env >> $DESK/env; cat >> $DESK/events";
    let mut server = desk.serve(command, &["--control", control]);
    let told = Launch::hawk(&["upgrade", "--control", control]).run();
    assert_eq!(told.code, Some(0), "{told:?}");
    assert_eq!(server.wait_end(), Some(0));
    let _agent = come(&server, "web-01");
    desk.wait_for(1);
    let env = desk.text("env");
    assert!(
        env.contains("DESK=") && !env.contains(hawk::restart::SUCCESSOR),
        "{env}"
    );

    let pid = successor_of(&told);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    server.wait_stdout_end();
}

#[test]
fn a_command_gets_no_descriptor_of_the_servers() {
    let desk = Desk::new();
    let store = desk.path("hawk.db");
    let command = "ls -l /proc/self/fd | cat >> $DESK/descriptors; echo >> $DESK/events";
    let server = desk.serve(command, &["--store", store.to_str().unwrap()]);
    let _agents = come_all(&server, 5);
    server.wait_until(|stats| stats.hook("run") == 5);
    let descriptors = desk.text("descriptors");
    assert_eq!(descriptors.matches("memfd:hawk-event").count(), 5);
    // Descriptors inherited from the test runner are inherited by all processes.
    let ours = std::fs::read_dir("/proc/self/fd").unwrap();
    let ours = ours.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let ours: Vec<_> = ours.collect();
    let targets = descriptors
        .lines()
        .filter_map(|line| line.split_once(" -> "));
    for (_, target) in targets.filter(|(_, target)| !ours.contains(&target.into())) {
        for kind in ["socket:", "anon_inode:", "hawk.db"] {
            assert!(!target.contains(kind), "{descriptors}");
        }
    }
}

#[test]
fn a_command_has_default_signal_actions() {
    let desk = Desk::new();
    let server = desk.serve(
        "cat /proc/self/status > $DESK/status; cat >> $DESK/events",
        &[],
    );
    come(&server, "web-01");
    desk.wait_for(1);
    let status = desk.text("status");
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
    };
    let pipe = 1_u64 << (rustix::process::Signal::PIPE.as_raw() - 1);
    assert_eq!(set("SigBlk:"), 0, "none is blocked");
    assert_eq!(set("SigIgn:") & pipe, 0, "SIGPIPE ends it");
    // Signals that the server handles have their default action again.
    let ignored_here = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored_here = ignored_here
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored_here = u64::from_str_radix(ignored_here.unwrap().trim(), 16).unwrap();
    assert_eq!(set("SigIgn:") & !ignored_here, 0, "none is ignored more");
}

/// As process 1 the server is the parent of all orphans.
#[test]
fn process_1_reaps_orphans_and_gets_the_statuses_of_its_commands() {
    if !rustix::process::geteuid().is_root() {
        return skip("a PID namespace takes the superuser");
    }
    let desk = Desk::new();
    // The background process of the command outlives it.
    let command = "read -r event; echo \"$event\" >> $DESK/events; (sleep 0.05 &); \
                   case $event in *agent-7*) exit 3 ;; esac";
    let launch = desk.launch(command, &["--drain-timeout", "1s"]);
    let launch = launch.under(
        "unshare",
        &["--pid", "--fork", "--mount-proc", "--kill-child"],
    );
    let server = launch.start();
    let server_pid = eventually(|| children_of(server.pid()).first().copied()).unwrap();
    let _agents = come_all(&server, 8);
    desk.wait_for(8);
    let stats = || {
        let mark = server.log().count();
        rustix::process::kill_process(server_pid, rustix::process::Signal::USR1).unwrap();
        Stats::wait_for(server.log(), mark)
    };
    let stats = eventually(|| Some(stats()).filter(|stats| stats.hook("run") == 8)).unwrap();
    assert_eq!((stats.hook("delivered"), stats.hook("failed")), (7, 1));
    let gone = eventually(|| children_of(server_pid).is_empty().then_some(()));
    assert!(gone.is_some(), "{:?}", children_of(server_pid));
}
