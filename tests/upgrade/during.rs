//! Events during a hand-over, while the predecessor still serves.

use std::fs;

use hawk_wire::JUNK_LIMIT;
use rustix::process::Pid;

use crate::dynasty::Dynasty;
use hawk_testkit::*;

/// Agents that stay connected.
const AGENTS: usize = 10;

/// Calls of epoll_ctl(2) in a successor before the first agent's: for signals, the waker, the
/// listener, the control socket, its own poll and the channel.
pub(crate) const BEFORE_AGENTS: u32 = 6;

#[test]
fn agents_come_and_go_while_the_successor_starts() {
    let dynasty = start();
    expect_comings_and_goings(dynasty, &Halt::at_the_door(), 0);
}

/// Both processes have the sockets open then, so a close in one of them ends no connection.
#[test]
fn agents_come_and_go_while_the_successor_has_their_sockets_too() {
    let dynasty = start();
    if let Some(halt) = Halt::behind("epoll_ctl", BEFORE_AGENTS + 3) {
        // Agents that stay connected, and agents that leave.
        expect_comings_and_goings(dynasty, &halt, AGENTS + 4);
    }
}

fn start() -> Dynasty {
    Dynasty::start(&["--frame-timeout", "1s"])
}

/// Waits until the successor is at `halt` with at least `duplicates` of the agents' sockets.
fn expect_comings_and_goings(mut dynasty: Dynasty, halt: &Halt, duplicates: usize) {
    let mut stay: Vec<Agent> = (0..AGENTS).map(|_| dynasty.connect()).collect();
    let mut go = [(); 4].map(|()| dynasty.connect());
    let all = stay.iter_mut().chain(&mut go);
    all.for_each(Agent::expect_alive);
    let [mut half_closed, mut junk, mut slow, lost] = go;

    let under_way = dynasty.begin_up_to(halt);
    assert!(sockets_of(under_way.successor) >= duplicates);

    half_closed.send(&report("the last one"));
    half_closed.shutdown_write();
    half_closed.expect_line(REPORT);
    half_closed.expect_eof();
    junk.send(&[b'j'; 2 * JUNK_LIMIT as usize]);
    junk.expect_eof();
    drop(junk);
    slow.send(b"\xFF\xFF");
    slow.expect_eof();
    drop(slow);
    lost.reset_delivered();
    let mut brief = dynasty.connect();
    brief.expect_alive();
    brief.shutdown_write();
    brief.expect_eof();
    stay.push(dynasty.connect());
    stay.iter_mut().for_each(Agent::expect_alive);
    let stats = dynasty.wait_until(|stats| stats.get("connections") == AGENTS as u64 + 1);
    let ends = [
        "agent_closed",
        "junk_limit",
        "frame_timeout",
        "connection_lost",
    ];
    let ends = ends.map(|cause| stats.get(&format!("closed_{cause}")));
    assert_eq!(ends, [2, 1, 1, 1], "{stats:?}");

    halt.let_go(under_way.successor);
    let succession = dynasty.expect_upgraded(under_way);
    assert_eq!(succession.fields.get("connections"), AGENTS as u64 + 1);
    stay.iter_mut().for_each(Agent::expect_alive);
    let after = dynasty.stats();
    assert_eq!(after.closed(), stats.closed());
    assert_eq!(after.get("reports"), 1);
    dynasty.stop();
}

/// Connections change between the first copy and the commit.
#[test]
fn changes_of_connections_during_the_copy_move_as_well() {
    let Some(halt) = Halt::behind("epoll_ctl", BEFORE_AGENTS + 3) else {
        return;
    };
    let mut dynasty = Dynasty::start(&["--frame-timeout", "5m", "--idle-timeout", "5m"]);
    let whole = report("cut");
    let mut agents: Vec<Agent> = (0..whole.len()).map(|_| dynasty.connect()).collect();
    // Half of the agents have sent a part of a frame when they are copied.
    for agent in agents.iter_mut().step_by(2) {
        agent.send(&whole[..1]);
        agent.wait_delivered();
    }
    let under_way = dynasty.begin_up_to(&halt);
    for (cut, agent) in agents.iter_mut().enumerate() {
        if cut % 2 == 0 {
            agent.exchange(&whole[1..], REPORT);
        }
        agent.exchange(&whole, REPORT);
        agent.send(&whole[..cut]);
    }
    halt.let_go(under_way.successor);
    dynasty.expect_upgraded(under_way);
    for (cut, agent) in agents.iter_mut().enumerate() {
        agent.exchange(&whole[cut..], REPORT);
        agent.expect_alive();
    }
    let reports = whole.len() * 2 + whole.len().div_ceil(2);
    assert_eq!(dynasty.stats().get("reports"), reports as u64);
    dynasty.stop();
}

/// A busy loop would keep a successor on the same core from its acknowledgement, and delay agents.
#[test]
fn the_loop_sleeps_while_the_successor_owes_an_answer() {
    let Some(halt) = Halt::behind("epoll_ctl", BEFORE_AGENTS + 3) else {
        return;
    };
    let mut dynasty = Dynasty::start(&[]);
    let mut agents: Vec<Agent> = (0..AGENTS).map(|_| dynasty.connect()).collect();
    agents.iter_mut().for_each(Agent::expect_alive);
    let under_way = dynasty.begin_up_to(&halt);
    for agent in &mut agents {
        let asleep = eventually(|| is_asleep(dynasty.pid()).then_some(()));
        assert!(asleep.is_some(), "it turns without anything to do");
        agent.expect_alive();
    }
    halt.let_go(under_way.successor);
    dynasty.expect_upgraded(under_way);
    agents.iter_mut().for_each(Agent::expect_alive);
    dynasty.stop();
}

#[test]
fn a_second_hand_over_is_refused() {
    let halt = Halt::at_the_door();
    let mut dynasty = Dynasty::start(&[]);
    let mut agent = dynasty.connect();
    let under_way = dynasty.begin_up_to(&halt);
    let why = format!(
        "refused: another one is under way, to process {}; wait for its end",
        under_way.successor.as_raw_nonzero()
    );
    dynasty.expect_refusal(&[], &why);
    let mark = dynasty.log().count();
    for _ in 0..2 {
        dynasty.signal(rustix::process::Signal::USR2);
    }
    let line = format!("upgrade {why}");
    dynasty.log().wait_for(mark, |said| said.contains(&line));
    agent.expect_alive();
    halt.let_go(under_way.successor);
    let succession = dynasty.expect_upgraded(under_way);
    assert_eq!(succession.fields.get("generation"), 2);
    agent.expect_alive();
    dynasty.upgrade(&[]);
    agent.expect_alive();
    dynasty.stop();
}

/// The number of sockets of a process.
fn sockets_of(pid: Pid) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap();
    let names = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let sockets = names.filter(|name| name.to_string_lossy().starts_with("socket:"));
    sockets.count()
}

/// Whether the first thread of a process, which runs the loop, sleeps in the kernel
/// (`proc_pid_stat(5)`). A poll without a timeout does not sleep.
fn is_asleep(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| stat.contains(") S "))
}
