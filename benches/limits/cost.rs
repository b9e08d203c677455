//! The cost of limits for agents within them.

use std::thread;
use std::time::Instant;

use super::crowd::Crowd;
use super::habits::Habit;
use super::rows::{Row, Target, print};
use hawk_testkit::bench::turn::Turn;
use hawk_testkit::bench::{Setup, load, process, servers};

/// A limit of frames a second far beyond the rate of each connection.
const RATE: &[&str] = &["--rate-limit", "4000000"];

/// Rules that are checked before the allowed loopback.
const RULES: usize = 100;

/// A target for a negligible cost.
const THROUGHPUT: Option<Target> = Some(Target::AtLeast(0.95));
const CPU: Option<Target> = Some(Target::AtMost(1.1));

/// Agents that connect, send a heartbeat and disconnect, repeatedly.
const VISITORS: usize = 64;

struct Visits {
    per_second: f64,
    /// The server's CPU time for each.
    cpu: f64,
}

pub(crate) fn run(setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let rules = rules();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let mut saturated = Vec::new();
    let mut visited = Vec::new();
    for _ in 0..setup.rounds {
        let plain = saturate(setup, &[])?;
        saturated.push((plain, saturate(setup, RATE)?, saturate(setup, &rules)?));
        visited.push((visit(setup, &[])?, visit(setup, &rules)?));
    }
    let mut rows = Vec::new();
    let rate: fn(&(Turn, Turn, Turn)) -> &Turn = |(_, rate, _)| rate;
    let rules: fn(&(Turn, Turn, Turn)) -> &Turn = |(.., rules)| rules;
    for (name, of) in [("--rate-limit, not reached", rate), ("100 rules", rules)] {
        let per_second = saturated
            .iter()
            .map(|it| (it.0.per_second, of(it).per_second));
        rows.push(Row::beside(
            name,
            "frames a second, saturated",
            per_second,
            THROUGHPUT,
        ));
        let cpu = saturated
            .iter()
            .map(|it| (it.0.cpu_ns_per_frame, of(it).cpu_ns_per_frame));
        rows.push(Row::beside(name, "server's CPU, ns a frame", cpu, CPU));
    }
    let cpu = visited
        .iter()
        .map(|(before, after)| (before.cpu * 1e6, after.cpu * 1e6));
    rows.push(Row::beside(
        "100 rules",
        "server's CPU, µs a connection",
        cpu,
        CPU,
    ));
    let came = visited
        .iter()
        .map(|(before, after)| (before.per_second, after.per_second));
    rows.push(Row::beside("100 rules", "connections a second", came, None));
    print("Limits that are not reached", &rows);
    Ok(rows)
}

/// Half of the rules allow, half deny; only the last matches the agents.
fn rules() -> Vec<String> {
    let pair = |number| {
        [
            "--allow".to_owned(),
            format!("10.{number}.0.0/16"),
            "--deny".to_owned(),
            format!("172.16.{number}.0/24"),
        ]
    };
    let mut rules: Vec<String> = (1..RULES / 2).flat_map(pair).collect();
    let last = ["--deny", "192.0.2.0/24", "--allow", "127.0.0.0/8"];
    rules.extend(last.map(str::to_owned));
    rules
}

fn saturate(setup: &Setup, options: &[&str]) -> anyhow::Result<Turn> {
    let server = servers::hawk(setup, &[servers::NO_STORE, options].concat())?;
    let load = ["--saturate", "--connections", "50", "--depth", "16"];
    Turn::of(server, |server| {
        load::hawk_load(setup, server, &load, setup.duration, || Ok(()))
    })
}

fn visit(setup: &Setup, options: &[&str]) -> anyhow::Result<Visits> {
    let server = servers::hawk(setup, &[servers::NO_STORE, options].concat())?;
    let id = server.process.id();
    let crowd = Crowd::start(setup, server.address, VISITORS, Habit::comes_and_goes());
    crowd.wait_come()?;
    let (cpu_before, came_before) = (process::cpu_time(id)?, crowd.deeds().came);
    let begun = Instant::now();
    thread::sleep(setup.duration);
    let cpu = process::cpu_time(id)? - cpu_before;
    #[allow(clippy::cast_precision_loss)] // far below 2^53
    let came = (crowd.deeds().came - came_before) as f64;
    let seconds = begun.elapsed().as_secs_f64();
    crowd.end()?;
    Ok(Visits {
        per_second: came / seconds,
        cpu: cpu.as_secs_f64() / came,
    })
}
