//! The report, in Markdown.

use anyhow::Context as _;

use crate::account::{Account, Objects, Sample};
use crate::guest::Plan;
use hawk_testkit::bench::say;

const MEBIBYTE: f64 = 1024.0 * 1024.0;
const MILLION: f64 = 1e6;

/// Objects rarer than one in so many connections are left out.
const RARE: f64 = 0.05;

#[allow(clippy::cast_precision_loss)] // bytes and connections are far below 2^53
pub(crate) fn print(plan: &Plan, account: &Account) -> anyhow::Result<()> {
    let few = account.stages.split_last().context("there are stages")?.1;
    let (first, last) = (few.first(), few.last());
    let (first, last) = first.zip(last).context("there are two stages")?;
    let all = account.stages.last().context("there are stages")?;

    say!("### Memory\n");
    say!(
        "| connections | from addresses | hawk, MiB | of it its own, MiB | kernel, MiB | available, MiB |"
    );
    say!("|---|---|---|---|---|---|");
    for sample in [&account.start].into_iter().chain(&account.stages) {
        row(&grouped(sample.connections()), sample);
    }
    row("none any more", &account.left);

    let slope = |of: fn(&Sample) -> f64| {
        (of(last) - of(first)) / (last.connections() - first.connections())
    };
    let own = slope(|sample| sample.own);
    let kernel = slope(|sample| sample.kernel);
    let agents = all.statistics.agents() as f64 - last.statistics.agents() as f64;
    let newcomers = all.connections() - last.connections();
    let agent = (all.own - last.own - own * newcomers) / agents;
    let client: f64 = account
        .tables
        .iter()
        .map(|it| it.client.peak_memory_bytes)
        .sum();

    let kinds = kinds(first, last);
    let server: f64 = kinds.iter().map(Kind::of_the_server).sum();
    say!(
        "\n| for each, from {} to {} connections | bytes |",
        grouped(first.connections()),
        grouped(last.connections())
    );
    say!("|---|---|");
    say!("| connection, hawk's own memory | {own:.0} |");
    say!(
        "| agent besides, with an address of its own (the last {}) | {agent:.0} |",
        grouped(agents)
    );
    say!("| connection, the kernel's memory for the server's end | {server:.0} |");
    say!("| connection, the kernel's memory for both ends | {kernel:.0} |");
    say!(
        "| connection, `hawk load`'s memory | {:.0} |",
        client / all.connections()
    );

    say!("\n### The kernel's objects\n");
    say!("| object | bytes | for each connection | at the server's end, bytes |");
    say!("|---|---|---|---|");
    for kind in &kinds {
        let Kind { name, size, each } = kind;
        say!(
            "| `{name}` | {size:.0} | {each:.2} | {:.0} |",
            kind.of_the_server()
        );
    }

    say!("\n### Instructions\n");
    say!("| work | connections meanwhile | instructions of the event loop for each |");
    say!("|---|---|---|");
    let mut before = &account.start;
    for sample in &account.stages {
        let counts = format!(
            "{} to {}",
            grouped(before.connections()),
            grouped(sample.connections())
        );
        work(
            "a connection is accepted, its heartbeat answered",
            &counts,
            before,
            sample,
        );
        before = sample;
    }
    let counts = grouped(account.second.connections());
    work(
        "a heartbeat is answered",
        &counts,
        &account.before,
        &account.second,
    );

    let closed = account.second.connections();
    let each = (account.left.cpu - account.second.cpu) / closed;
    say!(
        "| a connection is closed, after its agent has | {} to none | {} |",
        grouped(closed),
        grouped(each)
    );

    say!("\n### A million\n");
    let own_million = own * MILLION / MEBIBYTE;
    let agents_million = agent * MILLION / MEBIBYTE;
    let server_million = server * MILLION / MEBIBYTE;
    say!("| for a million connections | MiB |");
    say!("|---|---|");
    say!("| hawk: connections | {own_million:.0} |");
    say!("| hawk: a million agents | {agents_million:.0} |");
    say!("| kernel | {server_million:.0} |");
    say!(
        "| all | {:.0} |",
        own_million + agents_million + server_million
    );

    say!("\n### The run\n");
    say!("- {}", account.machine.join("; "));
    say!(
        "- {} connections to one process, {} second heartbeats answered by then, {} silent ones closed by their deadline of {} s",
        grouped(account.held.figure("connections")),
        grouped(second(account)),
        account.held.get("closed_idle_timeout"),
        plan.idle_timeout
    );
    Ok(())
}

/// Returns the heartbeats that were answered after all connections were open.
#[allow(clippy::cast_precision_loss)] // far below 2^53
fn second(account: &Account) -> f64 {
    account
        .tables
        .iter()
        .map(|table| table.answered as f64)
        .sum()
}

fn row(what: &str, sample: &Sample) {
    let Sample {
        resident,
        own,
        kernel,
        available,
        statistics,
        ..
    } = sample;
    let [resident, own, kernel, available] =
        [resident, own, kernel, available].map(|bytes| bytes / MEBIBYTE);
    say!(
        "| {what} | {} | {resident:.1} | {own:.1} | {kernel:.0} | {available:.0} |",
        statistics.agents()
    );
}

fn work(what: &str, connections: &str, before: &Sample, after: &Sample) {
    let heartbeats = |sample: &Sample| sample.statistics.figure("heartbeats");
    let each = (after.cpu - before.cpu) / (heartbeats(after) - heartbeats(before));
    say!("| {what} | {connections} | {} |", grouped(each));
}

/// Kernel objects of connections.
struct Kind {
    name: String,
    /// Bytes of one object.
    size: f64,
    /// Objects for each connection, at both ends together.
    each: f64,
}

impl Kind {
    /// Returns their bytes for the server's end of a connection: half of both ends. An
    /// object that exists once is the client's, which has its own port.
    fn of_the_server(&self) -> f64 {
        match self.each > 1.5 {
            true => self.size * self.each / 2.0,
            false => 0.0,
        }
    }
}

fn kinds(first: &Sample, last: &Sample) -> Vec<Kind> {
    let connections = last.connections() - first.connections();
    let kinds = last.objects.iter().map(|(name, now)| {
        let before = first.objects.get(name).copied().unwrap_or_default();
        let Objects { count, size } = *now;
        Kind {
            name: name.clone(),
            size,
            each: (count - before.count) / connections,
        }
    });
    let mut kinds: Vec<_> = kinds.filter(|kind| kind.each > RARE).collect();
    kinds.sort_by(|a, b| (b.size * b.each).total_cmp(&(a.size * a.each)));
    kinds
}

/// Formats a whole number with separated thousands.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<_> = groups.map(String::from_utf8_lossy).collect();
    groups.join(",")
}
