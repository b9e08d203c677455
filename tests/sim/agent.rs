//! How agents behave.

use hawk_wire::MAX_DATA;

use super::counts::Event;
use super::damage::damage;
use super::link::{Link, Stage};
use super::machine::Machine;
use super::samples::{SAMPLES, Size};
use hawk_testkit::worlds::Dice;

/// An intact frame of less data than this is found behind any damage (docs/protocol.md).
const FIRST_EXCEPTION: usize = 0xFE00;

/// Agents that send much act one time in so many that it is their turn.
const HEAVY: u64 = 24;

/// One agent, which connects again and again.
pub struct Agent {
    host: u8,
    habit: Habit,
    reading: Reading,
    /// Bytes that its kernel and ours hold of replies it does not read.
    capacity: usize,
    /// One frame in so many is damaged; 0: none.
    damages: u64,
    /// One act in so many is its last on a connection.
    quits: u64,
    /// Its connection: where, and which.
    at: Option<(usize, u16)>,
}

/// What it sends.
#[derive(Clone, Copy)]
enum Habit {
    /// Reports and heartbeats.
    Steady,
    /// Long reports.
    Bulk,
    /// Floods of the shortest frames.
    Flood,
    /// Byte by byte.
    Trickle,
    /// Bytes that are no frame.
    Junk,
    /// Frames that it begins and does not end.
    Unfinished,
    /// Next to nothing.
    Silent,
}

/// How it takes its replies.
#[derive(Clone, Copy)]
enum Reading {
    Prompt,
    Slow,
    Never,
}

impl Agent {
    pub fn new(host: u8, dice: &mut Dice) -> Self {
        let habit = match dice.below(40) {
            0..18 => Habit::Steady,
            18..22 => Habit::Bulk,
            22..27 => Habit::Flood,
            27..33 => Habit::Trickle,
            33 => Habit::Junk,
            34..37 => Habit::Unfinished,
            _ => Habit::Silent,
        };
        let reading = match dice.below(12) {
            0..8 => Reading::Prompt,
            8..10 => Reading::Slow,
            _ => Reading::Never,
        };
        Self {
            host,
            habit,
            reading,
            capacity: *dice.pick(&[64, 600, 4096, 20_000]),
            damages: *dice.pick(&[0, 0, 30, 3]),
            quits: *dice.pick(&[50, 500, 5000]),
            at: None,
        }
    }

    /// Does something; whether it did.
    pub fn act(&mut self, machine: &mut Machine) -> bool {
        let Some(slot) = self.slot(machine) else {
            return self.connect(machine);
        };
        let Machine {
            links,
            dice,
            counts,
            ..
        } = machine;
        // What each of their steps costs would pay for many of the others'.
        let heavy = matches!(self.habit, Habit::Bulk | Habit::Flood | Habit::Junk);
        if heavy && !dice.one_in(HEAVY) {
            return false;
        }
        let link = &mut links[slot];
        if dice.one_in(self.quits) && link.may_send() {
            let event = quit(link, dice);
            counts.saw(event);
            let port = link.peer.port();
            machine.trace(port, "the agent quits, reset or end of file", event as u64);
            return true;
        }
        let reads = match self.reading {
            Reading::Prompt => link.unread > 0 && dice.below(3) > 0,
            Reading::Slow => link.unread > 0 && dice.one_in(3),
            Reading::Never => false,
        };
        if reads {
            let most = match self.reading {
                Reading::Slow => dice.between(1, 40),
                _ => usize::MAX,
            };
            link.take(most);
            counts.saw(Event::Take);
            return true;
        }
        self.send(machine, slot)
    }

    /// The last things: takes all replies, sends what is on the wire, and the end of
    /// file. Whether there was anything to do.
    pub fn leave(&mut self, machine: &mut Machine) -> bool {
        let Some(slot) = self.slot(machine) else {
            return false;
        };
        let link = &mut machine.links[slot];
        let mut did = link.unread > 0;
        link.take(usize::MAX);
        if did {
            machine.counts.saw(Event::Take);
        }
        if link.may_send() {
            link.half_close();
            machine.counts.saw(Event::HalfClose);
        }
        if link.deliver(usize::MAX) {
            machine.counts.saw(Event::Delivery);
            did = true;
        }
        did
    }

    /// Where its connection is, if it has one.
    fn slot(&mut self, machine: &mut Machine) -> Option<usize> {
        let (slot, port) = self.at?;
        let link = &mut machine.links[slot];
        let over = link.stage == Stage::Closed || link.deaf || link.broken;
        if link.peer.port() == port && !over {
            return Some(slot);
        }
        self.at = None;
        None
    }

    fn connect(&mut self, machine: &mut Machine) -> bool {
        if !machine.listens || machine.dice.below(4) > 0 {
            return false;
        }
        let slot = machine.connect(self.host, self.capacity);
        let port = machine.links[slot].peer.port();
        self.at = Some((slot, port));
        machine.counts.saw(Event::Connect);
        machine.trace(port, "connects from host", self.host.into());
        true
    }

