//! As many frames as go through: hawk against Redis, each with its own client,
//! 50 connections and the same number of frames in flight on each.

use serde::Serialize;

use crate::NO_STORE;
use crate::support::redis::Redis;
use crate::support::spread::{Spread, met};
use crate::support::turn::{Figures, Turn, ratio};
use crate::support::{Setup, load, say, servers};

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

/// Redis keeps nothing either.
const SETTINGS: &[&str] = &["--save", "", "--appendonly", "no"];
const REQUEST: &[&str] = &["-t", "ping_mbulk"];

pub(crate) fn run(setup: &Setup) -> anyhow::Result<Vec<Outcome>> {
    let redis = Redis::find(SETTINGS, REQUEST);
    if let Err(missing) = &redis {
        say!("\nskipped: {missing}");
    }
    let mut outcomes = Vec::new();
    for (depth, target) in TARGETS {
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        let mut requests = None;
        for _ in 0..setup.rounds {
            ours.push(hawk_turn(setup, depth)?);
            if let Ok(redis) = &redis {
                let requests = match requests {
                    Some(requests) => requests,
                    None => *requests.insert(redis.requests(setup, &setup.scratch, depth)?),
                };
                let server = redis.start(setup, &setup.scratch)?;
                let load = |server: &_| redis.load(setup, server, depth, requests);
                theirs.push(Turn::of(server, load)?);
            }
        }
        outcomes.push(Outcome {
            depth,
            hawk: Figures::of(&ours),
            redis: Figures::of_any(&theirs),
            ratio: ratio(&ours, &theirs),
            target,
        });
    }
    print(&outcomes);
    Ok(outcomes)
}

fn hawk_turn(setup: &Setup, depth: u32) -> anyhow::Result<Turn> {
    Turn::of(servers::hawk(setup, NO_STORE)?, |server| {
        let depth = depth.to_string();
        let arguments = ["--saturate", "--connections", "50", "--depth", &depth];
        load::hawk_load(setup, server, &arguments, setup.duration, || Ok(()))
    })
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
