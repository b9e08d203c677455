//! Many generations: no agent notices, and nothing is left over.

use std::fs;
use std::path::Path;

use hawk_wire::Encoding;
use rustix::process::{Pid, Signal, kill_process};

use crate::dynasty::{Dynasty, process_in};
use hawk_testkit::*;

/// The number of bursts of signals, a quarter of a second apart, some of one and some of many.
#[test]
fn a_load_has_no_error_over_hand_overs_by_signal() {
    const BURSTS: usize = 12;
    let mut dynasty = Dynasty::start(&[]);
    let clock = Clock::of("250ms");
    let figures = dynasty.folder().join("figures");
    let address = dynasty.address().to_string();
    let mut load = Launch::hawk(&[
        "load",
        &address,
        "--duration",
        "10m",
        "--connections",
        "20",
        "--senders",
        "10",
        "--interval",
        "500ms",
        "--reply-timeout",
        "20s",
        "--json",
        figures.to_str().unwrap(),
    ]);
    load = load.env("RUST_BACKTRACE", "0");
    let mut load = load.spawn();
    dynasty.wait_until(|stats| stats.get("connections") == 20);
    for burst in 0..BURSTS {
        clock.wait();
        for _ in 0..[1, 2, 50][burst % 3] {
            dynasty.signal(Signal::USR2);
        }
        dynasty.expect_successor_after(burst);
    }
    let load_pid = load.pid();
    kill_process(load_pid, Signal::INT).unwrap();
    let told = load.wait_exit();
    assert_eq!(told.code, Some(0), "{told:?}");
    let figures: serde_json::Value = serde_json::from_slice(&fs::read(figures).unwrap()).unwrap();
    assert_eq!(figures["errors"], serde_json::json!([]), "{figures:#}");
    let log = dynasty.log().since(0);
    let failed = log.iter().find(|line| line.contains("rolled back step="));
    assert_eq!(failed, None);
    let stats = dynasty.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.get("accepted"), 20, "no agent reconnected");
    let answered = figures["answered"].as_u64().unwrap();
    assert_eq!(stats.get("reports") + stats.get("heartbeats"), answered);
    dynasty.stop();
}

#[test]
fn the_eleventh_process_has_no_more_than_the_second() {
    let mut dynasty = Dynasty::start_with_store(&["--on-event", "true"]);
    let mut second = None;
    for generation in 2..=11 {
        let mut agents: Vec<Agent> = (0..50).map(|_| dynasty.connect()).collect();
        let exchange = |(number, agent): (usize, &mut Agent)| {
            let name = format!("agent-{number}");
            agent.exchange(&report_packet("x", Encoding::Compact, Some(&name)), REPORT);
        };
        agents.iter_mut().enumerate().for_each(exchange);
        let succession = dynasty.upgrade(&[]);
        assert_eq!(succession.fields.get("generation"), generation);
        assert_eq!(dynasty.family(), [dynasty.pid()], "and no other process");
        agents.iter_mut().enumerate().for_each(exchange);
        drop(agents);
        dynasty.wait_until(|stats| stats.get("connections") == 0);
        let now = Belongings::of(dynasty.pid());
        match &second {
            None => second = Some(now),
            Some(second) => now.expect_no_more_than(second),
        }
    }
    dynasty.stop();
}

/// The resources of a process.
#[derive(Debug)]
struct Belongings {
    /// The targets of its descriptors, sorted, without numbers of sockets and pipes.
    descriptors: Vec<String>,
    threads: usize,
    /// Resident memory in bytes.
    memory: u64,
}

impl Belongings {
    fn of(pid: Pid) -> Self {
        let process = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
        let list = |name: &str| fs::read_dir(process.join(name)).unwrap();
        let links = list("fd").filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        let mut descriptors: Vec<String> = links
            .map(|link| {
                let link = link.to_string_lossy().into_owned();
                link.split(":[").next().unwrap().to_owned()
            })
            .collect();
        descriptors.sort();
        let status = fs::read_to_string(process.join("status")).unwrap();
        let resident = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib: u64 = resident
            .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap();
        Self {
            descriptors,
            threads: list("task").count(),
            memory: kib * 1024,
        }
    }

    #[track_caller]
    fn expect_no_more_than(&self, earlier: &Self) {
        assert_eq!(self.descriptors, earlier.descriptors);
        assert_eq!(self.threads, earlier.threads);
        // For memory that the allocator keeps.
        let most = earlier.memory + (4 << 20);
        assert!(self.memory < most, "{self:?} {earlier:?}");
    }
}

/// The predecessor waits for the end of its command for an event.
#[test]
fn a_running_command_ends_with_success_and_events_are_delivered_once() {
    let folder = tempfile::tempdir().unwrap();
    let [events, ended, gate] = ["events", "ended", "gate"].map(|name| folder.path().join(name));
    let made = std::process::Command::new("mkfifo").arg(&gate).status();
    assert!(made.unwrap().success());
    // Opened for reading and writing, so that no open blocks.
    let mut holder = fs::OpenOptions::new();
    let mut holder = holder.read(true).write(true).open(&gate).unwrap();
    let command = format!(
        "cat >> {}; read -r token < {}; echo well >> {}",
        events.display(),
        gate.display(),
        ended.display()
    );
    let args = ["--on-event", &command, "--offline-after", "1h"];
    let mut dynasty = Dynasty::start_with(&args, |launch| launch);
    let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
    let mut agent = dynasty.connect();
    let named = |name| heartbeat_packet(Encoding::Classic, Some(name));
    agent.exchange(&named("one"), HEARTBEAT);
    assert!(eventually(|| (lines(&events) == 1).then_some(())).is_some());

    let first = dynasty.pid();
    dynasty.signal(Signal::USR2);
    let (line, _) = dynasty
        .log()
        .wait_for(0, |line| line.contains("] took over "));
    assert!(line.contains(" generation=2 "), "{line}");
    // The predecessor waits for its command. The successor serves, and runs no command before that
    // end, so that events keep their order.
    let mut other = dynasty.connect();
    other.exchange(&named("two"), HEARTBEAT);
    agent.exchange(&named("one"), HEARTBEAT);
    assert!(kill_process(first, Signal::CONT).is_ok(), "it still waits");
    assert_eq!((lines(&events), lines(&ended)), (1, 0));
    std::io::Write::write_all(&mut holder, b"\n").unwrap();
    dynasty.expect_successor();
    assert!(eventually(|| (lines(&events) == 2).then_some(())).is_some());
    assert_eq!(lines(&ended), 1);
    std::io::Write::write_all(&mut holder, b"\n").unwrap();
    assert!(eventually(|| (lines(&ended) == 2).then_some(())).is_some());
    let told = fs::read_to_string(&events).unwrap();
    for name in ["one", "two"] {
        let of_it = told
            .lines()
            .filter(|line| line.contains(&format!("\"{name}\"")));
        assert_eq!(of_it.count(), 1, "{told}");
    }
    dynasty.stop();
}

impl Dynasty {
    /// Waits for this number of hand-overs, and one more.
    #[track_caller]
    fn expect_successor_after(&mut self, hand_overs: usize) {
        let nth = || {
            let lines = self.log().since(0);
            let mut done = lines
                .iter()
                .filter(|line| line.contains("] handed over to process "));
            done.nth(hand_overs).map(|line| process_in(line))
        };
        let found = eventually(nth);
        let successor = found.unwrap_or_else(|| panic!("{:#?}", self.log().since(0)));
        self.succeed(successor);
    }
}
