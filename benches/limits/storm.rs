//! A reconnect storm: a fleet connects at once, each agent sends a heartbeat, and then all
//! connections are reset.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::habits::heartbeat;
use super::rows::{Row, Target, print};
use hawk_testkit::bench::child::STEP;
use hawk_testkit::bench::dial::{dial, is_answered, is_temporary};
use hawk_testkit::bench::process::pin_thread;
use hawk_testkit::bench::servers;
use hawk_testkit::bench::{Setup, process};

/// As many agents as the usual limit of 20,000 open files allows, with a reserve.
const AGENTS: usize = 19_000;

/// Connections opened before the client checks for answers.
const DIALS: usize = 64;

/// How long the last agent may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct Storm {
    all_answered: f64,
    slowest: f64,
    overflows: f64,
    drops: f64,
    all_reaped: f64,
    /// How long the client alone took to begin all connections.
    all_begun: f64,
    /// Most connections seen in the backlog.
    backlog: f64,
    /// The server's CPU time for each agent, until all were answered.
    cpu: f64,
}

pub(crate) fn run(setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let storms: Vec<Storm> = (0..setup.rounds)
        .map(|_| storm(setup))
        .collect::<anyhow::Result<_>>()?;
    let row = |figure, of: fn(&Storm) -> f64, target| {
        Row::alone(
            "19,000 agents at once",
            figure,
            storms.iter().map(of),
            target,
        )
    };
    let none = Some(Target::AtMost(0.0));
    let rows = vec![
        row(
            "until the last has begun to connect, s",
            |it| it.all_begun,
            None,
        ),
        row(
            "until all heartbeats are answered, s",
            |it| it.all_answered,
            None,
        ),
        row(
            "slowest, from its connect to its reply, s",
            |it| it.slowest,
            None,
        ),
        row("server's CPU, µs for each agent", |it| it.cpu * 1e6, None),
        row("most in the backlog, of 4,096", |it| it.backlog, None),
        row("ListenOverflows of the kernel", |it| it.overflows, none),
        row("ListenDrops of the kernel", |it| it.drops, none),
        row(
            "from the first reset until all are reaped, s",
            |it| it.all_reaped,
            None,
        ),
    ];
    print("Reconnect storm", &rows);
    Ok(rows)
}

