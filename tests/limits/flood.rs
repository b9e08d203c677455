//! The log: any number of events that agents cause yields a line now and then, with the
//! number of lines left out.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use hawk_wire::Encoding;

use hawk_testkit::*;

/// How often each kind is caused in a row.
const TIMES: u64 = 70;

/// A kind of log line that agents can cause at will.
struct Kind {
    /// The beginning of its lines.
    line: &'static str,
    /// Most lines of this kind in an interval of ten seconds.
    burst: usize,
    args: &'static [&'static str],
    /// Causes it once; the test keeps the returned agent to the end.
    bring_about: fn(&Server, u64) -> Option<Agent>,
    /// Returns how often it has occurred.
    count: fn(&Stats) -> u64,
}

const KINDS: [Kind; 9] = [
    Kind {
        line: "cannot accept connections:",
        burst: 1,
        args: &[],
        bring_about: |server, number| {
            set_descriptor_limit(server, limit_for(server, 0));
            let before = server.stats().get("accept_errors");
            let mut agent = server.connect();
            // The server retries for as long as this test takes. The last call waits for
            // more than one attempt.
            let more = 1 + number / TIMES;
            server.wait_until(|stats| stats.get("accept_errors") >= before + more);
            set_descriptor_limit(server, most_descriptors());
            agent.expect_alive();
            Some(agent)
        },
        count: |stats| stats.get("accept_errors"),
    },
    Kind {
        line: "too many connections: turned away",
        burst: 1,
        args: &["--max-connections", "1"],
        bring_about: |server, number| {
            let mut agent = server.connect();
            let reply = ["heartBeat", "busy: too many connections"];
            agent.send(&heartbeat());
            agent.expect_line(reply[usize::from(number > 0)]);
            (number == 0).then_some(agent)
        },
        count: |stats| stats.get("closed_too_many_connections"),
    },
    Kind {
        line: "too many connections from one address: turned away",
        burst: 1,
        args: &["--max-connections-per-ip", "1"],
        bring_about: |server, number| {
            let mut agent = server.connect();
            let reply = ["heartBeat", "busy: too many from one address"];
            agent.send(&heartbeat());
            agent.expect_line(reply[usize::from(number > 0)]);
            (number == 0).then_some(agent)
        },
        count: |stats| stats.get("closed_too_many_from_address"),
    },
    Kind {
        line: "an address has 80 % of its share:",
        burst: 1,
        args: &["--max-connections-per-ip", "5"],
        bring_about: |server, _| {
            let mut agents: Vec<_> = (0..4).map(|_| server.connect()).collect();
            agents.iter_mut().for_each(Agent::expect_alive);
            drop(agents);
            server.wait_until(|stats| stats.get("connections") == 0);
            None
        },
        count: |stats| stats.get("accepted") / 4,
    },
    Kind {
        line: "not allowed: closed",
        burst: 1,
        args: &["--deny", "127.0.0.2"],
        bring_about: |server, _| {
            let stranger = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
            Agent::connect_from(stranger, server.address).expect_end();
            None
        },
        count: |stats| stats.get("closed_not_allowed"),
    },
    Kind {
        line: "rate limit: read more slowly",
        burst: 1,
        args: &["--rate-limit", "1"],
        bring_about: |server, _| {
            let mut agent = server.connect();
            agent.send(&heartbeat().repeat(2));
            agent.expect_line(HEARTBEAT);
            Some(agent)
        },
        count: |stats| stats.get("rate_limited"),
    },
    Kind {
        line: "junk: bytes that are no frame",
        burst: 1,
        args: &[],
        bring_about: |server, _| {
            let mut agent = server.connect();
            // One byte is counted once, for any cut of the reads.
            agent.send(b"j");
            agent.expect_alive();
            None
        },
        count: |stats| stats.get("junk_bytes"),
    },
    Kind {
        line: "new agent refused: ",
        burst: 1,
        args: &["--max-agents", "1"],
        bring_about: |server, number| {
            let mut agent = server.connect();
            let reply = ["heartBeat", "busy: too many agents"];
            let name = format!("web-{number}");
            let heartbeat = heartbeat_packet(Encoding::Compact, Some(&name));
            agent.exchange(&heartbeat, reply[usize::from(number > 0)]);
            (number == 0).then_some(agent)
        },
        count: |stats| stats.agents.get("refused"),
    },
    Kind {
        line: "agent online agent=",
        burst: 50,
        args: &[],
        bring_about: |server, number| {
            let name = format!("web-{number}");
            let heartbeat = heartbeat_packet(Encoding::Compact, Some(&name));
            server.connect().exchange(&heartbeat, HEARTBEAT);
            None
        },
        count: |stats| stats.agents.get("known"),
    },
];

