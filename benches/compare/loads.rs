//! The loads of the contestants, and hawk's targets.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::contestants::Contestant;
use hawk_testkit::bench::Setup;
use hawk_testkit::bench::load::{self, Replied};
use hawk_testkit::bench::redis::ClosedLoop;
use hawk_testkit::bench::servers::Server;

/// The parts that `--only` selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Classic reports, 1, 16 and 128 in flight on each of 50 connections
    Classic,
    /// The same in the compact encoding
    Compact,
    /// Heartbeats, 128 in flight
    Heartbeats,
    /// Reports of 64 KiB
    Long,
    /// 5,000 connections with one report in flight on each
    Many,
    /// The original's 2,100 reports a second
    Original,
    /// The memory of an idle connection of hawk
    Idle,
    /// How hawk's cost grows with depth, connections and the length of frames
    Growth,
}

/// One load, for every contestant in turn.
pub(crate) struct Load {
    pub(crate) part: Part,
    /// As a heading.
    pub(crate) title: String,
    pub(crate) traffic: Traffic,
    /// Further options of `hawk load`.
    pub(crate) options: &'static [&'static str],
    /// Contestants for which the load makes no sense.
    pub(crate) without: &'static [Contestant],
    pub(crate) targets: Vec<Target>,
}

#[derive(Clone, Copy)]
pub(crate) enum Traffic {
    /// As fast as replies come.
    Closed(ClosedLoop),
    /// By the clock, and at least for this time.
    Clock(Duration),
}

/// hawk's target against another contestant.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) against: Contestant,
    pub(crate) figure: Figure,
    /// The lower bound of a ratio of rates, the upper bound of a ratio of CPU times.
    pub(crate) ratio: f64,
}

/// The compared quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// Replies a second: more is better.
    Rate,
    /// The server's CPU time per frame: less is better.
    Cpu,
}

impl Target {
    pub(crate) fn is_met(self, ratio: f64) -> bool {
        match self.figure {
            Figure::Rate => ratio >= self.ratio,
            Figure::Cpu => ratio <= self.ratio,
        }
    }
}

/// Content of the longest classic reports with frames below 64 KiB: base64 makes four bytes
/// of three.
const LONG_CONTENT: &str = "49000";

/// Depths, and hawk's targets with classic reports: its rate divided by the goroutine
/// server's, the tokio codec's and Redis', and its CPU time divided by the floor's.
const DEPTHS: [(u32, [f64; 4]); 3] = [
    (1, [3.0, 1.05, 1.25, 1.1]),
    (16, [27.0, 1.15, 1.3, 1.6]),
    (128, [55.0, 1.15, 1.5, 3.0]),
];

/// Most of the goroutine server's CPU time that hawk may need for the original's
/// load.
const ORIGINAL_CPU: f64 = 0.5;

/// Long enough for a figure: the load is small.
const ORIGINAL: Duration = Duration::from_secs(5);

/// The chart shows the depths of this load.
pub(crate) const CHARTED: Part = Part::Classic;

/// Returns all loads of these parts, in the order of their turns.
pub(crate) fn loads(parts: &[Part]) -> Vec<Load> {
    let closed = |connections, depth| Traffic::Closed(ClosedLoop { connections, depth });
    let mut loads = Vec::new();
    for (depth, [goroutine, tokio, redis, floor]) in DEPTHS {
        let target = |against, figure, ratio| Target {
            against,
            figure,
            ratio,
        };
        loads.push(Load {
            part: Part::Classic,
            title: format!("Classic reports, 50 connections, {depth} in flight on each"),
            traffic: closed(50, depth),
            options: &[],
            without: &[],
            targets: vec![
                target(Contestant::Goroutine, Figure::Rate, goroutine),
                target(Contestant::Tokio, Figure::Rate, tokio),
                target(Contestant::Redis, Figure::Rate, redis),
                target(Contestant::Floor, Figure::Cpu, floor),
            ],
        });
    }
    for (depth, _) in DEPTHS {
        loads.push(Load {
            part: Part::Compact,
            title: format!("Compact reports, 50 connections, {depth} in flight on each"),
            traffic: closed(50, depth),
            options: &["--encoding", "compact"],
            // The original has one encoding; a PING has none.
            without: &[Contestant::Goroutine, Contestant::Redis],
            targets: Vec::new(),
        });
    }
    loads.push(Load {
        part: Part::Heartbeats,
        title: "Heartbeats, 50 connections, 128 in flight on each".into(),
        traffic: closed(50, 128),
        options: &["--kind", "heartbeat"],
        without: &[Contestant::Redis],
        targets: Vec::new(),
    });
    loads.push(Load {
        part: Part::Long,
        title: "Reports in frames of 64 KiB, 50 connections, 4 in flight on each".into(),
        traffic: closed(50, 4),
        options: &["--size", LONG_CONTENT],
        without: &[Contestant::Redis],
        targets: Vec::new(),
    });
    loads.push(Load {
        part: Part::Many,
        title: "Classic reports, 5,000 connections, one in flight on each".into(),
        traffic: closed(5_000, 1),
        options: &[],
        without: &[],
        targets: Vec::new(),
    });
    loads.push(Load {
        part: Part::Original,
        title: "The original's load: 7 connections × 300 senders × 1 report a second".into(),
        traffic: Traffic::Clock(ORIGINAL),
        options: &[],
        without: &[Contestant::Redis],
        targets: vec![Target {
            against: Contestant::Goroutine,
            figure: Figure::Cpu,
            ratio: ORIGINAL_CPU,
        }],
    });
    loads.retain(|load| parts.contains(&load.part));
    loads
}

/// Runs a closed loop against a server of hawk's protocol.
pub(crate) fn hawk_load(
    setup: &Setup,
    server: &Server,
    closed: ClosedLoop,
    options: &[&str],
) -> anyhow::Result<Replied> {
    let connections = closed.connections.to_string();
    let depth = closed.depth.to_string();
    let mut arguments = vec!["--saturate", "--connections", &connections];
    arguments.extend(["--depth", &depth]);
    arguments.extend(options);
    load::hawk_load(setup, server, &arguments, setup.duration, || Ok(()))
}
