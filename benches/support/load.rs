//! Load clients, and what `hawk load` reports.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Deserialize;

use super::Setup;
use super::child::{Running, Wanted};
use super::process;
use super::servers::Server;

/// What a load client saw.
pub(crate) struct Replied {
    pub(crate) replies: f64,
    pub(crate) per_second: f64,
    /// Replies that were wrong or missing.
    pub(crate) errors: f64,
    /// CPU time that the server used from when all connections were there to the last
    /// reply, to some 40 ms; `None` where the client does not say when that was.
    pub(crate) server_cpu: Option<Duration>,
    /// 99th percentile of the latency, in seconds. In the open loop it counts from
    /// the intended send time.
    pub(crate) p99: f64,
    /// CPU time that the client used, as a share of one core.
    pub(crate) client_share: f64,
    /// Why the client, and not the server, may have set the pace.
    pub(crate) bottleneck: Option<String>,
}

/// How much longer than it was told a client may take.
pub(crate) const GRACE: Duration = Duration::from_secs(60);

/// Runs `hawk load` against `server` to its end.
pub(crate) fn hawk_load(
    setup: &Setup,
    server: &Server,
    arguments: &[&str],
    duration: Duration,
    mut meanwhile: impl FnMut() -> anyhow::Result<()>,
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
    let (started, before) = (Instant::now(), process::cpu_time(server.process.id())?);
    let mut used = Vec::new();
    let status = client.finish(duration + GRACE, || {
        let time = process::cpu_time(server.process.id())?;
        used.push((started.elapsed(), time - before));
        meanwhile()
    })?;
    // Errors make the client fail, but its report tells more than its status.
    let text = fs::read(&report)
        .with_context(|| format!("hawk load: {status}\n{}", client.lines().join("\n")))?;
    let report: Report = serde_json::from_slice(&text)?;
    let opened = Duration::from_secs_f64(report.opened_in_seconds);
    let last_reply = opened + Duration::from_secs_f64(report.seconds);
    let connecting = used.iter().take_while(|(when, _)| *when <= opened).last();
    let all = used.iter().find(|(when, _)| *when >= last_reply);
    let of = |look: Option<&(Duration, Duration)>| look.map(|(_, time)| *time);
    Ok(Replied {
        server_cpu: of(all.or(used.last())).map(|all| all - of(connecting).unwrap_or_default()),
        replies: report.answered,
        per_second: report.per_second,
        errors: report
            .errors
            .iter()
            .fold(0.0, |sum, error| sum + error.count),
        p99: report.latency.from_intended.p99 * 1e-9,
        client_share: report.client.cpu_percent / 100.0,
        bottleneck: report.client.bottleneck,
    })
}

/// What is of use here in the file that `hawk load --json` writes.
#[derive(Deserialize)]
struct Report {
    opened_in_seconds: f64,
    seconds: f64,
    answered: f64,
    per_second: f64,
    errors: Vec<ErrorCount>,
    latency: Latency,
    client: Client,
}

#[derive(Deserialize)]
struct Latency {
    from_intended: Quantiles,
}

/// In nanoseconds.
#[derive(Deserialize)]
struct Quantiles {
    p99: f64,
}

#[derive(Deserialize)]
struct Client {
    cpu_percent: f64,
    bottleneck: Option<String>,
}

#[derive(Deserialize)]
struct ErrorCount {
    count: f64,
}
