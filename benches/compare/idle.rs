//! The cost of an idle connection: hawk's own memory with few and with many connections
//! that have each sent one report and then a rare heartbeat. And the additional cost of an
//! agent, which hawk remembers beyond its connection.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use hawk::descriptors;
use hawk_wire::{AgentName, Encoding, Heartbeat, Packet, Report, encode_packet};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use hawk_testkit::bench::child::{Running, Wanted};
use hawk_testkit::bench::servers::{self, Server};
use hawk_testkit::bench::spread::{Spread, met};
use hawk_testkit::bench::statistics::Statistics;
use hawk_testkit::bench::{Setup, note, process, say};

/// The slope is measured between these two numbers of connections: enough to exclude the
/// memory of the start, and within the usual limit of 20,000 files.
const FEW: u32 = 2_000;
const MANY: u32 = 18_000;

/// Most bytes that an idle connection may cost.
const TARGET: f64 = 160.0;

/// Addresses from which agents connect. Ports stay taken for a minute after a round:
/// with few addresses, the rounds after it would search long for free ones.
const SOURCES: u8 = 16;

#[derive(Serialize)]
pub(crate) struct Outcome {
    bytes_per_connection: Spread,
    bytes_per_named_agent: Spread,
    buffers_in_use: Vec<u64>,
}

struct Round {
    bytes_per_connection: f64,
    buffers_in_use: u64,
}

/// Agents that each hold a connection until this is dropped.
enum Agents {
    /// Agents identified by a few addresses: only their connections cost memory.
    Nameless(Running),
    /// A separate agent for each connection.
    Named { _connections: Vec<TcpStream> },
}

type Connect = fn(&Setup, &Server, Range<u32>) -> anyhow::Result<Agents>;

pub(crate) fn run(setup: &Setup) -> anyhow::Result<Outcome> {
    note!("idle connections …");
    // This process has the named agents' ends of the connections.
    let limit = descriptors::raise_limit();
    ensure!(
        limit > u64::from(MANY) + 100,
        "{MANY} connections take as many open files, and {limit} are allowed: raise the limit"
    );
    let rounds = |connect: Connect| -> anyhow::Result<Vec<Round>> {
        (0..setup.rounds).map(|_| round(setup, connect)).collect()
    };
    let (nameless, named) = (rounds(nameless)?, rounds(named)?);
    let bytes =
        |rounds: &[Round]| Spread::of(rounds.iter().map(|round| round.bytes_per_connection));
    let outcome = Outcome {
        bytes_per_connection: bytes(&nameless),
        bytes_per_named_agent: bytes(&named),
        buffers_in_use: nameless.iter().map(|round| round.buffers_in_use).collect(),
    };
    print(&outcome);
    Ok(outcome)
}

#[allow(clippy::cast_precision_loss)] // bytes of memory are far below 2^53
fn round(setup: &Setup, connect: Connect) -> anyhow::Result<Round> {
    let mut server = servers::hawk(setup, servers::NO_STORE)?;
    let files = process::open_files(server.process.id())?;
    let mut few = connect(setup, &server, 0..FEW)?;
    wait_until_idle(&mut server, &mut few, files + FEW as usize)?;
    let memory_of_few = process::memory(server.process.id(), "RssAnon")?;
    let mut more = connect(setup, &server, FEW..MANY)?;
    wait_until_idle(&mut server, &mut more, files + MANY as usize)?;
    let memory_of_many = process::memory(server.process.id(), "RssAnon")?;
    few.still_there()?;
    let grown = memory_of_many as f64 - memory_of_few as f64;
    Ok(Round {
        bytes_per_connection: grown / f64::from(MANY - FEW),
        buffers_in_use: Statistics::ask(&mut server.process)?
            .pool("in_use")
            .iter()
            .sum(),
    })
}

