//! Load clients, and what `hawk load` reports.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::Setup;
use super::child::{Running, Wanted};
use super::process;
use super::servers::Server;

/// What a load client saw.
pub struct Replied {
    pub replies: f64,
    pub per_second: f64,
    /// Replies that were wrong or missing.
    pub errors: f64,
    /// CPU time that the server used from when all connections were there to the last
    /// reply, to some 40 ms; `None` where the client does not say when that was.
    pub server_cpu: Option<Duration>,
    /// 99th percentile of the latency, in seconds. In the open loop it counts from
    /// the intended send time.
    pub p99: f64,
    /// CPU time that the client used, as a share of one core.
    pub client_share: f64,
    /// Why the client, and not the server, may have set the pace.
    pub bottleneck: Option<String>,
}

/// Maximum time that a client may run beyond its duration.
pub const GRACE: Duration = Duration::from_secs(60);

/// Runs `hawk load` against `server` to its end.
pub fn hawk_load(
    setup: &Setup,
    server: &Server,
    arguments: &[&str],
    duration: Duration,
    mut meanwhile: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Replied> {
    let client = Client::start(setup, server.address, arguments, duration)?;
    let (started, before) = (Instant::now(), process::cpu_time(server.process.id())?);
    let mut used = Vec::new();
    let report = client.finish(duration + GRACE, || {
        let time = process::cpu_time(server.process.id())?;
        used.push((started.elapsed(), time - before));
        meanwhile()
    })?;
    let opened = Duration::from_secs_f64(report.opened_in_seconds);
    let last_reply = opened + Duration::from_secs_f64(report.seconds);
    let connecting = used.iter().take_while(|(when, _)| *when <= opened).last();
    let all = used.iter().find(|(when, _)| *when >= last_reply);
    let of = |look: Option<&(Duration, Duration)>| look.map(|(_, time)| *time);
    Ok(Replied {
        server_cpu: of(all.or(used.last())).map(|all| all - of(connecting).unwrap_or_default()),
        replies: report.answered,
        per_second: report.per_second,
        errors: report.errors(),
        p99: report.latency.from_intended.p99 * 1e-9,
        client_share: report.client.cpu_percent / 100.0,
        bottleneck: report.client.bottleneck,
    })
}

/// A running `hawk load`.
pub struct Client {
    process: Running,
    report: PathBuf,
}

impl Client {
    /// Puts load on `target` for `duration`.
    pub fn start(
        setup: &Setup,
        target: SocketAddr,
        arguments: &[&str],
        duration: Duration,
    ) -> anyhow::Result<Self> {
        let report = setup.scratch.join("load.json");
        if report.exists() {
            fs::remove_file(&report)?;
        }
        let target = target.to_string();
        let span = format!("{}ms", duration.as_millis());
        let file = report
            .to_str()
            .context("the scratch directory's name is no UTF-8")?;
        let mut all = vec!["load", &target, "--duration", &span, "--json", file];
        all.extend_from_slice(arguments);
        let process = Running::start(setup.load_core, &setup.client, &all, Wanted::Both)?;
        Ok(Self { process, report })
    }

    /// Whether it is at work; an error if it has ended.
    pub fn still_runs(&mut self) -> anyhow::Result<()> {
        self.process.still_runs()
    }

    /// Has it end now, with the figures so far.
    pub fn interrupt(self) -> anyhow::Result<Report> {
        let id = i32::try_from(self.process.id()).ok();
        let id = id.and_then(Pid::from_raw).context("a process id of zero")?;
        kill_process(id, Signal::INT)?;
        self.finish(GRACE, || Ok(()))
    }

    /// Waits for its end, for `longest`; calls `meanwhile` now and then.
    fn finish(
        mut self,
        longest: Duration,
        meanwhile: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Report> {
        let status = self.process.finish(longest, meanwhile)?;
        // Errors make the client fail, but its report contains more than its status.
        let text = fs::read(&self.report)
            .with_context(|| format!("hawk load: {status}\n{}", self.process.lines().join("\n")))?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// What is of use here in the file that `hawk load --json` writes.
#[derive(Deserialize)]
pub struct Report {
    opened_in_seconds: f64,
    seconds: f64,
    pub sent: Sent,
    /// Right replies.
    pub answered: f64,
    per_second: f64,
    errors: Vec<ErrorCount>,
    pub latency: Latency,
    client: Itself,
}

impl Report {
    /// What went wrong, and how often.
    pub fn told_errors(&self) -> String {
        let told = self
            .errors
            .iter()
            .map(|it| format!("{} {}: {}", it.count, it.fault, it.cause));
        told.collect::<Vec<_>>().join(", ")
    }

    /// Replies that were wrong or missing, and connections that broke.
    pub fn errors(&self) -> f64 {
        let counts = self.errors.iter().map(|error| error.count);
        counts.fold(0.0, |sum, count| sum + count)
    }
}

/// Frames by kind.
#[derive(Deserialize)]
pub struct Sent {
    pub reports: f64,
    pub heartbeats: f64,
}

#[derive(Deserialize)]
pub struct Latency {
    pub from_intended: Quantiles,
}

/// In nanoseconds.
#[derive(Deserialize)]
pub struct Quantiles {
    p99: f64,
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    pub max: f64,
}

/// What it says of itself.
#[derive(Deserialize)]
struct Itself {
    cpu_percent: f64,
    bottleneck: Option<String>,
}

#[derive(Deserialize)]
struct ErrorCount {
    count: f64,
    fault: String,
    cause: String,
}
