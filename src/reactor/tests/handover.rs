//! A reactor that hands over, compared with one that does not.

mod cases;

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::reactor::handover::{Change, ConnectionState, MovedId};
use crate::session::{Rate, StopReason};
use crate::transfer::Transfer as _;
use hawk_wire::{Report, encode_frame};

/// The step of the time, a tick of the timers: so that the timers of all reactors expire
/// together.
const TICK: Duration = Duration::from_millis(32);

/// Half a tick more, so that no deadline coincides with a step.
const FRAME: Duration = Duration::from_millis(9600 + 16);
const LONG_IDLE: Duration = Duration::from_millis(1_000_000 + 16);

const BEGIN: Moment = Moment::from_nanos(1_000_000_000);

#[derive(Clone, Debug)]
enum Step {
    /// So many more bytes from this agent arrive.
    Say(usize, usize),
    /// Its socket has room for so many more bytes of replies.
    Take(usize, usize),
    /// Its end of file arrives.
    End(usize),
    Wait(u32),
    /// Begins a copy, and copies so many connections.
    Copy(usize),
    /// Copies the changes.
    CopyChanges,
    /// The successor takes over.
    Commit,
    /// The hand-over ends without a successor.
    RollBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let agent = 0..AGENTS;
    let step = prop_oneof![
        8 => (agent.clone(), prop_oneof![1..40_usize, 1..3000_usize]).prop_map(|(a, n)| Step::Say(a, n)),
        3 => (agent.clone(), 1..60_usize).prop_map(|(a, n)| Step::Take(a, n)),
        1 => agent.prop_map(Step::End),
        3 => prop_oneof![Just(1), Just(100), Just(301), Just(34_000)].prop_map(Step::Wait),
        3 => (1..4_usize).prop_map(Step::Copy),
        2 => Just(Step::CopyChanges),
        4 => Just(Step::Commit),
        1 => Just(Step::RollBack),
    ];
    prop::collection::vec(step, 1..60)
}

const AGENTS: usize = 3;

/// Everything that an agent sends, some of it damaged.
fn speech(pieces: &[u8]) -> Vec<u8> {
    let mut speech = Vec::new();
    for piece in pieces {
        match piece {
            0 => speech.extend(heartbeat(3)),
            1 => speech.extend(b"junk \xFF\xFF\x00\x09"),
            2 => encode_frame(b"unusable", &mut speech).unwrap(),
            3 => {
                let begin = speech.len();
                encode_frame(b"\x01{}", &mut speech).unwrap();
                speech[begin + 5] ^= 1;
            }
            4 => speech.extend(heartbeat(2000)),
            _ => {
                let report = Packet::Report(Report::default());
                encode_packet(&report, Encoding::Classic, &mut speech).unwrap();
            }
        }
    }
    speech
}

/// A reactor and its agents.
struct Rig {
    reactor: Reactor<HeartbeatHandler, Fake>,
    ends: Vec<End>,
    successor: Option<Successor>,
}

/// The successor.
struct Successor {
    reactor: Reactor<HeartbeatHandler, Fake>,
}

impl Successor {
    fn beside(other: &Reactor<HeartbeatHandler, Fake>) -> Self {
        let kernel = Fake {
            later: other.kernel.later,
            backlog: other.kernel.backlog.clone(),
            ..Fake::default()
        };
        let listener = other.listener(ListenerTag::AGENTS).unwrap().clone();
        let config = other.config.clone();
        let reactor = Reactor::with_listeners(
            config,
            HeartbeatHandler,
            kernel,
            [(ListenerTag::AGENTS, listener)],
        );
        Self {
            reactor: reactor.unwrap(),
        }
    }

    fn change(&mut self, id: MovedId, change: Change<&End>) {
        let change = match change {
            Change::Opened(socket, state) => Change::Opened(socket.clone(), state),
            Change::Changed(state) => Change::Changed(state),
            Change::Closed => Change::Closed,
        };
        self.reactor.import(id, change).unwrap();
    }
}

impl Rig {
    fn new(rate: Option<u32>) -> Self {
        let mut reactor = reactor(64 << 20);
        let limits = Limits {
            idle: LONG_IDLE,
            frame: FRAME,
            rate: rate.and_then(NonZeroU32::new).map(Rate::per_second),
        };
        (reactor.cx.limits, reactor.config.limits) = (limits, limits);
        let ends = arrive(&mut reactor, AGENTS, b"");
        for end in &ends {
            end.0.borrow_mut().room = Some(0);
        }
        let mut rig = Self {
            reactor,
            ends,
            successor: None,
        };
        rig.turns();
        rig
    }

    /// Turns until there is no work left.
    fn turns(&mut self) {
        for id in self.reactor.connections.ids() {
            let end = &self.reactor.connections.get(id).unwrap().socket;
            let event = Event::Ready(id.token(), end.readiness());
            self.reactor.kernel.coming.push(event);
        }
        for _ in 0..50 {
            turn(&mut self.reactor);
            if self.reactor.timeout(None) != Some(Duration::ZERO) {
                return;
            }
        }
        panic!("there is work in every turn");
    }

