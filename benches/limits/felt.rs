//! The effect of a misbehaving crowd on good agents, and the server's cost of their frames
//! meanwhile.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::crowd::Crowd;
use super::habits::Habit;
use super::rows::{Row, Target, print};
use hawk_testkit::bench::servers::{self, Server};
use hawk_testkit::bench::{Setup, load, process, say};

/// The good agents, and their reports a second: some 5 % of a core, so that the crowd
/// determines their latency.
const GOOD: usize = 50;
const LOAD: &[&str] = &["--connections", "50", "--rate", "5000"];

/// How much longer the p99 of the good agents' replies may be.
const P99: Option<Target> = Some(Target::AtMost(2.0));

/// Most of a core that the server may need to turn a crowd away.
const SHARE: Option<Target> = Some(Target::AtMost(50.0));

/// Warnings and errors that a crowd may cause: one for its cause in ten seconds,
/// which is longer than a turn.
const LINES: Option<Target> = Some(Target::AtMost(1.0));

/// A crowd, and its server.
struct Condition {
    name: &'static str,
    options: &'static [&'static str],
    size: usize,
    habit: fn() -> Habit,
    entry: Entry,
    /// Whether the cost is the server's share of a core: it lasts as long as the crowd
    /// keeps connecting.
    goes_on: bool,
}

/// When a crowd connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// Before the good agents, which connect once the crowd is idle.
    First,
    /// After the good agents.
    Later,
    /// After the good agents, when the server has only this many free descriptors.
    LaterAndFew(usize),
}

fn conditions() -> [Condition; 6] {
    [
        Condition {
            name: "5,000 slow lorises",
            options: &[],
            size: 5_000,
            habit: Habit::slow_loris,
            entry: Entry::First,
            goes_on: false,
        },
        Condition {
            name: "5,000 slow lorises, all closed every 2 s, that come again",
            options: &["--frame-timeout", "2s"],
            size: 5_000,
            habit: Habit::slow_loris,
            entry: Entry::First,
            goes_on: true,
        },
        Condition {
            name: "2,000 that never read",
            options: &[],
            size: 2_000,
            habit: Habit::never_reads,
            entry: Entry::First,
            goes_on: false,
        },
        Condition {
            name: "2,000 that read a byte a second",
            options: &[],
            size: 2_000,
            habit: Habit::reads_a_byte_a_second,
            entry: Entry::First,
            goes_on: false,
        },
        Condition {
            name: "connection limit, 400 that come again at once",
            options: &["--max-connections", "100"],
            size: 400,
            habit: || Habit::keeps_coming(None),
            entry: Entry::Later,
            goes_on: true,
        },
        Condition {
            name: "no descriptors, 400 that come again after 200 ms",
            options: &[],
            size: 400,
            habit: || Habit::keeps_coming(Some(Duration::from_millis(200))),
            entry: Entry::LaterAndFew(10),
            goes_on: true,
        },
    ]
}

/// The results of one turn.
struct Felt {
    p99: f64,
    cpu_per_frame: f64,
    cpu_share: f64,
    lines: f64,
    /// Connections of the crowd a second.
    came: f64,
}

pub(crate) fn run(setup: &Setup, like: &str) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for condition in conditions().iter().filter(|it| it.name.contains(like)) {
        let mut rounds = Vec::new();
        for _ in 0..setup.rounds {
            let undisturbed = turn(setup, condition, false)?;
            rounds.push((undisturbed, turn(setup, condition, true)?));
        }
        rows.extend(figures(condition, &rounds));
    }
    print("The effect on good agents", &rows);
    Ok(rows)
}

