//! Receive buffers: which connections have one, which wait, and that each gets one.

use hawk_testkit::*;

/// The smallest `--pool-limit`: the reserve and one more long buffer.
const LEAST: &str = "139264";

#[test]
fn idle_connections_hold_no_buffer() {
    let server = Server::start(&[]);
    let mut agents: Vec<_> = (0..200).map(|_| server.connect()).collect();
    for agent in &mut agents {
        agent.expect_alive();
        agent.exchange(&long_report(20_000), REPORT);
    }
    let stats = server.stats();
    assert_eq!(stats.get("connections"), 200);
    assert_eq!(stats.in_use(), [0; 5]);
    // One long buffer served all of them.
    assert_eq!(stats.longest("high_water"), 1);
}

#[test]
fn a_partial_frame_of_any_claimed_length_is_held_in_the_smallest_buffer() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let frame = long_report(LONGEST_DATA);
    let mut sent = 0;
    for (class, held) in [200, 1_000, 4_000, 16_000, 30_000].into_iter().enumerate() {
        agent.send(&frame[sent..held]);
        sent = held;
        let mut expected = [0; 5];
        expected[class] = 1;
        server.wait_until(|stats| stats.in_use() == expected);
    }
    agent.exchange(&frame[sent..], REPORT);
    assert_eq!(server.stats().in_use(), [0; 5]);
}

#[test]
fn only_the_partial_frame_behind_whole_ones_is_kept() {
    let server = Server::start(&[]);
    let mut agent = server.connect();
    let next = report("next");
    agent.send(&[mixture(70).0.as_slice(), &next[..40]].concat());
    agent.expect_replies(&mixture(70).1);
    server.wait_until(|stats| stats.in_use() == [1, 0, 0, 0, 0]);
    agent.exchange(&next[40..], REPORT);
}

#[test]
fn a_full_pool_makes_no_agent_offline_and_hides_none() {
    let server = Server::start(&[
        "--pool-limit",
        LEAST,
        "--offline-after",
        "1s",
        "--start-grace",
        "1ms",
        "--frame-timeout",
        "60s",
    ]);
    let heartbeat = |name| heartbeat_packet(hawk_wire::Encoding::Compact, Some(name));
    let mut agents = ["alive", "gone"].map(|name| {
        let mut agent = server.connect();
        agent.exchange(&heartbeat(name), HEARTBEAT);
        agent
    });
    let from = [127, 0, 0, 2].into();
    let mut holders: Vec<_> = (0..40)
        .map(|_| Agent::connect_from(from, server.address))
        .collect();
    let frame = long_report(60_000);
    for holder in &mut holders {
        holder.send(&frame[..20_000]);
    }
    server.wait_until(|stats| stats.longest("waiters") >= 30);
    let is_offline = |name: &str| server.count_logged(&format!("agent offline agent={name:?}")) > 0;
    let clock = Clock::of("100ms");
    let noticed = eventually(|| {
        agents[0].send(&heartbeat("alive"));
        clock.wait();
        is_offline("gone").then_some(())
    });
    assert!(noticed.is_some(), "the agent that is gone is hidden");
    // As long again.
    for _ in 0..12 {
        agents[0].send(&heartbeat("alive"));
        clock.wait();
    }
    assert!(!is_offline("alive"));
    drop(holders);
    for _ in 0..12 {
        agents[0].expect_line(HEARTBEAT);
    }
    assert!(!is_offline("alive"));
}

#[test]
fn long_frames_that_grow_in_a_small_pool_are_all_finished() {
    let server = Server::start(&["--pool-limit", LEAST]);
    let mut agents: Vec<_> = (0..40).map(|_| server.connect()).collect();
    let frame = long_report(60_000);
    let (head, tail) = frame.split_at(20_000);
    agents.iter_mut().for_each(|agent| agent.send(head));
    // Two connections have all the buffers: one of them the reserve.
    server.wait_until(|stats| stats.longest("waiters") == 38);
    std::thread::scope(|scope| {
        for agent in &mut agents {
            scope.spawn(|| {
                agent.send_in_pieces(tail, 9_000);
                agent.expect_line(REPORT);
            });
        }
    });
    let stats = server.stats();
    assert_eq!((stats.get("reports"), stats.closed()), (40, 0));
    assert_eq!(stats.longest("waiters"), 0);
    assert_eq!(stats.in_use(), [0; 5]);
}

#[test]
fn short_partial_frames_that_fill_the_pool_are_all_finished() {
    let server = Server::start(&["--pool-limit", LEAST]);
    let mut agents: Vec<_> = (0..300).map(|_| server.connect()).collect();
    let frame = long_report(2_000);
    let (head, tail) = frame.split_at(200);
    agents.iter_mut().for_each(|agent| agent.send(head));
    // Only the reserve is left for frames to grow in, and its connection too has only a partial
    // frame.
    server.wait_until(|stats| stats.in_use() == [272, 0, 0, 0, 1]);
    server.wait_until(|stats| stats.longest("waiters") == 27);
    agents.iter_mut().for_each(|agent| agent.send(tail));
    for agent in &mut agents {
        agent.expect_line(REPORT);
    }
    let stats = server.stats();
    assert_eq!((stats.get("reports"), stats.closed()), (300, 0));
    assert_eq!(stats.longest("waiters"), 0);
    assert_eq!(stats.in_use(), [0; 5]);
}

