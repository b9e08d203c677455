//! Deadlines for any number of connections at constant cost each.
//!
//! A hashed timing wheel (Varghese and Lauck, 1987): time is cut into ticks, a tick's bucket is
//! a linked list of slots, and setting, moving or removing a deadline changes only a slot's
//! neighbors in the list. The deadline of a busy connection moves with every frame. That costs
//! nothing: an alarm earlier than the deadline stays where it is, and the connection that it
//! wakes sets it again for the real deadline.

use std::time::Duration;

use crate::Moment;

/// Length of a tick: an alarm comes up to this much late, never early. A
/// server with connections in every bucket wakes up some thirty times a second.
pub const TICK: Duration = Duration::from_nanos(TICK_NANOS);
const TICK_NANOS: u64 = 32_000_000;

/// Buckets of the wheel, a power of two. Alarms further ahead than this many
/// ticks (131 s) ring early and are set again: no more than a few times in the
/// life of any timeout that an operator would choose.
const BUCKETS: usize = 4096;

/// No neighbour; no bucket. Slots are numbered from zero, and each stands for a
/// descriptor, of which there are fewer than 2^31.
const NONE: u32 = u32::MAX;

/// In the place of the next neighbour: no alarm is set. An own flag would make an
/// alarm a third longer, and there is one for each connection.
const UNSET: u32 = u32::MAX - 1;

/// Alarms for slots numbered from zero; at most one each.
#[derive(Debug)]
pub struct TimerWheel {
    start: Moment,
    /// The first tick with alarms that have not rung.
    tick: u64,
    heads: Box<[u32]>,
    /// Which buckets have alarms, a bit each.
    occupied: Box<[u64]>,
    alarms: Vec<Alarm>,
}

/// The alarm of one slot, a member of its bucket's doubly linked list.
#[derive(Clone, Copy, Debug)]
struct Alarm {
    next: u32,
    previous: u32,
    /// Tick at which it rings, counted from the wheel's start and cut to 32
    /// bits: alarms are never further apart than the wheel is round.
    tick: u32,
}

/// There is one for each connection.
const _: () = assert!(size_of::<Alarm>() == 12);

impl TimerWheel {
    /// Returns a wheel without alarms. Its time begins at `now`.
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self {
            start: now,
            tick: 0,
            heads: vec![NONE; BUCKETS].into_boxed_slice(),
            occupied: vec![0; BUCKETS / 64].into_boxed_slice(),
            alarms: Vec::new(),
        }
    }

    /// Sets the alarm of `slot` to ring at `deadline`, or up to a tick later. Leaves an alarm
    /// that rings earlier unchanged.
    #[inline]
    pub fn arm(&mut self, slot: u32, deadline: Moment) {
        let tick = self.tick_of(deadline);
        match self.alarms.get(slot as usize) {
            Some(alarm) if alarm.is_set() => {
                if ticks_between(self.tick, alarm.tick) <= tick - self.tick {
                    return;
                }
                self.disarm(slot);
            }
            Some(_) => {}
            None => self.alarms.resize(slot as usize + 1, Alarm::UNSET),
        }
        self.link(slot, tick);
    }

    /// Takes the alarm of `slot` back, if it has one.
    pub fn disarm(&mut self, slot: u32) {
        let Some(&alarm) = self.alarms.get(slot as usize) else {
            return;
        };
        if !alarm.is_set() {
            return;
        }
        let Alarm {
            next,
            previous,
            tick,
        } = alarm;
        self.alarms[slot as usize] = Alarm::UNSET;
        if next != NONE {
            self.alarms[next as usize].previous = previous;
        }
        if previous != NONE {
            self.alarms[previous as usize].next = next;
        } else {
            let bucket = bucket_of(tick);
            self.heads[bucket] = next;
            if next == NONE {
                self.occupied[bucket / 64] &= !(1 << (bucket % 64));
            }
        }
    }

    /// Takes every alarm that is due at `now` and appends its slot to `due`.
    pub fn expire(&mut self, now: Moment, due: &mut Vec<u32>) {
        let present = elapsed_ticks(self.start, now);
        while let Some(ahead) = self.ticks_to_next() {
            if self.tick + ahead >= present {
                break;
            }
            self.tick += ahead;
            let bucket = bucket_of(cut(self.tick));
            while self.heads[bucket] != NONE {
                let slot = self.heads[bucket];
                self.disarm(slot);
                due.push(slot);
            }
            self.tick += 1;
        }
        self.tick = self.tick.max(present);
    }

    /// When [`expire`](Self::expire) is worth calling next.
    pub fn next(&self) -> Option<Moment> {
        self.ticks_to_next()
            .map(|ahead| self.end_of(self.tick + ahead))
    }

    fn link(&mut self, slot: u32, tick: u64) {
        let tick = cut(tick);
        let bucket = bucket_of(tick);
        let next = self.heads[bucket];
        if next != NONE {
            self.alarms[next as usize].previous = slot;
        }
        self.alarms[slot as usize] = Alarm {
            next,
            previous: NONE,
            tick,
        };
        self.heads[bucket] = slot;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
    }

    /// Returns the tick at the end of which an alarm for `deadline` rings, from the current
    /// tick to one revolution of the wheel ahead.
    fn tick_of(&self, deadline: Moment) -> u64 {
        let tick = elapsed_ticks(self.start, deadline);
        tick.clamp(self.tick, self.tick + BUCKETS as u64 - 1)
    }

    /// The moment at which `tick` is over and its alarms are due.
    fn end_of(&self, tick: u64) -> Moment {
        let nanos = (tick + 1).saturating_mul(TICK_NANOS);
        self.start.after(Duration::from_nanos(nanos))
    }

    /// Ticks from the present one to the first with an alarm.
    fn ticks_to_next(&self) -> Option<u64> {
        let words = self.occupied.len();
        let here = bucket_of(cut(self.tick));
        let (word, bit) = (here / 64, here % 64);
        // Once around, the first word twice: its upper bits first, its lower last.
        for step in 0..=words {
            let index = (word + step) % words;
            let mask = match step {
                0 => u64::MAX << bit,
                _ if step == words => !(u64::MAX << bit),
                _ => u64::MAX,
            };
            let set = self.occupied[index] & mask;
            if set != 0 {
                let bucket = index * 64 + set.trailing_zeros() as usize;
                return Some(((bucket + BUCKETS - here) % BUCKETS) as u64);
            }
        }
        None
    }
}

