//! A hand-over with real sockets, from one epoll to another.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::*;
use crate::reactor::handover::Change;
use crate::transfer::Transfer as _;

const PATIENCE: Duration = Duration::from_secs(20);

type Served = Reactor<HeartbeatHandler, Linux>;

fn duplicate(socket: impl std::os::fd::AsFd) -> std::os::fd::OwnedFd {
    socket.as_fd().try_clone_to_owned().unwrap()
}

/// Turns until `is_so` returns true.
fn turn_until(reactor: &mut Served, mut is_so: impl FnMut(&Served) -> bool) {
    let until = Moment::now().after(PATIENCE);
    while !is_so(reactor) {
        assert!(Moment::now() < until, "the condition never became true");
        let soon = Moment::now().after(Duration::from_millis(50));
        assert_eq!(reactor.turn(Some(soon)).unwrap(), None);
    }
}

#[test]
fn unread_input_and_partial_frames_move_and_ended_connections_stay_ended() {
    let config = reactor(MIN_POOL_LIMIT).config;
    let config = Config {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        ..config
    };
    let mut old = Reactor::new(config.clone(), HeartbeatHandler, Linux::new().unwrap()).unwrap();
    let address = old.local_addr().unwrap();
    let connect = || {
        let agent = TcpStream::connect(address).unwrap();
        agent.set_read_timeout(Some(PATIENCE)).unwrap();
        agent
    };
    let (mut stays, mut leaves) = (connect(), connect());
    let frame = heartbeat(10);
    stays.write_all(&frame[..7]).unwrap();
    turn_until(&mut old, |old| {
        old.figures().connections == 2 && old.figures().reactor.bytes_in == 7
    });

    let listener = Linux::listener(duplicate(old.listener(ListenerTag::AGENTS).unwrap()));
    let kernel = Linux::new().unwrap();
    let mut new = Reactor::with_listeners(
        config,
        HeartbeatHandler,
        kernel,
        [(ListenerTag::AGENTS, listener)],
    )
    .unwrap();
    old.begin_copy();
    let all = old.copy_some(9, &mut |id, change| {
        let Change::Opened(socket, state) = change else {
            panic!("it was not copied before");
        };
        let socket = Linux::connection(duplicate(socket));
        new.import(id, Change::Opened(socket, state)).unwrap();
    });
    assert!(all);
    // It ends before the commit, while both reactors have its socket.
    leaves.write_all(&frame).unwrap();
    leaves.shutdown(std::net::Shutdown::Write).unwrap();
    turn_until(&mut old, |old| old.figures().connections == 1);
    let mut answer = String::new();
    leaves.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "heartBeat\n");

    // The rest of the frame and a new connection arrive while no reactor turns.
    stays.write_all(&frame[7..]).unwrap();
    let mut late = connect();
    late.write_all(&frame).unwrap();
    old.take_changes(usize::MAX, &mut |id, change| {
        let change = match change {
            Change::Closed => Change::Closed,
            Change::Changed(state) => Change::Changed(state),
            Change::Opened(..) => panic!("there is no new connection"),
        };
        new.import(id, change).unwrap();
    });
    assert_eq!(old.changes(), 0);
    let (counters, tally) = old.counts();
    new.resume_counts(counters, tally);
    assert_eq!(new.complete_adoption().unwrap(), 1);
    drop(old);

    turn_until(&mut new, |new| new.figures().sessions.heartbeats == 3);
    assert_eq!(new.local_addr().unwrap(), address);
    for agent in [&mut stays, &mut late] {
        let mut answer = [0; 10];
        agent.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"heartBeat\n");
    }
    assert_eq!(new.figures().connections, 2);
}