#[test]
fn connections_that_wait_for_a_buffer_are_served_in_turn() {
    let server = Server::start(&["--pool-limit", LEAST, "--log-packets"]);
    let frame = long_report(60_000);
    let (head, tail) = frame.split_at(20_000);
    let mut holders = [server.connect(), server.connect()];
    for (number, holder) in holders.iter_mut().enumerate() {
        holder.send(head);
        server.wait_until(|stats| stats.longest("in_use") == number as u64 + 1);
    }
    let names = ["first", "second", "third", "fourth", "fifth"];
    let mut agents: Vec<_> = names.map(|_| server.connect()).into();
    for (number, name) in names.into_iter().enumerate() {
        agents[number].send(&report(name));
        server.wait_until(|stats| stats.longest("waiters") == number as u64 + 1);
    }
    holders[1].exchange(tail, REPORT);
    agents
        .iter_mut()
        .for_each(|agent| agent.expect_line(REPORT));
    holders[0].exchange(tail, REPORT);

    let lines = server.log().since(0);
    let position = |name: &str| {
        let content = format!("content=\"{name}\"");
        lines.iter().position(|line| line.contains(&content))
    };
    let positions = names.map(position);
    assert!(positions.is_sorted(), "{positions:?}");
}

#[test]
fn a_connection_that_always_has_a_partial_frame_releases_its_buffer_to_others() {
    let server = Server::start(&["--pool-limit", LEAST, "--frame-timeout", "1h"]);
    let frame = long_report(60_000);
    let (head, tail) = frame.split_at(20_000);
    // Partial frames use all of the pool but the reserve.
    let mut holders: Vec<_> = (0..272).map(|_| server.connect()).collect();
    holders
        .iter_mut()
        .for_each(|holder| holder.send(&head[..200]));
    server.wait_until(|stats| stats.in_use() == [272, 0, 0, 0, 0]);
    let mut endless = server.connect();
    endless.send(head);
    server.wait_until(|stats| stats.in_use() == [272, 0, 0, 0, 1]);
    let next = [tail, head].concat();
    let mut other = server.connect();
    for round in 0..5 {
        other.send(&heartbeat());
        server.wait_until(|stats| stats.longest("waiters") == 1);
        // Its frame is completed, and the next one begins.
        endless.exchange(&next, REPORT);
        other.expect_line(HEARTBEAT);
        server.wait_until(|stats| stats.longest("in_use") == 1);
        assert_eq!(server.stats().get("reports"), round + 1);
    }
    endless.exchange(tail, REPORT);
    assert_eq!(server.stats().in_use(), [272, 0, 0, 0, 0]);
}

#[test]
fn the_frame_timeout_does_not_run_while_the_connection_waits_for_a_buffer() {
    let server = Server::start(&["--pool-limit", LEAST, "--frame-timeout", "3s"]);
    let clock = Clock::of("200ms");
    let frame = long_report(5_000);
    let (head, tail) = frame.split_at(100);
    let mut agent = server.connect();
    agent.send(head);
    server.wait_until(|stats| stats.in_use() == [1, 0, 0, 0, 0]);
    clock.wait();
    // The other begins later and takes the reserve, the only long buffer left.
    let mut holder = server.connect();
    holder.send(&long_report(60_000)[..20_000]);
    server.wait_until(|stats| stats.in_use() == [1, 0, 0, 0, 1]);
    let (most, last) = tail.split_at(tail.len() - 1);
    agent.send(most);
    server.wait_until(|stats| stats.longest("waiters") == 1);
    // The other's frame times out. The first one, begun before it, has its turn then, with nearly
    // all of its time.
    holder.expect_eof();
    server.wait_until(|stats| stats.longest("waiters") == 0);
    clock.wait();
    agent.exchange(last, REPORT);
    drop(holder);
    let stats = server.wait_until(|stats| stats.get("connections") == 1);
    assert_eq!(stats.closed(), 1);
    assert_eq!(stats.in_use(), [0; 5]);
}

#[test]
fn a_connection_that_ends_in_the_queue_for_buffers_leaves_no_gap() {
    let server = Server::start(&["--pool-limit", LEAST]);
    let frame = long_report(60_000);
    let (head, tail) = frame.split_at(20_000);
    let mut holders = [server.connect(), server.connect()];
    holders.iter_mut().for_each(|holder| holder.send(head));
    server.wait_until(|stats| stats.longest("in_use") == 2);
    let mut agents: Vec<_> = (0..9).map(|_| server.connect()).collect();
    agents.iter_mut().for_each(|agent| agent.send(&heartbeat()));
    server.wait_until(|stats| stats.longest("waiters") == 9);
    // Every third stays: the others reset the connection or end their side.
    let mut stay = Vec::new();
    for (number, agent) in agents.into_iter().enumerate() {
        match number % 3 {
            0 => agent.reset(),
            1 => drop(agent),
            _ => stay.push(agent),
        }
    }
    holders[0].exchange(tail, REPORT);
    for agent in &mut stay {
        agent.expect_line(HEARTBEAT);
    }
    holders[1].exchange(tail, REPORT);
    let stats = server.wait_until(|stats| stats.get("connections") == 5);
    assert_eq!(stats.longest("waiters"), 0);
    assert_eq!(stats.in_use(), [0; 5]);
}

