//! What a seed makes of a world.

use std::time::Duration;

use super::agents::Kind;
use hawk_testkit::worlds::Dice;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;
pub const MINUTE: u64 = 60 * SECOND;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;

/// What may happen in a world, one time in so many turns; 0: never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Odds {
    /// The wall clock is set.
    pub steps: u64,
    /// The process stands still.
    pub standstills: u64,
    /// The writer takes its time.
    pub stalls: u64,
    /// The server is stopped or killed, and started again.
    pub restarts: u64,
    /// The store's file is renamed or removed, or a backup is put in its place.
    pub replaced: u64,
    /// Its disk is full for a while.
    pub full: u64,
    /// Another program reads the store in a long transaction.
    pub readers: u64,
    /// Another program shows what is new.
    pub follows: u64,
}

/// How a world is made.
#[derive(Clone, Debug)]
pub struct Plan {
    pub kinds: Vec<Kind>,
    pub odds: Odds,
    /// `--offline-after`, if it is given.
    pub offline_after: Option<u64>,
    pub start_grace: u64,
    /// `--max-agents`.
    pub capacity: usize,
    /// `--retain`.
    pub age: Duration,
    /// `--retain-size`.
    pub size: u64,
    /// Bytes of a report's content, at most.
    pub content: usize,
    /// Time that turns are apart while agents have something to say.
    pub tempo: u64,
}

impl Plan {
    /// Whether nothing in these worlds makes a gap between two heartbeats longer than it is.
    pub fn is_calm(&self) -> bool {
        let Odds {
            standstills,
            stalls,
            restarts,
            ..
        } = self.odds;
        standstills + stalls + restarts == 0
    }

    /// Whether no event of such a world is old enough to expire.
    pub fn keeps_events(&self) -> bool {
        self.odds.steps == 0 && self.age > Duration::from_secs(100 * 86_400)
    }

    pub fn new(dice: &mut Dice) -> Self {
        let period = |dice: &mut Dice| match dice.below(4) {
            0 => dice.below_u64(8 * SECOND) + SECOND,
            1 | 2 => dice.below_u64(MINUTE) + 5 * SECOND,
            _ => dice.below_u64(10 * MINUTE) + MINUTE,
        };
        let floods = dice.one_in(3);
        let mut kinds: Vec<_> = (0..dice.between(1, 10))
            .map(|_| Kind::of(dice.below(8), period(dice), dice))
            .collect();
        if floods {
            kinds.push(Kind::Flood {
                most: *dice.pick(&[3, 30, 200]),
            });
        }
        let honest = kinds.len();
        let odd = |dice: &mut Dice, often: u64| match dice.below(3) {
            0 => often,
            1 => 20 * often,
            _ => 0,
        };
        Self {
            odds: Odds {
                steps: odd(dice, 40),
                standstills: odd(dice, 50),
                stalls: odd(dice, 50),
                restarts: odd(dice, 60),
                replaced: odd(dice, 50),
                full: odd(dice, 60),
                readers: odd(dice, 60),
                follows: odd(dice, 20),
            },
            offline_after: *dice.pick(&[None, None, Some(3 * SECOND), Some(10 * MINUTE)]),
            start_grace: *dice.pick(&[0, SECOND, 90 * SECOND]),
            capacity: if floods { 4 * honest + 16 } else { 1000 },
            age: *dice.pick(&[
                Duration::from_secs(3600),
                Duration::from_secs(86_400),
                Duration::from_secs(366 * 86_400),
            ]),
            size: *dice.pick(&[u64::MAX, 1 << 20, 1 << 18]),
            content: *dice.pick(&[10, 200, 3000]),
            tempo: *dice.pick(&[10 * MS, 200 * MS, 2 * SECOND]),
            kinds,
        }
    }
}
