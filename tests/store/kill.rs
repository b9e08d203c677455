//! The server is killed repeatedly at random moments on one store, which then has every
//! acknowledged report.
//!
//! `HAWK_KILLS` is the number of kills, `HAWK_SEED` repeats a run.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::JoinHandle;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Signal, kill_process};

use hawk_testkit::store_file::*;
use hawk_testkit::*;

const AGENTS: usize = 6;

/// Maximum number of reports in flight on each connection.
const DEPTH: usize = 20;

#[test]
fn acknowledged_reports_survive_a_kill() {
    let kills: u32 = number("HAWK_KILLS").unwrap_or(50);
    let seed = number("HAWK_SEED").unwrap_or_else(rand::random);
    eprintln!("{kills} kills, HAWK_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let store_file = StoreFile::new();
    let mut total = 0;
    // Of each agent: the first report of the last round, the first that was not
    // acknowledged in it, and the first that was not sent.
    let mut agents = [(0, 0, 0); AGENTS];
    for _ in 0..kills {
        // Mostly soon, sometimes after a checkpoint.
        let most = if random.random_ratio(1, 5) {
            20_000
        } else {
            500
        };
        let countdown = Arc::new(AtomicI64::new(random.random_range(0..most)));
        // It opens the store without repair.
        let server = store_file.serve(&[]);
        verify(&store_file, &agents);
        let threads: Vec<JoinHandle<(i64, i64)>> = agents
            .iter()
            .enumerate()
            .map(|(agent, (_, _, next))| {
                let (address, pid, first) = (server.address, server.pid(), *next);
                let countdown = Arc::clone(&countdown);
                let acknowledged = move || {
                    if countdown.fetch_sub(1, Ordering::Relaxed) == 0 {
                        kill_process(pid, Signal::KILL).unwrap();
                    }
                };
                std::thread::spawn(move || load(address, agent, first, acknowledged))
            })
            .collect();
        for (agent, thread) in agents.iter_mut().zip(threads) {
            let (answered, next) = thread.join().unwrap();
            // Unanswered reports are not sent again.
            *agent = (agent.2, answered, next);
            total += agent.1 - agent.0;
        }
        assert_eq!(server.wait_exit().code, None, "killed");
    }
    let server = store_file.serve(&[]);
    verify(&store_file, &agents);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code, Some(0));
    store_file.expect_sound();
    let rows = "SELECT count(*) - count(DISTINCT content) FROM reports";
    assert_eq!(
        store_file.column::<i64>(rows),
        [0],
        "nothing is stored twice"
    );
    let uneven = "SELECT name FROM agents JOIN (SELECT agent, count(*) AS rows FROM reports \
                  GROUP BY agent) ON agent = id WHERE rows <> reports";
    assert_eq!(
        store_file.column::<String>(uneven),
        [""; 0],
        "counts agree with the table"
    );
    let stored: i64 = store_file.column("SELECT count(*) FROM reports")[0];
    assert!(total > 0 && stored >= total);
    eprintln!("{total} reports acknowledged, {stored} stored");
}

/// Sends reports until the server is gone, from number `first` on. Returns the
/// first number that was not acknowledged and the first that was not sent.
fn load(
    address: SocketAddr,
    agent: usize,
    first: i64,
    mut acknowledged: impl FnMut(),
) -> (i64, i64) {
    let name = format!("agent-{agent}");
    let (mut next, mut answered) = (first, first);
    let Ok(mut socket) = TcpStream::connect(address) else {
        return (answered, next);
    };
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut replies = BufReader::new(socket.try_clone().unwrap());
    let mut line = String::new();
    loop {
        while next - answered < i64::try_from(DEPTH).unwrap() {
            next += 1;
            if socket.write_all(&report_of(&name, next - 1)).is_err() {
                return (answered, next);
            }
        }
        line.clear();
        match replies.read_line(&mut line) {
            Ok(length) if length > 0 && line.ends_with('\n') => {
                assert_eq!(line.trim_end(), REPORT);
                answered += 1;
                acknowledged();
            }
            _ => return (answered, next),
        }
    }
}

/// Checks that the table has each acknowledged report of the last round once.
#[track_caller]
fn verify(store_file: &StoreFile, agents: &[(i64, i64, i64)]) {
    let store = store_file.open();
    for (agent, (first, end, _)) in agents.iter().enumerate() {
        let query = format!(
            "SELECT rand FROM reports JOIN agents ON id = agent \
             WHERE name = 'agent-{agent}' AND rand >= {first} AND rand < {end} ORDER BY rand"
        );
        let found = column::<i64>(&store, &query);
        let missing = (*first..*end).find(|rand| found.binary_search(rand).is_err());
        assert_eq!(missing, None, "of agent-{agent} since {first}");
        assert_eq!(
            i64::try_from(found.len()).unwrap(),
            end - first,
            "agent-{agent}"
        );
    }
}
