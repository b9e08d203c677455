//! Redis, and its own load client.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::Setup;
use super::child::{Running, STEP, Wanted};
use super::load::{GRACE, Replied};
use super::servers::{Server, is_there};

/// Redis with some settings, and what `redis-benchmark` is to ask it for.
pub(crate) struct Redis {
    settings: &'static [&'static str],
    request: &'static [&'static str],
}

impl Redis {
    /// `Err` says what is missing.
    pub(crate) fn find(
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
    pub(crate) fn start(&self, setup: &Setup, directory: &Path) -> anyhow::Result<Server> {
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
    pub(crate) fn requests(
        &self,
        setup: &Setup,
        directory: &Path,
        depth: u32,
    ) -> anyhow::Result<u64> {
        let server = self.start(setup, directory)?;
        let trial = self.load(setup, &server, depth, 50_000 * u64::from(depth.min(16)))?;
        let requests = trial.per_second * setup.duration.as_secs_f64();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive, below 2^53
        Ok(requests as u64)
    }

    /// Runs `redis-benchmark` with so many requests against `server`.
    pub(crate) fn load(
        &self,
        setup: &Setup,
        server: &Server,
        depth: u32,
        requests: u64,
    ) -> anyhow::Result<Replied> {
        let port = server.address.port().to_string();
        let (depth, count) = (depth.to_string(), requests.to_string());
        let options = [
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-c",
            "50",
            "-P",
            &depth,
            "-n",
            &count,
            "--csv",
        ];
        let arguments = [&options, self.request].concat();
        let program = Path::new("redis-benchmark");
        let mut client = Running::start(setup.load_core, program, &arguments, Wanted::Output)?;
        let status = client.finish(setup.duration + GRACE, || Ok(()))?;
        ensure!(status.success(), "redis-benchmark failed: {status}");
        let lines = client.lines();
        // A head, and then "NAME OF THE REQUEST","REQUESTS PER SECOND",…
        let per_second: f64 = lines
            .iter()
            .find_map(|line| line.split("\",\"").nth(1)?.parse().ok())
            .with_context(|| format!("redis-benchmark said no rate but {lines:?}"))?;
        ensure!(per_second > 0.0, "redis-benchmark got no reply");
        #[allow(clippy::cast_precision_loss)] // far below 2^53
        let replies = requests as f64;
        Ok(Replied {
            replies,
            per_second,
            errors: 0.0,
            bottleneck: None, // it does not say
        })
    }
}

/// A port that was free a moment ago, for a server that cannot pick one itself.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
