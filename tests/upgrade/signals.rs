//! Signals at bad moments.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::during::BEFORE_AGENTS;
use crate::dynasty::Dynasty;
use crate::listener::FREEZE_BEGUN;
use hawk_testkit::*;

/// Points at which a successor stops: before its `Hello`, with some of the agents' sockets, and
/// after the commit, with all of them.
fn halts() -> impl Iterator<Item = (Halt, Moved)> {
    let door = std::iter::once((Halt::at_the_door(), Moved::No));
    let copying = Halt::behind("epoll_ctl", BEFORE_AGENTS + 1);
    let committed = Halt::behind("epoll_wait", 1);
    door.chain(copying.map(|halt| (halt, Moved::No)))
        .chain(committed.map(|halt| (halt, Moved::Yes)))
}

/// Whether the successor serves there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moved {
    No,
    Yes,
}

/// The successor does not serve yet, and must not begin.
#[test]
fn a_stop_of_the_successor_ends_the_hand_over_and_nothing_else() {
    let Some(halt) = Halt::behind("epoll_ctl", BEFORE_AGENTS + 1) else {
        return;
    };
    let mut dynasty = Dynasty::start(&[]);
    let mut agents = [(); 3].map(|()| dynasty.connect());
    agents.iter_mut().for_each(Agent::expect_alive);
    let mut under_way = dynasty.begin_up_to(&halt);
    kill_process(under_way.successor, Signal::TERM).unwrap();
    halt.let_go(under_way.successor);
    let told = under_way.client_ends();
    assert_eq!(told.code, Some(1), "{told:?}");
    let said = told.stderr.concat();
    let why = "rolled back at pre-copy: the successor says: it was told to stop";
    assert!(said.contains(why), "{said}");
    agents.iter_mut().for_each(Agent::expect_alive);
    dynasty.upgrade(&[]);
    agents.iter_mut().for_each(Agent::expect_alive);
    dynasty.stop();
}

/// The process that serves then handles them.
#[test]
fn other_signals_to_the_successor_are_obeyed_once_it_serves() {
    let Some(halt) = Halt::behind("epoll_ctl", BEFORE_AGENTS + 1) else {
        return;
    };
    let mut dynasty = Dynasty::start(&[]);
    let mut agent = dynasty.connect();
    agent.expect_alive();
    let under_way = dynasty.begin_up_to(&halt);
    let mark = dynasty.log().count();
    for _ in 0..3 {
        kill_process(under_way.successor, Signal::USR1).unwrap();
    }
    halt.let_go(under_way.successor);
    dynasty.expect_upgraded(under_way);
    agent.expect_alive();
    dynasty.log().wait_for(mark, |said| {
        said.contains("] restart ") && said.contains(" generation=2 ")
    });
    dynasty.stop();
}

#[test]
fn a_stop_signal_ends_the_hand_over() {
    for (halt, moved) in halts() {
        if moved == Moved::Yes {
            continue;
        }
        let dynasty = Dynasty::start(&[]);
        let mut agent = dynasty.connect();
        agent.expect_alive();
        let _under_way = dynasty.begin_up_to(&halt);
        agent.send(&report("the last one"));
        agent.wait_delivered();
        dynasty.signal(Signal::TERM);
        agent.expect_line(REPORT);
        agent.expect_eof();
        drop(agent);
        dynasty.expect_end_of_all();
    }
}

/// As Ctrl-C in a terminal.
#[test]
fn an_interrupt_of_all_processes_leaves_none() {
    for (halt, moved) in halts() {
        let dynasty = Dynasty::start_with(&[], |launch| launch.under("setsid", &[]));
        let group = dynasty.pid();
        let mut agent = dynasty.connect();
        agent.expect_alive();
        let under_way = dynasty.begin_up_to(&halt);
        kill_process_group(group, Signal::INT).unwrap();
        if moved == Moved::Yes {
            halt.let_go(under_way.successor);
        }
        agent.expect_eof();
        drop(agent);
        dynasty.expect_end_of_all();
    }
}

#[test]
fn an_interrupt_of_all_processes_leaves_none_whenever_it_comes() {
    for line in ["handing over to", "took over", "handed over to"] {
        let dynasty = Dynasty::start_with(&[], |launch| launch.under("setsid", &[]));
        let mut agent = dynasty.connect();
        agent.expect_alive();
        dynasty.signal(Signal::USR2);
        dynasty.log().wait_for(0, |said| said.contains(line));
        kill_process_group(dynasty.pid(), Signal::INT).unwrap();
        agent.expect_eof();
        drop(agent);
        dynasty.expect_end_of_all();
    }
}

/// A signal that reaches the predecessor after its last turn takes effect in the serving process.
#[test]
fn a_stop_that_comes_in_the_freeze_is_not_lost() {
    expect_stop_in_freeze(&[], |first| kill_process(first, Signal::TERM).unwrap());
}

/// A service manager may signal all processes of a service.
#[test]
fn a_stop_of_both_processes_is_not_a_second_signal() {
    expect_stop_in_freeze(&["--drain-timeout", "20s"], |first| {
        kill_process_group(first, Signal::TERM).unwrap();
    });
}

#[track_caller]
fn expect_stop_in_freeze(args: &[&str], stop: impl FnOnce(Pid)) {
    let Some(halt) = Halt::behind("eventfd2", FREEZE_BEGUN) else {
        return;
    };
    let dynasty = Dynasty::start_with(args, |launch| halt.launch(launch).under("setsid", &[]));
    let first = dynasty.pid();
    let mut agent = dynasty.connect();
    agent.expect_alive();
    let _under_way = dynasty.begin(&[]);
    halt.wait(first);
    agent.send(&report("the last one"));
    agent.wait_delivered();
    stop(first);
    halt.let_go(first);
    agent.expect_line(REPORT);
    agent.expect_eof();
    drop(agent);
    let log = dynasty.log().clone();
    dynasty.expect_end_of_all();
    let told = log.since(0);
    let ends = told.iter().filter(|line| line.contains("] served "));
    assert_eq!(ends.count(), 1, "{told:#?}");
    assert!(
        !told.iter().any(|line| line.contains("second signal")),
        "{told:#?}"
    );
}
