//! The mutants: small deliberate faults, each of which the simulator must find.

mod handover;
mod serving;

/// One small fault.
pub struct Mutant {
    /// What is wrong with it.
    pub name: &'static str,
    /// The file, from the repository's root.
    pub file: &'static str,
    /// What stands there, exactly once.
    pub original: &'static str,
    pub change: Change,
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
    }
}

/// All of them.
pub fn mutants() -> impl Iterator<Item = &'static Mutant> {
    serving::MUTANTS.iter().chain(handover::MUTANTS)
}
