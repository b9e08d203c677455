//! The mutants: small deliberate faults, each of which the simulator must find.

mod handover;
mod serving;
mod worlds;

/// One small fault.
pub struct Mutant {
    /// What is wrong with it.
    pub name: &'static str,
    /// The file, from the repository's root.
    pub file: &'static str,
    /// What stands there, exactly once.
    pub original: &'static str,
    pub change: Change,
    /// The worlds that must find it.
    pub world: World,
}

impl Mutant {
    const fn found_by(self, world: World) -> Self {
        Self { world, ..self }
    }
}

/// A kind of simulated world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// The event loop on a simulated machine (`tests/sim`).
    EventLoop,
    /// Dishonest agents, clocks and files (`tests/worlds`).
    Dishonest,
    /// Notification queues (`tests/worlds`).
    Notified,
}

impl World {
    pub const ALL: [Self; 3] = [Self::EventLoop, Self::Dishonest, Self::Notified];

    /// The test program and the test that runs such worlds until one breaks.
    pub const fn test(self) -> (&'static str, &'static str) {
        match self {
            Self::EventLoop => ("sim", "run::sim"),
            Self::Dishonest => ("worlds", "dishonest::sim"),
            Self::Notified => ("worlds", "notified::sim"),
        }
    }

    /// Steps within which each mutant must be found.
    pub const fn steps(self) -> u64 {
        match self {
            Self::EventLoop | Self::Notified => 1_000_000,
            Self::Dishonest => 150_000,
        }
    }
}

/// The replacement. `MUTANT` is true while this mutant runs.
pub enum Change {
    /// Another expression.
    Expression(&'static str),
    /// Other statements.
    Statement(&'static str),
    /// This text, which asks itself.
    Text(&'static str),
}

const fn mutant(
    name: &'static str,
    file: &'static str,
    original: &'static str,
    change: Change,
) -> Mutant {
    Mutant {
        name,
        file,
        original,
        change,
        world: World::EventLoop,
    }
}

/// All of them.
pub fn mutants() -> impl Iterator<Item = &'static Mutant> {
    let event_loop = serving::MUTANTS.iter().chain(handover::MUTANTS);
    event_loop.chain(worlds::MUTANTS)
}
