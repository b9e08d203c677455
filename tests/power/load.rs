//! Load from the host, and its log of acknowledgements.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use super::emulator::BOOT_PATIENCE;
use hawk_testkit::REPORT;
use hawk_testkit::store_file::report_of;

const AGENTS: usize = 6;

/// Reports in flight on each connection, at most.
const DEPTH: i64 = 20;

/// The reports that each agent has sent in all rounds, numbered from 0, each once.
#[derive(Default)]
pub(crate) struct Log {
    agents: [Record; AGENTS],
}

/// One agent's part of the log.
#[derive(Clone, Default)]
pub(crate) struct Record {
    /// The numbers that were acknowledged, a range for each round.
    pub(crate) acknowledged: Vec<Range<i64>>,
    /// The first unsent number.
    pub(crate) next: i64,
}

impl Log {
    /// Each agent's name and record.
    pub(crate) fn agents(&self) -> impl Iterator<Item = (String, &Record)> {
        let agents = self.agents.iter().enumerate();
        agents.map(|(agent, record)| (name(agent), record))
    }

    /// Returns the number of reports sent.
    pub(crate) fn sent(&self) -> i64 {
        self.agents.iter().map(|record| record.next).sum()
    }

    /// Returns the number of acknowledged reports.
    pub(crate) fn acknowledged(&self) -> i64 {
        let ranges = self.agents.iter().flat_map(|record| &record.acknowledged);
        ranges.map(|range| range.end - range.start).sum()
    }
}

/// Agents that send until their connection breaks.
pub(crate) struct Load {
    agents: Vec<JoinHandle<Sent>>,
    reached: Receiver<()>,
}

/// One agent's result of a round.
struct Sent {
    acknowledged: Range<i64>,
    next: i64,
}

impl Load {
    /// Starts all agents, each at its next number in `log`. They report when they have
    /// `enough` acknowledgements together, and continue.
    pub(crate) fn start(server: SocketAddr, log: &Log, enough: u32) -> Self {
        let (tell, reached) = channel();
        let wanted = Arc::new(AtomicU32::new(enough));
        let agents = log.agents().map(|(name, record)| {
            let (first, tell, wanted) = (record.next, tell.clone(), Arc::clone(&wanted));
            std::thread::spawn(move || {
                send(server, &name, first, || {
                    if wanted.fetch_sub(1, Ordering::Relaxed) == 1 {
                        tell.send(()).ok();
                    }
                })
            })
        });
        Self {
            agents: agents.collect(),
            reached,
        }
    }

    /// Waits for enough acknowledgements.
    #[track_caller]
    pub(crate) fn wait(&self) {
        let reached = self.reached.recv_timeout(BOOT_PATIENCE);
        reached.expect("acknowledgements, and agents that go on");
    }

    /// Waits until all agents have lost their connection, and records their results.
    pub(crate) fn finish(self, log: &mut Log) {
        for (record, agent) in log.agents.iter_mut().zip(self.agents) {
            let sent = agent.join().unwrap();
            record.acknowledged.push(sent.acknowledged);
            record.next = sent.next;
        }
    }
}

/// Sends reports from number `first` on until the connection breaks.
fn send(server: SocketAddr, name: &str, first: i64, mut acknowledged: impl FnMut()) -> Sent {
    let mut sent = Sent {
        acknowledged: first..first,
        next: first,
    };
    let Ok(mut socket) = TcpStream::connect(server) else {
        return sent;
    };
    socket.set_read_timeout(Some(BOOT_PATIENCE)).unwrap();
    let mut replies = BufReader::new(socket.try_clone().unwrap());
    let mut line = String::new();
    loop {
        while sent.next - sent.acknowledged.end < DEPTH {
            // The number is used up, also if the report is not sent.
            let report = report_of(name, sent.next);
            sent.next += 1;
            if socket.write_all(&report).is_err() {
                return sent;
            }
        }
        line.clear();
        match replies.read_line(&mut line) {
            Ok(length) if length > 0 && line.ends_with('\n') => {
                assert_eq!(line.trim_end(), REPORT);
                sent.acknowledged.end += 1;
                acknowledged();
            }
            _ => return sent,
        }
    }
}

fn name(agent: usize) -> String {
    format!("agent-{agent}")
}
