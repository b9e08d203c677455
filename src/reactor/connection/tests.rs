//! A connection over a real socket, in made-up time.

use std::time::Duration;

use mio::net::TcpStream;

use super::closing::LINGER;
use super::*;
use crate::handler::{Ack, Config, Keeper};
use crate::roster;
use crate::session::OUTPUT_HIGH_WATER;

#[test]
fn who_did_not_read_in_time_gets_no_second_term() {
    let (mut connection, mut shop, _agent) = connected();
    connection.session.queue(&[b'x'; OUTPUT_HIGH_WATER + 1]);
    connection.writable = false;
    assert!(matches!(connection.serve(&mut shop), Outcome::Idle));
    let deadline = connection.deadline(&shop.limits).unwrap();
    assert_eq!(deadline, shop.now.after(shop.limits.idle));

    shop.now = deadline;
    assert!(matches!(connection.expire(&mut shop), Outcome::Idle));
    assert!(matches!(
        connection.phase,
        Phase::Closing(Cause::OutputTimeout, _)
    ));
    shop.now = shop.now.after(LINGER);
    assert!(matches!(
        connection.expire(&mut shop),
        Outcome::Ended(Cause::OutputTimeout)
    ));
}

fn keeper() -> Keeper {
    Keeper::new(Config {
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
fn connected() -> (Connection<TcpStream>, Shop<Keeper>, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, peer) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let now = Moment::from_nanos(1_000_000_000);
    let pool = Pool::new(&hawk_pool::Config {
        classes: super::super::input::CLASSES.to_vec(),
        limit: 1 << 20,
    });
    let shop = Shop {
        desk: Desk::new(keeper()),
        pool: pool.unwrap(),
        limits: Limits {
            idle: Duration::from_secs(90),
            frame: Duration::from_secs(10),
            rate: None,
        },
        counters: Counters::default(),
        junk_log: Throttle::default(),
        rate_log: Throttle::default(),
        now,
        discard: vec![0; 1024].into_boxed_slice(),
    };
    let socket = TcpStream::from_std(socket);
    let connection = Connection::new(socket, Session::new(peer, now), 0);
    (connection, shop, agent)
}

#[test]
fn a_connection_is_small() {
    // Together with its alarm in the wheel: what an idle agent costs.
    assert!(
        size_of::<Connection<TcpStream>>() <= 272,
        "{}",
        size_of::<Connection<TcpStream>>()
    );
}
