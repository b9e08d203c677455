//! What `hawk events` and `hawk reports` have in common: which rows to show, and
//! how to go on with those that come.

use std::time::Duration;

use anyhow::ensure;
use clap::Args;

use super::output::{self, Audience};
use super::store_args::StoreArgs;
use super::values::{self, Since};
use crate::store::{AgentId, Cursor, Journal, Reader, Sender};

/// Rows that are shown first when following, unless told otherwise: as many as
/// `tail -f` shows.
const FOLLOW_FROM: u64 = 10;

/// Between two looks for new rows: soon enough for whoever watches, and no load.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Which rows are to be shown.
#[derive(Debug, Args)]
pub(super) struct JournalArgs {
    #[command(flatten)]
    store: StoreArgs,

    /// Only those of this agent: its name, its address if it has no name, or #ID if
    /// the store has forgotten it
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,

    /// Only those since then: a span up to now, such as 10m or 2d, or a time such
    /// as 2026-11-24T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = values::since)]
    since: Option<Since>,

    /// Only those before then: a span up to now or a time, as with --since
    #[arg(long, value_name = "TIME", value_parser = values::since, conflicts_with = "follow")]
    until: Option<Since>,

    /// Only the last N to arrive
    #[arg(long, value_name = "N", value_parser = values::number(0..=u64::MAX))]
    last: Option<u64>,

    /// Go on with those that come, until interrupted; begins with the last 10,
    /// unless --since or --last say otherwise
    #[arg(long, short)]
    follow: bool,
}

impl JournalArgs {
    /// Shows each row as `show` writes it, after `header`.
    pub(super) fn run<J: Journal>(
        &self,
        header: &str,
        mut show: impl FnMut(&J, &mut Vec<u8>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let reader = self.store.open()?;
        let [since, until] = [&self.since, &self.until].map(|time| time.as_ref().map(Since::time));
        let selection = reader.select::<J>(self.agents(&reader)?, since, until)?;
        let default = (self.follow && since.is_none()).then_some(FOLLOW_FROM);
        let mut cursor = match self.last.or(default) {
            Some(count) => reader.last::<J>(count, &selection)?,
            None => Cursor::START,
        };
        let mut text = header.as_bytes().to_vec();
        loop {
            let step = reader.step(cursor, &selection)?;
            cursor = step.next;
            for row in &step.rows {
                show(row, &mut text)?;
            }
            if output::write(&text)? == Audience::Gone {
                return Ok(());
            }
            text.clear();
            if step.is_last {
                if !self.follow {
                    return Ok(());
                }
                ensure!(
                    reader.is_in_place(),
                    "{} was moved away or replaced; start again to follow what is there now",
                    reader.path().display()
                );
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }

    fn agents(&self, reader: &Reader) -> anyhow::Result<Option<Vec<AgentId>>> {
        let Some(agent) = &self.agent else {
            return Ok(None);
        };
        let found = reader.find(agent)?;
        ensure!(
            !found.is_empty(),
            "there is no agent {agent:?} in {}; `hawk agents` lists them",
            reader.path().display()
        );
        Ok(Some(found))
    }
}

/// What an agent is called: its name, else its address, else the number of the
/// row that it had.
pub(super) fn called(agent: &Sender) -> String {
    match (&agent.name, &agent.address) {
        (Some(name), _) => name.clone(),
        (None, Some(address)) => address.clone(),
        (None, None) => format!("#{}", agent.id.0),
    }
}
