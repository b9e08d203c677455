//! Where frames come from: by the clock in the open loop, by the slots that
//! become free in the closed one.

use super::expectations::Batch;
use super::fleet::Fleet;
use super::frames::{Generator, Ring};
use super::plan::Plan;
use super::{Config, LoadError, Traffic};
use hawk_time::Moment;
use hawk_wire::PacketKind;

/// Makes the frames of a run and hands them to the connections.
#[derive(Debug)]
pub(super) struct Source<'a> {
    config: &'a Config,
    plan: Plan,
    generator: Generator,
    /// Frames made beforehand, where there is no time to make them.
    ring: Option<Ring>,
    /// Frames that may still be sent.
    budget: u64,
    /// When the last frame that falls due is sent.
    end: Moment,
    /// Whether the traffic has begun; idle connections speak before.
    begun: bool,
}

/// Frames of the open loop sent in one turn, so that a schedule beyond this
/// client's capacity does not delay the reading of replies.
const SENDS_A_TURN: usize = 4096;

impl<'a> Source<'a> {
    /// Makes ready what can be made beforehand.
    ///
    /// # Errors
    /// [`LoadError::Content`] if the content does not fit a frame.
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

    /// Begins with the traffic.
    pub(super) fn begin(&mut self, fleet: &mut Fleet, start: Moment) {
        self.begun = true;
        if let Some(duration) = self.config.duration {
            self.end = start.after(duration);
        }
        let connections = 0..self.config.connections as usize;
        let open: Vec<_> = connections.filter(|it| fleet.is_open(*it)).collect();
        match self.config.traffic {
            Traffic::Agents { senders, interval } => {
                for &connection in &open {
                    for _ in 0..senders {
                        self.plan
                            .add_sender(connection, PacketKind::Report, interval, start);
                    }
                }
            }
            Traffic::Rate(rate) => {
                let numbers = open.iter().filter_map(|it| u32::try_from(*it).ok());
                self.plan.set_ticker(rate, numbers.collect(), start);
            }
            Traffic::Saturate { depth, kind } => {
                for &connection in &open {
                    self.fill(fleet, connection, kind, depth.get(), Moment::now());
                }
                return;
            }
        }
        for &connection in &open {
            self.add_heartbeats(connection, start);
        }
    }

    /// The first packet of an idle connection, and its heartbeats from then on.
    pub(super) fn greet(&mut self, fleet: &mut Fleet, connection: usize) {
        if self.is_idle(connection) {
            let now = Moment::now();
            let greeting = self.config.greeting;
            self.post(fleet, connection, greeting, now, now);
            match greeting {
                PacketKind::Report => self.add_heartbeats(connection, now),
                PacketKind::Heartbeat => {
                    let interval = self.config.heartbeat;
                    self.plan.add_in_step(connection, greeting, interval, now);
                }
            }
        }
    }

    /// When the next frame is due by the clock.
    pub(super) fn next_due(&self) -> Option<Moment> {
        self.plan.next_due()
    }

    /// Sends the frames that were due by `now`, or as many as a turn may.
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

    /// When frames stop to fall due.
    pub(super) fn end(&self) -> Moment {
        self.end
    }

    /// Whether no more frames are to be sent: none are left, or their time is
    /// over. What was due in time is sent even if this client is behind, but not
    /// for ever.
    pub(super) fn is_finished(&self, now: Moment) -> bool {
        let behind = self.next_due().is_some_and(|due| due <= self.end);
        let grace = self.end.after(self.config.reply_timeout);
        self.budget == 0 || (now >= self.end && (!behind || now >= grace))
    }

    /// Sends nothing more.
    pub(super) fn stop(&mut self) {
        self.budget = 0;
        self.end = Moment::from_nanos(0);
    }

    fn is_idle(&self, connection: usize) -> bool {
        connection >= self.config.connections as usize
    }

    fn add_heartbeats(&mut self, connection: usize, start: Moment) {
        let interval = self.config.heartbeat;
        self.plan
            .add_sender(connection, PacketKind::Heartbeat, interval, start);
    }

    /// Puts one frame into a connection's outbox.
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
        match &self.ring {
            Some(ring) if kind == PacketKind::Report && !self.is_idle(connection) => {
                let position = *fleet.ring_position(connection);
                let (frame, _, next) = ring.piece(position, 1);
                fleet.post(connection, batch, |out| out.extend_from_slice(frame));
                *fleet.ring_position(connection) = next;
            }
            _ => {
                let generator = &mut self.generator;
                fleet.post(connection, batch, |out| generator.append(kind, out));
            }
        }
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
        let Some(ring) = &self.ring else { return };
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
        let mut position = *fleet.ring_position(connection);
        while left > 0 {
            let (frames, sent, next) = ring.piece(position, left);
            fleet.send(connection, frames);
            (left, position) = (left - sent, next);
        }
        *fleet.ring_position(connection) = position;
    }
}
