//! Which frames leave when: by the clock in the open loop, by the slots that become free in
//! the closed one.
//!
//! [`Source`] is the entry. It takes what is due from the [`Plan`] and the bytes from the
//! [`Generator`], or from a [`Ring`] of frames encoded beforehand, and passes both to the fleet.
//! Moments come in as arguments.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::num::NonZeroU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::expectations::Batch;
use super::fleet::Fleet;
use super::{Config, LoadError, Traffic};
use hawk_time::Moment;
use hawk_wire::{Encoding, Heartbeat, MAX_DATA, Packet, PacketKind, Report, encode_packet};

/// Makes the frames of a run and passes them to the connections.
#[derive(Debug)]
pub(super) struct Source<'a> {
    config: &'a Config,
    plan: Plan,
    generator: Generator,
    /// Frames made beforehand; `None` for the traffic of [`Traffic::Agents`].
    ring: Option<Ring>,
    /// Frames that may still be sent.
    budget: u64,
    /// When the last frame that falls due is sent.
    pub(super) end: Moment,
    /// Whether the traffic has begun; idle connections send before.
    begun: bool,
}

/// Frames of the open loop sent in one turn, so that a schedule beyond this client's speed
/// does not delay the reading of replies.
const SENDS_A_TURN: usize = 4096;

impl<'a> Source<'a> {
    /// Encodes what can be encoded beforehand.
    ///
    /// # Errors
    /// [`LoadError`] if the content does not fit a frame.
    pub(super) fn new(config: &'a Config) -> Result<Self, LoadError> {
        let mut generator = Generator::new(config.content, config.encoding)?;
        let ring = match config.traffic {
            Traffic::Agents { .. } => None,
            Traffic::Rate(_) => Some(Ring::new(&mut generator, PacketKind::Report, 1)),
            Traffic::Saturate { depth, kind } => {
                Some(Ring::new(&mut generator, kind, depth.get() as usize))
            }
        };
        Ok(Self {
            config,
            plan: Plan::new(),
            generator,
            ring,
            budget: config.count.unwrap_or(u64::MAX),
            end: Moment::from_nanos(u64::MAX),
            begun: false,
        })
    }

    /// Starts the traffic on all open connections.
    pub(super) fn begin(&mut self, fleet: &mut Fleet, start: Moment) {
        self.begun = true;
        if let Some(duration) = self.config.duration {
            self.end = start.after(duration);
        }
        let connections = 0..self.config.connections;
        let open: Vec<_> = connections
            .filter(|it| fleet.is_open(*it as usize))
            .collect();
        match self.config.traffic {
            Traffic::Agents { senders, interval } => {
                for &connection in &open {
                    for _ in 0..senders {
                        self.plan
                            .add_sender(connection, PacketKind::Report, interval, start);
                    }
                }
            }
            Traffic::Rate(rate) => self.plan.set_ticker(rate, open.clone(), start),
            Traffic::Saturate { depth, kind } => {
                for connection in open {
                    let now = Moment::now();
                    self.fill(fleet, connection as usize, kind, depth.get(), now);
                }
                return;
            }
        }
        for connection in open {
            self.plan.add_sender(
                connection,
                PacketKind::Heartbeat,
                self.config.heartbeat,
                start,
            );
        }
    }

    /// Sends the first packet of an idle connection and plans its heartbeats.
    pub(super) fn greet(&mut self, fleet: &mut Fleet, connection: usize) {
        if !self.is_idle(connection) {
            return;
        }
        let now = Moment::now();
        let (greeting, interval) = (self.config.greeting, self.config.heartbeat);
        self.post(fleet, connection, greeting, now, now);
        let Ok(sender) = u32::try_from(connection) else {
            return;
        };
        let kind = PacketKind::Heartbeat;
        match greeting {
            PacketKind::Report => self.plan.add_sender(sender, kind, interval, now),
            PacketKind::Heartbeat => self.plan.add(sender, kind, interval, now.after(interval)),
        }
    }

    /// Returns when the next frame is due by the clock.
    pub(super) fn next_due(&self) -> Option<Moment> {
        self.plan.next_due()
    }

