//! Rounds: in each, every contestant has one turn with a load.

use std::collections::HashMap;

use serde::Serialize;

use crate::contestants::{Contestant, Field, Started};
use crate::loads::{Figure, Load, Part, Target, Traffic, hawk_load};
use hawk_testkit::bench::load::Replied;
use hawk_testkit::bench::redis::ClosedLoop;
use hawk_testkit::bench::servers::Server;
use hawk_testkit::bench::spread::Spread;
use hawk_testkit::bench::turn::{Figures, Turn, cpu_ratio, ratio};
use hawk_testkit::bench::{Setup, load, note};

/// The results of one load.
#[derive(Serialize)]
pub(crate) struct Outcome {
    pub(crate) load: String,
    #[serde(skip)]
    pub(crate) part: Part,
    #[serde(skip)]
    pub(crate) depth: Option<u32>,
    pub(crate) contestants: Vec<Entry>,
    /// hawk, without its store, against each of the others.
    pub(crate) ratios: Vec<Ratios>,
}

#[derive(Serialize)]
pub(crate) struct Entry {
    pub(crate) contestant: Contestant,
    pub(crate) figures: Figures,
}

/// hawk's figures divided by another's, for each round.
#[derive(Serialize)]
pub(crate) struct Ratios {
    pub(crate) against: Contestant,
    pub(crate) rate: Spread,
    pub(crate) cpu: Spread,
    pub(crate) target: Option<Target>,
    pub(crate) is_met: Option<bool>,
}

impl Ratios {
    /// The ratios of the compared figure.
    pub(crate) fn of(&self, figure: Figure) -> Spread {
        match figure {
            Figure::Rate => self.rate,
            Figure::Cpu => self.cpu,
        }
    }
}

pub(crate) fn run(setup: &Setup, field: &Field, load: &Load) -> anyhow::Result<Outcome> {
    note!("{} …", load.title);
    let contestants: Vec<_> = field
        .present()
        .filter(|contestant| !load.without.contains(contestant))
        .collect();
    let mut turns: HashMap<&str, Vec<Turn>> = HashMap::new();
    let mut requests = None;
    for round in 1..=setup.rounds {
        for &contestant in &contestants {
            let Started { server, files } = field.start(setup, contestant)?;
            let turn = Turn::of(server, |server| match (contestant, load.traffic) {
                (Contestant::Redis, Traffic::Closed(closed)) => {
                    redis_load(setup, field, server, closed, &mut requests)
                }
                _ => load_of(setup, server, load),
            })?;
            drop(files);
            note!(
                "  round {round}: {}: {:.0} replies/s, {:.0} ns per frame",
                contestant.name(),
                turn.per_second,
                turn.cpu_ns_per_frame
            );
            turns.entry(contestant.name()).or_default().push(turn);
        }
    }
    let of = |contestant: Contestant| turns.get(contestant.name());
    let ratios = contestants.iter().filter_map(|&against| {
        let (ours, theirs) = (of(Contestant::Hawk)?, of(against)?);
        (against != Contestant::Hawk)
            .then(|| ratios(load, against, ours, theirs))
            .flatten()
    });
    Ok(Outcome {
        load: load.title.clone(),
        part: load.part,
        depth: match load.traffic {
            Traffic::Closed(closed) => Some(closed.depth),
            Traffic::Clock(_) => None,
        },
        ratios: ratios.collect(),
        contestants: contestants
            .iter()
            .filter_map(|&contestant| {
                let figures = Figures::of_any(of(contestant)?)?;
                Some(Entry {
                    contestant,
                    figures,
                })
            })
            .collect(),
    })
}

/// By the clock, hawk's client runs with its defaults.
fn load_of(setup: &Setup, server: &Server, load: &Load) -> anyhow::Result<Replied> {
    match load.traffic {
        Traffic::Closed(closed) => hawk_load(setup, server, closed, load.options),
        Traffic::Clock(least) => {
            let duration = setup.duration.max(least);
            load::hawk_load(setup, server, load.options, duration, || Ok(()))
        }
    }
}

/// With as many requests as fill a turn; the first turn measures their number.
fn redis_load(
    setup: &Setup,
    field: &Field,
    server: &Server,
    closed: ClosedLoop,
    requests: &mut Option<u64>,
) -> anyhow::Result<Replied> {
    let redis = field.redis.as_ref().expect("it has its turn");
    let requests = match *requests {
        Some(requests) => requests,
        None => *requests.insert(redis.requests(setup, &setup.scratch, closed)?),
    };
    redis.load(setup, server, closed, requests)
}

fn ratios(load: &Load, against: Contestant, ours: &[Turn], theirs: &[Turn]) -> Option<Ratios> {
    let (rate, cpu) = (ratio(ours, theirs)?, cpu_ratio(ours, theirs)?);
    let mut ratios = Ratios {
        against,
        rate,
        cpu,
        target: load
            .targets
            .iter()
            .copied()
            .find(|target| target.against == against),
        is_met: None,
    };
    ratios.is_met = ratios
        .target
        .map(|target| target.is_met(ratios.of(target.figure).median));
    Some(ratios)
}
