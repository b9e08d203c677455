//! A connection over a real socket, in made-up time.

use std::time::Duration;

use mio::net::TcpStream;

use super::*;
use crate::handler::{Ack, Config, PacketHandler};
use crate::reactor::PhaseBudget;
use crate::roster;
use crate::session::OUTPUT_HIGH_WATER;

#[test]
fn who_did_not_read_in_time_gets_no_second_term() {
    let (mut connection, mut shop, _agent) = connected();
    let replies = [b'x'; OUTPUT_HIGH_WATER + 1];
    connection.session.queue(&replies, &shop.sessions.unsent);
    connection.writable = false;
    assert!(matches!(connection.serve(&mut shop), Outcome::Idle));
    let deadline = connection.deadline(&shop.limits).unwrap();
    assert_eq!(deadline, shop.now.after(shop.limits.idle));

    shop.now = deadline;
    assert!(matches!(connection.expire(&mut shop), Outcome::Idle));
    assert!(matches!(
        connection.phase.get(),
        ConnectionPhase::Closing {
            cause: Cause::OutputTimeout,
            ..
        }
    ));
    shop.now = shop.now.after(LINGER);
    assert!(matches!(
        connection.expire(&mut shop),
        Outcome::Ended(Cause::OutputTimeout)
    ));
}

#[test]
fn who_waited_for_the_store_and_then_does_not_read_is_given_a_deadline() {
    let (mut connection, mut shop, _agent) = connected();
    connection.session.stop_reading(StopReason::Store, shop.now);
    shop.now = shop.now.after(Duration::from_secs(5));
    let replies = [b'x'; OUTPUT_HIGH_WATER + 1];
    connection.session.queue(&replies, &shop.sessions.unsent);
    connection.writable = false;
    assert!(matches!(connection.serve(&mut shop), Outcome::Idle));
    let deadline = connection.deadline(&shop.limits);
    assert_eq!(deadline, Some(shop.now.after(shop.limits.idle)));
}

#[test]
fn who_has_nothing_unsent_is_read_from_in_small_pieces_while_there_is_no_room() {
    let (mut connection, mut shop, mut agent) = connected();
    let (mut other, ..) = connected();
    shop.output_limit = OutputLimit::new(10);
    other.session.queue(&[b'x'; 11], &shop.sessions.unsent);
    let junk = vec![b'x'; 5 * LEAST_READ];
    std::io::Write::write_all(&mut agent, &junk).unwrap();
    connection.readable = true;
    assert!(matches!(connection.serve(&mut shop), Outcome::Idle));
    assert_eq!(shop.counters.bytes_in, junk.len() as u64);
    assert!(shop.counters.reads >= 5, "{}", shop.counters.reads);
    assert_eq!(shop.counters.output_limited, 1);
}

#[test]
fn who_is_broken_already_does_not_wait_for_a_buffer() {
    let (mut connection, mut shop, _agent) = connected();
    let longest = shop.pool.longest();
    let _taken: Vec<_> = std::iter::from_fn(|| shop.pool.checkout(longest).ok()).collect();
    connection.mark_ready(Readiness {
        readable: true,
        end_of_file: true,
        broken: true,
        ..Readiness::default()
    });
    let outcome = connection.serve(&mut shop);
    assert!(
        matches!(outcome, Outcome::Ended(Cause::ConnectionLost)),
        "{outcome:?}"
    );
    assert!(!shop.pool.has_waiters());
}

#[test]
fn a_deadline_outlives_the_wait_for_a_buffer_to_look_with() {
    let (mut connection, mut shop, _agent) = connected();
    let longest = shop.pool.longest();
    let mut taken: Vec<_> = std::iter::from_fn(|| shop.pool.checkout(longest).ok()).collect();
    let mut reserve = shop.pool.wait().redeem().ok();
    assert!(reserve.is_some());

    shop.now = connection.deadline(&shop.limits).unwrap();
    let outcome = connection.expire(&mut shop);
    assert!(matches!(outcome, Outcome::WaitForBuffer), "{outcome:?}");
    assert!(connection.serve_waiting(From::Either, &mut shop).is_none());
    reserve.take();
    taken.clear();
    let outcome = connection.serve_waiting(From::Either, &mut shop);
    assert!(matches!(outcome, Some(Outcome::Idle)), "{outcome:?}");
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

/// A connection, what it needs, and the agent's end of it.
fn connected() -> (
    Connection<TcpStream>,
    Shop<PacketHandler>,
    std::net::TcpStream,
) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, peer) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let now = Moment::from_nanos(1_000_000_000);
    let pool = Pool::new(&hawk_pool::Config {
        classes: CLASSES.to_vec(),
        limit: 1 << 20,
    });
    let mut shop = Shop {
        sessions: SessionContext::new(packet_handler()),
        pool: pool.unwrap(),
        buffers: BufferShares::new(1 << 20),
        limits: Limits {
            idle: Duration::from_secs(90),
            frame: Duration::from_secs(10),
            rate: None,
        },
        rates: NetworkRates::default(),
        counters: Counters::default(),
        ledger: Ledger::default(),
        output_limit: OutputLimit::new(64 << 20),
        work: Work::new(PhaseBudget::default()),
        junk_log: Throttle::default(),
        rate_log: Throttle::default(),
        now,
        discard: vec![0; 1024].into_boxed_slice(),
    };
    shop.work.begin(1);
    let socket = TcpStream::from_std(socket);
    let connection = Connection::new(socket, Session::new(peer, now), 0);
    (connection, shop, agent)
}
