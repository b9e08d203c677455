//! What an idle connection costs: hawk's own memory with few and with many
//! connections that have each sent one report and now say next to nothing.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde::Serialize;

use crate::NO_STORE;
use crate::support::child::{Running, Wanted};
use crate::support::servers::{self, Server};
use crate::support::spread::{Spread, met};
use crate::support::statistics::Statistics;
use crate::support::{Setup, note, process, say};

/// The slope is taken between these two numbers of connections: beyond what
/// any server needs at its start, and within the usual limit of 20,000 files.
const FEW: u32 = 2_000;
const MANY: u32 = 18_000;

/// Most bytes that an idle connection may cost.
const TARGET: f64 = 160.0;

#[derive(Serialize)]
pub(crate) struct Outcome {
    bytes_per_connection: Spread,
    buffers_in_use: Vec<u64>,
}

struct Round {
    bytes_per_connection: f64,
    buffers_in_use: u64,
}

pub(crate) fn run(setup: &Setup) -> anyhow::Result<Outcome> {
    note!("idle connections …");
    let rounds: Vec<Round> = (0..setup.rounds)
        .map(|_| round(setup))
        .collect::<anyhow::Result<_>>()?;
    let outcome = Outcome {
        bytes_per_connection: Spread::of(rounds.iter().map(|round| round.bytes_per_connection)),
        buffers_in_use: rounds.iter().map(|round| round.buffers_in_use).collect(),
    };
    print(&outcome);
    Ok(outcome)
}

#[allow(clippy::cast_precision_loss)] // bytes of memory are far below 2^53
fn round(setup: &Setup) -> anyhow::Result<Round> {
    let mut server = servers::hawk(setup, NO_STORE)?;
    let files = process::open_files(server.process.id())?;
    let mut few = hold_idle(setup, &server, FEW)?;
    wait_until_idle(&mut server, &mut few, files + FEW as usize)?;
    let memory_of_few = process::memory(server.process.id(), "RssAnon")?;
    let mut more = hold_idle(setup, &server, MANY - FEW)?;
    wait_until_idle(&mut server, &mut more, files + MANY as usize)?;
    let memory_of_many = process::memory(server.process.id(), "RssAnon")?;
    few.still_runs()?;
    let grown = memory_of_many as f64 - memory_of_few as f64;
    Ok(Round {
        bytes_per_connection: grown / f64::from(MANY - FEW),
        buffers_in_use: Statistics::ask(&mut server.process)?
            .pool("in_use")
            .iter()
            .sum(),
    })
}

/// Opens idle connections to `server` and leaves them open until dropped.
fn hold_idle(setup: &Setup, server: &Server, count: u32) -> anyhow::Result<Running> {
    let arguments = [
        "load",
        &server.address.to_string(),
        "--connections",
        "0",
        "--idle",
        &count.to_string(),
        // Ports stay taken for a minute after a round: with few addresses, the
        // rounds after it would search long for free ones.
        "--sources",
        "16",
        // Seldom enough to be idle, often enough not to be taken for dead.
        "--heartbeat",
        "80s",
        "--duration",
        "10m",
        // All at once would overrun the backlog; that is not what is measured.
        "--ramp",
        "3s",
    ];
    Running::start(setup.load_core, &setup.client, &arguments, Wanted::Both)
}

/// Until all connections are there, and the server has nothing more to do.
fn wait_until_idle(server: &mut Server, load: &mut Running, files: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let id = server.process.id();
    let mut before = process::cpu_time(id)?;
    loop {
        load.still_runs()?;
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
                load.lines().join("\n")
            );
        }
        before = now;
    }
}

fn print(outcome: &Outcome) {
    let Outcome {
        bytes_per_connection,
        buffers_in_use,
    } = outcome;
    say!("\n### Idle: from {FEW} to {MANY} connections\n");
    say!(
        "- own memory per connection: {bytes_per_connection:.0} bytes; target ≤ {TARGET:.0}: {}",
        met(bytes_per_connection.median <= TARGET)
    );
    say!(
        "- receive buffers in use: {buffers_in_use:?}; target none: {}",
        met(buffers_in_use.iter().all(|&count| count == 0))
    );
}
