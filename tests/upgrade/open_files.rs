//! Too few open files: in the successor, or in flight to it.

use std::fs::File;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use hawk::reactor::RESERVED_DESCRIPTORS;
use hawk::restart::channel::{MAX_DESCRIPTORS, MessageSocket};
use rustix::thread::{CapabilitySet, capabilities};

use crate::during::BEFORE_AGENTS;
use crate::dynasty::Dynasty;
use hawk_testkit::*;

/// The build under test, by its path.
const THIS: &str = env!("CARGO_BIN_EXE_hawk");

/// All agents have one address, which may have all connections.
const ONE_ADDRESS: [&str; 2] = ["--max-connections-per-ip", "100000"];

#[test]
fn a_successor_that_may_not_open_a_file_for_each_connection_is_refused() {
    const AGENTS: usize = 20;
    let mut dynasty = Dynasty::start(&ONE_ADDRESS);
    let mut agents: Vec<Agent> = (0..AGENTS).map(|_| dynasty.connect()).collect();
    agents.iter_mut().for_each(Agent::expect_alive);
    let before = descriptors_of(dynasty.pid());
    let needed = AGENTS + RESERVED_DESCRIPTORS;
    for limit in [needed - 1, RESERVED_DESCRIPTORS, 40] {
        let binary = dynasty.script(&format!("ulimit -n {limit}; exec {THIS} \"$@\""));
        let why = format!(
            "rolled back at hello: the successor may have {limit} files open and needs {needed}, \
             one for each of {AGENTS} connections and {RESERVED_DESCRIPTORS} more; raise its limit"
        );
        dynasty.expect_refusal(&["--binary", &binary], &why);
        dynasty.wait_until(|stats| stats.get("connections") == AGENTS as u64);
        dynasty.expect_nothing_of_the_attempt(&before);
    }
    agents.iter_mut().for_each(Agent::expect_alive);
    // The next successor's limit is just enough.
    let binary = dynasty.script(&format!("ulimit -n {needed}; exec {THIS} \"$@\""));
    let succession = dynasty.upgrade(&["--binary", &binary]);
    assert_eq!(succession.fields.get("connections"), AGENTS as u64);
    agents.iter_mut().for_each(Agent::expect_alive);
    // The successor is full and turns a connection away. Its predecessor had room.
    let mut one_more = dynasty.connect();
    one_more.expect_line("busy: too many connections");
    drop(agents.pop());
    dynasty.wait_until(|stats| stats.get("connections") == AGENTS as u64 - 1);
    dynasty.connect().expect_alive();
    dynasty.stop();
}

/// Before it learns of closed connections, a successor has their sockets, and those of the new
/// ones in their place.
#[test]
fn a_full_server_hands_over_while_all_its_agents_are_replaced() {
    const AGENTS: usize = 60;
    let _alone = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(halt) = Halt::behind("epoll_ctl", BEFORE_AGENTS + 1) else {
        return;
    };
    let mut dynasty = Dynasty::start_with(&ONE_ADDRESS, |launch| {
        limited(launch, RESERVED_DESCRIPTORS + AGENTS)
    });
    let mut agents: Vec<Agent> = (0..AGENTS).map(|_| dynasty.connect()).collect();
    agents.iter_mut().for_each(Agent::expect_alive);
    let under_way = dynasty.begin_up_to(&halt);
    for place in &mut agents {
        place.shutdown_write();
        place.expect_eof();
        *place = dynasty.connect();
        place.expect_alive();
    }
    halt.let_go(under_way.successor);
    let how = dynasty.expect_upgraded(under_way);
    assert_eq!(how.fields.get("connections"), AGENTS as u64);
    agents.iter_mut().for_each(Agent::expect_alive);
    dynasty.stop();
}

