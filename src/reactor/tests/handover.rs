//! A reactor that hands over, beside one that does not.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::reactor::handover::{
    AdoptError, AdoptedId, Change, ConnectionState, MovedId, MovedStanding,
};
use crate::session::{Rate, StopReason};
use crate::stats::Cause;
use crate::wire::{DecoderState, Report, encode_frame};

/// Time goes by in these, which are the ticks of the timers: so that those of all
/// reactors ring together, whenever each was made.
const TICK: Duration = Duration::from_millis(32);

/// No deadline is in sight at a time at which anything happens: half a tick more.
const FRAME: Duration = Duration::from_millis(9600 + 16);
const LONG_IDLE: Duration = Duration::from_millis(1_000_000 + 16);

const BEGIN: Moment = Moment::from_nanos(1_000_000_000);

#[derive(Clone, Debug)]
enum Step {
    /// So many bytes of what this agent has to say come, however they fall.
    Say(usize, usize),
    /// Its socket takes so many bytes of replies more.
    Take(usize, usize),
    /// Its end of file comes.
    End(usize),
    Wait(u32),
    /// A copy begins, and so many are shown, or more.
    Show(usize),
    /// What has changed is shown.
    Again,
    /// The successor takes over.
    Commit,
    /// It is given up.
    RollBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let agent = 0..AGENTS;
    let step = prop_oneof![
        8 => (agent.clone(), prop_oneof![1..40_usize, 1..3000_usize]).prop_map(|(a, n)| Step::Say(a, n)),
        3 => (agent.clone(), 1..60_usize).prop_map(|(a, n)| Step::Take(a, n)),
        1 => agent.prop_map(Step::End),
        3 => prop_oneof![Just(1), Just(100), Just(301), Just(34_000)].prop_map(Step::Wait),
        3 => (1..4_usize).prop_map(Step::Show),
        2 => Just(Step::Again),
        4 => Just(Step::Commit),
        1 => Just(Step::RollBack),
    ];
    prop::collection::vec(step, 1..60)
}

const AGENTS: usize = 3;

/// All that an agent has to say, some of it damaged.
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

/// One reactor and its agents.
struct Place {
    reactor: Reactor<Nurse, Fake>,
    ends: Vec<End>,
    heir: Option<Heir>,
}

/// The reactor that is to go on.
struct Heir {
    reactor: Reactor<Nurse, Fake>,
    ids: Vec<(MovedId, AdoptedId)>,
}

impl Heir {
    fn beside(other: &Reactor<Nurse, Fake>) -> Self {
        let kernel = Fake {
            later: other.kernel.later,
            backlog: other.kernel.backlog.clone(),
            ..Fake::default()
        };
        let listener = other.listener().unwrap().clone();
        let config = other.config.clone();
        let reactor = Reactor::with_listener(config, Nurse, kernel, listener);
        Self {
            reactor: reactor.unwrap(),
            ids: Vec::new(),
        }
    }

    fn adopt(&mut self, id: MovedId, socket: &End, state: ConnectionState) {
        let adopted = self.reactor.adopt(socket.clone(), state).unwrap();
        self.ids.push((id, adopted));
    }

    fn change(&mut self, id: MovedId, change: Change<'_, End>) {
        let place = self.ids.iter().position(|(known, _)| *known == id);
        match change {
            Change::Opened(socket, state) => self.adopt(id, socket, state),
            Change::Changed(state) => {
                let (_, adopted) = self.ids[place.unwrap()];
                self.reactor.replace(adopted, state).unwrap();
            }
            Change::Closed => {
                let (_, adopted) = self.ids.remove(place.unwrap());
                self.reactor.discard(adopted);
            }
        }
    }
}

