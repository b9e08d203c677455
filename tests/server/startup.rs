//! The command line, the environment and what is said at the start.

use rustix::process::Signal;

use crate::support::*;

/// Whether a line of `exit`'s stderr contains `text`.
#[track_caller]
fn expect_told(exit: &Exit, text: &str) {
    let told = exit.stderr.iter().any(|line| line.contains(text));
    assert!(told, "{text:?} is not in {exit:#?}");
}

#[test]
fn stdout_gets_one_line_and_no_more() {
    let server = Server::start(&["--log-packets"]);
    let line = format!("listening on {}", server.address);
    let mut agent = server.connect();
    agent.expect_alive();
    agent.send(b"junk");
    server.stats();
    drop(agent);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().stdout, [line]);
}

#[test]
fn a_port_that_is_taken_is_one_clear_line_and_code_1() {
    let server = Server::start(&[]);
    let address = server.address.to_string();
    let exit = Launch::serve(&["--listen", &address]).run();
    assert_eq!(exit.code, Some(1));
    assert_eq!(exit.stdout, [""; 0]);
    assert_eq!(exit.stderr.len(), 1, "{exit:?}");
    expect_told(
        &exit,
        &format!("cannot listen on {address}: Address already in use"),
    );
    server.connect().expect_alive();
}

#[test]
fn values_that_make_no_sense_are_told_with_their_option_and_code_2() {
    for (option, value) in [
        ("--listen", "localhost"),
        ("--listen", "127.0.0.1:65536"),
        ("--max-connections", "0"),
        ("--max-connections", "many"),
        ("--pool-limit", "lots"),
        ("--pool-limit", "-1"),
        ("--idle-timeout", "90"),
        ("--idle-timeout", "0s"),
        ("--frame-timeout", "soon"),
        ("--drain-timeout", "-1s"),
        ("--stats-interval", "0ms"),
    ] {
        let argument = format!("{option}={value}");
        let exit = Launch::hawk(&["serve", &argument]).run();
        assert_eq!(exit.code, Some(2), "{exit:?}");
        expect_told(&exit, option);
        expect_told(&exit, value);
        assert_eq!(exit.stdout, [""; 0]);
    }
}

#[test]
fn an_unknown_option_and_a_missing_command_are_code_2() {
    for args in [&["serve", "--nonsense"][..], &["fly"], &[]] {
        assert_eq!(Launch::hawk(args).run().code, Some(2));
    }
}

#[test]
fn more_connections_than_descriptors_are_refused_with_the_way_out() {
    let exit = Launch::serve(&["--max-connections", "4294967295"]).run();
    assert_eq!(exit.code, Some(1));
    assert_eq!(exit.stderr.len(), 1, "{exit:?}");
    expect_told(&exit, "cannot serve 4294967295 connections");
    expect_told(&exit, "ulimit -n");
}

#[test]
fn a_pool_too_small_for_two_long_frames_is_refused_with_the_way_out() {
    let longest = CLASSES[4];
    let (enough, too_little) = (2 * longest, 2 * longest - 1);
    let exit = Launch::serve(&["--pool-limit", &too_little.to_string()]).run();
    assert_eq!(exit.code, Some(1));
    assert_eq!(exit.stderr.len(), 1, "{exit:?}");
    expect_told(&exit, "or more");
    let server = Server::start(&["--pool-limit", &enough.to_string()]);
    server.connect().expect_alive();
}

#[test]
fn it_listens_on_ipv6() {
    let server = Server::start(&["--listen", "[::1]:0"]);
    assert!(server.address.is_ipv6());
    server.connect().expect_alive();
}

#[test]
fn the_environment_sets_options() {
    let launch = Launch::hawk(&["serve"])
        .env("HAWK_LISTEN", "127.0.0.1:0")
        .env("HAWK_MAX_CONNECTIONS", "1")
        .env("HAWK_POOL_LIMIT", "1MiB")
        .env("HAWK_IDLE_TIMEOUT", "1h")
        .env("HAWK_FRAME_TIMEOUT", "100ms")
        .env("HAWK_DRAIN_TIMEOUT", "1m")
        .env("HAWK_STATS_INTERVAL", "1h")
        .env("HAWK_STORE", "none")
        .env("HAWK_LOG_PACKETS", "true");
    let server = launch.start();
    let mut agent = server.connect();
    agent.expect_alive();
    server
        .log()
        .wait_for(0, |line| line.contains("heartbeat peer="));
    server.connect().expect_line("busy: too many connections");
    agent.send(b"\xFF");
    agent.expect_eof();
}

#[test]
fn packets_are_logged_or_not_as_the_environment_says() {
    for (value, lines) in [("1", 1), ("true", 1), ("0", 0), ("false", 0)] {
        let server = Launch::serve(&[]).env("HAWK_LOG_PACKETS", value).start();
        server.connect().expect_alive();
        // These come behind it in the log.
        server.stats();
        assert_eq!(server.count_logged("heartbeat peer="), lines, "{value}");
    }
}

#[test]
fn bad_values_in_the_environment_are_told_too() {
    let exit = Launch::serve(&[]).env("HAWK_IDLE_TIMEOUT", "ages").run();
    assert_eq!(exit.code, Some(2));
    expect_told(&exit, "ages");
    expect_told(&exit, "--idle-timeout");
}

#[test]
fn an_empty_variable_is_answered_with_what_to_give() {
    for (variable, told) in [
        (
            "HAWK_MAX_CONNECTIONS",
            "write it as a whole number from 1 to",
        ),
        ("HAWK_LOG_PACKETS", "write it as true or false"),
        ("HAWK_IDLE_TIMEOUT", "write it like 90s"),
        ("HAWK_ALLOW", "write it like 10.0.0.0/8"),
        ("HAWK_ACK", "possible values: committed, received"),
        ("HAWK_ON_EVENT", "give a command"),
    ] {
        let exit = Launch::serve(&[]).env(variable, "").run();
        assert_eq!(exit.code, Some(2), "{variable}");
        expect_told(&exit, told);
    }
}

#[test]
fn the_command_line_outranks_the_environment() {
    let launch = Launch::serve(&["--max-connections", "2"]);
    let server = launch.env("HAWK_MAX_CONNECTIONS", "1").start();
    let mut agents = [server.connect(), server.connect()];
    agents.iter_mut().for_each(Agent::expect_alive);
}
