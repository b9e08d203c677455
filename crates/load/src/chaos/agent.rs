//! One agent: its lives, and the waits between them.

use std::time::Duration;

use mio::event::Event;
use mio::{Interest, Registry, Token};
use rand::rngs::StdRng;
use rand::{Rng, RngExt as _, SeedableRng as _};

use super::Setting;
use super::life::{End, Life};
use super::script::{Origin, Reading, Script};
use super::{Ending, Totals};
use crate::dial::ReceiveBuffer;
use hawk_time::Moment;

/// An agent that misbehaves, life after life.
#[derive(Debug)]
pub(super) struct Agent {
    number: u32,
    lives: u64,
    backoff: Backoff,
    random: StdRng,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No connection until then.
    Waiting(Moment),
    Living(Box<Life>),
    /// It is over.
    Done,
}

impl Agent {
    /// Creates an agent that begins its first life at once.
    pub(super) fn new(number: u32, seed: u64, now: Moment) -> Self {
        Self {
            number,
            lives: 0,
            backoff: Backoff::default(),
            random: StdRng::seed_from_u64(seed.wrapping_add(u64::from(number))),
            state: State::Waiting(now),
        }
    }

    pub(super) const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Returns when to call [`resume`](Self::resume) without an event.
    pub(super) fn wake(&self) -> Option<Moment> {
        match &self.state {
            State::Waiting(until) => Some(*until),
            State::Living(life) => Some(life.wake()),
            State::Done => None,
        }
    }

    /// Proceeds as far as it can without blocking. In a `hurry` only the first life begins.
    pub(super) fn resume(
        &mut self,
        world: &mut World<'_>,
        event: Option<&Event>,
        now: Moment,
        hurry: bool,
    ) {
        match &mut self.state {
            State::Waiting(_) if hurry && self.lives > 0 => self.state = State::Done,
            State::Waiting(until) if !hurry && now < *until => {}
            State::Waiting(_) => self.begin(world, now),
            State::Living(life) => {
                if let Some(end) = life.resume(now, event, hurry) {
                    self.end(world, end, now, hurry);
                }
            }
            State::Done => {}
        }
    }

    /// Ends it, whatever it is at.
    pub(super) fn end_now(&mut self, world: &mut World<'_>, now: Moment) {
        self.end(world, End::Fair(Ending::Unfinished), now, true);
    }

    fn begin(&mut self, world: &mut World<'_>, now: Moment) {
        let setting = world.setting;
        let script = Script::draw(
            Origin {
                seed: setting.chaos.seed,
                agent: self.number,
                life: self.lives,
            },
            setting.content,
        );
        self.lives += 1;
        let counts = world.totals.of(script.conduct);
        counts.lives += 1;
        let buffer = match script.reading {
            Reading::All => ReceiveBuffer::Usual,
            Reading::Nothing | Reading::Sips(_) => ReceiveBuffer::Least,
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        let number = self.number as usize;
        let opened = setting
            .dialler
            .connect(setting.first + number, buffer)
            .and_then(|mut stream| {
                let registered = world
                    .registry
                    .register(&mut stream, Token(number), interest);
                registered.map(|()| stream)
            });
        self.state = match opened {
            Ok(stream) => {
                let life = Life::new(stream, script, setting.patience, now);
                State::Living(Box::new(life))
            }
            Err(_) => {
                counts.end(Ending::NotMade);
                State::Waiting(now.after(self.backoff.next(&mut self.random)))
            }
        };
    }

    fn end(&mut self, world: &mut World<'_>, end: End, now: Moment, hurry: bool) {
        let State::Living(life) = std::mem::replace(&mut self.state, State::Done) else {
            return;
        };
        let conduct = life.script.conduct;
        let counts = world.totals.of(conduct);
        counts.bytes_sent += life.sent as u64;
        counts.lines += life.lines();
        match end {
            End::Fair(ending) => counts.end(ending),
            End::Breach(breach) => {
                counts.wronged += 1;
                let (fault, cause, count) = breach.told();
                let conduct = conduct.name();
                let cause = format!("{cause}, on a chaotic connection ({conduct})");
                world.totals.faults.add(fault, &cause, count);
            }
        }
        if life.was_taken() {
            self.backoff.succeeded();
        }
        if !hurry {
            self.state = State::Waiting(now.after(self.backoff.next(&mut self.random)));
        }
    }
}

/// What all agents share.
pub(super) struct World<'a> {
    pub(super) setting: &'a Setting,
    pub(super) registry: &'a Registry,
    pub(super) totals: &'a mut Totals,
}

/// How long an agent waits before it connects again: full jitter, as `docs/agents.md` requires.
/// Waits grow with each failure.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

/// The shortest wait. Never zero: agents that come back at once are a storm.
const LEAST: Duration = Duration::from_millis(100);

/// The longest wait before the first attempt anew, doubled by each failure.
const FIRST: Duration = Duration::from_secs(1);

/// The longest wait of all.
const MOST: Duration = Duration::from_secs(60);

impl Backoff {
    /// How long to wait now, drawn evenly over the whole span.
    pub(super) fn next(&mut self, random: &mut impl Rng) -> Duration {
        // The exponent is bounded, so that the power cannot overflow.
        let longest = FIRST * 2_u32.pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        random.random_range(LEAST..=longest.min(MOST))
    }

    /// The server took us.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn waits_spread_over_a_span_that_grows_and_has_an_end() {
        let mut random = StdRng::seed_from_u64(1);
        let mut longest = [Duration::ZERO; 100];
        for _ in 0..200 {
            let mut backoff = Backoff::default();
            for (failures, longest) in longest.iter_mut().enumerate() {
                let wait = backoff.next(&mut random);
                let span = Duration::from_secs(1 << failures.min(6)).min(MOST);
                assert!((LEAST..=span).contains(&wait), "{failures}: {wait:?}");
                *longest = wait.max(*longest);
            }
            backoff.succeeded();
            assert!(backoff.next(&mut random) <= FIRST);
        }
        // Of 200 draws one is in the last third: all but surely.
        assert!(longest[0] > FIRST * 2 / 3 && longest[99] > MOST * 2 / 3);
    }
}
