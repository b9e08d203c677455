//! The load clients, and what their reports say.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::Setup;
use crate::child::{Running, Wanted};
use crate::contestants::Server;

/// What a load client saw.
pub(crate) struct Replied {
    pub(crate) replies: f64,
    pub(crate) per_second: f64,
    /// Replies that were wrong or missing.
    pub(crate) errors: f64,
    /// Why the client, and not the server, may have set the pace.
    pub(crate) bottleneck: Option<String>,
}

/// How much longer than it was told a client may take.
const GRACE: Duration = Duration::from_secs(60);

/// Runs `hawk load` against `server` to its end.
pub(crate) fn hawk_load(
    setup: &Setup,
    server: &Server,
    arguments: &[&str],
    duration: Duration,
    meanwhile: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Replied> {
    let report = setup.scratch.join("load.json");
    if report.exists() {
        fs::remove_file(&report)?;
    }
    let address = server.address.to_string();
    let span = format!("{}ms", duration.as_millis());
    let file = report
        .to_str()
        .context("the scratch directory's name is no UTF-8")?;
    let mut all = vec!["load", &address, "--duration", &span, "--json", file];
    all.extend_from_slice(arguments);
    let mut client = Running::start(setup.load_core, &setup.client, &all, Wanted::Both)?;
    let status = client.finish(duration + GRACE, meanwhile)?;
    // Errors make the client fail, but its report tells more than its status.
    let text = fs::read(&report)
        .with_context(|| format!("hawk load: {status}\n{}", client.lines().join("\n")))?;
    let report: Report = serde_json::from_slice(&text)?;
    Ok(Replied {
        replies: report.answered,
        per_second: report.per_second,
        errors: report
            .errors
            .iter()
            .fold(0.0, |sum, error| sum + error.count),
        bottleneck: report.client.bottleneck,
    })
}

/// What is of use here in the file that `hawk load --json` writes.
#[derive(Deserialize)]
struct Report {
    answered: f64,
    per_second: f64,
    errors: Vec<ErrorCount>,
    client: Client,
}

#[derive(Deserialize)]
struct Client {
    bottleneck: Option<String>,
}

#[derive(Deserialize)]
struct ErrorCount {
    count: f64,
}

/// Opens idle connections to `server` and leaves them open until dropped.
pub(crate) fn hold_idle(setup: &Setup, server: &Server, count: u32) -> anyhow::Result<Running> {
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

/// Runs `redis-benchmark` with so many requests against `server`.
pub(crate) fn redis_load(
    setup: &Setup,
    server: &Server,
    depth: u32,
    requests: u64,
) -> anyhow::Result<Replied> {
    let arguments = [
        "-h",
        "127.0.0.1",
        "-p",
        &server.address.port().to_string(),
        "-t",
        "ping_mbulk",
        "-c",
        "50",
        "-P",
        &depth.to_string(),
        "-n",
        &requests.to_string(),
        "--csv",
    ];
    let program = Path::new("redis-benchmark");
    let mut client = Running::start(setup.load_core, program, &arguments, Wanted::Output)?;
    let status = client.finish(setup.duration + GRACE, || Ok(()))?;
    ensure!(status.success(), "redis-benchmark failed: {status}");
    let lines = client.lines();
    let per_second: f64 = lines
        .iter()
        .find_map(|line| line.strip_prefix("\"PING_MBULK\",\"")?.split('"').next())
        .and_then(|rate| rate.parse().ok())
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
