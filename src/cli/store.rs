//! The commands that read the store: `hawk agents`, `hawk events`, `hawk reports`.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::Args;
use serde::Serialize;
use tabwriter::TabWriter;

use super::output::{self, Audience};
use super::text::{address, cut, formula_free, quoted, unquoted, visible, visible_name};
use super::values::{self, Since, StorePath};
use crate::roster::CLONED_FOR;
use crate::store::{
    AgentFilter, AgentId, AgentIdentity, AgentQuery, AgentRow, Cursor, EventRow, Journal, Reader,
    ReportRow, State,
};
use hawk_time::UnixNanos;

/// The path of the store without an option.
pub(super) const DEFAULT_STORE: &str = "hawk.db";

/// The store that a command reads.
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// The store; a server may be writing it
    #[arg(long, env = "HAWK_STORE", value_name = "PATH", default_value = DEFAULT_STORE, value_parser = values::store_path)]
    store: StorePath,
}

impl StoreArgs {
    /// Opens the store. Prints a note on stderr if no server writes it.
    pub(super) fn open(&self) -> anyhow::Result<Reader> {
        let StorePath::File(path) = &self.store else {
            bail!("there is no store to read in \"none\"; give --store PATH");
        };
        let reader = Reader::open(path.clone()).context("cannot read the store")?;
        let note = match reader.is_written() {
            Ok(true) => return Ok(reader),
            Ok(false) => match reader.last_seen()? {
                Some(last) => {
                    let ago = ago(UnixNanos::now(), last);
                    let last = last.to_seconds();
                    format!("no server is writing it; its last entry is of {last}, {ago} ago")
                }
                None => "no server is writing it".to_owned(),
            },
            Err(error) => format!("cannot tell whether a server is writing it: {error}"),
        };
        output::note(&format!("{}: {note}", path.display()));
        Ok(reader)
    }
}

/// Returns the time from `then` to `now` in its two greatest units.
pub(super) fn ago(now: UnixNanos, then: UnixNanos) -> String {
    let seconds = Duration::from_secs(now.since(then).as_secs());
    let units = humantime::format_duration(seconds).to_string();
    units.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// List the agents in the store, and whether each is alive
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

/// The greatest width of a version in the table, in characters.
const WIDEST_VERSION: usize = 20;

/// An agent as a line of JSON.
#[derive(Serialize)]
struct AgentLine<'a> {
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
            agent_lines(&agents)?
        } else {
            agent_table(&agents)?
        };
        output::write(&text).map(|_audience| ())
    }
}

