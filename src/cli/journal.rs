//! What `hawk events` and `hawk reports` have in common: which rows to show, and
//! how to go on with those that come.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::Args;

use super::output::{self, Audience};
use super::store_args::StoreArgs;
use super::text::{address, cut, quoted, unquoted, visible_name};
use super::values::{self, Since};
use crate::store::{AgentFilter, AgentId, AgentIdentity, AgentQuery, Cursor, Journal, Reader};

/// Default number of rows shown first when following: as many as `tail -f` shows.
const FOLLOW_FROM: u64 = 10;

/// Between two looks for new rows: soon enough for whoever watches, and no load.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Default number of rows shown as text on a terminal.
const ON_A_TERMINAL: u64 = 20;

/// Characters of an agent's name on a terminal: longer ones are cut.
pub(super) const WIDEST_NAME: usize = 40;

/// The form in which rows are shown.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// For people, on a terminal or elsewhere.
    Text {
        /// Whether it is shown on a terminal.
        is_terminal: bool,
    },
    /// For programs.
    Data {
        /// The first line.
        header: &'static str,
    },
}

impl Form {
    /// Text, to wherever stdout leads.
    pub(super) fn text() -> Self {
        Self::Text {
            is_terminal: io::stdout().is_terminal(),
        }
    }

    /// A column of text, at most so many characters wide on a terminal.
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

/// Which rows are to be shown.
#[derive(Debug, Args)]
pub(super) struct JournalArgs {
    #[command(flatten)]
    store: StoreArgs,

    /// Only rows of this agent: its name, its address if it has no name, or #ID, its
    /// number. A name that looks like one of these is written in quotes, as hawk shows it:
    /// '"10.0.0.7"'
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,

    /// Only rows since then: a span up to now, such as 10m or 2d, or a time such
    /// as 2026-11-24T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = values::since)]
    since: Option<Since>,

    /// Only rows before then: a span up to now or a time, as with --since
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
    /// Shows each row as `show` writes it.
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
            let step = reader.page(cursor, &selection)?;
            cursor = step.next;
            for row in &step.rows {
                show(row, &mut text)?;
                shown += 1;
            }
            if output::write(&text)? == Audience::Gone {
                return Ok(());
            }
            text.clear();
            if step.is_last {
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
                if output::wait(LOOK_EVERY) == Audience::Gone {
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

    /// Whether only the last rows are shown although all were asked for.
    fn is_cut(&self, form: Form) -> bool {
        let is_bounded = self.since.is_some() || self.until.is_some() || self.last.is_some();
        form.is_on_terminal() && !self.follow && !is_bounded
    }
}

/// What an agent is called: its name, else its address, else the number of the
/// row that it had.
pub(super) fn called(agent: &AgentIdentity) -> String {
    match (&agent.name, &agent.address) {
        (Some(name), _) => name.clone(),
        (None, Some(address)) => address.clone(),
        (None, None) => format!("#{}", agent.id.0),
    }
}

/// An agent as text shows it: a name that looks like an address or a number is in quotes
/// ([`visible_name`]), so that none can be taken for another.
pub(super) fn shown(agent: &AgentIdentity) -> String {
    match (&agent.name, &agent.address) {
        (Some(name), _) => visible_name(name),
        (None, Some(it)) => address(it),
        (None, None) => format!("#{}", agent.id.0),
    }
}

/// Reads the value of `--agent`.
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
    fn an_agent_is_wanted_by_number_address_or_name() {
        let name = |name: &str| AgentQuery::Name(name.to_owned());
        let address = |text: &str| AgentQuery::Address(text.parse().unwrap());
        for (text, wanted) in [
            ("web-01", name("web-01")),
            ("#7", AgentQuery::Id(AgentId(7))),
            ("\"#7\"", name("#7")),
            ("#seven", name("#seven")),
            ("::ffff:10.0.0.7", address("10.0.0.7")),
            ("\"10.0.0.7\"", name("10.0.0.7")),
            ("\"a\\u{202e}b\"", name("a\u{202e}b")),
            ("\"half", name("\"half")),
        ] {
            assert_eq!(parse_agent(text), wanted, "{text}");
        }
    }
}
