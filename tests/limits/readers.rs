//! Many agents that read their replies slowly or never.

use std::io::{self, Read as _, Write as _};
use std::time::Instant;

use hawk::session::OUTPUT_HIGH_WATER;
use hawk_wire::{FRAME_OVERHEAD, MAX_REPLY_LINE};

use hawk_testkit::*;

const AGENTS: usize = 12;

/// Most bytes of replies that the server keeps for one agent: the high-water mark, and the
/// replies to one read of the shortest frames.
const MOST_UNSENT: usize = OUTPUT_HIGH_WATER + 69_632 / FRAME_OVERHEAD * MAX_REPLY_LINE;

/// Returns the bytes of replies that the server still keeps, if agents sent only heartbeats
/// and frames without data.
fn unsent(stats: &Stats) -> u64 {
    let kinds = [("error_empty", EMPTY), ("heartbeats", HEARTBEAT)];
    let replies = kinds.map(|(name, line)| stats.get(name) * (line.len() as u64 + 1));
    replies.iter().sum::<u64>() - stats.get("bytes_out")
}

#[test]
fn many_agents_that_hardly_read_cost_a_bounded_memory_and_are_closed_at_their_deadline() {
    let server = Server::start(&["--idle-timeout", "8s"]);
    let start = Instant::now();
    let block = frame(b"").repeat(4_000);
    let mut agents = [const { None }; AGENTS];
    let (mut made, mut most) = (0, 0);
    let mut stats = server.stats();
    while stats.get("closed_output_timeout") < AGENTS as u64 {
        // Some megabytes for each agent have to fill the kernel's buffers first.
        assert!(start.elapsed() < 4 * PATIENCE, "{stats:?}");
        for (number, place) in agents.iter_mut().enumerate() {
            // If all agents stall for a while, an agent below the mark is closed as idle.
            // Another takes its place.
            if place.is_none() && made < AGENTS as u64 + stats.get("closed_idle_timeout") {
                made += 1;
                *place = Some(Agent::connect_narrow(server.address).sender());
            }
            let Some(agent) = place else { continue };
            agent.set_nonblocking(true).unwrap();
            let written = agent.write(&block);
            // Half of the agents never read, the others read a byte in each round.
            let read = (number % 2 == 0).then(|| agent.read(&mut [0]));
            let ended = matches!(read, Some(Ok(0))) || is_broken(&written);
            if ended {
                *place = None;
            }
        }
        server.connect().expect_alive();
        stats = server.stats();
        most = most.max(unsent(&stats));
    }
    assert!(most > OUTPUT_HIGH_WATER as u64, "{most}");
    assert!(most <= made * MOST_UNSENT as u64, "{most} for {made}");

    drop(agents);
    let stats = server.wait_until(|stats| stats.get("connections") == 0);
    assert_eq!(stats.in_use(), [0; 5]);
    server.connect().expect_alive();
}

fn would_block<T>(outcome: &io::Result<T>) -> bool {
    outcome
        .as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Returns whether the server has closed the connection.
fn is_broken<T>(outcome: &io::Result<T>) -> bool {
    outcome.is_err() && !would_block(outcome)
}
