//! The server's work while a crowd is paused at a limit: nearly none.

use std::thread;

use super::crowd::Crowd;
use super::habits::{Habit, long_frame};
use super::rows::{Row, Target, print};
use hawk_testkit::bench::statistics::Statistics;
use hawk_testkit::bench::{Setup, process, servers};

/// Paused agents.
const CROWD: usize = 1_000;

/// Most of a core that the paused crowd may take.
const TARGET: Option<Target> = Some(Target::AtMost(1.0));

struct Condition {
    name: &'static str,
    options: &'static [&'static str],
    habit: fn() -> Habit,
    /// Whether the server has work for them all the time.
    works: bool,
    /// The server's statistic that proves the pause.
    proof: (&'static str, fn(&Statistics) -> u64),
}

/// Timeouts so long that no connection is closed meanwhile.
const CONDITIONS: [Condition; 4] = [
    Condition {
        name: "1,000 that said all they had to say",
        options: &[],
        habit: || Habit::greet(long_frame(1_000)),
        works: false,
        proof: ("connections", |told| told.get("connections")),
    },
    Condition {
        name: "1,000 in the middle of frames, for which the pool has two buffers",
        options: &["--pool-limit", "139264", "--frame-timeout", "1h"],
        habit: || Habit::greet(long_frame(60_000)[..20_000].to_vec()),
        works: false,
        proof: ("waiters", |told| told.longest("waiters")),
    },
    Condition {
        name: "1,000 that never read",
        options: &["--idle-timeout", "1h"],
        habit: Habit::never_reads,
        works: false,
        proof: ("connections", |told| told.get("connections")),
    },
    Condition {
        name: "1,000 held to one frame a second each, with more to send",
        options: &["--rate-limit", "1"],
        habit: || Habit::pours(long_frame(1_000).repeat(8)),
        works: true,
        proof: ("rate_limited", |told| told.get("rate_limited")),
    },
];

pub(crate) fn run(setup: &Setup, like: &str) -> anyhow::Result<Vec<Row>> {
    let conditions = || CONDITIONS.iter().filter(|it| it.name.contains(like));
    let mut rounds = Vec::new();
    for _ in 0..setup.rounds {
        for condition in conditions() {
            rounds.push((condition.name, turn(setup, condition)?));
        }
    }
    let mut rows = Vec::new();
    for Condition {
        name, works, proof, ..
    } in conditions()
    {
        let mine = || rounds.iter().filter(|(other, _)| other == name);
        let target = TARGET.filter(|_| !works);
        let share = mine().map(|(_, (share, _))| share * 100.0);
        rows.push(Row::alone(name, "server's CPU, % of a core", share, target));
        rows.push(Row::alone(
            name,
            proof.0,
            mine().map(|(_, (_, proof))| *proof),
            None,
        ));
    }
    print("A crowd that is held at a limit", &rows);
    Ok(rows)
}

/// Returns the server's share of a core, and the proof.
#[allow(clippy::cast_precision_loss)] // far below 2^53
fn turn(setup: &Setup, condition: &Condition) -> anyhow::Result<(f64, f64)> {
    let options = [
        servers::NO_STORE,
        &["--stats-interval", "1h"],
        condition.options,
    ]
    .concat();
    let mut server = servers::hawk(setup, &options)?;
    let id = server.process.id();
    let crowd = Crowd::start(setup, server.address, CROWD, (condition.habit)());
    match condition.works {
        true => crowd.wait_come()?,
        false => crowd.wait_settled()?,
    }
    let before = process::cpu_time(id)?;
    thread::sleep(setup.duration);
    let cpu = process::cpu_time(id)? - before;
    let told = Statistics::ask(&mut server.process)?;
    crowd.end()?;
    let share = cpu.as_secs_f64() / setup.duration.as_secs_f64();
    Ok((share, (condition.proof.1)(&told) as f64))
}
