//! `hawk reports`: what was reported.

use std::io::Write as _;

use clap::Args;
use serde::Serialize;

use super::journal::{JournalArgs, called};
use super::output;
use crate::store::ReportRow;

/// Show the reports in the store
///
/// Reads the store's file, oldest report first, whether a server is running or not.
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
}

/// The names of a [`Line`]'s fields.
const CSV_HEADER: &str = "received_at,agent,peer,content,rand,timestamp,seq\n";

impl ReportsArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let header = if self.csv { CSV_HEADER } else { "" };
        self.journal.run(header, |report: &ReportRow, text| {
            let agent = called(&report.agent);
            let line = Line {
                received_at: report.received_at.to_string(),
                agent: &agent,
                peer: &report.peer,
                content: &report.content,
                rand: report.rand,
                timestamp: report.timestamp,
                seq: report.seq.to_string(),
            };
            if self.json {
                serde_json::to_writer(&mut *text, &line)?;
                text.push(b'\n');
            } else if self.csv {
                write_csv(&line, text)?;
            } else {
                write_text(&line, text)?;
            }
            Ok(())
        })
    }
}

fn write_csv(line: &Line<'_>, text: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut writer = csv::WriterBuilder::new()
        .has_headers(false)
        .from_writer(text);
    writer.serialize(line)?;
    writer.flush()?;
    Ok(())
}

fn write_text(line: &Line<'_>, text: &mut Vec<u8>) -> anyhow::Result<()> {
    writeln!(
        text,
        "{}  {}  {}  rand={} timestamp={}  {:?}",
        line.received_at,
        output::visible(line.agent),
        line.peer,
        line.rand,
        line.timestamp,
        line.content,
    )?;
    Ok(())
}
