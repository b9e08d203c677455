//! What the kinds of simulated world share: random numbers, counts of events, and the loop
//! that runs one world after the other.
//!
//! This module depends only on the standard library and `rustix`, since `tests/mutants`
//! compiles it without the rest of the crate.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// A generator of random numbers: SplitMix64 (Steele, Lea and Flood, 2014). Equal seeds give
/// equal numbers on every machine and in every version, so that a seed replays its world.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.below_u64(end as u64)).unwrap()
    }

    pub fn below_u64(&mut self, end: u64) -> u64 {
        let product = u128::from(self.roll()) * u128::from(end);
        u64::try_from(product >> 64).unwrap()
    }

    /// Returns a number from `least` to `most`, both included.
    pub fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    /// Returns true with a probability of 1 in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below_u64(times) == 0
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A kind of event that worlds count. [`events!`](crate::events) implements it.
pub trait Event: Copy + Debug + PartialEq + 'static {
    const ALL: &'static [Self];

    fn index(self) -> usize;

    /// Whether the event is a step, an input that the world chose, as opposed to an
    /// observation.
    fn is_step(self) -> bool;
}

/// Declares an enumeration of events: first the steps, then the observations.
#[macro_export]
macro_rules! events {
    (steps: $($step:ident),* ; observations: $($seen:ident),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($step,)*
            $($seen,)*
        }

        impl $crate::worlds::Event for Event {
            const ALL: &'static [Self] = &[$(Self::$step,)* $(Self::$seen),*];

            fn index(self) -> usize {
                self as usize
            }

            fn is_step(self) -> bool {
                const STEPS: usize = [$(stringify!($step)),*].len();
                (self as usize) < STEPS
            }
        }
    };
}

/// How often each kind of event occurred.
#[derive(Clone, Debug)]
pub struct Counts<E> {
    /// By [`Event::index`].
    events: Vec<u64>,
    steps: u64,
    kind: std::marker::PhantomData<E>,
}

impl<E: Event> Default for Counts<E> {
    fn default() -> Self {
        Self {
            events: vec![0; E::ALL.len()],
            steps: 0,
            kind: std::marker::PhantomData,
        }
    }
}

impl<E: Event> Counts<E> {
    pub fn saw(&mut self, event: E) {
        self.events[event.index()] += 1;
        self.steps += u64::from(event.is_step());
    }

    /// Adds `count` observations of `event`.
    pub fn observe(&mut self, event: E, count: u64) {
        self.events[event.index()] += count;
    }

    pub fn of(&self, event: E) -> u64 {
        self.events[event.index()]
    }

    /// Returns the events that never occurred.
    pub fn missing(&self) -> Vec<E> {
        let all = E::ALL.iter().copied();
        all.filter(|event| self.of(*event) == 0).collect()
    }
}

/// The counts of one world, or the sums over several.
pub trait Tally: Default {
    fn steps(&self) -> u64;
    fn add(&mut self, other: &Self);
    fn print(&self);
}

impl<E: Event> Tally for Counts<E> {
    fn steps(&self) -> u64 {
        self.steps
    }

    fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        for (sum, more) in self.events.iter_mut().zip(&other.events) {
            *sum += more;
        }
    }

    fn print(&self) {
        for event in E::ALL {
            println!("{:>12} {event:?}", self.of(*event));
        }
    }
}

/// A world that broke an invariant.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Steps that the world had taken.
    pub step: u64,
    /// The invariant on the first line, details on the lines after it.
    pub report: String,
}

/// A kind of world.
pub struct Worlds<C> {
    /// Arguments of `cargo test` that select the test which replays a seed.
    pub replay: &'static str,
    /// Runs the world of a seed from its start to its end.
    pub run: fn(u64) -> Result<C, Broken>,
}

impl<C: Tally> Worlds<C> {
    /// Runs worlds, from the seed `first` on, until they have taken `steps` steps or `time`
    /// has passed. Returns the sums of their counts.
    ///
    /// # Panics
    /// If a world breaks an invariant.
    pub fn run_many(&self, first: u64, steps: u64, time: Duration) -> C {
        let (begun, busy) = (Instant::now(), processor_time());
        let mut counts = C::default();
        let mut seed = first;
        while counts.steps() < steps && begun.elapsed() < time {
            match (self.run)(seed) {
                Ok(more) => counts.add(&more),
                Err(broken) => panic!("{}", self.report(seed, counts.steps(), &broken)),
            }
            seed += 1;
        }
        let (last, steps) = (seed - 1, counts.steps());
        println!("seeds {first} to {last}: {steps} steps, no broken invariant");
        let speed = |time: Duration| steps as f64 / time.as_secs_f64();
        let (clock, processor) = (begun.elapsed(), processor_time() - busy);
        println!("{:.0} steps a second", speed(clock));
        println!("{:.0} steps a second of processor time", speed(processor));
        counts.print();
        counts
    }

    /// Runs as many worlds as the environment asks for: `HAWK_SIM_STEPS`, `HAWK_SIM_TIME` in
    /// seconds, `HAWK_SIM_SEED` for the first seed; by default until a world breaks.
    pub fn run_as_asked(&self) -> C {
        let steps = variable("HAWK_SIM_STEPS").unwrap_or(u64::MAX);
        let time = variable("HAWK_SIM_TIME").map_or(Duration::MAX, Duration::from_secs);
        self.run_many(variable("HAWK_SIM_SEED").unwrap_or(1), steps, time)
    }

    /// Runs the world of the seed `HAWK_SIM_SEED`, if that is set.
    ///
    /// # Panics
    /// If the world breaks an invariant.
    pub fn replay(&self) {
        if let Some(seed) = variable("HAWK_SIM_SEED")
            && let Err(broken) = (self.run)(seed)
        {
            panic!("{}", self.report(seed, 0, &broken));
        }
    }

    fn report(&self, seed: u64, steps_before: u64, broken: &Broken) -> String {
        let Broken { step, report } = broken;
        let (what, details) = report.split_once('\n').unwrap_or((report, ""));
        let (all, replay) = (steps_before + step, self.replay);
        let release = if cfg!(debug_assertions) {
            ""
        } else {
            " --release"
        };
        format!(
            "broken: {what}\nseed={seed} step={step} steps_in_all={all}\n{details}\n\
             to replay: HAWK_SIM_SEED={seed} cargo test{release} {replay} -- --nocapture"
        )
    }
}

/// Returns the processor time of this thread: the measure of speed on a machine with other
/// load.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.try_into().unwrap()
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.replace('_', "").parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