    /// Sends the frames that were due by `now`, at most [`SENDS_A_TURN`].
    pub(super) fn send_due(&mut self, fleet: &mut Fleet, now: Moment) {
        let until = now.min(self.end);
        for _ in 0..SENDS_A_TURN {
            if self.budget == 0 {
                break;
            }
            let Some(due) = self.plan.pop_due(until, |it| fleet.is_open(it)) else {
                break;
            };
            if !self.is_idle(due.connection) {
                self.budget -= 1;
            }
            self.post(fleet, due.connection, due.kind, due.intended, now);
        }
    }

    /// In the closed loop, fills the slots that have just become free.
    #[inline]
    pub(super) fn top_up(&mut self, fleet: &mut Fleet, connection: usize, slots: u32) {
        if slots == 0 || !self.begun || self.is_idle(connection) {
            return;
        }
        let Traffic::Saturate { kind, .. } = self.config.traffic else {
            return;
        };
        let freed = fleet.tally.clock;
        if freed < self.end {
            self.fill(fleet, connection, kind, slots, freed);
        }
    }

    /// Returns whether no more frames are to be sent: the budget or the time is used up. Frames
    /// that were due in time are sent even if this client is behind, for one reply timeout.
    pub(super) fn is_finished(&self, now: Moment) -> bool {
        let behind = self.next_due().is_some_and(|due| due <= self.end);
        let grace = self.end.after(self.config.reply_timeout);
        self.budget == 0 || (now >= self.end && (!behind || now >= grace))
    }

    /// Stops sending.
    pub(super) fn stop(&mut self) {
        self.budget = 0;
        self.end = Moment::from_nanos(0);
    }

    fn is_idle(&self, connection: usize) -> bool {
        connection >= self.config.connections as usize
    }

    /// Appends one frame to a connection's outbox.
    fn post(
        &mut self,
        fleet: &mut Fleet,
        connection: usize,
        kind: PacketKind,
        intended: Moment,
        sent: Moment,
    ) {
        let batch = Batch {
            kind,
            count: 1,
            intended,
            sent,
        };
        let is_idle = self.is_idle(connection);
        fleet.post(connection, batch, |out| match &mut self.ring {
            Some(ring) if kind == PacketKind::Report && !is_idle => {
                out.extend_from_slice(ring.next(1).0);
            }
            _ => self.generator.append(kind, out),
        });
    }

    /// Sends frames from the ring, all at once.
    fn fill(
        &mut self,
        fleet: &mut Fleet,
        connection: usize,
        kind: PacketKind,
        slots: u32,
        now: Moment,
    ) {
        let Some(ring) = &mut self.ring else { return };
        let count = u32::try_from(self.budget).map_or(slots, |budget| budget.min(slots));
        if count == 0 || !fleet.is_open(connection) {
            return;
        }
        self.budget -= u64::from(count);
        let batch = Batch {
            kind,
            count,
            intended: now,
            sent: now,
        };
        fleet.expect(connection, batch);
        let mut left = count as usize;
        while left > 0 {
            let (frames, sent) = ring.next(left);
            fleet.send(connection, frames);
            left -= sent;
        }
    }
}

/// A frame that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    /// When it is due.
    intended: Moment,
    /// The number of its connection.
    connection: usize,
    kind: PacketKind,
}

/// The schedule of the open loop: all senders, ordered by what is due next.
///
/// Each sender keeps to its own grid, so a late frame does not delay later ones, and a run of a
/// given length has the same number of frames on a slow machine and on a fast one.
#[derive(Debug)]
struct Plan {
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
    fn new() -> Self {
        Self {
            random: rand::make_rng(),
            queue: BinaryHeap::new(),
            senders: Vec::new(),
            ticker: None,
        }
    }

    /// Plans a packet of this kind on this connection once per `interval` after `start`, at a
    /// random one of [`PHASES`] points of it.
    fn add_sender(&mut self, connection: u32, kind: PacketKind, interval: Duration, start: Moment) {
        let phase = interval / PHASES * self.random.random_range(1..=PHASES);
        self.add(connection, kind, interval, start.after(phase));
    }