fn agent_lines(agents: &[AgentRow]) -> anyhow::Result<Vec<u8>> {
    let now = UnixNanos::now();
    let mut text = Vec::new();
    for agent in agents {
        let line = AgentLine {
            id: agent.id.0,
            agent: agent.name.as_deref().unwrap_or(&agent.address),
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

fn agent_table(agents: &[AgentRow]) -> anyhow::Result<Vec<u8>> {
    let now = UnixNanos::now();
    let mut table = TabWriter::new(Vec::new());
    // The column NOTE is omitted if it is empty.
    let (heading, note) = match agents.iter().any(|agent| is_cloned(agent, now)) {
        true => ("\tNOTE", "\tcloned"),
        false => ("", ""),
    };
    writeln!(
        table,
        "AGENT\tSTATE\tVERSION\tLAST SEEN\tAGO\tREPORTS\tADDRESS{heading}"
    )?;
    for agent in agents {
        let name = agent.name.as_deref();
        let name = name.map_or_else(|| address(&agent.address), visible_name);
        writeln!(
            table,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}{}",
            cut(&name, WIDEST_NAME),
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

/// Returns whether two machines used the agent's name recently.
fn is_cloned(agent: &AgentRow, now: UnixNanos) -> bool {
    let cloned_at = agent.cloned_at;
    cloned_at.is_some_and(|cloned_at| now.since(cloned_at) < CLONED_FOR)
}

/// Show when agents came online and went offline
///
/// Reads the store's file, oldest event first, whether a server is running or not. As text on
/// a terminal it shows the last 20; into a pipe or a file, and with --json it shows all.
#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    journal: JournalArgs,

    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// An event as a line of JSON, with the agent's address and version at that time. The
/// sequence number is text too, because readers of JSON may round a great number.
#[derive(Serialize)]
struct EventLine<'a> {
    id: i64,
    at: String,
    agent: &'a str,
    named: bool,
    address: Option<&'a str>,
    version: Option<&'a str>,
    state: &'a str,
    seq: String,
}

impl EventsArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let form = match self.json {
            true => Form::Data { header: "" },
            false => Form::text(),
        };
        self.journal.run(form, |event: &EventRow, text| {
            if self.json {
                write_event_json(event, text)
            } else {
                write_event_text(event, form, text)
            }
        })
    }
}

fn write_event_json(event: &EventRow, text: &mut Vec<u8>) -> anyhow::Result<()> {
    let address = event.agent.address.as_deref().map(address);
    let line = EventLine {
        id: event.seq,
        at: event.at.to_string(),
        agent: &called(&event.agent),
        named: event.agent.name.is_some(),
        address: address.as_deref(),
        version: event.version.as_deref(),
        state: event.state.word(),
        seq: event.seq.to_string(),
    };
    serde_json::to_writer(&mut *text, &line)?;
    text.push(b'\n');
    Ok(())
}

fn write_event_text(event: &EventRow, form: Form, text: &mut Vec<u8>) -> anyhow::Result<()> {
    let agent = shown(&event.agent);
    let agent = form.cut(&agent, WIDEST_NAME);
    let address = event.agent.address.as_deref().map(address);
    let address = address.as_deref().unwrap_or("-");
    let state = event.state.word();
    writeln!(text, "{}  {state:<7}  {agent}  {address}", event.at)?;
    Ok(())
}

/// Show the reports in the store
///
/// Reads the store's file, oldest report first, whether a server is running or not. As text on
/// a terminal it shows the last 20, and cuts long contents; into a pipe or a file, with --json
/// and with --csv it shows all.
#[derive(Debug, Args)]
pub(super) struct ReportsArgs {
    #[command(flatten)]
    journal: JournalArgs,

    /// One JSON object a line
    #[arg(long)]
    json: bool,

    /// Comma-separated values with a header line (RFC 4180)
    #[arg(long, conflicts_with = "json")]
    csv: bool,

    /// With --csv: put an apostrophe before each text that a spreadsheet would take for a
    /// formula (=, +, -, @, tab or line break at its beginning)
    #[arg(long, requires = "csv")]
    csv_safe: bool,
}

/// A report as a line of JSON or of comma-separated values. The sequence number is text,
/// because readers of JSON may round a number this great.
#[derive(Serialize)]
struct ReportLine<'a> {
    received_at: String,
    agent: &'a str,
    peer: &'a str,
    content: &'a str,
    rand: i64,
    timestamp: i64,
    seq: String,
    named: bool,
}

/// The greatest width of a report's content on a terminal, in characters.
const WIDEST_CONTENT: usize = 200;

/// The names of a [`ReportLine`]'s fields.
const CSV_HEADER: &str = "received_at,agent,peer,content,rand,timestamp,seq,named\n";

impl ReportsArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let form = match (self.csv, self.json) {
            (true, _) => Form::Data { header: CSV_HEADER },
            (_, true) => Form::Data { header: "" },
            _ => Form::text(),
        };
        self.journal.run(form, |report: &ReportRow, text| {
            let agent = called(&report.agent);
            let peer = address(&report.peer);
            let line = ReportLine {
                received_at: report.received_at.to_string(),
                agent: &agent,
                peer: &peer,
                content: &report.content,
                rand: report.rand,
                timestamp: report.timestamp,
                seq: report.seq.to_string(),
                named: report.agent.name.is_some(),
            };
            if self.json {
                serde_json::to_writer(&mut *text, &line)?;
                text.push(b'\n');
            } else if self.csv {
                write_csv(&line, self.csv_safe, text)?;
            } else {
                write_report_text(report, form, text)?;
            }
            Ok(())
        })
    }
}

