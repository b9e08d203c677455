//! The server's cost of junk, against valid frames of the same size.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use hawk_wire::{JUNK_LIMIT, MAX_FRAME};
use rand::RngExt as _;

use super::crowd::Crowd;
use super::decoder::streams::{SIZES, USUAL, repeated, valid_reports, worst};
use super::habits::Habit;
use super::rows::{Row, Target, print};
use hawk_testkit::bench::Setup;
use hawk_testkit::bench::process;
use hawk_testkit::bench::servers;
use hawk_testkit::bench::spread::Spread;
use hawk_testkit::bench::statistics::Statistics;

/// Connections that send junk.
const SENDERS: usize = 16;

/// Least bytes for a figure: on a busy machine senders may get little CPU.
const LEAST: u64 = 4_000_000;

/// How long these bytes may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Most CPU time for a byte, relative to valid frames of the same size.
const TARGET: Option<Target> = Some(Target::AtMost(2.0));

/// The first bytes of a scanner for web servers, and of one for TLS.
const HTTP: &[u8] =
    b"GET /index.html HTTP/1.1\r\nHost: 10.0.0.7:9876\r\nUser-Agent: curl/7.88.1\r\n\
    Accept: */*\r\nConnection: keep-alive\r\n\r\n";
const TLS_HELLO: &[u8] = b"\x16\x03\x01\x00\xA5\x01\x00\x00\xA1\x03\x03\xFF\x8F\x13\xFF\xFF\x02\
    \xC0\x2F\xC0\x30\xCC\xA9\x00\xFF\x01\x00\x00\x72\x00\x00\x00\x0E\x00\x0C\x00\x00\x09localhost";

struct Poured {
    megabytes_per_second: f64,
    cpu_per_byte: f64,
}

pub(crate) fn run(setup: &Setup, like: &str) -> anyhow::Result<Vec<Row>> {
    let mut kinds: Vec<(String, usize, Vec<u8>)> = vec![
        ("random bytes".into(), USUAL, random()),
        ("HTTP requests".into(), USUAL, repeated(HTTP)),
        ("TLS hellos".into(), USUAL, repeated(TLS_HELLO)),
    ];
    for stream in worst() {
        let name = format!("{}, {} bytes", stream.name, stream.like);
        kinds.push((name, stream.like, stream.bytes()));
    }
    kinds.retain(|(name, ..)| name.contains(like));
    // All kinds take turns with valid frames of all sizes.
    let mut rounds = Vec::new();
    for _ in 0..setup.rounds {
        let mut valid = Vec::new();
        for size in SIZES {
            let habit = Habit::pours(valid_reports(size));
            valid.push((size, pour(setup, habit)?));
        }
        for (name, size, bytes) in &kinds {
            let before = valid.iter().find(|(other, _)| other == size);
            let before = before.map_or(0.0, |(_, poured)| poured.cpu_per_byte);
            let habit = Habit::greet(enough(bytes));
            rounds.push((name, before, pour(setup, habit)?));
        }
    }
    let (mut rows, mut rates) = (Vec::new(), Vec::new());
    for (name, ..) in &kinds {
        let mine = || rounds.iter().filter(|(other, ..)| *other == name);
        let rate = Spread::of(mine().map(|(.., after)| after.megabytes_per_second));
        let figure = format!("server's CPU, ns a byte; {:.0} MB/s", rate.median);
        let cpu = mine().map(|(_, before, after)| (before * 1e9, after.cpu_per_byte * 1e9));
        rows.push(Row::beside(name, &figure, cpu, TARGET));
        let rate = mine().map(|(.., after)| after.megabytes_per_second);
        rates.push(Row::alone(name, "MB a second that were read", rate, None));
    }
    print("Junk, and valid frames of the same size", &rows);
    // The figures need no table.
    rows.extend(rates);
    Ok(rows)
}

/// The junk limit of a connection, and the bytes that a candidate at the end may hold back.
/// The server discards further bytes at nearly no cost.
fn enough(bytes: &[u8]) -> Vec<u8> {
    let most = JUNK_LIMIT as usize + MAX_FRAME;
    bytes.iter().copied().cycle().take(most).collect()
}

fn random() -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    rand::rng().fill(&mut bytes[..]);
    bytes
}

#[allow(clippy::cast_precision_loss)] // far below 2^53
fn pour(setup: &Setup, habit: Habit) -> anyhow::Result<Poured> {
    let options = [servers::NO_STORE, &["--stats-interval", "1h"]].concat();
    let mut server = servers::hawk(setup, &options)?;
    let id = server.process.id();
    let crowd = Crowd::start(setup, server.address, SENDERS, habit);
    crowd.wait_come()?;
    // The statistics are of the moment of the request.
    let mut account = || -> anyhow::Result<_> {
        let (cpu, now) = (process::cpu_time(id)?, Instant::now());
        Ok((
            cpu,
            now,
            Statistics::ask(&mut server.process)?.get("bytes_in"),
        ))
    };
    let (cpu_before, begun, before) = account()?;
    let (cpu, ended, after) = loop {
        // A part of the time suffices, because there are many kinds.
        thread::sleep(setup.duration / 4);
        let account = account()?;
        if account.2 - before >= LEAST {
            break account;
        }
        ensure!(begun.elapsed() < PATIENCE, "what is sent is not read");
    };
    let (cpu, seconds, read) = (cpu - cpu_before, ended - begun, after - before);
    crowd.end()?;
    Ok(Poured {
        megabytes_per_second: read as f64 / 1e6 / seconds.as_secs_f64(),
        cpu_per_byte: cpu.as_secs_f64() / read as f64,
    })
}