    /// Plans a packet of this kind at `first` and then once per `interval`.
    fn add(&mut self, connection: u32, kind: PacketKind, interval: Duration, first: Moment) {
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

    /// Plans `rate` reports a second after `start`, these connections taking turns.
    fn set_ticker(&mut self, rate: NonZeroU64, connections: Vec<u32>, start: Moment) {
        self.ticker = Some(Ticker {
            start,
            rate,
            ticks: 0,
            connections,
        });
    }

    /// Returns when the next frame is due.
    fn next_due(&self) -> Option<Moment> {
        let sender = self.queue.peek().map(|Reverse((moment, _))| *moment);
        let tick = self.ticker.as_ref().map(Ticker::next);
        match (sender, tick) {
            (Some(sender), Some(tick)) => Some(sender.min(tick)),
            (sender, tick) => sender.or(tick),
        }
    }

    /// Returns the next frame that was due by `now`. Drops the senders of connections that are
    /// not open any more.
    fn pop_due(&mut self, now: Moment, is_open: impl Fn(usize) -> bool) -> Option<Due> {
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
            PeekMut::pop(next);
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

/// The length of a report's content, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentSize {
    /// 0 to 49 bytes at random, as the original's client does.
    Random,
    /// Always this many bytes.
    Fixed(usize),
}

/// Makes packets as the original's client does: random letters, a random
/// number, and the time.
#[derive(Debug)]
struct Generator {
    random: SmallRng,
    letters: String,
    size: ContentSize,
    encoding: Encoding,
}

/// Content of the longest random report, exclusive.
const RANDOM_SIZE: usize = 50;

/// Random letters that contents are cut from, beyond the longest content: as
/// many beginnings.
const SPARE_LETTERS: usize = 4096;

impl Generator {
    /// # Errors
    /// [`LoadError`] if that much content does not fit a frame.
    fn new(size: ContentSize, encoding: Encoding) -> Result<Self, LoadError> {
        let requested = match size {
            ContentSize::Random => RANDOM_SIZE,
            ContentSize::Fixed(bytes) => bytes,
        };
        // More than a frame holds is refused below; no need for more letters.
        let longest = requested.min(MAX_DATA + 1);
        let mut random: SmallRng = rand::make_rng();
        let letters = (0..longest + SPARE_LETTERS)
            .map(|_| char::from(random.random_range(b'a'..=b'z')))
            .collect();
        let generator = Self {
            random,
            letters,
            size,
            encoding,
        };
        // The numbers with the most digits make the longest frame there will be.
        let probe = generator.report(0, longest, i64::MAX, i64::MAX);
        encode_packet(&probe, encoding, &mut Vec::new()).map_err(|_| {
            LoadError(format!(
                "content of {requested} bytes does not fit a frame, which carries at most {MAX_DATA} bytes of data; give a smaller --size"
            ))
        })?;
        Ok(generator)
    }

    /// Appends one frame of this kind to `out`.
    fn append(&mut self, kind: PacketKind, out: &mut Vec<u8>) {
        let timestamp = unix_seconds();
        let packet = match kind {
            PacketKind::Heartbeat => Packet::Heartbeat(Heartbeat {
                version: "1.0".into(),
                timestamp,
                agent: None,
                probe: false,
            }),
            PacketKind::Report => {
                let size = match self.size {
                    ContentSize::Random => self.random.random_range(0..RANDOM_SIZE),
                    ContentSize::Fixed(size) => size,
                };
                let from = self.random.random_range(0..SPARE_LETTERS);
                let number = self.random.random_range(0..=i64::MAX);
                self.report(from, size, number, timestamp)
            }
        };
        // `new` has tried the longest one: this cannot fail.
        let encoded = encode_packet(&packet, self.encoding, out);
        debug_assert_eq!(encoded, Ok(()));
    }

    fn report(&self, from: usize, size: usize, rand: i64, timestamp: i64) -> Packet<'_> {
        Packet::Report(Report {
            content: self.letters[from..from + size].into(),
            rand,
            timestamp,
            agent: None,
        })
    }
}

fn unix_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |span| i64::try_from(span.as_secs()).unwrap_or(i64::MAX))
}

/// Frames encoded beforehand, to be sent round and round.
///
/// They lie one behind the other, so that however many are due at once are one
/// piece of memory and one write.
#[derive(Debug)]
struct Ring {
    bytes: Vec<u8>,
    /// Where each frame begins, and where the last one ends.
    offsets: Vec<usize>,
    /// Frames in one round; those behind repeat the first ones, for pieces that
    /// reach across the end.
    round: usize,
    /// The next frame of the round.
    position: usize,
}

/// Most frames of a round: some variety, within the second-level cache.
const ROUND_FRAMES: usize = 1024;

