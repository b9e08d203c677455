//! What hawk keeps books of: buffers, alarms, agents.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hawk::roster::{self, Entry, Identity, Roster};
use hawk_pool::{Config, Pool};
use hawk_time::TimerWheel;
use hawk_time::{Moment, UnixNanos};

use super::Operation;

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new("pool", "checkout and return, shortest", 1, || {
            checkout(SHORTEST)
        }),
        Operation::new("pool", "checkout and return, longest", 1, || {
            checkout(LONGEST)
        }),
        Operation::new("pool", "checkout, keep 100 bytes, return", 1, shrink),
        Operation::new("wheel", "move a deadline on", 1, move_on),
        Operation::new("wheel", "set and take back", 1, set_and_take_back),
        Operation::new("wheel", "set and ring", ALARMS.into(), set_and_ring),
        Operation::new("roster", "an agent is heard", 1, record_packet),
        Operation::new("roster", "an agent sends a heartbeat", 1, beat),
    ]
}

/// As the reactor has them.
const SHORTEST: usize = 256;
const LONGEST: usize = 69_632;

fn pool() -> Pool {
    let classes = vec![SHORTEST, 1024, 4096, 16_384, LONGEST];
    let limit = 64 * LONGEST;
    Pool::new(&Config { classes, limit }).expect("good classes")
}

fn checkout(at_least: usize) -> impl FnMut() {
    let pool = pool();
    move || drop(black_box(pool.checkout(black_box(at_least))))
}

/// What a read does that ends within a frame.
fn shrink() -> impl FnMut() {
    let pool = pool();
    move || {
        let buffer = pool.checkout(LONGEST).expect("there is room");
        drop(black_box(buffer.shrink(black_box(5_000..5_100))));
    }
}

const START: Moment = Moment::from_nanos(1_000_000_000_000);

/// How far ahead deadlines are: within one round of the wheel.
const AHEAD: Duration = Duration::from_secs(60);

/// What a frame does to its connection's alarm.
fn move_on() -> impl FnMut() {
    let mut wheel = TimerWheel::new(START);
    let mut deadline = START.after(AHEAD);
    wheel.arm(7, deadline);
    move || {
        deadline = deadline.after(Duration::from_nanos(1));
        wheel.arm(black_box(7), deadline);
    }
}

fn set_and_take_back() -> impl FnMut() {
    let mut wheel = TimerWheel::new(START);
    let deadline = START.after(AHEAD);
    wheel.arm(6, deadline);
    move || {
        wheel.arm(black_box(7), deadline);
        wheel.disarm(black_box(7));
    }
}

const ALARMS: u32 = 1_000;

/// Alarms spread over two seconds, all of which ring.
fn set_and_ring() -> impl FnMut() {
    let mut wheel = TimerWheel::new(START);
    let mut due = Vec::new();
    let mut now = START;
    move || {
        for slot in 0..ALARMS {
            let ahead = Duration::from_millis(u64::from(slot) * 2);
            wheel.arm(slot, now.after(ahead));
        }
        now = now.after(Duration::from_secs(3));
        due.clear();
        wheel.expire(now, &mut due);
        assert_eq!(black_box(&due).len(), ALARMS as usize);
    }
}

/// A roster of one agent without a name, online.
fn one_agent() -> (Roster, roster::AgentKey) {
    let config = roster::Config {
        offline_after: None,
        start_grace: Duration::from_secs(30),
        capacity: 1000,
    };
    let mut roster = Roster::new(config, START);
    let entry = Entry::new(Identity::Address(ADDRESS), ADDRESS, START, WALL);
    let key = roster.insert(entry, START);
    roster.record_packet(key, ADDRESS, START, WALL);
    (roster, key)
}

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const WALL: UnixNanos = UnixNanos::from_nanos(1_475_249_220_000_000_000);

fn record_packet() -> impl FnMut() {
    let (mut roster, key) = one_agent();
    let mut now = START;
    move || {
        now = now.after(Duration::from_millis(1));
        black_box(roster.record_packet(black_box(key), ADDRESS, now, WALL));
    }
}

fn beat() -> impl FnMut() {
    let (mut roster, key) = one_agent();
    let mut now = START;
    move || {
        now = now.after(Duration::from_millis(1));
        roster.beat(black_box(key), "1.0", None, (now, WALL));
    }
}
