//! `hawk events`: when agents came and went.

use std::io::Write as _;

use clap::Args;
use serde::Serialize;

use super::journal::{Form, JournalArgs, WIDEST_NAME, called, shown};
use super::text::address;
use crate::store::EventRow;

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
struct Line<'a> {
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
                write_json(event, text)
            } else {
                write_text(event, form, text)
            }
        })
    }
}

fn write_json(event: &EventRow, text: &mut Vec<u8>) -> anyhow::Result<()> {
    let address = event.agent.address.as_deref().map(address);
    let line = Line {
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

fn write_text(event: &EventRow, form: Form, text: &mut Vec<u8>) -> anyhow::Result<()> {
    let agent = shown(&event.agent);
    let agent = form.cut(&agent, WIDEST_NAME);
    let address = event.agent.address.as_deref().map(address);
    let address = address.as_deref().unwrap_or("-");
    let state = event.state.word();
    writeln!(text, "{}  {state:<7}  {agent}  {address}", event.at)?;
    Ok(())
}
