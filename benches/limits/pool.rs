//! A pool of a tenth of the demand: all agents are in the middle of long frames, which they
//! send piece by piece.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::habits::long_frame;
use super::rows::{Row, Target, print};
use hawk_testkit::bench::dial::{dial, is_answered, is_temporary};
use hawk_testkit::bench::process::pin_thread;
use hawk_testkit::bench::statistics::Statistics;
use hawk_testkit::bench::{Setup, process, servers};

/// Agents in the middle of a frame at once; each needs a buffer of the longest class.
const AGENTS: usize = 200;

/// Bytes of a buffer of the longest class.
const BUFFER: u64 = 69_632;

/// A tenth of their demand.
const SMALL_POOL: u64 = BUFFER * AGENTS as u64 / 10;

/// Bytes of data in each frame, and of a piece that an agent sends before the others: all
/// agents begin a frame before the first is complete.
const DATA: usize = 60_000;
const PIECE: usize = 4_000;

/// Most time by which the last replies may be late.
const GRACE: Duration = Duration::from_secs(20);

struct Turn {
    per_second: f64,
    /// The mean time of a frame of the slowest agent, relative to the median agent.
    slowest: f64,
    /// Bytes of buffers of the longest class in use at once.
    wanted: f64,
    waiters: f64,
    refusals: f64,
    /// The server's CPU time for each frame.
    cpu: f64,
}

pub(crate) fn run(setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let small = SMALL_POOL.to_string();
    let mut rounds = Vec::new();
    for _ in 0..setup.rounds {
        let unbounded = turn(setup, &[])?;
        rounds.push((unbounded, turn(setup, &["--pool-limit", &small])?));
    }
    let name = "pool a tenth of what 200 long frames want";
    let beside = |figure, of: fn(&Turn) -> f64, target| {
        let rounds = rounds.iter().map(|(before, after)| (of(before), of(after)));
        Row::beside(name, figure, rounds, target)
    };
    let alone = |figure, of: fn(&Turn) -> f64, target| {
        Row::alone(
            name,
            figure,
            rounds.iter().map(|(_, after)| of(after)),
            target,
        )
    };
    #[allow(clippy::cast_precision_loss)] // far below 2^53
    let wanted = rounds
        .iter()
        .map(|(before, _)| before.wanted / SMALL_POOL as f64);
    let rows = vec![
        Row::alone(
            name,
            "buffers wanted, by those there are",
            wanted,
            Some(Target::AtLeast(9.0)),
        ),
        beside(
            "frames of 60 kB a second",
            |it| it.per_second,
            Some(Target::AtLeast(0.95)),
        ),
        beside("server's CPU, µs for each frame", |it| it.cpu * 1e6, None),
        beside(
            "slowest agent's time for a frame, by the median one's",
            |it| it.slowest,
            None,
        ),
        alone(
            "the same with the small pool",
            |it| it.slowest,
            Some(Target::AtMost(2.0)),
        ),
        alone("connections that waited, halfway", |it| it.waiters, None),
        alone("refusals", |it| it.refusals, None),
    ];
    print("A small pool", &rows);
    Ok(rows)
}

#[allow(clippy::cast_precision_loss)] // far below 2^53
fn turn(setup: &Setup, options: &[&str]) -> anyhow::Result<Turn> {
    let options = [servers::NO_STORE, &["--stats-interval", "1h"], options].concat();
    let mut server = servers::hawk(setup, &options)?;
    let id = server.process.id();
    let cpu_before = process::cpu_time(id)?;
    let (target, core, duration) = (server.address, setup.load_core, setup.duration);
    let load = thread::spawn(move || {
        pin_thread(core)?;
        Load::new(target)?.run(duration)
    });
    // In the middle of the run.
    thread::sleep(duration / 2);
    let midst = Statistics::ask(&mut server.process)?;
    let mut times = load
        .join()
        .ok()
        .context("the load's thread has panicked")??;
    let cpu = process::cpu_time(id)? - cpu_before;
    let end = Statistics::ask(&mut server.process)?;
    times.per_agent.sort_by(f64::total_cmp);
    Ok(Turn {
        per_second: times.per_second,
        slowest: times.per_agent[AGENTS - 1] / times.per_agent[AGENTS / 2],
        wanted: (end.longest("high_water") * BUFFER) as f64,
        waiters: midst.longest("waiters") as f64,
        refusals: end.longest("refusals") as f64,
        cpu: cpu.as_secs_f64() / f64::from(times.frames),
    })
}