    fn copy(&mut self, most: usize) {
        if self.successor.is_none() {
            self.successor = Some(Successor::beside(&self.reactor));
            self.reactor.begin_copy();
        }
        if let Some(successor) = &mut self.successor {
            self.reactor
                .copy_some(most, &mut |id, change| successor.change(id, change));
        }
    }

    fn copy_changes(&mut self) {
        if let Some(successor) = &mut self.successor {
            self.reactor
                .take_changes(usize::MAX, &mut |id, change| successor.change(id, change));
            assert_eq!(self.reactor.changes(), 0);
        }
    }

    fn commit(&mut self) {
        self.copy_changes();
        if let Some(mut successor) = self.successor.take() {
            let (counters, tally) = self.reactor.counts();
            successor.reactor.resume_counts(counters, tally);
            successor.reactor.complete_adoption().unwrap();
            self.reactor = successor.reactor;
        }
    }

    fn roll_back(&mut self) {
        self.successor = None;
        self.reactor.end_copy();
    }

    /// Returns all that agents and operators can observe.
    fn account(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let outputs: Vec<_> = self
            .ends
            .iter()
            .map(|end| end.0.borrow().output.clone())
            .collect();
        let all: Vec<_> = self.reactor.connections.iter().collect();
        let connections = self.ends.iter().filter_map(|end| {
            let mut own = all.iter().filter(|c| Rc::ptr_eq(&c.socket.0, &end.0));
            own.next()
        });
        let now = self.reactor.kernel.now();
        let states: Vec<_> = connections
            .map(|c| {
                let mut state = c.export();
                stand_still(&mut state, now);
                (state, c.deadline(&self.reactor.cx.limits))
            })
            .collect();
        let ReactorCounters {
            accepted,
            bytes_in,
            bytes_out,
            ..
        } = self.reactor.figures().reactor;
        let closings: Vec<_> = self.reactor.figures().reactor.closings().collect();
        let tally = self.reactor.figures().sessions;
        let counts = (accepted, bytes_in, bytes_out, closings, tally);
        (outputs, states, counts)
    }
}

/// Counts no time until now for a connection paused by its rate limit: only one of the two
/// reactors may have tried it since.
fn stand_still(state: &mut ConnectionState, now: Moment) {
    let clocks = &mut state.session.clocks;
    if let Some((StopReason::Rate, since)) = &mut clocks.stopped {
        let lost = now.since(*since);
        *since = now;
        clocks.last_passed = clocks.last_passed.after(lost);
        for mark in [
            &mut clocks.begun,
            &mut clocks.last_heartbeat,
            &mut clocks.last_report,
        ] {
            *mark = mark.map(|mark| mark.after(lost));
        }
    }
}

/// Advances the time, from deadline to deadline.
fn wait(stays: &mut Rig, moves: &mut Rig, ticks: u32) {
    let until = stays.reactor.kernel.later + TICK * ticks;
    let mut now = stays.reactor.kernel.later;
    while now < until {
        let connections = stays.reactor.connections.iter();
        let deadlines = connections.filter_map(|c| c.deadline(&stays.reactor.cx.limits));
        let next = deadlines.min().map_or(until, |next| next.since(BEGIN));
        let rings = TICK * u32::try_from(next.as_nanos() / TICK.as_nanos() + 1).unwrap();
        now = until.min(rings.max(now + TICK));
        for rig in [&mut *stays, &mut *moves] {
            rig.reactor.kernel.later = now;
            if let Some(successor) = &mut rig.successor {
                successor.reactor.kernel.later = now;
            }
            rig.turns();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Replies, counts and deadlines do not depend on how often connections move, in which
    /// state and at which byte.
    #[test]
    fn a_reactor_that_hands_over_acts_like_one_that_does_not(
        pieces in prop::collection::vec(prop::collection::vec(0..7_u8, 1..40), AGENTS),
        steps in steps(),
        rate in prop_oneof![Just(None), Just(Some(7))],
    ) {
        let mut rests: Vec<_> = pieces.iter().map(|pieces| VecDeque::from(speech(pieces))).collect();
        let mut stays = Rig::new(rate);
        let mut moves = Rig::new(rate);
        for step in steps {
            match step {
                Step::Say(agent, bytes) => {
                    let bytes = bytes.min(rests[agent].len());
                    let said: Vec<u8> = rests[agent].drain(..bytes).collect();
                    for rig in [&mut stays, &mut moves] {
                        let mut line = rig.ends[agent].0.borrow_mut();
                        if !line.ended {
                            line.input.extend(&said);
                        }
                    }
                }
                Step::Take(agent, bytes) => {
                    for rig in [&mut stays, &mut moves] {
                        let mut line = rig.ends[agent].0.borrow_mut();
                        line.room = line.room.map(|room| room + bytes);
                    }
                }
                Step::End(agent) => {
                    for rig in [&mut stays, &mut moves] {
                        rig.ends[agent].0.borrow_mut().ended = true;
                    }
                }
                Step::Wait(ticks) => wait(&mut stays, &mut moves, ticks),
                Step::Copy(most) => moves.copy(most),
                Step::CopyChanges => moves.copy_changes(),
                Step::Commit => moves.commit(),
                Step::RollBack => moves.roll_back(),
            }
            stays.turns();
            moves.turns();
            prop_assert_eq!(stays.account(), moves.account());
        }
    }
}
