//! As many frames as go through: hawk against Redis, each with its own client,
//! 50 connections and the same number of frames in flight on each.

use std::time::Duration;

use serde::Serialize;

use crate::contestants::{self, Redis, Server};
use crate::load::{self, Replied};
use crate::process;
use crate::spread::{Spread, met};
use crate::{Setup, say};

/// Frames in flight on each connection, and how hawk is to compare then.
const TARGETS: [(u32, f64); 3] = [(1, 1.0), (16, 0.8), (128, 0.7)];

/// One depth's figures; Redis' and the ratio only where there is a Redis.
#[derive(Serialize)]
pub(crate) struct Outcome {
    depth: u32,
    hawk: Figures,
    redis: Option<Figures>,
    ratio: Option<Spread>,
    target: f64,
}

#[derive(Serialize)]
struct Figures {
    per_second: Spread,
    cpu_ns_per_frame: Spread,
    /// Of its core: well below 1, something else than the server set the pace.
    cpu_share: Spread,
}

struct Round {
    per_second: f64,
    cpu_ns_per_frame: f64,
}

pub(crate) fn run(setup: &Setup) -> anyhow::Result<Vec<Outcome>> {
    let redis = Redis::find();
    if let Err(missing) = &redis {
        say!("\nskipped: {missing}");
    }
    let mut outcomes = Vec::new();
    for (depth, target) in TARGETS {
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        let mut requests = None;
        for _ in 0..setup.rounds {
            ours.push(hawk_round(setup, depth)?);
            if let Ok(redis) = &redis {
                let requests = match requests {
                    Some(requests) => requests,
                    None => *requests.insert(requests_for(setup, redis, depth)?),
                };
                theirs.push(redis_round(setup, redis, depth, requests)?);
            }
        }
        let ratios = ours
            .iter()
            .zip(&theirs)
            .map(|(a, b)| a.per_second / b.per_second);
        let ratios: Vec<f64> = ratios.collect();
        outcomes.push(Outcome {
            depth,
            ratio: (!ratios.is_empty()).then(|| Spread::of(ratios)),
            hawk: figures(&ours),
            redis: (!theirs.is_empty()).then(|| figures(&theirs)),
            target,
        });
    }
    print(&outcomes);
    Ok(outcomes)
}

fn hawk_round(setup: &Setup, depth: u32) -> anyhow::Result<Round> {
    measure(contestants::hawk(setup)?, |server| {
        let depth = depth.to_string();
        let arguments = ["--saturate", "--connections", "50", "--depth", &depth];
        load::hawk_load(setup, server, &arguments, setup.duration, || Ok(()))
    })
}

fn redis_round(setup: &Setup, redis: &Redis, depth: u32, requests: u64) -> anyhow::Result<Round> {
    measure(redis.start(setup)?, |server| {
        load::redis_load(setup, server, depth, requests)
    })
}

/// How many requests keep Redis busy for about as long as hawk is: its client
/// takes a number, not a time.
fn requests_for(setup: &Setup, redis: &Redis, depth: u32) -> anyhow::Result<u64> {
    let server = redis.start(setup)?;
    let trial = load::redis_load(setup, &server, depth, 50_000 * u64::from(depth.min(16)))?;
    let requests = trial.per_second * setup.duration.as_secs_f64();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive, below 2^53
    Ok(requests as u64)
}

/// Server CPU time is taken over the whole load, connecting included.
fn measure(
    server: Server,
    load: impl FnOnce(&Server) -> anyhow::Result<Replied>,
) -> anyhow::Result<Round> {
    let before = process::cpu_time(server.process.id())?;
    let replied = load(&server)?;
    if replied.errors > 0.0 {
        say!("\n{} replies were wrong or missing", replied.errors);
    }
    if let Some(bottleneck) = &replied.bottleneck {
        say!("\nthe client says: {bottleneck}");
    }
    let cpu: Duration = process::cpu_time(server.process.id())? - before;
    drop(server);
    Ok(Round {
        per_second: replied.per_second,
        cpu_ns_per_frame: cpu.as_secs_f64() * 1e9 / replied.replies,
    })
}

fn figures(rounds: &[Round]) -> Figures {
    Figures {
        per_second: Spread::of(rounds.iter().map(|round| round.per_second)),
        cpu_ns_per_frame: Spread::of(rounds.iter().map(|round| round.cpu_ns_per_frame)),
        cpu_share: Spread::of(
            rounds
                .iter()
                .map(|round| round.cpu_ns_per_frame * 1e-9 * round.per_second),
        ),
    }
}

fn print(outcomes: &[Outcome]) {
    say!("\n### Saturated: 50 connections, hawk and Redis PING\n");
    say!("| in flight | hawk, 1000/s | Redis, 1000/s | hawk / Redis | target | |");
    say!("|---|---|---|---|---|---|");
    for outcome in outcomes {
        let Outcome { depth, target, .. } = outcome;
        let rate = outcome.hawk.per_second.scaled(1e-3);
        if let (Some(redis), Some(ratio)) = (&outcome.redis, outcome.ratio) {
            let met = met(ratio.median >= *target);
            let theirs = redis.per_second.scaled(1e-3);
            say!("| {depth} | {rate:.0} | {theirs:.0} | {ratio:.2} | ≥ {target:.1} | {met} |");
        } else {
            say!("| {depth} | {rate:.0} | skipped | | ≥ {target:.1} | |");
        }
    }
    say!("\n| in flight | server | CPU, ns per frame | CPU, % of its core |");
    say!("|---|---|---|---|");
    for Outcome {
        depth, hawk, redis, ..
    } in outcomes
    {
        let servers = [("hawk", Some(hawk)), ("Redis", redis.as_ref())];
        for (name, figures) in servers {
            let Some(figures) = figures else { continue };
            let share = figures.cpu_share.scaled(100.0);
            say!(
                "| {depth} | {name} | {:.0} | {share:.0} |",
                figures.cpu_ns_per_frame
            );
        }
    }
}
