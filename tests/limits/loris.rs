//! Thousands of connections with a partial frame that never ends.

use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::crowd::{Crowd, has_ended};
use hawk_testkit::*;

/// Enough connections that a cost for each in every turn would show as a hang.
const THOUSANDS: usize = 5_000;

#[test]
fn thousands_of_frames_begun_are_closed_at_their_deadline_and_others_are_answered() {
    let many = ManyAgents::wait(THOUSANDS);
    let deadline = Duration::from_secs(2);
    let server = Server::start(&["--frame-timeout", "2s"]);
    let mut other = server.connect();
    other.expect_alive();
    let mut crowd = Crowd::storm(&server, many.most);
    // So long that no agent reaches its end, a byte at a time.
    let frame = long_report(60_000);
    let begun: Vec<_> = (0..many.most).map(begin).collect();
    let start = Instant::now();
    for (member, sent) in crowd.members.iter_mut().zip(&begun) {
        member.write_all(&frame[..*sent]).unwrap();
        if other_is_due(*sent) {
            other.expect_alive();
        }
    }
    // Before the first deadline all of them are connected and hold the smallest buffers;
    // after it that is not certain.
    let stats = server.stats();
    if start.elapsed() < deadline {
        assert_eq!(stats.closed(), 0);
        let [smallest, longer @ ..] = &stats.in_use()[..] else {
            panic!("no classes");
        };
        assert!(*smallest <= many.most as u64, "{stats:?}");
        assert!(longer.iter().all(|&in_use| in_use == 0), "{stats:?}");
    }

    // Half of them send a further byte in each round, which moves no deadline.
    let mut more = begun;
    let mut rounds = 0;
    while crowd.members.iter_mut().any(|member| !has_ended(member)) {
        assert!(start.elapsed() < PATIENCE, "{:?}", server.stats());
        for (member, sent) in crowd.members.iter_mut().zip(&mut more).step_by(2) {
            // It may have been closed.
            if member.write_all(&frame[*sent..=*sent]).is_ok() {
                *sent += 1;
            }
        }
        other.expect_alive();
        rounds += 1;
    }
    assert!(start.elapsed() >= deadline, "after {:?}", start.elapsed());
    assert!(rounds > 0);
    drop(crowd);
    let stats = server.wait_until(|stats| stats.get("connections") == 1);
    assert_eq!(stats.get("closed_frame_timeout"), many.most as u64);
    assert_eq!(stats.closed(), many.most as u64);
    assert_eq!(stats.in_use(), [0; 5]);
    other.expect_alive();
}

/// Returns how many bytes of a frame the connection of this number sends first.
const fn begin(number: usize) -> usize {
    [1, 2, 3, 4, 20, 200][number % 6]
}

/// Returns true now and then.
fn other_is_due(sent: usize) -> bool {
    sent == 20
}

#[test]
fn partial_frames_that_fill_the_pool_and_its_queue_block_no_agent_for_ever() {
    // Room for 272 buffers of the smallest class, and for the reserve.
    const ROOM: usize = 273;
    let server = Server::start(&["--pool-limit", "139264", "--frame-timeout", "200ms"]);
    let _many = ManyAgents::wait(5 * ROOM);
    let mut crowd = Crowd::storm(&server, 5 * ROOM);
    for member in &mut crowd.members {
        member.write_all(b"\xFF\xFF\x01").unwrap();
    }
    // A new agent is behind all of them in the queue for a buffer, or all are gone already;
    // it is answered when their frame timeouts have passed.
    let mut other = server.connect();
    other.expect_alive();
    let stats = server.wait_until(|stats| stats.get("connections") == 1);
    let all = 5 * ROOM as u64;
    assert_eq!(
        (stats.get("closed_frame_timeout"), stats.closed()),
        (all, all)
    );
    assert!(stats.longest("high_water") <= 2, "{stats:?}");
    assert_eq!(stats.longest("waiters"), 0);
    assert_eq!(stats.in_use(), [0; 5]);
    other.expect_alive();
}
