//! A contestant's turns, and what comes of them.

use serde::Serialize;

use super::load::Replied;
use super::note;
use super::process;
use super::servers::Server;
use super::spread::Spread;

/// One turn of one contestant.
pub struct Turn {
    pub per_second: f64,
    pub cpu_ns_per_frame: f64,
    p99: f64,
    /// Most memory that the server had resident, in bytes.
    resident: f64,
    client_share: f64,
    errors: f64,
}

/// What it did in all its turns.
#[derive(Serialize)]
pub struct Figures {
    pub per_second: Spread,
    pub cpu_ns_per_frame: Spread,
    /// Of one core: well below 1, something else than the server set the pace,
    /// if it has but one thread.
    pub cpu_share: Spread,
    /// The load client's, of one core: near 1, the client set the pace.
    pub client_share: Spread,
    pub p99_seconds: Spread,
    /// The most that the server had resident in a turn.
    pub resident_bytes: Spread,
    /// Replies in a turn that were wrong or missing.
    pub errors: Spread,
}

impl Turn {
    /// Puts `load` on `server`. Where the client does not say when connecting was over,
    /// the server's CPU time is taken over the whole load.
    #[allow(clippy::cast_precision_loss)] // bytes of memory are far below 2^53
    pub fn of(
        server: Server,
        load: impl FnOnce(&Server) -> anyhow::Result<Replied>,
    ) -> anyhow::Result<Self> {
        let id = server.process.id();
        let before = process::cpu_time(id)?;
        let replied = load(&server)?;
        if replied.errors > 0.0 {
            note!("{} replies were wrong or missing", replied.errors);
        }
        if let Some(bottleneck) = &replied.bottleneck {
            note!("the client says: {bottleneck}");
        }
        let cpu = match replied.server_cpu {
            Some(cpu) => cpu,
            None => process::cpu_time(id)? - before,
        };
        let resident = process::memory(id, "VmHWM")? as f64;
        drop(server);
        Ok(Self {
            per_second: replied.per_second,
            cpu_ns_per_frame: cpu.as_secs_f64() * 1e9 / replied.replies,
            p99: replied.p99,
            resident,
            client_share: replied.client_share,
            errors: replied.errors,
        })
    }
}

impl Figures {
    /// Of at least one turn.
    pub fn of(turns: &[Turn]) -> Self {
        let share = |turn: &Turn| turn.cpu_ns_per_frame * 1e-9 * turn.per_second;
        Self {
            per_second: Spread::of(turns.iter().map(|turn| turn.per_second)),
            cpu_ns_per_frame: Spread::of(turns.iter().map(|turn| turn.cpu_ns_per_frame)),
            cpu_share: Spread::of(turns.iter().map(share)),
            client_share: Spread::of(turns.iter().map(|turn| turn.client_share)),
            p99_seconds: Spread::of(turns.iter().map(|turn| turn.p99)),
            resident_bytes: Spread::of(turns.iter().map(|turn| turn.resident)),
            errors: Spread::of(turns.iter().map(|turn| turn.errors)),
        }
    }

    /// As [`of`](Self::of), if there are any.
    pub fn of_any(turns: &[Turn]) -> Option<Self> {
        (!turns.is_empty()).then(|| Self::of(turns))
    }
}

/// Our rate by theirs, round by round, if they had any.
pub fn ratio(ours: &[Turn], theirs: &[Turn]) -> Option<Spread> {
    ratio_of(ours, theirs, |turn| turn.per_second)
}

/// Our CPU time per frame by theirs, round by round, if they had any.
pub fn cpu_ratio(ours: &[Turn], theirs: &[Turn]) -> Option<Spread> {
    ratio_of(ours, theirs, |turn| turn.cpu_ns_per_frame)
}

fn ratio_of(ours: &[Turn], theirs: &[Turn], figure: fn(&Turn) -> f64) -> Option<Spread> {
    let rounds = ours.iter().zip(theirs);
    let ratios: Vec<f64> = rounds.map(|(a, b)| figure(a) / figure(b)).collect();
    (!ratios.is_empty()).then(|| Spread::of(ratios))
}
