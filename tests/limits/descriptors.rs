//! No descriptors, or no free connections, while new agents keep connecting.

use std::fs;
use std::time::{Duration, Instant};

use rustix::param::clock_ticks_per_second;

use crate::crowd::{Crowd, has_ended};
use hawk_testkit::*;

/// How long the server does not accept after a failure.
const RETRY: Duration = Duration::from_millis(100);

/// Returns the CPU time of a process, on all cores.
fn cpu_time(server: &Server) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid().as_raw_nonzero()));
    let stat = stat.unwrap();
    // The process name, in parentheses, may contain spaces; utime and stime are fields 14
    // and 15.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let fields = rest.split(' ').skip(11).take(2);
    let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64)
}

#[test]
fn without_descriptors_the_server_retries_and_recovers_by_itself() {
    let begin = Instant::now();
    let server = Server::start(&[]);
    let clock = Clock::of("500ms");
    let mut agents: Vec<_> = (0..50).map(|_| server.connect()).collect();
    agents.iter_mut().for_each(Agent::expect_alive);
    // A limit below the open descriptors: closed connections make no room either.
    set_descriptor_limit(&server, limit_for(&server, 0) - 20);
    let _many = ManyAgents::wait(1_000);
    let mut waiting: Vec<_> = (0..4).map(|_| newcomers(&server, 250)).collect();

    let start = Instant::now();
    let (before, cpu) = (server.stats().get("accept_errors"), cpu_time(&server));
    let mut answered = 0;
    for newcomers in &mut waiting {
        clock.wait();
        // Connected agents notice nothing; new connections wait.
        agents.iter_mut().for_each(Agent::expect_alive);
        answered += newcomers.iter().filter(|agent| agent.has_input()).count();
    }
    let (stats, cpu) = (server.stats(), cpu_time(&server) - cpu);
    let elapsed = start.elapsed();
    assert_eq!((stats.get("accepted"), answered), (50, 0));
    let tries = stats.get("accept_errors") - before;
    let most = elapsed.as_millis() / RETRY.as_millis() + 1;
    assert!(tries >= 1 && u128::from(tries) <= most, "{tries} of {most}");
    // A busy loop would use the whole core.
    assert!(cpu < elapsed / 2, "{cpu:?} of {elapsed:?}");
    assert!(server.count_logged("cannot accept") <= lines_allowed(begin));

    // First there is room for half of the agents, then for all.
    set_descriptor_limit(&server, limit_for(&server, 500));
    server.wait_until(|stats| stats.get("accepted") == 550);
    agents.iter_mut().for_each(Agent::expect_alive);
    set_descriptor_limit(&server, most_descriptors());
    for newcomer in waiting.iter_mut().flatten() {
        newcomer.expect_line(HEARTBEAT);
    }
    agents.iter_mut().for_each(Agent::expect_alive);
    let stats = server.stats();
    assert_eq!((stats.get("accepted"), stats.closed()), (1_050, 0));
    assert!(server.count_logged("cannot accept") <= lines_allowed(begin));
}

/// Agents that connect and send a heartbeat, also if the server turns them away.
fn newcomers(server: &Server, count: usize) -> Vec<Agent> {
    let mut agents: Vec<_> = (0..count).map(|_| server.connect()).collect();
    agents.iter_mut().for_each(|agent| agent.send(&heartbeat()));
    agents
}

#[test]
fn a_full_server_answers_its_agents_under_further_connection_attempts() {
    const KNOCKS: usize = 3_000;
    const BUSY: &str = "busy: too many connections";
    let start = Instant::now();
    let server = Server::start(&["--max-connections", "50"]);
    let _many = ManyAgents::wait(200);
    let mut inside = Crowd::storm(&server, 49);
    let mut agent = server.connect();
    agent.expect_alive();
    let descriptors = descriptors_of(server.pid()).len();
    let mut most = 0;
    std::thread::scope(|scope| {
        let knockers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..KNOCKS / 4 {
                        let mut newcomer = server.connect();
                        // A later connection may have pushed this one out unread.
                        let told = newcomer.line();
                        assert_eq!(told, BUSY);
                    }
                })
            })
            .collect();
        while !knockers.iter().all(|knocker| knocker.is_finished()) {
            agent.expect_alive();
            most = most.max(descriptors_of(server.pid()).len());
        }
    });
    // At most 32 linger, and one is being accepted.
    assert!(most <= descriptors + 33, "{most} rather than {descriptors}");
    let stats = server.wait_until(|stats| stats.get("connections") == 50);
    assert_eq!(stats.get("closed_too_many_connections"), KNOCKS as u64);
    assert_eq!(stats.closed(), KNOCKS as u64);
    assert_eq!(stats.get("busy"), KNOCKS as u64);
    assert!(server.count_logged("too many connections") <= lines_allowed(start));
    assert!(!inside.members.iter_mut().any(has_ended));
    agent.expect_alive();
    drop(inside.members.pop());
    server.wait_until(|stats| stats.get("connections") == 49);
    server.connect().expect_alive();
}
