//! A pool with a tenth of the buffers that the load needs.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use hawk_testkit::*;

/// Agents that send long frames without pause: each needs its own buffer.
const GREEDY: usize = 100;

/// Room for a tenth of them.
const POOL_LIMIT: usize = GREEDY / 10 * 69_632;

/// How often the other agents send.
const ROUNDS: usize = 15;

/// Returns a heartbeat of so many bytes of data.
fn padded_heartbeat(agent: &str, data: usize) -> Vec<u8> {
    let (head, tail) = (format!("\0{{\"agent\":\"{agent}\",\"padding\":\""), "\"}");
    let padding = "x".repeat(data - head.len() - tail.len());
    frame(format!("{head}{padding}{tail}").as_bytes())
}

#[test]
fn a_pool_of_a_tenth_of_the_demand_serves_every_agent() {
    // A connection with a buffer may have a turn, and then another as the last in the
    // queue. A turn reads 64 KiB after the partial frame, at most two of these frames.
    const MOST_BETWEEN: usize = 4;
    let limit = POOL_LIMIT.to_string();
    let server = Server::start(&["--pool-limit", &limit, "--log-packets"]);
    let mut other = server.connect();
    let greedy: Vec<_> = (0..GREEDY).map(|number| greedy(&server, number)).collect();
    server.wait_until(|stats| stats.longest("waiters") > GREEDY as u64 / 2);
    for round in 0..ROUNDS {
        let name = format!("other-{round}");
        other.send(&padded_heartbeat(&name, 100));
        other.wait_delivered();
        // The frame has arrived by now; lines after this one in the log are later.
        let mark = server.log().count();
        server.stats();
        other.expect_line(HEARTBEAT);
        let (_, behind) = server
            .log()
            .wait_for(0, |line| line.contains(&format!("agent={name:?}")));
        let lines = server.log().since(mark);
        let until = behind.saturating_sub(mark);
        let asked = lines.iter().position(|line| line.contains("] stats "));
        let between = lines.get(asked.unwrap()..until).unwrap_or_default();
        let (name, most) = busiest(between);
        assert!(most <= MOST_BETWEEN, "{name} had {most} in round {round}");
    }
    // Every one of them has had an answer.
    let all = server.log().since(0);
    let served = counts(&all)
        .keys()
        .filter(|name| name.contains("greedy"))
        .count();
    assert_eq!(served, GREEDY);

    for (socket, threads) in greedy {
        socket.shutdown(Shutdown::Both).ok();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    }
    let stats = server.wait_until(|stats| stats.get("connections") == 1);
    assert!(
        stats.longest("high_water") <= GREEDY as u64 / 10,
        "{stats:?}"
    );
    assert_eq!(stats.longest("waiters"), 0);
    assert_eq!(stats.in_use(), [0; 5]);
    assert_eq!(stats.get("errors"), 0);
}

type Flood = (std::net::TcpStream, [std::thread::JoinHandle<()>; 2]);

/// Sends long frames and reads the replies, until the socket is shut down.
fn greedy(server: &Server, number: usize) -> Flood {
    let agent = server.connect();
    let (mut sender, mut receiver) = (agent.sender(), agent.sender());
    let frame = padded_heartbeat(&format!("greedy-{number}"), 60_000);
    let sending = std::thread::spawn(move || while sender.write_all(&frame).is_ok() {});
    let reading = std::thread::spawn(move || {
        let mut discard = [0; 4096];
        while receiver.read(&mut discard).is_ok_and(|read| read > 0) {}
    });
    (agent.sender(), [sending, reading])
}

/// Returns the number of packets in the log by agent.
fn counts(lines: &[String]) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    for line in lines.iter().filter(|line| line.contains("heartbeat peer=")) {
        let mut words = line.split(' ');
        let agent = words.find(|word| word.starts_with("agent="));
        *counts.entry(agent.unwrap()).or_insert(0) += 1;
    }
    counts
}

/// Returns the agent with the most packets, and their number.
fn busiest(lines: &[String]) -> (&str, usize) {
    let counts = counts(lines).into_iter();
    counts.max_by_key(|(_, count)| *count).unwrap_or_default()
}