impl Agents {
    fn still_there(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Nameless(load) => load.still_runs(),
            Self::Named { .. } => Ok(()),
        }
    }

    /// Returns the client's errors, if any.
    fn lines(&self) -> String {
        match self {
            Self::Nameless(load) => load.lines().join("\n"),
            Self::Named { .. } => String::new(),
        }
    }
}

/// The load client's idle connections.
fn nameless(setup: &Setup, server: &Server, numbers: Range<u32>) -> anyhow::Result<Agents> {
    let arguments = [
        "load",
        &server.address.to_string(),
        "--connections",
        "0",
        "--idle",
        &numbers.len().to_string(),
        "--sources",
        &SOURCES.to_string(),
        // Rare enough to be idle, frequent enough to avoid the idle timeout.
        "--heartbeat",
        "80s",
        "--duration",
        "10m",
        // All at once would overflow the backlog, which is not measured here.
        "--ramp",
        "3s",
    ];
    let load = Running::start(setup.load_core, &setup.client, &arguments, Wanted::Both)?;
    Ok(Agents::Nameless(load))
}

/// Idle agents with names, which the load client does not give. They send a report and a
/// heartbeat, and are silent for the seconds of a round.
fn named(_: &Setup, server: &Server, numbers: Range<u32>) -> anyhow::Result<Agents> {
    let connections = numbers.map(|number| named_agent(server.address, number));
    Ok(Agents::Named {
        _connections: connections.collect::<anyhow::Result<_>>()?,
    })
}

fn named_agent(server: SocketAddr, number: u32) -> anyhow::Result<TcpStream> {
    let name = format!("host-{number:05}.example");
    let agent = Some(AgentName::new(name)?);
    let packets = [
        Packet::Report(Report {
            agent: agent.clone(),
            ..Report::default()
        }),
        Packet::Heartbeat(Heartbeat {
            version: "1.0".into(),
            agent,
            ..Heartbeat::default()
        }),
    ];
    let mut frames = Vec::new();
    for packet in &packets {
        encode_packet(packet, Encoding::Classic, &mut frames)?;
    }
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let source = number % u32::from(SOURCES) + 1;
    let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() - 1 + source);
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&server.into())?;
    let mut connection = TcpStream::from(socket);
    connection.write_all(&frames)?;
    let mut replies = BufReader::new(&connection);
    for _ in packets {
        let mut line = String::new();
        replies.read_line(&mut line)?;
        ensure!(!line.starts_with("error"), "an agent was answered {line:?}");
    }
    Ok(connection)
}

/// Waits until all connections are open, and the server is idle.
fn wait_until_idle(server: &mut Server, agents: &mut Agents, files: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let id = server.process.id();
    let mut before = process::cpu_time(id)?;
    loop {
        agents.still_there()?;
        server.process.still_runs()?;
        thread::sleep(Duration::from_millis(500));
        let now = process::cpu_time(id)?;
        let open = process::open_files(id)?;
        if open >= files && now - before < Duration::from_millis(20) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "the server has {open} files open instead of {files}, or is not at rest; \
                 it says: {}; the client says: {}",
                server.process.lines().join("\n"),
                agents.lines()
            );
        }
        before = now;
    }
}

fn print(outcome: &Outcome) {
    let Outcome {
        bytes_per_connection,
        bytes_per_named_agent,
        buffers_in_use,
    } = outcome;
    say!("\n### Idle: from {FEW} to {MANY} connections\n");
    say!(
        "- own memory per connection: {bytes_per_connection:.0} bytes; target ≤ {TARGET:.0}: {}",
        met(bytes_per_connection.median <= TARGET)
    );
    say!(
        "- own memory per connection of an agent with a name of its own, and per agent that is \
         remembered: {bytes_per_named_agent:.0} bytes"
    );
    say!(
        "- receive buffers in use: {buffers_in_use:?}; target none: {}",
        met(buffers_in_use.iter().all(|&count| count == 0))
    );
}
