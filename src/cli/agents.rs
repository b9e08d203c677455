//! `hawk agents`: who there is, and who is alive.

use std::io::Write as _;

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use tabwriter::TabWriter;

use super::output;
use super::store_args::{StoreArgs, ago};
use super::text::{address, cut, visible, visible_name};
use crate::roster::CLONED_FOR;
use crate::store::{AgentRow, State};
use hawk_time::UnixNanos;

/// List the agents that the store knows, and whether each is alive
///
/// Reads the store's file, whether a server is running or not. Without a running server the
/// states are out of date, and a note on stderr says so.
#[derive(Debug, Args)]
pub(super) struct AgentsArgs {
    #[command(flatten)]
    store: StoreArgs,

    /// Only agents that are offline
    #[arg(long)]
    offline: bool,

    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Characters of an agent's name in the table: longer ones are cut.
const WIDEST_NAME: usize = 40;

/// Characters of a version in the table.
const WIDEST_VERSION: usize = 20;

/// An agent as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    id: i64,
    agent: &'a str,
    named: bool,
    address: &'a str,
    version: &'a str,
    state: &'a str,
    changed_at: String,
    first_seen: String,
    last_seen: String,
    heartbeats: i64,
    reports: i64,
    interval_ms: u128,
    report_interval_ms: u128,
    cloned: bool,
}

impl AgentsArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let mut agents = self.store.open()?.agents()?;
        if self.offline {
            agents.retain(|agent| agent.state == State::Offline);
        }
        let text = if self.json {
            lines(&agents)?
        } else {
            table(&agents)?
        };
        output::write(&text).map(|_audience| ())
    }
}

fn lines(agents: &[AgentRow]) -> anyhow::Result<Vec<u8>> {
    let now = UnixNanos::now();
    let mut text = Vec::new();
    for agent in agents {
        let line = Line {
            id: agent.id.0,
            agent: called(agent),
            named: agent.name.is_some(),
            address: &address(&agent.address),
            version: &agent.version,
            state: agent.state.word(),
            changed_at: agent.changed_at.to_string(),
            first_seen: agent.first_seen.to_string(),
            last_seen: agent.last_seen.to_string(),
            heartbeats: agent.heartbeats,
            reports: agent.reports,
            interval_ms: agent.interval.as_millis(),
            report_interval_ms: agent.report_interval.as_millis(),
            cloned: is_cloned(agent, now),
        };
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
    }
    Ok(text)
}

fn table(agents: &[AgentRow]) -> anyhow::Result<Vec<u8>> {
    let now = UnixNanos::now();
    let mut table = TabWriter::new(Vec::new());
    // A last column only where it has something to say.
    let (heading, note) = match agents.iter().any(|agent| is_cloned(agent, now)) {
        true => ("\tNOTE", "\tcloned"),
        false => ("", ""),
    };
    writeln!(
        table,
        "AGENT\tSTATE\tVERSION\tLAST SEEN\tAGO\tREPORTS\tADDRESS{heading}"
    )?;
    for agent in agents {
        writeln!(
            table,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}{}",
            cut(&shown(agent), WIDEST_NAME),
            agent.state.word(),
            match &*agent.version {
                "" => "-".into(),
                version => cut(&visible(version), WIDEST_VERSION).into_owned(),
            },
            agent.last_seen.to_seconds(),
            ago(now, agent.last_seen),
            agent.reports,
            address(&agent.address),
            if is_cloned(agent, now) { note } else { "" },
        )?;
    }
    let table = table.into_inner();
    table.map_err(|error| anyhow!("cannot lay out the table: {}", error.error()))
}

/// Whether two machines were found to speak under its name of late.
fn is_cloned(agent: &AgentRow, now: UnixNanos) -> bool {
    let cloned_at = agent.cloned_at;
    cloned_at.is_some_and(|cloned_at| now.since(cloned_at) < CLONED_FOR)
}

/// The agent in a table: a name, or an address, which is never in quotes.
fn shown(agent: &AgentRow) -> String {
    match &agent.name {
        Some(name) => visible_name(name),
        None => address(&agent.address),
    }
}

fn called(agent: &AgentRow) -> &str {
    agent.name.as_deref().unwrap_or(&agent.address)
}