    fn send(&mut self, machine: &mut Machine, slot: usize) -> bool {
        let Machine {
            links,
            dice,
            counts,
            ..
        } = machine;
        let link = &mut links[slot];
        if link.may_send() && link.on_the_wire() == 0 {
            self.compose(link, dice, counts);
        }
        if dice.one_in(2000) && link.may_send() {
            link.urge();
            counts.saw(Event::Urgent);
        }
        let most = match self.habit {
            Habit::Trickle => dice.between(1, 3),
            Habit::Bulk | Habit::Flood | Habit::Junk => dice.between(1, 40_000),
            _ => match dice.below(4) {
                0 => dice.between(1, 30),
                1 => dice.between(1, 300),
                _ => usize::MAX,
            },
        };
        let came = link.deliver(most);
        if came {
            counts.saw(Event::Delivery);
            let port = link.peer.port();
            let there = link.arrived() as u64;
            machine.trace(port, "bytes delivered, so that there are", there);
        }
        came
    }

    /// Puts something on the wire.
    fn compose(&mut self, link: &mut Link, dice: &mut Dice, counts: &mut super::counts::Counts) {
        match self.habit {
            Habit::Steady | Habit::Trickle => {
                let size = match dice.below(100) {
                    0 => Size::Middle,
                    1..4 => Size::Tiny,
                    _ => Size::Short,
                };
                let frames = if dice.one_in(8) {
                    dice.between(2, 12)
                } else {
                    1
                };
                (0..frames).for_each(|_| self.frame(link, size, dice, counts));
            }
            Habit::Bulk if dice.one_in(12) => {
                // A stray byte hides the frame behind it for as long as nothing follows
                // (docs/protocol.md, the exceptions for the longest frames).
                let hidden = SAMPLES
                    .of(Size::Long)
                    .iter()
                    .find(|sample| sample.data().len() == 0xFFFC);
                if let Some(hidden) = hidden {
                    let wire = link.wire();
                    wire.push(0xFF);
                    wire.extend_from_slice(&hidden.frame);
                    link.sent(1 + hidden.frame.len(), None);
                    self.habit = Habit::Silent;
                }
            }
            Habit::Bulk => {
                let size = if dice.one_in(3) {
                    Size::Long
                } else {
                    Size::Middle
                };
                self.frame(link, size, dice, counts);
            }
            Habit::Flood => {
                let frames = if dice.one_in(8) {
                    dice.between(100, 3000)
                } else {
                    30
                };
                (0..frames).for_each(|_| self.frame(link, Size::Tiny, dice, counts));
            }
            Habit::Junk => {
                let bytes = dice.between(1, 60_000);
                let wire = link.wire();
                let density = *dice.pick(&[3, 200, 100_000]);
                for _ in 0..bytes / 8 + 1 {
                    wire.extend_from_slice(&dice.roll().to_le_bytes());
                }
                if dice.one_in(density) {
                    wire.extend_from_slice(&[0xFF, 0xFF]);
                }
                link.sent((bytes / 8 + 1) * 8, None);
            }
            Habit::Unfinished => {
                self.frame(link, Size::Short, dice, counts);
                if dice.one_in(4) {
                    let frame = &dice.pick(SAMPLES.of(Size::Middle)).frame;
                    let bytes = dice.between(1, frame.len() - 1);
                    link.wire().extend_from_slice(&frame[..bytes]);
                    link.sent(bytes, None);
                    self.habit = Habit::Silent;
                }
            }
            Habit::Silent => {
                if dice.one_in(100) {
                    self.frame(link, Size::Short, dice, counts);
                }
            }
        }
    }

    fn frame(
        &self,
        link: &mut Link,
        size: Size,
        dice: &mut Dice,
        counts: &mut super::counts::Counts,
    ) {
        let frame = &dice.pick(SAMPLES.of(size)).frame;
        let wire = link.wire();
        let start = wire.len();
        wire.extend_from_slice(frame);
        let damaged = self.damages > 0 && dice.one_in(self.damages);
        if damaged {
            damage(wire, start, dice);
            counts.saw(Event::DamagedFrame);
        }
        let bytes = wire.len() - start;
        let intact = !damaged && bytes < FIRST_EXCEPTION + 8;
        debug_assert!(bytes <= MAX_DATA + 64);
        link.sent(bytes, intact.then_some(0..bytes));
    }
}

/// Ends its connection, one way or another.
fn quit(link: &mut Link, dice: &mut Dice) -> Event {
    match dice.below(4) {
        0 => {
            link.reset();
            Event::Reset
        }
        1 => {
            // A socket closed with replies unread resets (RFC 1122, 4.2.2.13).
            if link.unread > 0 {
                link.reset();
            } else {
                link.half_close();
                link.deaf = true;
                link.deliver(usize::MAX);
            }
            Event::Hangup
        }
        _ => {
            link.half_close();
            link.deliver(0);
            Event::HalfClose
        }
    }
}
