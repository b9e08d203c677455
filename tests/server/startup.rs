//! The command line, the environment and the output at the start.

use rustix::process::Signal;

use hawk_testkit::*;

/// Returns whether a line of `exit`'s stderr contains `text`.
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
        &format!("cannot listen on {address}: Address already in use (os error 98); another"),
    );
    server.connect().expect_alive();
}

#[test]
fn invalid_values_are_reported_with_their_option_and_code_2() {
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
fn more_connections_than_descriptors_are_refused_with_a_remedy() {
    let exit = Launch::serve(&["--max-connections", "4294967295"]).run();
    assert_eq!(exit.code, Some(1));
    assert_eq!(exit.stderr.len(), 1, "{exit:?}");
    expect_told(&exit, "cannot serve 4294967295 connections");
    expect_told(&exit, "ulimit -n");
}

#[test]
fn a_pool_too_small_for_two_long_frames_is_refused_with_a_remedy() {
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
        // Behind the packet in the log.
        server.stats();
        assert_eq!(server.count_logged("heartbeat peer="), lines, "{value}");
    }
}

#[test]
fn invalid_values_in_the_environment_are_reported() {
    let exit = Launch::serve(&[]).env("HAWK_IDLE_TIMEOUT", "ages").run();
    assert_eq!(exit.code, Some(2));
    expect_told(&exit, "ages");
    expect_told(&exit, "--idle-timeout");
    expect_told(&exit, "environment variable HAWK_IDLE_TIMEOUT");
    // A value on the command line is not attributed to the variable.
    let launch = Launch::serve(&["--idle-timeout", "aeons"]);
    let exit = launch.env("HAWK_IDLE_TIMEOUT", "1m").run();
    assert_eq!(exit.code, Some(2));
    assert!(
        !exit.stderr.iter().any(|line| line.contains("variable")),
        "{exit:?}"
    );
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let variables = [
        "HAWK_LISTEN",
        "HAWK_MAX_CONNECTIONS",
        "HAWK_LOG_PACKETS",
        "HAWK_IDLE_TIMEOUT",
        "HAWK_ALLOW",
        "HAWK_ACK",
        "HAWK_ON_EVENT",
        "HAWK_STORE",
        "HAWK_CONTROL",
        "HAWK_NO_SUCH_OPTION",
    ];
    let launch = |launch: Launch| {
        variables
            .iter()
            .fold(launch, |launch, name| launch.env(name, ""))
    };
    let server = launch(Launch::serve(&[])).start();
    server.connect().expect_alive();
    let (started, _) = server.log().wait_for(0, |line| line.contains("] started "));
    let started = Fields::parse(&started);
    assert_eq!(started.text("idle_timeout"), "90s");
    assert_eq!(started.text("on_event"), "none");
    assert_eq!(server.count_logged("not known"), 0);
    // In the clients as well.
    let exit = launch(Launch::hawk(&["stats", "--control", "/nowhere"])).run();
    assert_eq!(exit.code, Some(1), "{exit:?}");
}

#[test]
fn an_unknown_variable_is_a_warning_with_the_nearest_name() {
    let told =
        "\"HAWK_IDLE_TIMEOT\" is not known and has no effect; did you mean HAWK_IDLE_TIMEOUT?";
    let server = Launch::serve(&[]).env("HAWK_IDLE_TIMEOT", "1s").start();
    server
        .log()
        .wait_for(0, |line| line.contains("WARN") && line.contains(told));
    let launch = Launch::hawk(&["agents", "--store", "/nowhere/x.db"]);
    expect_told(&launch.env("HAWK_IDLE_TIMEOT", "1s").run(), told);
}

#[test]
fn the_line_started_has_every_option_and_its_origin() {
    let launch = Launch::serve(&["--rate-limit", "7", "--on-event", "cat >/dev/null"]);
    let launch = launch
        .env("HAWK_IDLE_TIMEOUT", "5m")
        .env("HAWK_RATE_LIMIT", "9");
    let server = launch.env("RUST_LOG", "info").start();
    let (line, _) = server.log().wait_for(0, |line| line.contains("] started "));
    assert!(
        line.contains(" on_event=\"cat >/dev/null\" on_event_from=command-line "),
        "{line}"
    );
    let started = Fields::parse(&line);
    let help = Launch::hawk(&["serve", "--help"]).run().stdout;
    let options = help.iter().filter_map(|line| {
        let rest = line
            .trim_start()
            .strip_prefix("--")
            .or_else(|| line.split_once(", --").map(|(_, rest)| rest))?;
        rest.split([' ', ',']).next()
    });
    let options: Vec<_> = options.filter(|name| *name != "help").collect();
    assert!(options.len() > 20, "{options:?}");
    for option in options {
        started.text(&option.replace('-', "_"));
    }
    for (key, value) in [
        ("listen", server.address.to_string().as_str()),
        ("listen_from", "command-line"),
        ("rate_limit", "7"),
        ("rate_limit_from", "command-line"),
        ("idle_timeout", "5m"),
        ("idle_timeout_from", "environment"),
        ("frame_timeout", "10s"),
        ("pool_limit", "64MiB"),
        ("control", "none"),
        ("log_packets", "false"),
        ("rust_log", "info"),
        ("rust_log_from", "environment"),
    ] {
        assert_eq!(started.text(key), value, "{key} in {line}");
    }
    assert!(started.get("max_connections") > 0);
    assert!(!line.contains("frame_timeout_from"), "{line}");
}

#[test]
fn an_invalid_log_level_is_a_warning_and_the_default() {
    for (level, complaint) in [
        ("", None),
        ("infos", Some("\"infos\" is neither a level")),
        ("warning", Some("\"warning\" is neither a level")),
        ("hawk=loud", Some("\"hawk=loud\" is neither a level")),
    ] {
        let server = Launch::serve(&[]).env("RUST_LOG", level).start();
        server.log().wait_for(0, |line| line.contains("] started "));
        let complaints = server.count_logged("RUST_LOG is not used, and the level is info");
        assert_eq!(complaints, usize::from(complaint.is_some()), "{level}");
        if let Some(complaint) = complaint {
            assert_eq!(server.count_logged(complaint), 1);
        }
        let mut agent = server.connect();
        agent.send(b"junk");
        drop(agent);
        server
            .log()
            .wait_for(0, |line| line.contains("WARN") && line.contains("junk: "));
    }
}

#[test]
fn the_command_line_outranks_the_environment() {
    let launch = Launch::serve(&["--max-connections", "2"]);
    let server = launch.env("HAWK_MAX_CONNECTIONS", "1").start();
    let mut agents = [0, 1].map(|number| Agent::connect_as(number, server.address));
    agents.iter_mut().for_each(Agent::expect_alive);
}
