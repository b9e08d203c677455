//! The state that moves, unnoticed by agents.

use hawk_wire::Encoding;
use rustix::process::{Signal, kill_process};

use crate::dynasty::Dynasty;
use hawk_testkit::*;

#[test]
fn agents_continue_with_another_process() {
    let mut dynasty = Dynasty::start(&[]);
    let sockets = dynasty.listening_sockets();
    assert_eq!(sockets.len(), 1);
    let mut idle = dynasty.connect();
    idle.expect_alive();
    let mut in_mid_frame = dynasty.connect();
    let whole = report("begun in one process and ended in another");
    let (begun, rest) = whole.split_at(20);
    in_mid_frame.send(begun);
    in_mid_frame.wait_delivered();

    let succession = dynasty.upgrade(&[]);
    assert_eq!(succession.fields.get("generation"), 2);
    assert_eq!(succession.fields.get("connections"), 2);
    assert_eq!(dynasty.listening_sockets(), sockets, "the same socket");

    in_mid_frame.send(rest);
    in_mid_frame.expect_line(REPORT);
    idle.expect_alive();
    dynasty.connect().expect_alive();
    let stats = dynasty.stats();
    assert_eq!(stats.get("accepted"), 3, "what was counted moves as well");
    assert_eq!(stats.get("reports"), 1);

    let again = dynasty.upgrade(&[]);
    assert_eq!(again.fields.get("generation"), 3);
    idle.expect_alive();
    in_mid_frame.expect_alive();
    dynasty.stop();
}

#[test]
fn a_frame_may_be_cut_by_the_move_at_any_byte() {
    for encoding in [Encoding::Classic, Encoding::Compact] {
        let whole = report_packet("x", encoding, Some("web-01"));
        expect_any_cut(&whole, 0..whole.len());
    }
}

#[test]
fn a_long_frame_may_be_cut_by_the_move() {
    let whole = long_report(LONGEST_DATA);
    let bytes = whole.len();
    // Around its head and tail, and where buffers of each class are full.
    let full = CLASSES.map(|class| usize::try_from(class).unwrap());
    let full = full.iter().flat_map(|class| class - 1..class + 2);
    let cuts = (1..8).chain(full).chain(bytes - 6..bytes);
    expect_any_cut(&whole, cuts.filter(|cut| *cut < bytes));
}

/// Of a report; each cut is another agent's.
#[track_caller]
fn expect_any_cut(whole: &[u8], cuts: impl Iterator<Item = usize>) {
    let mut dynasty = Dynasty::start(&[]);
    let mut agents: Vec<(usize, Agent)> = cuts.map(|cut| (cut, dynasty.connect())).collect();
    for (cut, agent) in &mut agents {
        agent.send(&whole[..*cut]);
    }
    let begun: usize = agents.iter().map(|(cut, _)| cut).sum();
    dynasty.wait_until(|stats| stats.get("bytes_in") == begun as u64);
    for _ in 0..2 {
        let succession = dynasty.upgrade(&[]);
        assert_eq!(succession.fields.get("connections"), agents.len() as u64);
    }
    for (cut, agent) in &mut agents {
        agent.send(&whole[*cut..]);
        agent.expect_line(REPORT);
        agent.expect_alive();
    }
    let stats = dynasty.stats();
    assert_eq!(stats.get("reports"), agents.len() as u64);
    assert_eq!(stats.get("junk_bytes"), 0);
    dynasty.stop();
}

/// Within a reply, and after an end of file that is read already.
#[test]
fn unread_replies_move_to_the_byte() {
    let mut dynasty = Dynasty::start(&[]);
    let mut agents = [(); 2].map(|()| Agent::connect_narrow(dynasty.address()));
    let [replies, replies_too] = agents.each_mut().map(|agent| dynasty.back_up(agent));
    let [mut open, mut half_closed] = agents;
    half_closed.shutdown_write();
    half_closed.wait_delivered();
    // After the end of file, which is read.
    dynasty.connect().expect_alive();
    let unsent = dynasty.stats().get("unsent");
    for _ in 0..3 {
        dynasty.upgrade(&[]);
        assert_eq!(dynasty.stats().get("unsent"), unsent);
    }
    open.widen();
    open.expect_replies(&replies);
    open.expect_alive();
    half_closed.widen();
    half_closed.expect_replies(&replies_too);
    half_closed.expect_eof();
    let stats = dynasty.wait_until(|stats| stats.get("connections") == 1);
    assert_eq!((stats.get("unsent"), stats.in_use()), (0, vec![0; 5]));
    dynasty.stop();
}

#[test]
fn sigusr2_does_it_too() {
    let mut dynasty = Dynasty::start(&[]);
    let mut agent = dynasty.connect();
    agent.expect_alive();
    kill_process(dynasty.pid(), Signal::USR2).unwrap();
    dynasty.expect_successor();
    agent.expect_alive();
    dynasty.stop();
}