fn storm(setup: &Setup) -> anyhow::Result<Storm> {
    let mut server = servers::hawk(setup, servers::NO_STORE)?;
    let files = process::open_files(server.process.id())?;
    let before = ListenFigures::read()?;
    let cpu_before = process::cpu_time(server.process.id())?;
    let (target, core) = (server.address, setup.load_core);
    let fleet = thread::spawn(move || {
        pin_thread(core)?;
        come(target)
    });
    let mut most_waiting = 0;
    while !fleet.is_finished() {
        most_waiting = most_waiting.max(backlog(target)?);
        thread::sleep(STEP / 10);
    }
    let fleet = fleet
        .join()
        .ok()
        .context("the fleet's thread has panicked")??;
    let after = ListenFigures::read()?;
    let cpu = process::cpu_time(server.process.id())? - cpu_before;
    server.process.still_runs()?;

    let begun = Instant::now();
    let core = setup.load_core;
    let resets = thread::spawn(move || -> anyhow::Result<()> {
        pin_thread(core)?;
        for agent in fleet.agents {
            // A close without linger resets the connection.
            socket2::SockRef::from(&agent.stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    });
    while process::open_files(server.process.id())? > files {
        ensure!(begun.elapsed() < PATIENCE, "not all that reset are reaped");
        thread::sleep(STEP / 20);
    }
    let all_reaped = begun.elapsed().as_secs_f64();
    resets
        .join()
        .ok()
        .context("the thread that resets has panicked")??;
    Ok(Storm {
        all_answered: fleet.all_answered.as_secs_f64(),
        slowest: fleet.slowest.as_secs_f64(),
        overflows: after.overflows - before.overflows,
        drops: after.drops - before.drops,
        all_reaped,
        all_begun: fleet.all_begun.as_secs_f64(),
        #[allow(clippy::cast_precision_loss)] // at most 4,096
        backlog: most_waiting as f64,
        #[allow(clippy::cast_precision_loss)] // 19,000
        cpu: cpu.as_secs_f64() / AGENTS as f64,
    })
}

/// Returns the connections that wait to be accepted at `address`: the receive queue of a
/// listening socket (`Documentation/networking/proc_net_tcp.rst`).
fn backlog(address: SocketAddr) -> anyhow::Result<u64> {
    // Listening sockets come first; reading the thousands after them would take long.
    let mut first = [0; 4096];
    let read = fs::File::open("/proc/net/tcp")?.read(&mut first)?;
    let told = String::from_utf8_lossy(&first[..read]);
    let port = format!(":{:04X}", address.port());
    let lines = told.lines().map(|line| line.split_whitespace().collect());
    let waiting = lines.filter_map(|columns: Vec<_>| match columns[..] {
        [_, local, _, "0A", queues, ..] if local.ends_with(&port) => {
            u64::from_str_radix(queues.split_once(':')?.1, 16).ok()
        }
        _ => None,
    });
    Ok(waiting.max().unwrap_or(0))
}

struct Fleet {
    agents: Vec<Agent>,
    answered: usize,
    all_begun: Duration,
    all_answered: Duration,
    slowest: Duration,
}

struct Agent {
    stream: TcpStream,
    begun: Instant,
    has_sent: bool,
    is_answered: bool,
}

/// Connects all agents without waiting; each sends as soon as its connection is
/// established.
fn come(target: SocketAddr) -> anyhow::Result<Fleet> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let begun = Instant::now();
    let mut fleet = Fleet {
        agents: Vec::with_capacity(AGENTS),
        answered: 0,
        all_begun: Duration::ZERO,
        all_answered: Duration::ZERO,
        slowest: Duration::ZERO,
    };
    let heartbeat = heartbeat();
    for number in 0..AGENTS {
        let begun = Instant::now();
        let mut stream = dial(number, target, None).context("an agent cannot connect")?;
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(number), both)?;
        let mut agent = Agent {
            stream,
            begun,
            has_sent: false,
            is_answered: false,
        };
        // On loopback it is mostly established by now.
        agent.send(&heartbeat)?;
        fleet.agents.push(agent);
        if number % DIALS == 0 {
            poll.poll(&mut events, Some(Duration::ZERO))?;
            fleet.attend(&events, &heartbeat)?;
        }
    }
    fleet.all_begun = begun.elapsed();
    while fleet.answered < AGENTS {
        let left = AGENTS - fleet.answered;
        ensure!(begun.elapsed() < PATIENCE, "{left} agents are not answered");
        poll.poll(&mut events, Some(STEP))?;
        fleet.attend(&events, &heartbeat)?;
    }
    fleet.all_answered = begun.elapsed();
    Ok(fleet)
}

impl Fleet {
    /// Serves the agents with events.
    fn attend(&mut self, events: &Events, heartbeat: &[u8]) -> anyhow::Result<()> {
        for event in events {
            let Token(number) = event.token();
            let agent = &mut self.agents[number];
            agent.send(heartbeat)?;
            if !agent.is_answered && is_answered(&mut agent.stream, "heartBeat\n")? {
                agent.is_answered = true;
                self.answered += 1;
                self.slowest = self.slowest.max(agent.begun.elapsed());
            }
        }
        Ok(())
    }
}

impl Agent {
    fn send(&mut self, heartbeat: &[u8]) -> anyhow::Result<()> {
        if self.has_sent {
            return Ok(());
        }
        match self.stream.write(heartbeat) {
            Ok(written) => {
                ensure!(
                    written == heartbeat.len(),
                    "a heartbeat does not fit a socket"
                );
                self.has_sent = true;
            }
            Err(error) if is_temporary(&error) => {}
            Err(error) => return Err(error).context("an agent cannot send"),
        }
        Ok(())
    }
}

/// Returns the kernel's counts of connections that did not fit a backlog, on the whole
/// machine (`Documentation/networking/snmp_counter.rst`).
struct ListenFigures {
    overflows: f64,
    drops: f64,
}

impl ListenFigures {
    fn read() -> anyhow::Result<Self> {
        let told = fs::read_to_string("/proc/net/netstat").context("/proc/net/netstat")?;
        let mut lines = told.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = lines.next().zip(lines.next()).context("no TcpExt")?;
        let value = |wanted: &str| {
            let mut pairs = names.split_whitespace().zip(values.split_whitespace());
            let found = pairs.find_map(|(name, value)| (name == wanted).then(|| value.parse()));
            found.with_context(|| format!("the kernel does not count {wanted}"))
        };
        Ok(Self {
            overflows: value("ListenOverflows")??,
            drops: value("ListenDrops")??,
        })
    }
}