/// Bytes that a ring stops growing at; a matter of memory, for large frames.
const RING_BYTES: usize = 4 << 20;

impl Ring {
    /// Encodes frames of this kind, for pieces of `piece` frames.
    fn new(generator: &mut Generator, kind: PacketKind, piece: usize) -> Self {
        let mut bytes = Vec::new();
        let mut offsets = vec![0];
        while offsets.len() <= ROUND_FRAMES && bytes.len() < RING_BYTES {
            generator.append(kind, &mut bytes);
            offsets.push(bytes.len());
        }
        let round = offsets.len() - 1;
        for frame in 0..piece.min(round) {
            if bytes.len() >= 2 * RING_BYTES {
                break;
            }
            bytes.extend_from_within(offsets[frame]..offsets[frame + 1]);
            offsets.push(bytes.len());
        }
        Self {
            bytes,
            offsets,
            round,
            position: 0,
        }
    }

    /// Returns the bytes of the next frames, at most `most`, and their number.
    #[inline]
    fn next(&mut self, most: usize) -> (&[u8], usize) {
        let from = self.position;
        let end = (from + most).min(self.offsets.len() - 1);
        self.position = end % self.round;
        let bytes = &self.bytes[self.offsets[from]..self.offsets[end]];
        (bytes, end - from)
    }
}

#[cfg(test)]
mod tests {
    use hawk_wire::{Decoder, Input, PacketDecoder, Step};

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
        plan.add(3, PacketKind::Heartbeat, interval, START.after(interval));
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

    fn contents(stream: &[u8]) -> Vec<usize> {
        let mut decoder = Decoder::default();
        let mut packets = PacketDecoder::default();
        let (mut at, mut found) = (0, Vec::new());
        loop {
            let decoded = decoder.decode(&stream[at..], Input::Open);
            at += decoded.consumed;
            match decoded.step {
                Step::Frame(data) => match packets.decode(data).unwrap() {
                    Packet::Report(report) => {
                        assert!(report.rand >= 0);
                        assert!(report.content.bytes().all(|b| b.is_ascii_lowercase()));
                        found.push(report.content.len());
                    }
                    Packet::Heartbeat(_) => found.push(usize::MAX),
                },
                Step::Incomplete => {
                    assert_eq!(at, stream.len());
                    return found;
                }
                step => panic!("{step:?}"),
            }
        }
    }

    #[test]
    fn contents_are_as_long_as_the_originals() {
        let mut generator = Generator::new(ContentSize::Random, Encoding::Classic).unwrap();
        let mut out = Vec::new();
        for _ in 0..2000 {
            generator.append(PacketKind::Report, &mut out);
        }
        let sizes = contents(&out);
        assert_eq!(sizes.iter().min(), Some(&0));
        assert_eq!(sizes.iter().max(), Some(&49));
    }

    #[test]
    fn a_content_that_fits_no_frame_is_refused_beforehand() {
        for encoding in [Encoding::Classic, Encoding::Compact] {
            assert!(Generator::new(ContentSize::Fixed(40_000), encoding).is_ok());
            for size in [MAX_DATA, usize::MAX] {
                assert!(Generator::new(ContentSize::Fixed(size), encoding).is_err());
            }
        }
    }

    #[test]
    fn a_ring_goes_round_in_whole_frames() {
        let mut generator = Generator::new(ContentSize::Fixed(9), Encoding::Compact).unwrap();
        for piece in [1, 7, 5000] {
            let mut ring = Ring::new(&mut generator, PacketKind::Report, piece);
            let (mut sent, mut pieces) = (0, 0);
            while sent < 3 * ROUND_FRAMES {
                let (bytes, count) = ring.next(piece);
                assert_eq!(contents(bytes).len(), count);
                assert!(count == piece || piece > ROUND_FRAMES);
                (sent, pieces) = (sent + count, pieces + 1);
            }
            assert!(pieces >= 2);
        }
    }

    #[test]
    fn large_frames_do_not_make_a_large_ring() {
        let mut generator = Generator::new(ContentSize::Fixed(40_000), Encoding::Compact).unwrap();
        let mut ring = Ring::new(&mut generator, PacketKind::Report, 5000);
        assert!(ring.bytes.len() < 3 * RING_BYTES);
        ring.next(3);
        let (bytes, count) = ring.next(2);
        assert_eq!((contents(bytes).len(), count), (2, 2));
    }
}