impl Place {
    fn new(rate: Option<u32>) -> Self {
        let mut reactor = reactor(64 << 20);
        let limits = Limits {
            idle: LONG_IDLE,
            frame: FRAME,
            rate: rate.and_then(NonZeroU32::new).map(Rate::per_second),
        };
        (reactor.shop.limits, reactor.config.limits) = (limits, limits);
        let ends = arrive(&mut reactor, AGENTS, b"");
        for end in &ends {
            end.0.borrow_mut().room = Some(0);
        }
        let mut place = Self {
            reactor,
            ends,
            heir: None,
        };
        place.turns();
        place
    }

    /// Turns until there is nothing left to be done.
    fn turns(&mut self) {
        for id in self.reactor.connections.ids() {
            let end = self.reactor.connections.look(id).unwrap().socket();
            let event = Event::Ready(id.token(), end.readiness());
            self.reactor.kernel.coming.push(event);
        }
        for _ in 0..50 {
            turn(&mut self.reactor);
            if self.reactor.timeout(None) != Some(Duration::ZERO) {
                return;
            }
        }
        panic!("it turns and turns");
    }

    fn show(&mut self, most: usize) {
        if self.heir.is_none() {
            self.heir = Some(Heir::beside(&self.reactor));
            self.reactor.begin_copy();
        }
        if let Some(heir) = &mut self.heir {
            self.reactor
                .copy_some(most, &mut |id, socket, state| heir.adopt(id, socket, state));
        }
    }

    fn show_changes(&mut self) {
        if let Some(heir) = &mut self.heir {
            self.reactor
                .take_changes(&mut |id, change| heir.change(id, change));
            assert_eq!(self.reactor.changes(), 0);
        }
    }

    fn commit(&mut self) {
        self.show_changes();
        if let Some(mut heir) = self.heir.take() {
            let (counters, tally) = self.reactor.counts();
            heir.reactor.resume_counts(counters, tally);
            heir.reactor.settle_in().unwrap();
            self.reactor = heir.reactor;
        }
    }

    fn roll_back(&mut self) {
        self.heir = None;
        self.reactor.end_copy();
    }

    /// Everything that agents and operators could tell.
    fn account(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let outputs: Vec<_> = self
            .ends
            .iter()
            .map(|end| end.0.borrow().output.clone())
            .collect();
        let all: Vec<_> = self.reactor.connections.iter().collect();
        let connections = self.ends.iter().filter_map(|end| {
            let mut own = all.iter().filter(|c| Rc::ptr_eq(&c.socket().0, &end.0));
            own.next()
        });
        let now = self.reactor.kernel.now();
        let states: Vec<_> = connections
            .map(|c| {
                let mut state = c.export();
                stand_still(&mut state, now);
                (state, c.deadline(&self.reactor.shop.limits))
            })
            .collect();
        let Counters {
            accepted,
            bytes_in,
            bytes_out,
            ..
        } = *self.reactor.figures().counters;
        let closings: Vec<_> = self.reactor.figures().counters.closings().collect();
        let tally = *self.reactor.figures().tally;
        let counts = (accepted, bytes_in, bytes_out, closings, tally);
        (outputs, states, counts)
    }
}

/// Who is slowed down may have been looked at since: no time counts until now, either way.
fn stand_still(state: &mut ConnectionState, now: Moment) {
    let clocks = &mut state.session.clocks;
    if let Some((StopReason::Rate, since)) = &mut clocks.stopped {
        let lost = now.since(*since);
        *since = now;
        clocks.last_passed = clocks.last_passed.after(lost);
        for mark in [&mut clocks.begun, &mut clocks.last_heartbeat] {
            *mark = mark.map(|mark| mark.after(lost));
        }
    }
}

