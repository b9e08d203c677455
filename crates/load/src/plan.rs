//! The schedule of the open loop: which sender's frame is due when.
//!
//! Moments come in as arguments. Every sender keeps to a grid of its own, so
//! that a late frame does not put off those behind it, and a run of a given
//! length has the same number of frames on a slow machine and on a fast one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU64;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::SmallRng;

use hawk_time::Moment;
use hawk_wire::PacketKind;

/// A frame that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Since when.
    pub(super) intended: Moment,
    /// On which connection.
    pub(super) connection: usize,
    /// What it carries.
    pub(super) kind: PacketKind,
}

/// All senders, ordered by what is due next.
#[derive(Debug)]
pub(super) struct Plan {
    random: SmallRng,
    queue: BinaryHeap<Reverse<(Moment, u32)>>,
    senders: Vec<Sender>,
    ticker: Option<Ticker>,
}

#[derive(Clone, Copy, Debug)]
struct Sender {
    connection: u32,
    kind: PacketKind,
    interval: Duration,
}

/// Points of an interval at which a sender's first frame may be due. Senders
/// that share one are served in one turn of the loop: with the original's 2,100
/// senders a second this spares more than half of the turns, each of which costs
/// many times what a frame does, on a machine that the server may share.
const PHASES: u32 = 1000;

/// Reports evenly in time, the connections taking turns.
#[derive(Debug)]
struct Ticker {
    start: Moment,
    rate: NonZeroU64,
    ticks: u64,
    connections: Vec<u32>,
}

impl Plan {
    /// Creates a plan without senders.
    pub(super) fn new() -> Self {
        Self {
            random: rand::make_rng(),
            queue: BinaryHeap::new(),
            senders: Vec::new(),
            ticker: None,
        }
    }

    /// From `start` on, sends a packet of this kind on this connection once per
    /// `interval`, at a random one of [`PHASES`] points of it.
    pub(super) fn add_sender(
        &mut self,
        connection: usize,
        kind: PacketKind,
        interval: Duration,
        start: Moment,
    ) {
        let phase = interval / PHASES * self.random.random_range(1..=PHASES);
        self.add(connection, kind, interval, start.after(phase));
    }

    /// The same, the first packet just an `interval` after `start`.
    pub(super) fn add_in_step(
        &mut self,
        connection: usize,
        kind: PacketKind,
        interval: Duration,
        start: Moment,
    ) {
        self.add(connection, kind, interval, start.after(interval));
    }

    fn add(&mut self, connection: usize, kind: PacketKind, interval: Duration, first: Moment) {
        let Ok(connection) = u32::try_from(connection) else {
            return;
        };
        let Ok(sender) = u32::try_from(self.senders.len()) else {
            return;
        };
        self.senders.push(Sender {
            connection,
            kind,
            interval,
        });
        self.queue.push(Reverse((first, sender)));
    }

    /// From `start` on, sends `rate` reports a second, these connections taking
    /// turns.
    pub(super) fn set_ticker(&mut self, rate: NonZeroU64, connections: Vec<u32>, start: Moment) {
        self.ticker = Some(Ticker {
            start,
            rate,
            ticks: 0,
            connections,
        });
    }

    /// When the next frame is due.
    pub(super) fn next_due(&self) -> Option<Moment> {
        let sender = self.queue.peek().map(|Reverse((moment, _))| *moment);
        let tick = self.ticker.as_ref().map(Ticker::next);
        match (sender, tick) {
            (Some(sender), Some(tick)) => Some(sender.min(tick)),
            (sender, tick) => sender.or(tick),
        }
    }

    /// The next frame that was due by `now`. What belongs to a connection that
    /// is not open any more is passed over, for good.
    pub(super) fn pop_due(&mut self, now: Moment, is_open: impl Fn(usize) -> bool) -> Option<Due> {
        loop {
            let moment = self.next_due().filter(|moment| *moment <= now)?;
            let due = match &mut self.ticker {
                Some(ticker) if ticker.next() == moment => ticker.take_turn(&is_open),
                _ => self.pop_sender(&is_open),
            };
            if due.is_some() {
                return due;
            }
            if self
                .ticker
                .as_ref()
                .is_some_and(|it| it.connections.is_empty())
            {
                self.ticker = None;
            }
        }
    }

    fn pop_sender(&mut self, is_open: impl Fn(usize) -> bool) -> Option<Due> {
        let mut next = self.queue.peek_mut()?;
        let Reverse((intended, index)) = *next;
        let sender = self.senders[index as usize];
        let connection = sender.connection as usize;
        if !is_open(connection) {
            std::collections::binary_heap::PeekMut::pop(next);
            return None;
        }
        // Changing the top in place sifts once, where pop and push sift twice.
        *next = Reverse((intended.after(sender.interval), index));
        Some(Due {
            intended,
            connection,
            kind: sender.kind,
        })
    }
}