#[test]
fn a_connection_that_breaks_while_it_waits_for_a_buffer_is_closed_at_once() {
    let server = Server::start(&["--pool-limit", LEAST, "--frame-timeout", "1h"]);
    let frame = long_report(60_000);
    let (head, tail) = frame.split_at(20_000);
    let mut holders = [server.connect(), server.connect()];
    holders.iter_mut().for_each(|holder| holder.send(head));
    server.wait_until(|stats| stats.longest("in_use") == 2);
    let mut agents: Vec<_> = (0..20).map(|_| server.connect()).collect();
    agents.iter_mut().for_each(|agent| agent.send(&heartbeat()));
    server.wait_until(|stats| stats.longest("waiters") == 20);
    let mut stays = agents.remove(10);
    agents.into_iter().for_each(Agent::reset);
    let stats = server.wait_until(|stats| stats.get("connections") == 3);
    assert_eq!(stats.get("closed_connection_lost"), 19);
    assert_eq!(stats.longest("waiters"), 1);
    assert_eq!(stats.in_use(), [0, 0, 0, 0, 2], "none has come back");
    holders[0].exchange(tail, REPORT);
    stays.expect_line(HEARTBEAT);
    holders[1].exchange(tail, REPORT);
    let stats = server.stats();
    assert_eq!(stats.longest("waiters"), 0);
    assert_eq!(stats.in_use(), [0; 5]);
}

#[test]
fn buffers_of_a_peak_are_released() {
    let server = Server::start(&["--stats-interval", "100ms"]);
    let frame = long_report(60_000);
    let held = [200, 1_000, 4_000, 16_000, 30_000];
    let lengths: Vec<_> = held.into_iter().cycle().take(20 * held.len()).collect();
    let mut agents: Vec<_> = lengths.iter().map(|_| server.connect()).collect();
    for (agent, &length) in agents.iter_mut().zip(&lengths) {
        agent.send(&frame[..length]);
    }
    server.wait_until(|stats| stats.in_use() == [20; 5]);
    for (agent, &length) in agents.iter_mut().zip(&lengths) {
        agent.exchange(&frame[length..], REPORT);
    }
    let mark = server.log().count();
    let peak = server.stats();
    assert_eq!(peak.in_use(), [0; 5]);
    for class in &peak.pool {
        let (size, free) = (class.get("class"), class.get("free"));
        // The server trims the pool at intervals.
        server.log().wait_for(mark, |line| {
            let now = Fields::parse(line);
            let trimmed = now.get("trimmed") > class.get("trimmed");
            line.contains(&format!("] pool class={size} ")) && trimmed && now.get("free") < free
        });
    }
}

#[test]
fn an_address_that_holds_partial_frames_leaves_half_of_the_pool_to_others() {
    let server = Server::start(&["--pool-limit", "1MiB"]);
    let frame = long_report(60_000);
    let hoarder = source(0);
    let mut hoarders: Vec<_> = (0..100)
        .map(|_| {
            let mut agent = Agent::connect_from(hoarder, server.address);
            agent.send(&frame[..20_000]);
            agent
        })
        .collect();
    // Half of the pool has seven of the longest buffers; an eighth connection has the reserve.
    let stats = server.wait_until(|stats| stats.longest("waiters") == 92);
    assert_eq!(stats.longest("in_use"), 8);
    let nearing = "an address has 80 % of its share: address=127.0.0.2 share=buffers used=";
    server.log().wait_for(0, |line| line.contains(nearing));
    // Others are served meanwhile: short frames, and as many long ones as fit.
    let mut others: Vec<_> = (1..4)
        .map(|number| Agent::connect_as(number, server.address))
        .collect();
    for agent in &mut others {
        agent.expect_alive();
        agent.send(&frame[..20_000]);
    }
    server.wait_until(|stats| stats.longest("in_use") == 11);
    for agent in &mut others {
        agent.exchange(&frame[20_000..], REPORT);
        agent.expect_alive();
    }
    assert_eq!(server.stats().longest("waiters"), 92);
    // When it completes its frames, all of them are answered.
    std::thread::scope(|scope| {
        for agent in &mut hoarders {
            scope.spawn(|| agent.exchange(&frame[20_000..], REPORT));
        }
    });
    let stats = server.stats();
    assert_eq!((stats.get("reports"), stats.closed()), (103, 0));
    assert_eq!(stats.in_use(), [0; 5]);
}