struct Times {
    frames: u32,
    per_second: f64,
    /// Mean seconds for a frame, from its first byte sent to its reply.
    per_agent: Vec<f64>,
}

struct Load {
    poll: Poll,
    agents: Vec<Agent>,
    frame: Vec<u8>,
    /// Agents that can send another piece.
    ready: VecDeque<usize>,
}

struct Agent {
    stream: TcpStream,
    sent: usize,
    is_ready: bool,
    begun: Instant,
    frames: u32,
    taken: Duration,
}

impl Load {
    fn new(target: SocketAddr) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let mut agents = Vec::new();
        for number in 0..AGENTS {
            let mut stream = dial(number, target, None).context("an agent cannot connect")?;
            let both = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(number), both)?;
            agents.push(Agent {
                stream,
                sent: 0,
                is_ready: false,
                begun: Instant::now(),
                frames: 0,
                taken: Duration::ZERO,
            });
        }
        Ok(Self {
            poll,
            agents,
            frame: long_frame(DATA),
            ready: VecDeque::new(),
        })
    }

    fn run(mut self, duration: Duration) -> anyhow::Result<Times> {
        let begun = Instant::now();
        let mut events = Events::with_capacity(1024);
        let mut last = begun;
        loop {
            let is_over = begun.elapsed() >= duration;
            let under_way = self.agents.iter().any(|agent| agent.sent > 0);
            if is_over && !under_way {
                break;
            }
            ensure!(begun.elapsed() < duration + GRACE, "replies do not come");
            let idle = self.ready.is_empty();
            let timeout = if idle {
                Duration::from_millis(10)
            } else {
                Duration::ZERO
            };
            self.poll.poll(&mut events, Some(timeout))?;
            for event in &events {
                let Token(number) = event.token();
                if event.is_readable() && self.agents[number].read()? {
                    last = Instant::now();
                    self.wake(number);
                }
                if event.is_writable() {
                    self.wake(number);
                }
            }
            for _ in 0..self.ready.len() {
                let Some(number) = self.ready.pop_front() else {
                    break;
                };
                let agent = &mut self.agents[number];
                agent.is_ready = false;
                if is_over && agent.sent == 0 {
                    continue;
                }
                if agent.send_piece(&self.frame)? {
                    self.wake(number);
                }
            }
        }
        let frames: u32 = self.agents.iter().map(|agent| agent.frames).sum();
        Ok(Times {
            frames,
            per_second: f64::from(frames) / last.duration_since(begun).as_secs_f64(),
            per_agent: self
                .agents
                .iter()
                .map(Agent::mean)
                .collect::<anyhow::Result<_>>()?,
        })
    }

    fn wake(&mut self, number: usize) {
        let agent = &mut self.agents[number];
        if !agent.is_ready {
            agent.is_ready = true;
            self.ready.push_back(number);
        }
    }
}

impl Agent {
    /// Returns whether there is more to send and the socket may take it.
    fn send_piece(&mut self, frame: &[u8]) -> anyhow::Result<bool> {
        if self.sent == frame.len() {
            return Ok(false);
        }
        if self.sent == 0 {
            self.begun = Instant::now();
        }
        let end = frame.len().min(self.sent + PIECE);
        match self.stream.write(&frame[self.sent..end]) {
            Ok(written) => {
                self.sent += written;
                Ok(self.sent < frame.len())
            }
            Err(error) if is_temporary(&error) => Ok(false),
            Err(error) => Err(error).context("an agent cannot send"),
        }
    }

    /// Returns whether the reply has arrived.
    fn read(&mut self) -> anyhow::Result<bool> {
        let is_there = is_answered(&mut self.stream, "Report data has recive\n")?;
        if is_there {
            self.taken += self.begun.elapsed();
            self.frames += 1;
            self.sent = 0;
        }
        Ok(is_there)
    }

    fn mean(&self) -> anyhow::Result<f64> {
        ensure!(self.frames > 0, "an agent had no frame served at all");
        Ok(self.taken.as_secs_f64() / f64::from(self.frames))
    }
}