impl Alarm {
    const UNSET: Self = Self {
        next: UNSET,
        previous: NONE,
        tick: 0,
    };

    const fn is_set(self) -> bool {
        self.next != UNSET
    }
}

fn elapsed_ticks(start: Moment, moment: Moment) -> u64 {
    (moment.as_nanos().saturating_sub(start.as_nanos())) / TICK_NANOS
}

fn bucket_of(tick: u32) -> usize {
    tick as usize % BUCKETS
}

/// The lower half of a tick's number: enough to distinguish ticks that are at
/// most a revolution apart.
#[allow(clippy::cast_possible_truncation)]
fn cut(tick: u64) -> u32 {
    tick as u32
}

/// Ticks from `present` to an alarm's tick, which is at most a round ahead.
fn ticks_between(present: u64, alarm: u32) -> u64 {
    u64::from(alarm.wrapping_sub(cut(present)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1_000_000_000_000;

    fn at(milliseconds: u64) -> Moment {
        Moment::from_nanos(START + milliseconds * 1_000_000)
    }

    fn expired(wheel: &mut TimerWheel, now: Moment) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.expire(now, &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn alarms_ring_within_a_tick_and_never_early() {
        let mut wheel = TimerWheel::new(at(0));
        wheel.arm(3, at(1000));
        assert!(expired(&mut wheel, at(999)).is_empty());
        assert_eq!(expired(&mut wheel, at(1000 + 32)), [3]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn the_next_wake_up_finds_the_alarm_due() {
        let mut wheel = TimerWheel::new(at(0));
        for deadline in [0, 1, 31, 32, 33, 5_000, 100_000] {
            wheel.arm(0, at(deadline));
            let wake_up = wheel.next().unwrap();
            assert!(wake_up >= at(deadline));
            assert_eq!(expired(&mut wheel, wake_up), [0], "{deadline}");
        }
    }

    #[test]
    fn an_earlier_deadline_moves_the_alarm_and_a_later_one_does_not() {
        let mut wheel = TimerWheel::new(at(0));
        wheel.arm(0, at(1000));
        wheel.arm(0, at(5000));
        assert_eq!(expired(&mut wheel, at(1100)), [0]);
        wheel.arm(0, at(5000));
        wheel.arm(0, at(2000));
        assert_eq!(expired(&mut wheel, at(2100)), [0]);
        assert!(expired(&mut wheel, at(6000)).is_empty());
    }

    #[test]
    fn a_far_deadline_rings_early_within_the_round() {
        let mut wheel = TimerWheel::new(at(0));
        wheel.arm(0, at(10_000_000));
        assert!(expired(&mut wheel, at(100_000)).is_empty());
        assert_eq!(expired(&mut wheel, at(140_000)), [0]);
    }

    #[test]
    fn a_disarmed_slot_stays_silent_and_its_neighbours_ring() {
        let mut wheel = TimerWheel::new(at(0));
        (0..5).for_each(|slot| wheel.arm(slot, at(100)));
        for slot in [0, 2, 4, 2, 77] {
            wheel.disarm(slot);
        }
        assert_eq!(expired(&mut wheel, at(200)), [1, 3]);
    }

    #[test]
    fn a_late_look_finds_everything_after_a_long_sleep() {
        let mut wheel = TimerWheel::new(at(0));
        wheel.arm(0, at(100));
        wheel.arm(1, at(100_000));
        assert_eq!(expired(&mut wheel, at(90_000_000)), [0, 1]);
        wheel.arm(2, at(0));
        assert_eq!(expired(&mut wheel, at(90_000_100)), [2]);
    }

    proptest! {
        /// Against a map: every alarm rings once, within a tick of its deadline
        /// or of the end of the round, whatever else happens.
        #[test]
        fn agrees_with_a_simple_model(
            steps in prop::collection::vec((0..3_u8, 0..20_u32, 0..300_000_u64), 1..200)
        ) {
            let mut wheel = TimerWheel::new(at(0));
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = 0;
            for (action, slot, span) in steps {
                match action {
                    0 => {
                        wheel.arm(slot, at(now + span));
                        let ring = now + span.min(32 * (BUCKETS as u64 - 1));
                        let armed = model.entry(slot).or_insert(ring);
                        *armed = ring.min(*armed);
                    }
                    1 => {
                        wheel.disarm(slot);
                        model.remove(&slot);
                    }
                    _ => {
                        now += span / 10;
                        for slot in expired(&mut wheel, at(now)) {
                            let ring = model.remove(&slot).expect("rang once");
                            prop_assert!(ring <= now, "early: {ring} at {now}");
                        }
                        for ring in model.values() {
                            prop_assert!(ring + 32 > now, "late: {ring} at {now}");
                        }
                    }
                }
                prop_assert_eq!(wheel.next().is_none(), model.is_empty());
            }
        }
    }
}