impl Ticker {
    fn next(&self) -> Moment {
        let nanoseconds =
            (u128::from(self.ticks) + 1) * 1_000_000_000 / u128::from(self.rate.get());
        let span = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.start.after(span)
    }

    fn take_turn(&mut self, is_open: impl Fn(usize) -> bool) -> Option<Due> {
        let intended = self.next();
        while !self.connections.is_empty() {
            let turn = usize::try_from(self.ticks).unwrap_or(0) % self.connections.len();
            let connection = self.connections[turn] as usize;
            if is_open(connection) {
                self.ticks += 1;
                return Some(Due {
                    intended,
                    connection,
                    kind: PacketKind::Report,
                });
            }
            self.connections.swap_remove(turn);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment::from_nanos(1_000);

    fn all_until(plan: &mut Plan, end: Moment) -> Vec<Due> {
        std::iter::from_fn(|| plan.pop_due(end, |_| true)).collect()
    }

    #[test]
    fn the_original_demo_is_21_035_frames_in_10_s() {
        let mut plan = Plan::new();
        for connection in 0..7 {
            for _ in 0..300 {
                plan.add_sender(
                    connection,
                    PacketKind::Report,
                    Duration::from_secs(1),
                    START,
                );
            }
            plan.add_sender(
                connection,
                PacketKind::Heartbeat,
                Duration::from_secs(2),
                START,
            );
        }
        let end = START.after(Duration::from_secs(10));
        let due = all_until(&mut plan, end);
        let reports = due.iter().filter(|due| due.kind == PacketKind::Report);
        assert_eq!((due.len(), reports.count()), (21_035, 21_000));
        assert!(due.is_sorted_by_key(|due| due.intended));
        assert!(
            due.iter()
                .all(|due| START < due.intended && due.intended <= end)
        );
        assert!(plan.next_due().unwrap() > end);

        // Spread over the second: each tenth has about 210 of the 2,100 senders.
        // Six deviations of that are 82.
        let mut tenths = [0_i32; 10];
        for due in due.iter().filter(|due| due.kind == PacketKind::Report) {
            let offset = due.intended.since(START).subsec_nanos();
            tenths[(offset / 100_000_000) as usize] += 1;
        }
        for tenth in tenths {
            assert!((tenth / 10 - 210).abs() < 85, "{tenths:?}");
        }
    }

    #[test]
    fn a_rate_is_kept_to_the_frame_and_shared_out_evenly() {
        for rate in [1, 3, 777, 1_000_003] {
            let mut plan = Plan::new();
            plan.set_ticker(NonZeroU64::new(rate).unwrap(), vec![0, 1, 2], START);
            let due = all_until(&mut plan, START.after(Duration::from_secs(2)));
            assert_eq!(due.len() as u64, 2 * rate);
            assert!(due.is_sorted_by_key(|due| due.intended));
            for connection in 0..3 {
                let share = due
                    .iter()
                    .filter(|due| due.connection == connection)
                    .count();
                assert!(share.abs_diff(due.len() / 3) <= 1);
            }
        }
    }

    #[test]
    fn a_sender_in_step_begins_an_interval_later() {
        let mut plan = Plan::new();
        let interval = Duration::from_secs(7);
        plan.add_in_step(3, PacketKind::Heartbeat, interval, START);
        let first = START.after(interval);
        let just_before = Moment::from_nanos(first.as_nanos() - 1);
        assert_eq!(all_until(&mut plan, just_before), []);
        let second = first.after(interval);
        let due = all_until(&mut plan, second);
        let moments: Vec<_> = due.iter().map(|due| due.intended).collect();
        assert_eq!(moments, [first, second]);
    }

    #[test]
    fn a_late_frame_does_not_put_off_the_next() {
        let mut plan = Plan::new();
        plan.add_sender(0, PacketKind::Report, Duration::from_secs(1), START);
        let first = plan.next_due().unwrap();
        let late = first.after(Duration::from_millis(900));
        assert_eq!(plan.pop_due(late, |_| true).unwrap().intended, first);
        assert_eq!(plan.next_due(), Some(first.after(Duration::from_secs(1))));
    }

    #[test]
    fn closed_connections_drop_out_and_a_rate_goes_to_the_others() {
        let mut plan = Plan::new();
        plan.add_sender(0, PacketKind::Heartbeat, Duration::from_secs(1), START);
        plan.set_ticker(NonZeroU64::new(100).unwrap(), vec![0, 1], START);
        let end = START.after(Duration::from_secs(1));
        let due: Vec<_> = std::iter::from_fn(|| plan.pop_due(end, |it| it == 1)).collect();
        assert_eq!(due.len(), 100);
        assert!(due.iter().all(|due| due.connection == 1));
        assert_eq!(plan.pop_due(Moment::from_nanos(u64::MAX), |_| false), None);
        assert_eq!(plan.next_due(), None);
    }
}
