//! The limit of unread replies over all agents.

use std::io::Write as _;
use std::net::TcpStream;

use hawk::reactor::{Config, MIN_POOL_LIMIT};
use hawk::session::OUTPUT_HIGH_WATER;

use crate::fairness::verbose;
use hawk_testkit::*;

const LIMIT: usize = 64 * 1024;

/// Enough agents to exceed the limit far, at the limit of each.
const AGENTS: usize = 20;

/// A server with the smallest pool.
fn launch(more: &[&str]) -> Server {
    let (limit, pool) = (LIMIT.to_string(), MIN_POOL_LIMIT.to_string());
    let args = ["--output-limit", &limit, "--pool-limit", &pool];
    Server::start(&[&args, more].concat())
}

/// The same, as the server sees it.
fn config() -> Config {
    Config {
        max_connections: AGENTS + 5,
        output_limit: LIMIT,
        pool_limit: MIN_POOL_LIMIT,
        ..in_process::reactor(PATIENCE)
    }
}

/// Sends as much as the socket takes; returns whether that was anything.
fn push(sockets: &mut [TcpStream], block: &[u8]) -> bool {
    let mut went = false;
    for socket in sockets {
        while socket.write(block).is_ok() {
            went = true;
        }
    }
    went
}

#[test]
fn unread_replies_are_bounded_over_all_agents_and_agents_that_read_are_answered() {
    let server = launch(&[]);
    let agents: Vec<_> = (0..AGENTS)
        .map(|_| Agent::connect_narrow(server.address))
        .collect();
    let mut sockets: Vec<_> = agents.iter().map(Agent::sender).collect();
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
    }
    let most = config().most_output() as u64;
    assert!(most < (AGENTS * OUTPUT_HIGH_WATER) as u64 * 2 / 3);

    // Until the writes of all agents block: no connection is read any more.
    let block = verbose(16).0;
    let mut before = server.stats();
    let blocked = eventually(|| {
        let went = push(&mut sockets, &block);
        let now = server.stats();
        assert!(now.get("unsent") <= most, "{now:?}");
        // A server without a core for a while makes no progress either.
        let full = now.get("unsent") > LIMIT as u64;
        let stands = full && !went && now.get("bytes_in") == before.get("bytes_in");
        before = now;
        stands.then_some(())
    });
    assert!(blocked.is_some(), "they are still read from: {before:?}");
    assert!(before.get("output_limited") >= 1);
    assert!(server.count_logged("output limit: ") >= 1);

    // Agents that read are served as before.
    let mut others: Vec<_> = (0..5).map(|_| server.connect()).collect();
    for _ in 0..50 {
        for other in &mut others {
            other.exchange(&frame(b""), EMPTY);
        }
    }
    let stats = server.stats();
    assert_eq!(stats.get("unsent"), before.get("unsent"));

    // Closed connections release their share.
    drop((agents, sockets));
    server.wait_until(|stats| stats.get("connections") == 5 && stats.get("unsent") == 0);
    others.iter_mut().for_each(Agent::expect_alive);
}

#[test]
fn an_agent_that_does_not_read_below_the_limit_is_closed_and_its_memory_is_released() {
    let server = launch(&["--idle-timeout", "4s"]);
    std::thread::scope(|scope| {
        let mut begun = 0;
        for enough in [1, AGENTS / 2, AGENTS] {
            let closed = eventually(|| {
                let stats = server.stats();
                // If the machine stalls, an agent may be idle before it has unread replies.
                // Another one takes its place.
                while begun < AGENTS as u64 + stats.get("closed_idle_timeout") {
                    begun += 1;
                    scope.spawn(|| send_for_ever(&server));
                }
                (stats.get("closed_output_timeout") >= enough as u64).then_some(())
            });
            assert!(closed.is_some(), "{:?}", server.stats());
        }
    });
    let stats = server.wait_until(|stats| stats.get("connections") == 0);
    assert!(stats.get("output_limited") >= 1, "{stats:?}");
    assert_eq!(stats.get("unsent"), 0);
    server.connect().expect_alive();
}

/// Sends until the server closes, and reads nothing.
fn send_for_ever(server: &Server) {
    let mut sender = Agent::connect_narrow(server.address).sender();
    let block = verbose(16).0;
    while sender.write_all(&block).is_ok() {}
}