/// Many agents connect and leave all the time, and most are turned away.
#[test]
fn a_full_server_hands_over_while_crowds_come_and_go() {
    const AGENTS: usize = 280;
    const PLACES: usize = 20;
    // One address is not enough for so many.
    const CROWDS: usize = 50;
    let _alone = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = RESERVED_DESCRIPTORS + AGENTS + PLACES;
    let mut dynasty = Dynasty::start_with(&ONE_ADDRESS, |launch| limited(launch, limit));
    let mut agents: Vec<Agent> = (0..AGENTS).map(|_| dynasty.connect()).collect();
    agents.iter_mut().for_each(Agent::expect_alive);
    let address = dynasty.address();
    let over = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = SetAtEnd(over);
        for _ in 0..2 {
            scope.spawn(move || {
                for _ in (0..CROWDS).take_while(|_| !over.load(Ordering::Relaxed)) {
                    let crowd = (0..2 * PLACES).map(|_| TcpStream::connect(address).unwrap());
                    drop(crowd.collect::<Vec<_>>());
                }
            });
        }
        for _ in 0..5 {
            let how = dynasty.upgrade(&[]);
            assert!(how.fields.get("connections") >= AGENTS as u64);
        }
    });
    agents.iter_mut().for_each(Agent::expect_alive);
    dynasty.stop();
}

/// The limit is the same in each process, and connections that are turned away do not count.
#[test]
fn a_full_server_hands_over_to_one_with_the_same_limit() {
    let _alone = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = RESERVED_DESCRIPTORS + 20;
    let mut dynasty = Dynasty::start_with(&ONE_ADDRESS, |launch| limited(launch, limit));
    let mut agents: Vec<Agent> = (0..20).map(|_| dynasty.connect()).collect();
    agents.iter_mut().for_each(Agent::expect_alive);
    let mut turned_away: Vec<Agent> = (0..30).map(|_| dynasty.connect()).collect();
    let busy = "busy: too many connections";
    turned_away
        .iter_mut()
        .for_each(|agent| agent.expect_line(busy));
    for _ in 0..2 {
        // They linger, as their agents keep them open.
        assert_eq!(dynasty.stats().get("connections"), 50);
        let succession = dynasty.upgrade(&[]);
        assert_eq!(succession.fields.get("connections"), 50);
    }
    agents.iter_mut().for_each(Agent::expect_alive);
    turned_away.iter_mut().for_each(Agent::expect_eof);
    dynasty.stop();
}

#[test]
fn a_crowd_that_connects_while_state_is_copied_counts() {
    const AGENTS: usize = 4;
    let Some(halt) = Halt::behind("epoll_ctl", BEFORE_AGENTS + 2) else {
        return;
    };
    let mut dynasty = Dynasty::start(&ONE_ADDRESS);
    let mut agents: Vec<Agent> = (0..AGENTS).map(|_| dynasty.connect()).collect();
    agents.iter_mut().for_each(Agent::expect_alive);
    let before = descriptors_of(dynasty.pid());
    let limit = RESERVED_DESCRIPTORS + 2 * AGENTS;
    let halting = halt.binary();
    let binary = dynasty.script(&format!(
        "ulimit -n {limit}; exec {} \"$@\"",
        halting.display()
    ));
    let under_way = dynasty.begin(&["--binary", &binary]);
    halt.wait(under_way.successor);
    let mut crowd: Vec<Agent> = (0..2 * AGENTS).map(|_| dynasty.connect()).collect();
    dynasty.wait_until(|stats| stats.get("connections") == 3 * AGENTS as u64);
    let why =
        format!("rolled back at pre-copy: the successor may have {limit} files open and needs ");
    let none = dynasty.expect_some_end(under_way, &why);
    assert!(none.is_none(), "{none:?}");
    crowd.iter_mut().for_each(Agent::expect_alive);
    drop(crowd);
    dynasty.wait_until(|stats| stats.get("connections") == AGENTS as u64);
    dynasty.expect_nothing_of_the_attempt(&before);
    agents.iter_mut().for_each(Agent::expect_alive);
    dynasty.upgrade(&[]);
    agents.iter_mut().for_each(Agent::expect_alive);
    dynasty.stop();
}