fn write_csv(line: &ReportLine<'_>, is_safe: bool, text: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut writer = csv::WriterBuilder::new()
        .has_headers(false)
        .from_writer(text);
    match is_safe {
        false => writer.serialize(line)?,
        true => writer.serialize(ReportLine {
            agent: &formula_free(line.agent),
            peer: &formula_free(line.peer),
            content: &formula_free(line.content),
            received_at: line.received_at.clone(),
            seq: line.seq.clone(),
            ..*line
        })?,
    }
    writer.flush()?;
    Ok(())
}

fn write_report_text(report: &ReportRow, form: Form, text: &mut Vec<u8>) -> anyhow::Result<()> {
    writeln!(
        text,
        "{}  {}  {}  rand={} timestamp={}  {}",
        report.received_at,
        form.cut(&shown(&report.agent), WIDEST_NAME),
        address(&report.peer),
        report.rand,
        report.timestamp,
        form.cut(&quoted(&report.content), WIDEST_CONTENT),
    )?;
    Ok(())
}

/// The default number of rows at the start of --follow, as in `tail -f`.
const FOLLOW_FROM: u64 = 10;

/// The interval of reads for new rows: soon enough for a reader, and a low load.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The default number of rows as text on a terminal.
const ON_A_TERMINAL: u64 = 20;

/// The greatest width of an agent's name on a terminal, in characters.
const WIDEST_NAME: usize = 40;

/// The form in which rows are shown.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// For people.
    Text {
        /// Whether stdout is a terminal.
        is_terminal: bool,
    },
    /// For programs.
    Data {
        /// The first line.
        header: &'static str,
    },
}

impl Form {
    /// Returns text in the form for stdout.
    pub(super) fn text() -> Self {
        Self::Text {
            is_terminal: io::stdout().is_terminal(),
        }
    }

    /// Cuts a column to the width `most` on a terminal.
    pub(super) fn cut<'a>(self, column: &'a str, most: usize) -> Cow<'a, str> {
        match self.is_on_terminal() {
            true => cut(column, most),
            false => Cow::Borrowed(column),
        }
    }

    const fn is_on_terminal(self) -> bool {
        matches!(self, Self::Text { is_terminal: true })
    }
}

/// The selection of rows.
#[derive(Debug, Args)]
pub(super) struct JournalArgs {
    #[command(flatten)]
    store: StoreArgs,

    /// Only rows of this agent: its name, its address if it has no name, or #ID, its
    /// number. A name that looks like one of these is written in quotes, as hawk shows it:
    /// '"10.0.0.7"'
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,

    /// Only rows since this time: a span before now, such as 10m or 2d, or a time such
    /// as 2026-11-24T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = values::since)]
    since: Option<Since>,

    /// Only rows before this time: a span before now or a time, as with --since
    #[arg(long, value_name = "TIME", value_parser = values::since, conflicts_with = "follow")]
    until: Option<Since>,

    /// Only the last N rows
    #[arg(long, value_name = "N", value_parser = values::number(0..=u64::MAX))]
    last: Option<u64>,

    /// Wait for new rows and show them, until interrupted; begins with the last 10 rows,
    /// unless --since or --last is given
    #[arg(long, short)]
    follow: bool,
}

