//! Reports a second, acknowledged after their commit: hawk, Redis, and hawk without a
//! store, with 50 connections each.

use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::disk::{self, Latency};
use hawk_testkit::bench::files::fresh;
use hawk_testkit::bench::redis::{ClosedLoop, Redis};
use hawk_testkit::bench::spread::{Spread, met};
use hawk_testkit::bench::turn::{Figures, Turn, ratio};
use hawk_testkit::bench::{Setup, load, say, servers};

/// With so many frames in flight, hawk's target is this many times Redis' reports.
const DEEP: u32 = 128;
const DEEP_TARGET: f64 = 3.5;

/// With one frame in flight, hawk's target is this share of the disk's limit: every report
/// waits for the current commit, and for its own.
const SHALLOW_TARGET: f64 = 0.8;

const CONNECTIONS: u32 = 50;

/// Redis writes every request to disk before its reply. It does not rewrite its file
/// meanwhile, to its advantage.
const SETTINGS: &[&str] = &[
    "--save",
    "",
    "--appendonly",
    "yes",
    "--appendfsync",
    "always",
    "--auto-aof-rewrite-percentage",
    "0",
];

/// The same report as `hawk load` sends: 25 letters, a number, the time. Redis also gets
/// the agent and its address, which hawk adds by itself.
const REQUEST: &[&str] = &[
    "XADD",
    "reports",
    "*",
    "agent",
    "127.0.0.1",
    "peer",
    "127.0.0.1:40000",
    "content",
    "abcdefghijklmnopqrstuvwxy",
    "rand",
    "4611686018427387904",
    "timestamp",
    "1475249220",
];

/// As many bytes of content as in [`REQUEST`].
const CONTENT: &str = "25";

/// One depth's figures; Redis' and the ratio only if Redis is installed.
#[derive(Serialize)]
pub(crate) struct Outcome {
    depth: u32,
    hawk: Figures,
    without_store: Figures,
    redis: Option<Figures>,
    ratio_to_redis: Option<Spread>,
    append_seconds: Spread,
    overwrite_seconds: Spread,
    /// hawk's rate divided by 50 ÷ (2 × the median time of a sync), for each round.
    of_append: Spread,
    of_overwrite: Spread,
}

pub(crate) fn run(setup: &Setup, dir: &Path, depths: &[u32]) -> anyhow::Result<Vec<Outcome>> {
    let redis = Redis::find(SETTINGS, REQUEST);
    if let Err(missing) = &redis {
        say!("skipped: {missing}\n");
    }
    say!(
        "Median (least–greatest) of {} rounds; 50 connections; files in {}.",
        setup.rounds,
        dir.display()
    );
    let mut outcomes = Vec::new();
    for &depth in depths {
        let outcome = at_depth(setup, dir, redis.as_ref().ok(), depth)?;
        print(&outcome);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

fn at_depth(
    setup: &Setup,
    dir: &Path,
    redis: Option<&Redis>,
    depth: u32,
) -> anyhow::Result<Outcome> {
    let (mut ours, mut bare, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let mut disk = Vec::new();
    let mut requests = None;
    let closed = ClosedLoop {
        connections: CONNECTIONS,
        depth,
    };
    for _ in 0..setup.rounds {
        disk.push(disk::latency(dir)?);
        ours.push(hawk_turn(setup, Some(dir), depth)?);
        if let Some(redis) = redis {
            let requests = match requests {
                Some(requests) => requests,
                None => {
                    let files = fresh(dir)?;
                    *requests.insert(redis.requests(setup, files.path(), closed)?)
                }
            };
            let files = fresh(dir)?;
            let server = redis.start(setup, files.path())?;
            let load = |server: &_| redis.load(setup, server, closed, requests);
            theirs.push(Turn::of(server, load)?);
        }
        bare.push(hawk_turn(setup, None, depth)?);
    }
    let share = |of: fn(&Latency) -> f64| {
        let rounds = ours.iter().zip(&disk);
        Spread::of(
            rounds.map(|(turn, disk)| turn.per_second * 2.0 * of(disk) / f64::from(CONNECTIONS)),
        )
    };
    Ok(Outcome {
        depth,
        ratio_to_redis: ratio(&ours, &theirs),
        append_seconds: Spread::of(disk.iter().map(|disk| disk.append)),
        overwrite_seconds: Spread::of(disk.iter().map(|disk| disk.overwrite)),
        of_append: share(|disk| disk.append),
        of_overwrite: share(|disk| disk.overwrite),
        hawk: Figures::of(&ours),
        without_store: Figures::of(&bare),
        redis: Figures::of_any(&theirs),
    })
}

/// Starts hawk with its store in `dir`; `None`: without a store.
fn hawk_turn(setup: &Setup, dir: Option<&Path>, depth: u32) -> anyhow::Result<Turn> {
    let files = dir.map(fresh).transpose()?;
    let store = match &files {
        Some(files) => files.path().join("hawk.db"),
        None => "none".into(),
    };
    let store = store.to_str().context("the folder's name is no UTF-8")?;
    Turn::of(servers::hawk(setup, &["--store", store])?, |server| {
        let (connections, depth) = (CONNECTIONS.to_string(), depth.to_string());
        let arguments = [
            "--saturate",
            "--connections",
            &connections,
            "--depth",
            &depth,
            "--size",
            CONTENT,
        ];
        load::hawk_load(setup, server, &arguments, setup.duration, || Ok(()))
    })
}

fn print(outcome: &Outcome) {
    let Outcome { depth, hawk, .. } = outcome;
    say!("\n### {depth} in flight on each connection\n");
    say!("| server | reports, 1000/s | CPU, ns per report | CPU, % of a core |");
    say!("|---|---|---|---|");
    row("hawk", hawk);
    if let Some(redis) = &outcome.redis {
        row("Redis, XADD", redis);
    }
    row("hawk, no store", &outcome.without_store);
    say!();
    if let Some(ratio) = outcome.ratio_to_redis {
        let target = match *depth {
            DEEP => format!(
                "; target ≥ {DEEP_TARGET}: {}",
                met(ratio.median >= DEEP_TARGET)
            ),
            _ => String::new(),
        };
        say!("- hawk by Redis: {ratio:.2}{target}");
    }
    if *depth == 1 {
        let ways = [
            (
                "writing over 4 KiB and fdatasync, as SQLite's log mostly does",
                outcome.overwrite_seconds,
                outcome.of_overwrite,
            ),
            (
                "appending 4 KiB and fdatasync",
                outcome.append_seconds,
                outcome.of_append,
            ),
        ];
        for (what, seconds, share) in ways {
            say!(
                "- {what}: {:.0} µs; hawk by 50 ÷ (2 × that): {share:.2}; target ≥ \
                 {SHALLOW_TARGET}: {}",
                seconds.scaled(1e6),
                met(share.median >= SHALLOW_TARGET)
            );
        }
    }
}

fn row(name: &str, figures: &Figures) {
    say!(
        "| {name} | {:.1} | {:.0} | {:.0} |",
        figures.per_second.scaled(1e-3),
        figures.cpu_ns_per_frame,
        figures.cpu_share.scaled(100.0)
    );
}
