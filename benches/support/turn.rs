//! A contestant's turns, and what comes of them.

use std::time::Duration;

use serde::Serialize;

use super::load::Replied;
use super::process;
use super::say;
use super::servers::Server;
use super::spread::Spread;

/// One turn of one contestant.
pub(crate) struct Turn {
    pub(crate) per_second: f64,
    cpu_ns_per_frame: f64,
}

/// What it did in all its turns.
#[derive(Serialize)]
pub(crate) struct Figures {
    pub(crate) per_second: Spread,
    pub(crate) cpu_ns_per_frame: Spread,
    /// Of one core: well below 1, something else than the server set the pace,
    /// if it has but one thread.
    pub(crate) cpu_share: Spread,
}

impl Turn {
    /// Puts `load` on `server`. The server's CPU time is taken over the whole
    /// load, connecting included.
    pub(crate) fn of(
        server: Server,
        load: impl FnOnce(&Server) -> anyhow::Result<Replied>,
    ) -> anyhow::Result<Self> {
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
        Ok(Self {
            per_second: replied.per_second,
            cpu_ns_per_frame: cpu.as_secs_f64() * 1e9 / replied.replies,
        })
    }
}

impl Figures {
    /// Of at least one turn.
    pub(crate) fn of(turns: &[Turn]) -> Self {
        let share = |turn: &Turn| turn.cpu_ns_per_frame * 1e-9 * turn.per_second;
        Self {
            per_second: Spread::of(turns.iter().map(|turn| turn.per_second)),
            cpu_ns_per_frame: Spread::of(turns.iter().map(|turn| turn.cpu_ns_per_frame)),
            cpu_share: Spread::of(turns.iter().map(share)),
        }
    }

    /// As [`of`](Self::of), if there are any.
    pub(crate) fn of_any(turns: &[Turn]) -> Option<Self> {
        (!turns.is_empty()).then(|| Self::of(turns))
    }
}

/// Our rate by theirs, round by round, if they had any.
pub(crate) fn ratio(ours: &[Turn], theirs: &[Turn]) -> Option<Spread> {
    let rounds = ours.iter().zip(theirs);
    let ratios: Vec<f64> = rounds.map(|(a, b)| a.per_second / b.per_second).collect();
    (!ratios.is_empty()).then(|| Spread::of(ratios))
}
