//! The listening socket, and connection attempts during a hand-over.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::dynasty::Dynasty;
use hawk_testkit::*;

/// A second socket with a backlog of its own would lose its connections when it is closed.
#[test]
fn all_generations_have_one_listening_socket_and_no_other_can_bind() {
    let mut dynasty = Dynasty::start(&[]);
    let sockets = dynasty.listening_sockets();
    assert_eq!(sockets.len(), 1);
    for _ in 0..3 {
        expect_port_taken(&dynasty);
        dynasty.upgrade(&[]);
        assert_eq!(dynasty.listening_sockets(), sockets, "the same socket");
    }
    expect_port_taken(&dynasty);
    dynasty.stop();
}

/// With `SO_REUSEPORT` another socket of this user with that option could have the same address
/// (`socket(7)`).
#[track_caller]
fn expect_port_taken(dynasty: &Dynasty) {
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    other.set_reuse_port(true).unwrap();
    other.set_reuse_address(true).unwrap();
    let bound = other.bind(&dynasty.address().into());
    let bound = bound.and_then(|()| other.listen(1));
    assert_eq!(bound.unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn an_agent_that_connects_during_a_hand_over_is_served() {
    const THREADS: usize = 3;
    let mut dynasty = Dynasty::start(&[]);
    let address = dynasty.address();
    let over = AtomicBool::new(false);
    let served: u64 = std::thread::scope(|scope| {
        let end = SetAtEnd(&over);
        let come_and_go = || {
            let mut served = 0;
            while !over.load(Ordering::Relaxed) {
                let mut agent = Agent::connect(address);
                agent.exchange(&report("in passing"), REPORT);
                agent.expect_alive();
                agent.shutdown_write();
                agent.expect_eof();
                served += 1;
            }
            served
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(come_and_go)).collect();
        for _ in 0..10 {
            dynasty.upgrade(&[]);
        }
        drop(end);
        threads.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert!(served > 0);
    let stats = dynasty.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.get("accepted"), served);
    assert_eq!(stats.get("closed_agent_closed"), served, "{stats:?}");
    assert_eq!(stats.get("reports"), served);
    dynasty.stop();
}

/// The successor has the token, and no process reads or accepts.
#[test]
fn the_backlog_keeps_connections_after_the_commit() {
    let Some(halt) = Halt::behind("epoll_wait", 1) else {
        return;
    };
    let mut dynasty = Dynasty::start(&[]);
    let mut before = dynasty.connect();
    before.expect_alive();
    let under_way = dynasty.begin_up_to(&halt);
    let mut newcomers: Vec<Agent> = (0..100).map(|_| dynasty.connect()).collect();
    for agent in newcomers.iter_mut().chain([&mut before]) {
        agent.send(&report("while no process served"));
        agent.expect_silence();
    }
    halt.let_go(under_way.successor);
    dynasty.expect_upgraded(under_way);
    for agent in newcomers.iter_mut().chain([&mut before]) {
        agent.expect_line(REPORT);
        agent.expect_alive();
    }
    assert_eq!(dynasty.stats().get("accepted"), 101);
    dynasty.stop();
}

/// The predecessor has begun its freeze, which then may take too long.
#[test]
fn the_backlog_keeps_connections_during_the_freeze() {
    let Some(halt) = Halt::behind("eventfd2", FREEZE_BEGUN) else {
        return;
    };
    let mut dynasty = Dynasty::start_with(&[], |launch| halt.launch(launch));
    let mut before = dynasty.connect();
    before.expect_alive();
    let first = dynasty.pid();
    let under_way = dynasty.begin(&[]);
    halt.wait(first);
    let mut newcomers: Vec<Agent> = (0..20).map(|_| dynasty.connect()).collect();
    for agent in newcomers.iter_mut().chain([&mut before]) {
        agent.send(&report("while no process served"));
        agent.expect_silence();
    }
    halt.let_go(first);
    for agent in newcomers.iter_mut().chain([&mut before]) {
        agent.expect_line(REPORT);
        agent.expect_alive();
    }
    dynasty.expect_some_end(under_way, "rolled back at freeze: ");
    newcomers.iter_mut().for_each(Agent::expect_alive);
    dynasty.stop();
}

/// The call of eventfd2(2) that makes the token, without a store: the first is for the
/// event loop's waker.
pub(crate) const FREEZE_BEGUN: u32 = 2;

#[test]
fn the_serving_process_handles_a_signal_for_statistics() {
    let mut dynasty = Dynasty::start(&[]);
    for generation in 1..4 {
        let mark = dynasty.log().count();
        dynasty.signal(Signal::USR1);
        let line = format!(" generation={generation} rolled_back=0");
        dynasty.log().wait_for(mark, |said| {
            said.contains("] restart ") && said.contains(&line)
        });
        dynasty.upgrade(&[]);
    }
    dynasty.stop();
}