/// Lets time go by, from deadline to deadline.
fn wait(stays: &mut Place, moves: &mut Place, ticks: u32) {
    let until = stays.reactor.kernel.later + TICK * ticks;
    let mut now = stays.reactor.kernel.later;
    while now < until {
        let connections = stays.reactor.connections.iter();
        let deadlines = connections.filter_map(|c| c.deadline(&stays.reactor.shop.limits));
        let next = deadlines.min().map_or(until, |next| next.since(BEGIN));
        let rings = TICK * u32::try_from(next.as_nanos() / TICK.as_nanos() + 1).unwrap();
        now = until.min(rings.max(now + TICK));
        for place in [&mut *stays, &mut *moves] {
            place.reactor.kernel.later = now;
            if let Some(heir) = &mut place.heir {
                heir.reactor.kernel.later = now;
            }
            place.turns();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// However often connections move, in whatever state, at whatever byte: nobody can
    /// tell by what is answered, by the counts, or by the deadlines.
    #[test]
    fn a_reactor_that_hands_over_does_as_one_that_does_not(
        pieces in prop::collection::vec(prop::collection::vec(0..7_u8, 1..40), AGENTS),
        steps in steps(),
        rate in prop_oneof![Just(None), Just(Some(7))],
    ) {
        let mut rests: Vec<_> = pieces.iter().map(|pieces| VecDeque::from(speech(pieces))).collect();
        let mut stays = Place::new(rate);
        let mut moves = Place::new(rate);
        for step in steps {
            match step {
                Step::Say(agent, bytes) => {
                    let bytes = bytes.min(rests[agent].len());
                    let said: Vec<u8> = rests[agent].drain(..bytes).collect();
                    for place in [&mut stays, &mut moves] {
                        let mut line = place.ends[agent].0.borrow_mut();
                        if !line.ended {
                            line.input.extend(&said);
                        }
                    }
                }
                Step::Take(agent, bytes) => {
                    for place in [&mut stays, &mut moves] {
                        let mut line = place.ends[agent].0.borrow_mut();
                        line.room = line.room.map(|room| room + bytes);
                    }
                }
                Step::End(agent) => {
                    for place in [&mut stays, &mut moves] {
                        place.ends[agent].0.borrow_mut().ended = true;
                    }
                }
                Step::Wait(ticks) => wait(&mut stays, &mut moves, ticks),
                Step::Show(most) => moves.show(most),
                Step::Again => moves.show_changes(),
                Step::Commit => moves.commit(),
                Step::RollBack => moves.roll_back(),
            }
            stays.turns();
            moves.turns();
            prop_assert_eq!(stays.account(), moves.account());
        }
    }
}

#[test]
fn who_waits_to_be_accepted_is_found_by_the_successor() {
    let mut reactor = reactor(MIN_POOL_LIMIT);
    turn(&mut reactor);
    let newcomer = arrive(&mut reactor, 1, &heartbeat(0)).remove(0);
    let mut heir = Heir::beside(&reactor).reactor;
    drop(reactor);
    turn(&mut heir);
    assert_eq!(heir.kernel.patience, Some(Duration::ZERO));
    turn(&mut heir);
    assert!(newcomer.is_answered());
}

#[test]
fn who_was_shown_and_ends_is_shut_down_and_nobody_else() {
    let mut reactor = reactor(MIN_POOL_LIMIT);
    let ends = arrive(&mut reactor, 3, b"");
    turn(&mut reactor);
    let go = |reactor: &mut Reactor<Nurse, Fake>, which: usize| {
        let id = reactor.connections.ids()[which];
        reactor.reap(id, Cause::AgentClosed);
    };
    let are_shut = |ends: &[End]| {
        ends.iter()
            .map(|end| end.0.borrow().shut)
            .collect::<Vec<_>>()
    };
    reactor.begin_copy();
    let mut shown = Vec::new();
    let all = reactor.copy_some(2, &mut |id, _, _| shown.push(id));
    assert!(!all && shown.len() == 2);
    go(&mut reactor, 2);
    go(&mut reactor, 0);
    assert_eq!(are_shut(&ends), [true, false, false]);
    assert_eq!(reactor.changes(), 2);
    let mut closed = Vec::new();
    reactor.take_changes(&mut |id, change| {
        assert!(matches!(change, Change::Closed));
        closed.push(id);
    });
    assert_eq!((closed, reactor.changes()), (vec![shown[0]], 0));

    reactor.end_copy();
    go(&mut reactor, 0);
    assert_eq!(are_shut(&ends), [true, false, false]);
}

#[test]
fn who_comes_to_the_place_of_one_that_is_gone_is_shown_and_so_is_what_it_does() {
    // Both buffers are held; one waits for them, another behind it breaks off.
    let crowded = || {
        let mut reactor = reactor(MIN_POOL_LIMIT);
        let long = [b"\xFF\xFF\xFF\xFD".as_slice(), &[b' '; 60_000]].concat();
        let holders = arrive(&mut reactor, 2, &long);
        arrive(&mut reactor, 2, &heartbeat(100));
        turn(&mut reactor);
        turn(&mut reactor);
        assert_eq!(reactor.waiters.len(), 2);
        reactor.begin_copy();
        assert!(reactor.copy_some(9, &mut |_, _, _| {}));
        let gone = reactor.waiters[1];
        let broken = Readiness {
            broken: true,
            ..Readiness::default()
        };
        let event = Event::Ready(gone.token(), broken);
        reactor.kernel.coming.push(event);
        turn(&mut reactor);
        (reactor, holders, gone)
    };
    // The holders end their frames, and all who wait are served, the one that is gone too.
    let go_on = |reactor: &mut Reactor<Nurse, Fake>, holders: &[End]| {
        speak(reactor, holders, &[b' '; 6000]);
        (0..9).for_each(|_| turn(reactor));
        assert!(reactor.waiters.is_empty());
    };
    let changes = |reactor: &mut Reactor<Nurse, Fake>| {
        let mut opened = 0;
        let mut changed = Vec::new();
        reactor.take_changes(&mut |id, change| match change {
            Change::Opened(..) => opened += 1,
            Change::Changed(_) => changed.push(id),
            Change::Closed => {}
        });
        (opened, changed)
    };

    let (mut reactor, holders, _) = crowded();
    go_on(&mut reactor, &holders);
    arrive(&mut reactor, 1, b"");
    turn(&mut reactor);
    assert_eq!(changes(&mut reactor).0, 1, "who has come is shown");

    let (mut reactor, holders, gone) = crowded();
    let newcomer = arrive(&mut reactor, 1, b"");
    turn(&mut reactor);
    let ids = reactor.connections.ids();
    let id = *ids
        .iter()
        .find(|id| id.slot == gone.slot)
        .expect("it has that place");
    assert_eq!(changes(&mut reactor).0, 1);
    go_on(&mut reactor, &holders);
    speak(&mut reactor, &newcomer, b"\xFF\xFF");
    turn(&mut reactor);
    let SocketToken(token) = id.token();
    assert!(
        changes(&mut reactor).1.contains(&MovedId(token)),
        "what it did is shown"
    );
}

/// What a reactor shows whose connections have sent these.
fn states(pool_limit: usize, sent: &[Vec<u8>]) -> Vec<ConnectionState> {
    let mut reactor = reactor(pool_limit);
    for sent in sent {
        arrive(&mut reactor, 1, sent);
        turn(&mut reactor);
        turn(&mut reactor);
    }
    reactor.begin_copy();
    let mut states = Vec::new();
    reactor.copy_some(usize::MAX, &mut |_, _, state| states.push(state));
    states
}

#[test]
fn frames_begun_fit_into_the_same_pool_in_any_order_and_into_a_smaller_one_or_not_at_all() {
    let begun = |bytes: usize| [b"\xFF\xFF\xFF\xFD".as_slice(), &vec![b' '; bytes]].concat();
    let sent: Vec<_> = [60_000, 60_000, 10, 100, 1000, 5000].map(begun).to_vec();
    let shown = states(64 << 20, &sent);
    let holds = 2 * input::LONGEST + 256 + 256 + 1024 + 16 * 1024;
    for turns in 0..shown.len() {
        let mut order = shown.clone();
        order.rotate_left(turns);
        for (limit, fits) in [(holds, true), (holds - 1, false), (64 << 20, true)] {
            let mut heir = reactor(limit);
            let mut adopted = Vec::new();
            for state in &order {
                adopted.push(heir.adopt(End::default(), state.clone()).unwrap());
            }
            match heir.settle_in() {
                Ok(()) => assert!(fits),
                Err(AdoptError::PoolTooSmall { limit: told }) => {
                    assert!(!fits && told == limit);
                    // Nothing is wrong any more once one of the long ones has gone.
                    let place = order.iter().position(|s| s.session.buffered.len() > 50_000);
                    heir.discard(adopted.remove(place.unwrap()));
                    order.remove(place.unwrap());
                    for (id, state) in adopted.iter().zip(&order) {
                        heir.replace(*id, state.clone()).unwrap();
                    }
                    heir.settle_in().unwrap();
                }
                Err(other) => panic!("{other}"),
            }
            let ids = heir.connections.ids();
            let now: Vec<_> = ids
                .iter()
                .map(|id| heir.connections.look(*id).unwrap().export())
                .collect();
            assert_eq!(now, order);
        }
    }
}

#[test]
fn what_no_connection_can_hold_is_refused_and_so_is_who_was_never_adopted() {
    let mut state = states(64 << 20, &[b"\xFF\xFF".to_vec()]).remove(0);
    let mut heir = reactor(64 << 20);
    let id = heir.adopt(End::default(), state.clone()).unwrap();
    state.session.buffered = vec![0; input::LONGEST + 1];
    let refused = heir.adopt(End::default(), state.clone());
    assert!(matches!(refused, Err(AdoptError::TooLong(_))));
    assert_eq!(heir.figures().connections, 1);
    heir.discard(id);
    state.session.buffered.clear();
    let refused = heir.replace(id, state);
    assert!(matches!(refused, Err(AdoptError::Unknown)));
    assert_eq!(heir.figures().connections, 0);
}

/// What its decoder knew was about bytes that are dropped: a successor would refuse it.
#[test]
fn who_is_closed_amid_junk_is_shown_without_what_was_known_of_it() {
    // Each claims to be a long frame, up to a mark at its end.
    let candidate = [b"\xFF\xFF\xFD\x00".as_slice(), &[b' '; 60_000]].concat();
    let sent = [candidate.repeat(5), b"\xFF ".to_vec()].concat();
    let mut reactor = reactor(64 << 20);
    arrive(&mut reactor, 1, &sent);
    (0..9).for_each(|_| turn(&mut reactor));
    reactor.begin_copy();
    let mut shown = Vec::new();
    reactor.copy_some(9, &mut |_, _, state| shown.push(state));
    let [state] = &shown[..] else {
        panic!("{shown:?}");
    };
    let cause = Cause::JunkLimit;
    assert!(
        matches!(state.standing, MovedStanding::Lingering { cause: why, .. } if why == cause),
        "{:?}",
        state.standing
    );
    assert_eq!(state.session.decoder, DecoderState::default());
}

#[test]
fn those_who_waited_are_served_as_they_came_and_before_the_others() {
    let mut shown = states(64 << 20, &[b"", b"", b"", b""].map(|b| b.to_vec()));
    let at = |seconds: u64| Some(Moment::from_nanos(seconds * 1_000_000_000));
    shown[0].session.unsent = b"heartBeat\n".to_vec();
    for (state, since) in shown[1..].iter_mut().zip([at(7), at(5), at(6)]) {
        let stopped = since.map(|since| (StopReason::Buffer, since));
        state.session.clocks.stopped = stopped;
    }
    let mut heir = reactor(64 << 20);
    for state in shown {
        heir.adopt(End::default(), state).unwrap();
    }
    heir.settle_in().unwrap();
    let slots: Vec<_> = heir.run_queue.iter().map(|id| id.slot).collect();
    assert_eq!(slots, [2, 3, 1, 0]);
}