fn figures(condition: &Condition, rounds: &[(Felt, Felt)]) -> Vec<Row> {
    let name = condition.name;
    let beside = |figure, of: fn(&Felt) -> f64, target| {
        let rounds = rounds.iter().map(|(before, after)| (of(before), of(after)));
        Row::beside(name, figure, rounds, target)
    };
    let alone = |figure, of: fn(&Felt) -> f64, target| {
        Row::alone(
            name,
            figure,
            rounds.iter().map(|(_, after)| of(after)),
            target,
        )
    };
    let mut rows = vec![beside("p99 of good agents, ms", |felt| felt.p99 * 1e3, P99)];
    if condition.goes_on {
        rows.push(beside(
            "server's CPU, % of a core",
            |felt| felt.cpu_share * 100.0,
            None,
        ));
        let share = "the same, with the crowd alone counted";
        let more = rounds
            .iter()
            .map(|(before, after)| after.cpu_share - before.cpu_share);
        rows.push(Row::alone(
            name,
            share,
            more.map(|share| share * 100.0),
            SHARE,
        ));
        rows.push(alone(
            "connections that came, a second",
            |felt| felt.came,
            None,
        ));
    } else {
        rows.push(beside(
            "server's CPU, µs for each good frame",
            |felt| felt.cpu_per_frame * 1e6,
            P99,
        ));
    }
    rows.push(alone(
        "warnings and errors in the log",
        |felt| felt.lines,
        LINES,
    ));
    rows
}

fn turn(setup: &Setup, condition: &Condition, disturbed: bool) -> anyhow::Result<Felt> {
    // Without statistics among the log lines.
    let options = [
        servers::NO_STORE,
        &["--stats-interval", "1h"],
        condition.options,
    ]
    .concat();
    let server = servers::hawk(setup, &options)?;
    let id = server.process.id();
    let start = || {
        let habit = (condition.habit)();
        Crowd::start(setup, server.address, condition.size, habit)
    };
    let mut crowd = None;
    if disturbed && condition.entry == Entry::First {
        let first = crowd.insert(start());
        match condition.goes_on {
            true => first.wait_come()?,
            false => first.wait_settled()?,
        }
    }
    let came_before = crowd.as_ref().map_or(0, |crowd| crowd.deeds().came);
    let files = process::open_files(id)?;
    let cpu_before = process::cpu_time(id)?;
    let begun = Instant::now();
    let replied = load::hawk_load(setup, &server, LOAD, setup.duration, || {
        let are_there = process::open_files(id)? >= files + GOOD;
        if disturbed && crowd.is_none() && are_there {
            if let Entry::LaterAndFew(free) = condition.entry {
                leave_descriptors(&server, files + GOOD + free)?;
            }
            crowd = Some(start());
        }
        Ok(())
    })?;
    let cpu = (process::cpu_time(id)? - cpu_before).as_secs_f64();
    let seconds = begun.elapsed().as_secs_f64();
    let lines = server.process.lines();
    let is_complaint = |line: &&String| line.contains(" WARN ") || line.contains(" ERROR ");
    let lines = lines.iter().filter(is_complaint).count();
    let came = match crowd {
        Some(crowd) => crowd.end()?.came - came_before,
        None => 0,
    };
    if replied.errors > 0.0 {
        let errors = replied.errors;
        say!(
            "\n{}: {errors} replies were wrong or missing",
            condition.name
        );
    }
    if let Some(bottleneck) = &replied.bottleneck {
        say!("\n{}: the client says: {bottleneck}", condition.name);
    }
    #[allow(clippy::cast_precision_loss)] // far below 2^53
    Ok(Felt {
        p99: replied.p99,
        cpu_per_frame: cpu / replied.replies,
        cpu_share: cpu / seconds,
        lines: lines as f64,
        came: came as f64 / seconds,
    })
}

/// Lowers the server's limit of open files.
fn leave_descriptors(server: &Server, most: usize) -> anyhow::Result<()> {
    let id = i32::try_from(server.process.id()).ok();
    let id = id.and_then(Pid::from_raw).context("a process id of zero")?;
    let limit = Rlimit {
        current: Some(most as u64),
        maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
    };
    prlimit(Some(id), Resource::Nofile, limit)?;
    Ok(())
}
