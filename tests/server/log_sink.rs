//! A log without a reader does not delay the server.

use rustix::process::Signal;

use hawk_testkit::*;

/// The text of a report that makes a log line of some 60 kB.
const TEXT: usize = 60_000;

/// A server that logs packets, with a pipe as stderr that is not read until
/// [`Lines::go_on`].
fn start() -> Server {
    Launch::serve(&["--log-packets"]).stderr_unread().start()
}

/// Sends numbered reports one after the other, and expects a reply to each.
fn report_numbers(agent: &mut Agent, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let text = format!("{number:08} {}", "x".repeat(TEXT));
        agent.exchange(
            &report_packet(&text, hawk_wire::Encoding::Compact, None),
            REPORT,
        );
    }
}

/// Returns the numbers of the reports in a log.
fn numbers(lines: &[String]) -> Vec<usize> {
    let texts = lines
        .iter()
        .filter_map(|line| line.split_once("content=\""));
    texts.map(|(_, text)| text[..8].parse().unwrap()).collect()
}

#[test]
fn agents_are_answered_while_the_log_is_not_read_and_missing_lines_are_counted() {
    // More than a pipe, the queue and the line in progress take.
    const REPORTS: usize = 300;
    let server = start();
    let mut agent = server.connect();
    report_numbers(&mut agent, 0..REPORTS);
    agent.expect_alive();
    assert_eq!(server.log().count(), 0);

    server.log().go_on();
    let (notice, mark) = server.log().wait_for(0, |line| line.starts_with("log: "));
    let words: Vec<_> = notice.split(' ').collect();
    let left_out: usize = words[1].parse().unwrap();
    let expected = format!("log: {left_out} lines left out: stderr was not read in time");
    assert_eq!(notice, expected);
    assert_eq!(server.stats().get("log_left_out"), left_out as u64);

    // All other lines are there, in order around the notice.
    report_numbers(&mut agent, REPORTS..REPORTS + 10);
    server.signal(Signal::TERM);
    let exit = server.wait_exit();
    let before = numbers(&exit.stderr[..mark]);
    assert_eq!(before, (0..before.len()).collect::<Vec<_>>());
    // Two lines are not of reports: the heartbeat, and the agent that comes online.
    assert!((REPORTS..=REPORTS + 2).contains(&(before.len() + left_out)));
    let after = numbers(&exit.stderr[mark..]);
    assert_eq!(after, (REPORTS..REPORTS + 10).collect::<Vec<_>>());
}

#[test]
fn a_stop_loses_no_line_of_a_log_that_is_read() {
    const REPORTS: usize = 50;
    let server = start();
    report_numbers(&mut server.connect(), 0..REPORTS);
    server.log().go_on();
    server.signal(Signal::TERM);
    let exit = server.wait_exit();
    assert_eq!(exit.code, Some(0));
    assert_eq!(numbers(&exit.stderr), (0..REPORTS).collect::<Vec<_>>());
    let last = exit.stderr.last().unwrap();
    assert!(last.contains("served connections=0 "), "{last}");
}

#[test]
fn a_log_that_is_not_read_does_not_delay_the_stop() {
    let server = start();
    report_numbers(&mut server.connect(), 0..10);
    server.signal(Signal::TERM);
    // Its stdout ends when it exits.
    server.wait_stdout_end();
    server.log().go_on();
    assert_eq!(server.wait_exit().code, Some(0));
}
