//! Redis, and its own load client.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::Setup;
use super::child::{Running, STEP, Wanted};
use super::load::{GRACE, Replied};
use super::process;
use super::servers::{Server, is_there};

/// Connections that each keep so many requests in flight.
#[derive(Clone, Copy)]
pub struct ClosedLoop {
    pub connections: u32,
    pub depth: u32,
}

/// Redis with some settings, and the requests of `redis-benchmark`.
pub struct Redis {
    settings: &'static [&'static str],
    request: &'static [&'static str],
}

impl Redis {
    /// `Err` says what is missing.
    pub fn find(
        settings: &'static [&'static str],
        request: &'static [&'static str],
    ) -> Result<Self, String> {
        if is_there("redis-server", "--version") && is_there("redis-benchmark", "--version") {
            Ok(Self { settings, request })
        } else {
            Err("Redis is not installed (Debian: redis-server and redis-tools)".into())
        }
    }

    /// Starts a server that has its files in `directory`.
    pub fn start(&self, setup: &Setup, directory: &Path) -> anyhow::Result<Server> {
        let address = free_address()?;
        let port = address.port().to_string();
        let directory = directory
            .to_str()
            .context("the directory's name is no UTF-8")?;
        let place = ["--bind", "127.0.0.1", "--port", &port, "--dir", directory];
        let arguments = [&place, self.settings].concat();
        let program = Path::new("redis-server");
        let mut process = Running::start(setup.server_core, program, &arguments, Wanted::Output)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            process.still_runs()?;
            ensure!(Instant::now() < deadline, "redis-server does not listen");
            thread::sleep(STEP);
        }
        Ok(Server { process, address })
    }

    /// How many requests keep it busy for `setup.duration`: its client takes a
    /// number, not a time.
    pub fn requests(
        &self,
        setup: &Setup,
        directory: &Path,
        closed: ClosedLoop,
    ) -> anyhow::Result<u64> {
        let server = self.start(setup, directory)?;
        let count = 50_000 * u64::from(closed.depth.min(16));
        let trial = self.load(setup, &server, closed, count)?;
        let requests = trial.per_second * setup.duration.as_secs_f64();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive, below 2^53
        Ok(requests as u64)
    }

    /// Runs `redis-benchmark` with so many requests against `server`.
    pub fn load(
        &self,
        setup: &Setup,
        server: &Server,
        closed: ClosedLoop,
        requests: u64,
    ) -> anyhow::Result<Replied> {
        let port = server.address.port().to_string();
        let connections = closed.connections.to_string();
        let (depth, count) = (closed.depth.to_string(), requests.to_string());
        let options = [
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-c",
            &connections,
            "-P",
            &depth,
            "-n",
            &count,
            "--csv",
        ];
        let arguments = [&options, self.request].concat();
        let program = Path::new("redis-benchmark");
        let mut client = Running::start(setup.load_core, program, &arguments, Wanted::Output)?;
        let (id, started) = (client.id(), Instant::now());
        let mut client_share = 0.0;
        let status = client.finish(setup.duration + GRACE, || {
            // The last look counts. It fails when the client has just ended.
            if let Ok(time) = process::cpu_time(id) {
                client_share = time.as_secs_f64() / started.elapsed().as_secs_f64();
            }
            Ok(())
        })?;
        ensure!(status.success(), "redis-benchmark failed: {status}");
        let lines = client.lines();
        let (per_second, p99) = lines
            .iter()
            .find_map(|line| rate_and_p99(line))
            .with_context(|| format!("redis-benchmark said no rate but {lines:?}"))?;
        ensure!(per_second > 0.0, "redis-benchmark got no reply");
        #[allow(clippy::cast_precision_loss)] // far below 2^53
        let replies = requests as f64;
        Ok(Replied {
            replies,
            per_second,
            errors: 0.0,
            server_cpu: None, // it does not say
            p99,
            client_share,
            bottleneck: None, // it does not say
        })
    }
}

/// A line of `redis-benchmark --csv`, its head aside: the name of the request,
/// requests a second, and latencies in milliseconds: average, least, 50th, 95th
/// and 99th percentile, most.
fn rate_and_p99(line: &str) -> Option<(f64, f64)> {
    let line = line.trim().strip_prefix('"')?.strip_suffix('"')?;
    let mut figures = line.split("\",\"").skip(1).map(str::parse::<f64>);
    let per_second = figures.next()?.ok()?;
    let p99 = figures.nth(4)?.ok()?;
    Some((per_second, p99 * 1e-3))
}

/// A port that was free a moment ago, for a server that cannot pick one itself.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