impl JournalArgs {
    /// Prints the selected rows; `show` writes one.
    pub(super) fn run<J: Journal>(
        &self,
        form: Form,
        mut show: impl FnMut(&J, &mut Vec<u8>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let reader = self.store.open()?;
        let [since, until] = [&self.since, &self.until].map(|time| time.as_ref().map(Since::time));
        let selection = reader.select::<J>(self.agent::<J>(&reader)?, since, until)?;
        let default = match self.follow && since.is_none() {
            true => Some(FOLLOW_FROM),
            false => self.is_cut(form).then_some(ON_A_TERMINAL),
        };
        let mut cursor = match self.last.or(default) {
            Some(count) => reader.last::<J>(count, &selection)?,
            None => Cursor::START,
        };
        let mut text = Vec::new();
        if let Form::Data { header } = form {
            text.extend_from_slice(header.as_bytes());
        }
        let mut shown = 0;
        loop {
            let page = reader.page(cursor, &selection)?;
            cursor = page.next;
            for row in &page.rows {
                show(row, &mut text)?;
                shown += 1;
            }
            if output::write(&text)? == Audience::Gone {
                return Ok(());
            }
            text.clear();
            if page.is_last {
                if !self.follow {
                    if self.is_cut(form) && shown >= ON_A_TERMINAL {
                        output::note(&format!(
                            "the last {ON_A_TERMINAL} are shown; for more give --last N or --since TIME, \
                             or pipe the output: | less"
                        ));
                    }
                    return Ok(());
                }
                ensure!(
                    reader.is_in_place(),
                    "{} was moved away or replaced; start again to follow what is there now",
                    reader.path().display()
                );
                if output::wait(POLL_INTERVAL) == Audience::Gone {
                    return Ok(());
                }
            }
        }
    }

    /// Returns the filter for `--agent`.
    fn agent<J: Journal>(&self, reader: &Reader) -> anyhow::Result<Option<AgentFilter>> {
        let Some(agent) = &self.agent else {
            return Ok(None);
        };
        let found = reader.find::<J>(&parse_agent(agent))?;
        if found.is_none() {
            let path = reader.path().display();
            let hint = match reader.find::<J>(&AgentQuery::Name(agent.clone()))? {
                Some(_) => format!("the agent with that name is '{}'", quoted(agent)),
                None => "`hawk agents` lists them".to_owned(),
            };
            bail!("there is no agent {agent:?} in {path}; {hint}");
        }
        Ok(found)
    }

    /// Returns whether a terminal shows the last rows although the selection has no bound.
    fn is_cut(&self, form: Form) -> bool {
        let is_bounded = self.since.is_some() || self.until.is_some() || self.last.is_some();
        form.is_on_terminal() && !self.follow && !is_bounded
    }
}

/// Returns an agent's name, else its address, else the number of its removed row.
pub(super) fn called(agent: &AgentIdentity) -> String {
    match (&agent.name, &agent.address) {
        (Some(name), _) => name.clone(),
        (None, Some(address)) => address.clone(),
        (None, None) => format!("#{}", agent.id.0),
    }
}

/// Returns the same for people to read. A name that looks like an address or a number is in
/// quotes ([`visible_name`]).
pub(super) fn shown(agent: &AgentIdentity) -> String {
    match (&agent.name, &agent.address) {
        (Some(name), _) => visible_name(name),
        (None, Some(it)) => address(it),
        (None, None) => format!("#{}", agent.id.0),
    }
}

/// Parses the value of `--agent`.
fn parse_agent(text: &str) -> AgentQuery {
    let number = text.strip_prefix('#').and_then(|id| id.parse().ok());
    match (number, text.parse::<IpAddr>(), unquoted(text)) {
        (Some(id), ..) => AgentQuery::Id(AgentId(id)),
        (_, Ok(address), _) => AgentQuery::Address(address.to_canonical()),
        (_, _, Some(name)) => AgentQuery::Name(name),
        _ => AgentQuery::Name(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        let start = UnixNanos::from_nanos(1);
        let ago = |seconds| ago(start.after(Duration::from_secs(seconds)), start);
        assert_eq!(ago(0), "0s");
        assert_eq!(ago(61), "1m 1s");
        assert_eq!(ago(3_661), "1h 1m");
        assert_eq!(ago(90_061), "1day 1h");
        let ahead = start.after(Duration::from_secs(5));
        assert_eq!(super::ago(start, ahead), "0s");
    }

    #[test]
    fn an_agent_is_selected_by_number_address_or_name() {
        let name = |name: &str| AgentQuery::Name(name.to_owned());
        let address = |text: &str| AgentQuery::Address(text.parse().unwrap());
        for (text, selected) in [
            ("web-01", name("web-01")),
            ("#7", AgentQuery::Id(AgentId(7))),
            ("\"#7\"", name("#7")),
            ("#seven", name("#seven")),
            ("::ffff:10.0.0.7", address("10.0.0.7")),
            ("\"10.0.0.7\"", name("10.0.0.7")),
            ("\"a\\u{202e}b\"", name("a\u{202e}b")),
            ("\"half", name("\"half")),
        ] {
            assert_eq!(parse_agent(text), selected, "{text}");
        }
    }
}
