//! A connection over a real socket, in simulated time.

use std::time::Duration;

use mio::net::TcpStream;

use super::*;
use crate::handler::{Ack, Config, PacketHandler};
use crate::reactor::replies::OutputLimit;
use crate::roster;
use crate::session::OUTPUT_HIGH_WATER;

#[test]
fn a_connection_that_timed_out_with_unread_replies_is_closed_once() {
    let (mut connection, mut cx, _agent) = connected();
    let replies = [b'x'; OUTPUT_HIGH_WATER + 1];
    connection.session.queue(&replies, &cx.sessions.unsent);
    connection.writable = false;
    assert!(matches!(connection.serve(&mut cx), ServeOutcome::Idle));
    let deadline = connection.deadline(&cx.limits).unwrap();
    assert_eq!(deadline, cx.now.after(cx.limits.idle));

    cx.now = deadline;
    assert!(matches!(connection.expire(&mut cx), ServeOutcome::Idle));
    assert!(matches!(
        connection.phase.get(),
        ConnectionPhase::Closing {
            cause: Cause::OutputTimeout,
            ..
        }
    ));
    cx.now = cx.now.after(LINGER);
    assert!(matches!(
        connection.expire(&mut cx),
        ServeOutcome::Ended(Cause::OutputTimeout)
    ));
}

#[test]
fn a_connection_with_unread_replies_has_a_deadline_after_it_waited_for_the_store() {
    let (mut connection, mut cx, _agent) = connected();
    connection.session.stop_reading(StopReason::Store, cx.now);
    cx.now = cx.now.after(Duration::from_secs(5));
    let replies = [b'x'; OUTPUT_HIGH_WATER + 1];
    connection.session.queue(&replies, &cx.sessions.unsent);
    connection.writable = false;
    assert!(matches!(connection.serve(&mut cx), ServeOutcome::Idle));
    let deadline = connection.deadline(&cx.limits);
    assert_eq!(deadline, Some(cx.now.after(cx.limits.idle)));
}

#[test]
fn a_connection_without_unsent_replies_is_read_in_small_pieces_above_the_output_limit() {
    let (mut connection, mut cx, mut agent) = connected();
    let (mut other, ..) = connected();
    cx.output_limit = OutputLimit::new(10);
    other.session.queue(&[b'x'; 11], &cx.sessions.unsent);
    let junk = vec![b'x'; 5 * MIN_READ];
    std::io::Write::write_all(&mut agent, &junk).unwrap();
    connection.readable = true;
    assert!(matches!(connection.serve(&mut cx), ServeOutcome::Idle));
    assert_eq!(cx.counters.bytes_in, junk.len() as u64);
    assert!(cx.counters.reads >= 5, "{}", cx.counters.reads);
    assert_eq!(cx.counters.output_limited, 1);
}

#[test]
fn a_broken_connection_does_not_wait_for_a_buffer() {
    let (mut connection, mut cx, _agent) = connected();
    let longest = cx.pool.longest();
    let _taken: Vec<_> = std::iter::from_fn(|| cx.pool.checkout(longest).ok()).collect();
    connection.mark_ready(Readiness {
        readable: true,
        end_of_file: true,
        broken: true,
        ..Readiness::default()
    });
    let outcome = connection.serve(&mut cx);
    assert!(
        matches!(outcome, ServeOutcome::Ended(Cause::ConnectionLost)),
        "{outcome:?}"
    );
    assert!(!cx.pool.has_waiters());
}

#[test]
fn a_deadline_is_enforced_after_the_wait_for_a_buffer() {
    let (mut connection, mut cx, _agent) = connected();
    let longest = cx.pool.longest();
    let mut taken: Vec<_> = std::iter::from_fn(|| cx.pool.checkout(longest).ok()).collect();
    let mut reserve = cx.pool.wait().redeem().ok();
    assert!(reserve.is_some());

    cx.now = connection.deadline(&cx.limits).unwrap();
    let outcome = connection.expire(&mut cx);
    assert!(
        matches!(outcome, ServeOutcome::WaitForBuffer),
        "{outcome:?}"
    );
    assert!(connection.serve_waiting(From::Either, &mut cx).is_none());
    reserve.take();
    taken.clear();
    let outcome = connection.serve_waiting(From::Either, &mut cx);
    assert!(matches!(outcome, Some(ServeOutcome::Idle)), "{outcome:?}");
    assert!(matches!(
        connection.phase.get(),
        ConnectionPhase::Closing {
            cause: Cause::IdleTimeout,
            ..
        } | ConnectionPhase::Lingering {
            cause: Cause::IdleTimeout,
            ..
        }
    ));
}

fn packet_handler() -> PacketHandler {
    PacketHandler::new(Config {
        ack: Ack::Committed,
        roster: roster::Config {
            offline_after: None,
            start_grace: Duration::ZERO,
            capacity: 1,
        },
        remember: Duration::from_secs(1),
        log_packets: false,
    })
}

/// A connection, its context, and the agent's socket.
fn connected() -> (
    Connection<TcpStream>,
    LoopContext<PacketHandler>,
    std::net::TcpStream,
) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, peer) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let now = Moment::from_nanos(1_000_000_000);
    let config = crate::reactor::Config {
        output_limit: 64 << 20,
        limits: Limits {
            idle: Duration::from_secs(90),
            frame: Duration::from_secs(10),
            rate: None,
        },
        ..crate::reactor::tests::config(1 << 20)
    };
    let mut cx = LoopContext::new(&config, packet_handler(), now).unwrap();
    cx.work.begin(1);
    let socket = TcpStream::from_std(socket);
    let connection = Connection::new(socket, Session::new(peer, now), 0);
    (connection, cx, agent)
}