/// The limit is high enough, but the successor has other files open, unknown to the
/// predecessor: the kernel omits descriptors from a message (`MSG_CTRUNC`).
#[test]
fn omitted_descriptors_roll_the_hand_over_back() {
    const AGENTS: usize = 100;
    let limit = AGENTS + RESERVED_DESCRIPTORS;
    let mut dynasty = Dynasty::start(&ONE_ADDRESS);
    let mut agents: Vec<Agent> = (0..AGENTS).map(|_| dynasty.connect()).collect();
    agents.iter_mut().for_each(Agent::expect_alive);
    let whole = report("begun before descriptors were lost");
    let (begun, rest) = whole.split_at(20);
    agents[0].send(begun);
    agents[0].wait_delivered();
    let before = descriptors_of(dynasty.pid());
    // Some forty are left. Only bash opens files under numbers of two digits.
    let binary = dynasty.script_of(
        "bash",
        &format!(
            "ulimit -n {limit}\nfor ((n = 10; n < 130; n++)); do eval \"exec $n</dev/null\"; done\n\
             exec {THIS} \"$@\""
        ),
    );
    for _ in 0..2 {
        dynasty.expect_refusal(
            &["--binary", &binary],
            "rolled back at pre-copy: the successor says: descriptors were lost on their way, \
             because too many files are open; raise the limit of open files",
        );
        dynasty.wait_until(|stats| stats.get("connections") == AGENTS as u64);
        dynasty.expect_nothing_of_the_attempt(&before);
    }
    agents[1..].iter_mut().for_each(Agent::expect_alive);
    let succession = dynasty.upgrade(&[]);
    assert_eq!(succession.fields.get("connections"), AGENTS as u64);
    agents[0].send(rest);
    agents[0].expect_line(REPORT);
    agents.iter_mut().for_each(Agent::expect_alive);
    dynasty.stop();
}

/// Another program of the same user has many descriptors in flight (`ETOOMANYREFS`).
#[test]
fn descriptors_that_cannot_be_sent_now_are_for_the_next_attempt() {
    const LIMIT: usize = 300;
    let _alone = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
    let mut dynasty = Dynasty::start_with(&ONE_ADDRESS, |launch| {
        limited(without_privilege(launch), LIMIT)
    });
    let mut agents: Vec<Agent> = (0..50).map(|_| dynasty.connect()).collect();
    agents.iter_mut().for_each(Agent::expect_alive);
    let before = descriptors_of(dynasty.pid());
    let (other, its_peer) = MessageSocket::pair().unwrap();
    let file = File::open("/dev/null").unwrap();
    let many = [(); MAX_DESCRIPTORS].map(|()| file.as_fd());
    for _ in 0..LIMIT.div_ceil(MAX_DESCRIPTORS) {
        other.send(b"never received", &many).unwrap();
    }
    for _ in 0..2 {
        dynasty.expect_refusal(
            &[],
            "rolled back at pre-copy: too many descriptors of this user are on their way between \
             processes; try again, or raise the limit of open files",
        );
        dynasty.wait_until(|stats| stats.get("connections") == 50);
        dynasty.expect_nothing_of_the_attempt(&before);
    }
    agents.iter_mut().for_each(Agent::expect_alive);
    drop((other, its_peer));
    let succession = dynasty.upgrade(&[]);
    assert_eq!(succession.fields.get("connections"), 50);
    agents.iter_mut().for_each(Agent::expect_alive);
    dynasty.stop();
}

/// The descriptors that one test has in flight count for the other test, with its low limit.
static UNDER_WAY: Mutex<()> = Mutex::new(());

/// Sets the limit of open files, soft and hard.
fn limited(launch: Launch, files: usize) -> Launch {
    launch.under(
        "sh",
        &["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")],
    )
}

/// The superuser is exempt from the limit of descriptors in flight.
fn without_privilege(launch: Launch) -> Launch {
    let exempt = CapabilitySet::SYS_RESOURCE | CapabilitySet::SYS_ADMIN;
    let has = capabilities(None).unwrap().effective;
    match has.intersects(exempt) {
        true => launch.under("setpriv", &["--bounding-set=-all", "--inh-caps=-all"]),
        false => launch,
    }
}
