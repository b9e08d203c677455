//! Random sequences of operations, run against a pool and against a model without free lists:
//! it has only the buffers in use.
//!
//! The model can be that simple because free buffers never cause a refusal: a
//! buffer fits if the bytes *in use* leave room for it.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but does not see the helpers of this file as such"
)]

use std::ops::Range;

use hawk_pool::{Buffer, CheckoutError, Config, Pool, Stats, WaitTicket};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_pool_does_as_the_model(
        config in config(),
        operations in prop::collection::vec(operation(), 1..200),
    ) {
        let mut model = Model::new(config);
        for operation in operations {
            model.apply(operation);
            model.compare();
        }
        model.give_everything_back();
        model.compare();
    }
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Checkout {
        at_least: usize,
    },
    Drop {
        which: prop::sample::Index,
    },
    Shrink {
        which: prop::sample::Index,
        from: prop::sample::Index,
        to: prop::sample::Index,
    },
    Wait,
    Redeem,
    Leave {
        which: prop::sample::Index,
    },
    Trim,
}

const LONGEST: usize = 48;

fn config() -> impl Strategy<Value = Config> {
    let classes = prop::collection::btree_set(1..=LONGEST, 1..5);
    (classes, 0..5 * LONGEST).prop_map(|(classes, extra)| {
        let classes: Vec<_> = classes.into_iter().collect();
        let limit = 2 * classes[classes.len() - 1] + extra;
        Config { classes, limit }
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => (0..LONGEST + 4).prop_map(|at_least| Operation::Checkout { at_least }),
        5 => index().prop_map(|which| Operation::Drop { which }),
        4 => (index(), index(), index())
            .prop_map(|(which, from, to)| Operation::Shrink { which, from, to }),
        2 => Just(Operation::Wait),
        3 => Just(Operation::Redeem),
        1 => index().prop_map(|which| Operation::Leave { which }),
        2 => Just(Operation::Trim),
    ]
}

/// A pool, what is out of it, and what its statistics ought to say.
struct Model {
    pool: Pool,
    config: Config,
    held: Vec<Held>,
    tickets: Vec<WaitTicket>,
    checkouts: Vec<u64>,
    refusals: Vec<u64>,
    high_water: Vec<usize>,
    /// The last byte pattern written; each buffer gets one of its own.
    pattern: u8,
}

/// A buffer, and all that should be known about it.
struct Held {
    buffer: Buffer,
    size: usize,
    reserved: bool,
    /// What was written to its front.
    written: Vec<u8>,
}

impl Model {
    fn new(config: Config) -> Model {
        let count = config.classes.len();
        Model {
            pool: Pool::new(&config).unwrap(),
            config,
            held: Vec::new(),
            tickets: Vec::new(),
            checkouts: vec![0; count],
            refusals: vec![0; count],
            high_water: vec![0; count],
            pattern: 0,
        }
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Checkout { at_least } => self.checkout(at_least),
            Operation::Drop { which } => {
                if !self.held.is_empty() {
                    let which = which.index(self.held.len());
                    self.held.swap_remove(which);
                }
            }
            Operation::Shrink { which, from, to } => {
                if !self.held.is_empty() {
                    let held = self.held.swap_remove(which.index(self.held.len()));
                    let (from, to) = (from.index(held.size + 1), to.index(held.size + 1));
                    self.shrink(held, from.min(to)..from.max(to));
                }
            }
            Operation::Wait => self.tickets.push(self.pool.wait()),
            Operation::Redeem => {
                if !self.tickets.is_empty() {
                    self.redeem();
                }
            }
            Operation::Leave { which } => {
                if !self.tickets.is_empty() {
                    drop(self.tickets.remove(which.index(self.tickets.len())));
                }
            }
            Operation::Trim => self.trim(),
        }
    }

    fn checkout(&mut self, at_least: usize) {
        let outcome = self.pool.checkout(at_least);
        let longest = self.longest();
        let Some(class) = self.class_for(at_least) else {
            assert_eq!(
                outcome.unwrap_err(),
                CheckoutError::TooLong { at_least, longest }
            );
            return;
        };
        let size = self.config.classes[class];
        let overtakes = size == longest && !self.tickets.is_empty();
        if self.fits(size) && !overtakes {
            self.hold(outcome.unwrap(), class, false);
        } else {
            assert_eq!(outcome.unwrap_err(), CheckoutError::Exhausted);
            self.refusals[class] += 1;
        }
    }

    fn redeem(&mut self) {
        let outcome = self.tickets.remove(0).redeem();
        let class = self.config.classes.len() - 1;
        if self.fits(self.longest()) {
            self.hold(outcome.unwrap(), class, false);
        } else if !self.held.iter().any(|held| held.reserved) {
            self.hold(outcome.unwrap(), class, true);
        } else {
            self.tickets.insert(0, outcome.unwrap_err());
        }
    }

    fn shrink(&mut self, held: Held, keep: Range<usize>) {
        let class = self.class_for(keep.len()).unwrap();
        let target = self.config.classes[class];
        let stays = target == held.size || held.reserved && !self.fits(target);
        // The bytes behind the written ones are undefined.
        let mut written = held.written;
        let known = keep.start.min(written.len())..keep.end.min(written.len());
        written = written[known].to_vec();

        let buffer = held.buffer.shrink(keep);
        assert_eq!(buffer[..written.len()], written);
        if stays {
            self.held.push(Held {
                buffer,
                written,
                ..held
            });
        } else {
            self.hold(buffer, class, false);
            // Keep what came along, for later steps to compare.
            let last = self.held.last_mut().unwrap();
            last.buffer[..written.len()].copy_from_slice(&written);
            last.written[..written.len()].copy_from_slice(&written);
        }
    }

    fn trim(&mut self) {
        let before = self.pool.stats();
        let released = self.pool.trim();
        let after = self.pool.stats();
        assert_eq!(after.allocated, before.allocated - released);
        for (before, after) in before.classes.iter().zip(&after.classes) {
            assert!(
                after.free >= before.free / 2,
                "trims half, rounded up, at most"
            );
            assert!(after.free > 0 || before.free == 0, "keeps one");
        }
    }

    fn give_everything_back(&mut self) {
        self.held.clear();
        self.tickets.clear();
    }

    /// Takes a buffer into the model and fills it with a pattern of its own.
    fn hold(&mut self, mut buffer: Buffer, class: usize, reserved: bool) {
        self.checkouts[class] += 1;
        self.pattern = self.pattern.wrapping_add(1);
        buffer.fill(self.pattern);
        let size = self.config.classes[class];
        let written = vec![self.pattern; size];
        self.held.push(Held {
            buffer,
            size,
            reserved,
            written,
        });
        let in_use = self.held.iter().filter(|held| held.size == size).count();
        self.high_water[class] = self.high_water[class].max(in_use);
    }

    /// Whether the general budget has room for `size` bytes beside those in use.
    fn fits(&self, size: usize) -> bool {
        let general = self.held.iter().filter(|held| !held.reserved);
        let in_use: usize = general.map(|held| held.size).sum();
        in_use + size <= self.config.limit - self.longest()
    }

    fn class_for(&self, len: usize) -> Option<usize> {
        self.config.classes.iter().position(|&size| size >= len)
    }

    fn longest(&self) -> usize {
        self.config.classes[self.config.classes.len() - 1]
    }

    fn compare(&self) {
        for held in &self.held {
            assert_eq!(held.buffer.len(), held.size);
            // Had two live buffers shared memory, one would show the other's bytes.
            assert_eq!(held.buffer[..held.written.len()], held.written);
        }
        let Stats {
            limit,
            allocated,
            classes,
        } = self.pool.stats();
        assert_eq!(limit, self.config.limit);
        assert!(allocated <= limit);
        let mut bytes = 0;
        for (index, class) in classes.iter().enumerate() {
            let size = self.config.classes[index];
            let in_use = self.held.iter().filter(|held| held.size == size).count();
            let waiters = if size == self.longest() {
                self.tickets.len()
            } else {
                0
            };
            assert_eq!(class.size, size);
            assert_eq!(class.in_use, in_use);
            assert_eq!(class.waiters, waiters);
            assert_eq!(class.checkouts, self.checkouts[index]);
            assert_eq!(class.refusals, self.refusals[index]);
            assert_eq!(class.high_water, self.high_water[index]);
            bytes += size * (class.in_use + class.free);
        }
        assert_eq!(bytes, allocated);
    }
}
