//! `hawk reports`: what was reported.

use std::io::Write as _;

use clap::Args;
use serde::Serialize;

use super::journal::{Form, JournalArgs, WIDEST_NAME, called, shown};
use super::text::{address, formula_free, quoted};
use crate::store::ReportRow;

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
struct Line<'a> {
    received_at: String,
    agent: &'a str,
    peer: &'a str,
    content: &'a str,
    rand: i64,
    timestamp: i64,
    seq: String,
    named: bool,
}

/// Characters of a report's content on a terminal: longer ones are cut.
const WIDEST_CONTENT: usize = 200;

/// The names of a [`Line`]'s fields.
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
            let line = Line {
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
                write_text(report, form, text)?;
            }
            Ok(())
        })
    }
}

fn write_csv(line: &Line<'_>, is_safe: bool, text: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut writer = csv::WriterBuilder::new()
        .has_headers(false)
        .from_writer(text);
    match is_safe {
        false => writer.serialize(line)?,
        true => writer.serialize(Line {
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

fn write_text(report: &ReportRow, form: Form, text: &mut Vec<u8>) -> anyhow::Result<()> {
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
