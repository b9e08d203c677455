//! Nothing is allocated for a report, from its bytes on the socket to its reply
//! after the commit: the whole server in this process, with an allocator that
//! counts for all threads.

#![allow(clippy::unwrap_used)] // A test's way to fail.

use std::alloc::System;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use hawk::admission;
use hawk::handler::{self, Ack, Keeper};
use hawk::log_sink::LeftOut;
use hawk::reactor::{Config, Linux, PhaseBudget, Reactor};
use hawk::roster;
use hawk::session::Limits;
use hawk::store::{Retention, Store};
use hawk::wire::{AgentName, Encoding, Packet, Reply, Report, encode_packet};
use rustix::process::{Signal, getpid, kill_process};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Only a failure takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reports that are sent in one go, and how often.
const REPORTS: usize = 2_000;
const ROUNDS: usize = 50;

/// What may be allocated all in all while those are taken: something that
/// a commit or a turn of the loop may cost, and far from once for each report.
const ALLOWANCE: usize = REPORTS * ROUNDS / 10;

#[test]
fn a_report_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("hawk.db")).unwrap();
    let retention = Retention {
        age: Duration::from_secs(3600),
        size: 1 << 30,
    };
    let mut keeper = Keeper::new(handler::Config {
        ack: Ack::Committed,
        roster: roster::Config {
            offline_after: None,
            start_grace: Duration::from_secs(30),
            capacity: 1000,
        },
        remember: Duration::from_secs(3600),
        log_packets: false,
    });
    keeper.store_in(store.start(retention).unwrap(), None);
    let mut reactor = Reactor::new(config(), keeper, Linux::new().unwrap()).unwrap();
    let address = reactor.local_addr().unwrap();
    let agent = std::thread::spawn(move || {
        let _stop = StopOnDrop;
        allocations_at(address)
    });
    while reactor.turn(None).unwrap().is_none() {}
    reactor.into_handler().finish(PATIENCE, PATIENCE).unwrap();
    let allocations = agent.join().unwrap();
    assert!(
        allocations <= ALLOWANCE,
        "{allocations} allocations for {} reports",
        REPORTS * ROUNDS
    );
}

/// Stops the server, however its agent ends.
struct StopOnDrop;

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        kill_process(getpid(), Signal::TERM).unwrap();
    }
}

/// Plays the agent; what all threads allocated meanwhile, itself included.
fn allocations_at(server: SocketAddr) -> usize {
    let mut agent = TcpStream::connect(server).unwrap();
    agent.set_read_timeout(Some(PATIENCE)).unwrap();
    agent.set_write_timeout(Some(PATIENCE)).unwrap();
    let frames = frames();
    let mut replies = vec![0; REPORTS * Reply::Report.line().len()];
    let mut round = || {
        agent.write_all(&frames).unwrap();
        agent.read_exact(&mut replies).unwrap();
        assert!(replies.ends_with(Reply::Report.line()));
    };
    // Until everything is as large as it gets.
    (0..ROUNDS).for_each(|_| round());
    let counted = Region::new(ALLOCATOR);
    (0..ROUNDS).for_each(|_| round());
    counted.change().allocations
}

fn config() -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        max_connections: 10,
        admission: admission::Rules::default(),
        output_limit: 64 << 20,
        phase_budget: PhaseBudget::default(),
        pool_limit: 1 << 20,
        limits: Limits {
            idle: PATIENCE,
            frame: PATIENCE,
            rate: None,
        },
        drain_timeout: PATIENCE,
        stats_interval: Duration::from_secs(3600),
        log_left_out: LeftOut::default(),
    }
}

/// Short enough that all of their replies fit the kernel's buffers: the client
/// writes all before it reads.
fn frames() -> Vec<u8> {
    let mut frames = Vec::new();
    for rand in 0..REPORTS {
        let packet = Packet::Report(Report {
            content: "load average 0.42".into(),
            rand: i64::try_from(rand).unwrap(),
            timestamp: 1_475_249_220,
            agent: Some(AgentName::new("web-01").unwrap()),
        });
        encode_packet(&packet, Encoding::Classic, &mut frames).unwrap();
    }
    frames
}