#[test]
fn events_of_agents_are_logged_at_a_limited_rate_with_a_count_of_omitted_lines() {
    let _many = ManyAgents::wait(1_000);
    let clock = Clock::of("10050ms");
    let start = std::time::Instant::now();
    let servers = KINDS.map(|kind| (Server::start(kind.args), kind));
    let bring_about = |numbers: std::ops::Range<u64>| -> Vec<_> {
        let each = servers.iter().flat_map(|(server, kind)| {
            let numbers = numbers.clone();
            numbers.filter_map(|number| (kind.bring_about)(server, number))
        });
        each.collect()
    };
    let mut kept = bring_about(0..TIMES);
    for (server, kind) in &servers {
        let lines = server.count_logged(kind.line);
        let most = kind.burst * lines_allowed(start);
        assert!((1..=most).contains(&lines), "{lines} of {}", kind.line);
    }
    // The interval of the last line of each kind is over, so the next occurrence is logged.
    // That line completes the count, except for occurrences after it.
    clock.wait();
    let before = servers
        .each_ref()
        .map(|(server, kind)| (kind.count)(&server.stats()));
    kept.extend(bring_about(TIMES..TIMES + 1));
    for ((server, kind), before) in servers.iter().zip(before) {
        let told = || -> u64 {
            let lines = server.log().since(0);
            let lines = lines.iter().filter(|line| line.contains(kind.line));
            lines
                .map(|line| 1 + Fields::parse(line).get("left_out"))
                .sum()
        };
        let complete = eventually(|| (told() > before).then_some(()));
        assert!(complete.is_some(), "{} of {}", told(), kind.line);
        assert!(told() >= TIMES, "{} of {}", told(), kind.line);
        let count = (kind.count)(&server.stats());
        assert!(told() <= count, "{} of {count} {}", told(), kind.line);
        let lines = server.count_logged(kind.line);
        let most = kind.burst * lines_allowed(start);
        assert!(lines <= most, "{lines} of {}", kind.line);
    }
    drop(kept);
}

/// Lines at a limited rate that agents can cause, by the file that logs them. Add a new
/// line to [`KINDS`] and to docs/limits.md.
const LIMITED: [(&str, usize); 3] = [
    ("handler/mod.rs", 2),
    ("reactor/accept.rs", 5),
    ("reactor/connection.rs", 2),
];

/// Lines with tests elsewhere: of commands on events, in tests/hook; of replies that are
/// not read, in tests/server/output_limit.rs; of shares of the buffer pool, in
/// tests/server/pool.rs; of the store, in tests/store; of agents that make room, in
/// names.rs; of names that two machines use, in tests/store/liveness.rs. Agents cannot
/// cause the lines of the control socket.
const ELSEWHERE: [(&str, usize); 9] = [
    ("control/server.rs", 1),
    ("handler/mod.rs", 2),
    ("notify/mod.rs", 1),
    ("notify/runner.rs", 5),
    ("reactor/buffers.rs", 1),
    ("reactor/replies.rs", 1),
    ("store/reader.rs", 1),
    ("store/retention.rs", 1),
    ("store/writer.rs", 2),
];

#[test]
fn every_line_at_a_limited_rate_is_tested() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    count_limited(&source, &source, &mut found);
    let mut expected = BTreeMap::new();
    for (file, lines) in LIMITED.into_iter().chain(ELSEWHERE) {
        *expected.entry(file.to_owned()).or_default() += lines;
    }
    assert_eq!(found, expected);
    let by_agents: usize = LIMITED.iter().map(|(_, lines)| lines).sum();
    assert_eq!(by_agents, KINDS.len());
}

/// Counts in each file the log lines at a limited rate.
fn count_limited(root: &Path, folder: &Path, found: &mut BTreeMap<String, usize>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            count_limited(root, &path, found);
            continue;
        }
        let name = path.strip_prefix(root).unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let asked = text.matches(".allow(").count() + text.matches("log_limited!(").count();
        if asked > 0 && name != "throttle.rs" {
            found.insert(name.to_owned(), asked);
        }
    }
}
