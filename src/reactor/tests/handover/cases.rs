//! Single cases: which connections are copied and shut down, and which input fits.

use std::num::NonZeroU32;

use super::super::*;
use super::Successor;
use crate::reactor::handover::{AdoptError, Change, ConnectionState, MovedId};
use crate::reactor::phase::ConnectionPhase;
use crate::session::{Bucket, Rate, StopReason};
use crate::stats::Cause;
use crate::transfer::Transfer as _;
use hawk_wire::DecoderState;

#[test]
fn the_successor_accepts_from_the_backlog() {
    let mut reactor = reactor(MIN_POOL_LIMIT);
    turn(&mut reactor);
    let agent = arrive(&mut reactor, 1, &heartbeat(0)).remove(0);
    let mut successor = Successor::beside(&reactor).reactor;
    drop(reactor);
    turn(&mut successor);
    assert_eq!(successor.kernel.patience, Some(Duration::ZERO));
    turn(&mut successor);
    assert!(agent.is_answered());
}

#[test]
fn only_copied_connections_are_shut_down_when_they_end() {
    let mut reactor = reactor(MIN_POOL_LIMIT);
    let ends = arrive(&mut reactor, 3, b"");
    turn(&mut reactor);
    let go = |reactor: &mut Reactor<HeartbeatHandler, Fake>, which: usize| {
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
    let all = reactor.copy_some(2, &mut |id, _| shown.push(id));
    assert!(!all && shown.len() == 2);
    go(&mut reactor, 2);
    go(&mut reactor, 0);
    assert_eq!(are_shut(&ends), [true, false, false]);
    assert_eq!(reactor.changes(), 2);
    let mut closed = Vec::new();
    reactor.take_changes(usize::MAX, &mut |id, change| {
        assert!(matches!(change, Change::Closed));
        closed.push(id);
    });
    assert_eq!((closed, reactor.changes()), (vec![shown[0]], 0));

    reactor.end_copy();
    go(&mut reactor, 0);
    assert_eq!(are_shut(&ends), [true, false, false]);
}

#[test]
fn a_connection_in_a_reused_slot_is_copied_and_so_are_its_changes() {
    // Both buffers are in use; one connection waits for them, another behind it breaks.
    let crowded = || {
        let mut reactor = reactor(MIN_POOL_LIMIT);
        let long = [b"\xFF\xFF\xFF\xFD".as_slice(), &[b' '; 60_000]].concat();
        let holders = arrive(&mut reactor, 2, &long);
        arrive(&mut reactor, 2, &heartbeat(100));
        turn(&mut reactor);
        turn(&mut reactor);
        assert_eq!(waiting(&reactor).len(), 2);
        reactor.begin_copy();
        assert!(reactor.copy_some(9, &mut |_, _| {}));
        let gone = waiting(&reactor)[1];
        let broken = Readiness {
            broken: true,
            ..Readiness::default()
        };
        let event = Event::Ready(gone.token(), broken);
        reactor.kernel.coming.push(event);
        turn(&mut reactor);
        (reactor, holders, gone)
    };
    // The holders complete their frames; all waiters are served, the closed one included.
    let serve_waiters = |reactor: &mut Reactor<HeartbeatHandler, Fake>, holders: &[End]| {
        speak(reactor, holders, &[b' '; 6000]);
        (0..9).for_each(|_| turn(reactor));
        assert!(waiting(reactor).is_empty());
    };
    let changes = |reactor: &mut Reactor<HeartbeatHandler, Fake>| {
        let mut opened = 0;
        let mut changed = Vec::new();
        reactor.take_changes(usize::MAX, &mut |id, change| match change {
            Change::Opened(..) => opened += 1,
            Change::Changed(_) => changed.push(id),
            Change::Closed => {}
        });
        (opened, changed)
    };

    let (mut reactor, holders, _) = crowded();
    serve_waiters(&mut reactor, &holders);
    arrive(&mut reactor, 1, b"");
    turn(&mut reactor);
    assert_eq!(changes(&mut reactor).0, 1, "the new connection is copied");

    let (mut reactor, holders, gone) = crowded();
    let agent = arrive(&mut reactor, 1, b"");
    turn(&mut reactor);
    let ids = reactor.connections.ids();
    let id = *ids
        .iter()
        .find(|id| id.slot == gone.slot)
        .expect("it has that place");
    assert_eq!(changes(&mut reactor).0, 1);
    serve_waiters(&mut reactor, &holders);
    speak(&mut reactor, &agent, b"\xFF\xFF");
    turn(&mut reactor);
    let SocketToken(token) = id.token();
    assert!(
        changes(&mut reactor).1.contains(&MovedId(token)),
        "its change is copied"
    );
}

/// Copies the connections of a reactor to which agents have sent these bytes.
fn states(pool_limit: usize, sent: &[Vec<u8>]) -> Vec<ConnectionState> {
    let mut reactor = reactor(pool_limit);
    for sent in sent {
        arrive(&mut reactor, 1, sent);
        turn(&mut reactor);
        turn(&mut reactor);
    }
    copied(&mut reactor)
}

/// Copies all connections of a reactor.
fn copied(reactor: &mut Reactor<HeartbeatHandler, Fake>) -> Vec<ConnectionState> {
    reactor.begin_copy();
    let mut states = Vec::new();
    reactor.copy_some(usize::MAX, &mut |_, change| match change {
        Change::Opened(_, state) => states.push(state),
        _ => panic!("it was not copied before"),
    });
    states
}

#[test]
fn partial_frames_fit_into_a_pool_of_the_same_size_in_any_order() {
    let begun = |bytes: usize| [b"\xFF\xFF\xFF\xFD".as_slice(), &vec![b' '; bytes]].concat();
    let sent: Vec<_> = [60_000, 60_000, 10, 100, 1000, 5000].map(begun).to_vec();
    let shown = states(64 << 20, &sent);
    let holds = 2 * buffers::LONGEST + 256 + 256 + 1024 + 16 * 1024;
    for turns in 0..shown.len() {
        let mut order = shown.clone();
        order.rotate_left(turns);
        for (limit, fits) in [(holds, true), (holds - 1, false), (64 << 20, true)] {
            let mut successor = reactor(limit);
            let mut adopted = Vec::new();
            for state in &order {
                adopted.push(successor.adopt(End::default(), state.clone()).unwrap());
            }
            match successor.complete_adoption() {
                Ok(_) => assert!(fits),
                Err(AdoptError::PoolTooSmall { limit: reported }) => {
                    assert!(!fits && reported == limit);
                    // Without one of the long frames, the rest fit.
                    let place = order.iter().position(|s| s.session.buffered.len() > 50_000);
                    successor.discard(adopted.remove(place.unwrap()));
                    order.remove(place.unwrap());
                    for (id, state) in adopted.iter().zip(&order) {
                        successor.replace(*id, state.clone()).unwrap();
                    }
                    successor.complete_adoption().unwrap();
                }
                Err(other) => panic!("{other}"),
            }
            let ids = successor.connections.ids();
            let now: Vec<_> = ids
                .iter()
                .map(|id| successor.connections.get(*id).unwrap().export())
                .collect();
            assert_eq!(now, order);
        }
    }
}

#[test]
fn input_without_a_buffer_is_dropped_with_its_state() {
    let begun = [b"\xFF\xFF\xFF\xFD".as_slice(), &[b' '; 60_000]].concat();
    let shown = states(64 << 20, &[begun.clone(), begun.clone(), begun, Vec::new()]);
    let full = || {
        let mut successor = reactor(MIN_POOL_LIMIT);
        let all = shown[..3].iter().cloned();
        let ids: Vec<_> = all
            .map(|state| successor.adopt(End::default(), state).unwrap())
            .collect();
        (successor, ids[2])
    };
    let (mut successor, _) = full();
    assert!(matches!(
        successor.complete_adoption(),
        Err(AdoptError::PoolTooSmall { .. })
    ));

    let (mut replaced, last) = full();
    replaced.replace(last, shown[3].clone()).unwrap();
    let (mut refilled, last) = full();
    refilled.discard(last);
    refilled.adopt(End::default(), shown[3].clone()).unwrap();
    for mut successor in [replaced, refilled] {
        successor.complete_adoption().unwrap();
        let ids = successor.connections.ids();
        let held: Vec<_> = ids
            .iter()
            .map(|id| {
                successor
                    .connections
                    .get(*id)
                    .unwrap()
                    .export()
                    .session
                    .buffered
                    .len()
            })
            .collect();
        assert_eq!(held, [60_004, 60_004, 0]);
    }
}

#[test]
fn too_long_input_and_unknown_connections_are_refused() {
    let mut state = states(64 << 20, &[b"\xFF\xFF".to_vec()]).remove(0);
    let mut successor = reactor(64 << 20);
    let id = successor.adopt(End::default(), state.clone()).unwrap();
    state.session.buffered = vec![0; buffers::LONGEST + 1];
    let refused = successor.adopt(End::default(), state.clone());
    assert!(matches!(refused, Err(AdoptError::TooLong(_))));
    assert_eq!(successor.figures().connections, 1);
    successor.discard(id);
    state.session.buffered.clear();
    let refused = successor.replace(id, state);
    assert!(matches!(refused, Err(AdoptError::Unknown)));
    assert_eq!(successor.figures().connections, 0);
}

/// The state of its decoder belongs to dropped bytes: a successor would refuse it.
#[test]
fn a_connection_closed_amid_junk_is_copied_without_its_decoder() {
    // Each looks like a long frame, up to a marker at its end.
    let candidate = [b"\xFF\xFF\xFD\x00".as_slice(), &[b' '; 60_000]].concat();
    let sent = [candidate.repeat(5), b"\xFF ".to_vec()].concat();
    let mut reactor = reactor(64 << 20);
    arrive(&mut reactor, 1, &sent);
    (0..9).for_each(|_| turn(&mut reactor));
    let shown = copied(&mut reactor);
    let [state] = &shown[..] else {
        panic!("{shown:?}");
    };
    let cause = Cause::JunkLimit;
    assert!(
        matches!(state.phase, ConnectionPhase::Lingering { cause: why, .. } if why == cause),
        "{:?}",
        state.phase
    );
    assert_eq!(state.session.decoder, DecoderState::default());
}

#[test]
fn adopted_waiters_are_served_first_in_fifo_order() {
    let mut shown = states(64 << 20, &[b"", b"", b"", b""].map(|b| b.to_vec()));
    let at = |seconds: u64| Some(Moment::from_nanos(seconds * 1_000_000_000));
    shown[0].session.unsent = b"heartBeat\n".to_vec();
    for (state, since) in shown[1..].iter_mut().zip([at(7), at(5), at(6)]) {
        let stopped = since.map(|since| (StopReason::Buffer, since));
        state.session.clocks.stopped = stopped;
    }
    let mut successor = reactor(64 << 20);
    for state in shown {
        successor.adopt(End::default(), state).unwrap();
    }
    successor.complete_adoption().unwrap();
    let slots: Vec<_> = successor.run_queue.iter().map(|id| id.slot).collect();
    assert_eq!(slots, [2, 3, 1, 0]);
}

/// Its work at the first copy is done: it would count as paused by its rate twice.
#[test]
fn an_adopted_connection_without_work_has_no_turn() {
    let mut state = states(64 << 20, &[b"".to_vec()]).remove(0);
    let rate = Rate::per_second(NonZeroU32::MIN);
    let mut successor = reactor(64 << 20);
    successor.cx.limits.rate = Some(rate);
    state.undecoded = true;
    let id = successor.adopt(End::default(), state.clone()).unwrap();
    let gone = successor.adopt(End::default(), state.clone()).unwrap();
    let now = successor.kernel.now();
    state.session.clocks.stopped = Some((StopReason::Rate, now));
    state.session.bucket = Bucket::from_full_at(now.after(Duration::from_secs(60)));
    state.undecoded = false;
    successor.replace(id, state).unwrap();
    successor.discard(gone);
    successor.complete_adoption().unwrap();
    assert_eq!(successor.run_queue.len(), 0);
    turn(&mut successor);
    assert_eq!(successor.figures().reactor.rate_limited, 0);
    // Its timer gives it the next turn.
    successor.kernel.later = Duration::from_secs(61);
    turn(&mut successor);
    let connection = successor.connections.iter().next().unwrap();
    assert_eq!(connection.session.stopped(), None);
}
