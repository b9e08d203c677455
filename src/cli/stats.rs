//! `hawk stats`: a server's statistics, live.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};

use super::control_args::ControlArgs;
use super::output::{self, Audience};
use super::text::harmless;
use super::values;
use crate::control::{self, AskError, Request};
use crate::stats::Totals;
use hawk_time::Moment;

/// How long an answer may take. A server answers between two turns of its event loop,
/// within milliseconds, unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);

/// The first word of the line with the server's monotonic clock, which the log does not have.
const CLOCK: &str = "clock";

/// Show a server's statistics, as it logs them
///
/// Asks the server over its control socket, and so needs to be run as its user or the
/// superuser, unless the socket's file was opened to other users. Rates are averages over the
/// last one to two --stats-interval; with --watch, after the first block, since the block
/// before.
#[derive(Debug, Args)]
pub(super) struct StatsArgs {
    #[command(flatten)]
    control: ControlArgs,

    /// Show them again and again, until interrupted
    #[arg(long, short)]
    watch: bool,

    /// With --watch: how often
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::period, requires = "watch")]
    interval: Duration,

    /// As one JSON object, with --watch one a line
    #[arg(long)]
    json: bool,
}

impl StatsArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let control = self.control.path()?;
        let mut last = None;
        let mut is_first = true;
        loop {
            let mut told = match Self::ask(&control) {
                // A process that hands over to another may leave a request behind; the
                // other one answers, if there is one.
                Err(AskError::CutOff(_)) if !is_first => Self::ask(&control),
                told => told,
            }?;
            if let Some(last) = &last {
                told.count_rates_from(last);
            }
            last = Some(told.totals);
            let text = match self.json {
                true => told.to_json() + "\n",
                false => self.frame(is_first) + &harmless_lines(&told.text()),
            };
            if output::write(text.as_bytes())? == Audience::Gone || !self.watch {
                return Ok(());
            }
            is_first = false;
            if output::wait(self.interval) == Audience::Gone {
                return Ok(());
            }
        }
    }

    fn ask(control: &Path) -> Result<Told, AskError> {
        let lines = control::ask(control, &Request::Statistics, PATIENCE)?;
        let strange =
            || AskError::Failed("the server's statistics are not as they should be".to_owned());
        Told::parse(lines).ok_or_else(strange)
    }

    /// What goes before a block of lines: on a terminal it takes the place of the last,
    /// elsewhere it stands apart from it.
    fn frame(&self, is_first: bool) -> String {
        match (self.watch && io::stdout().is_terminal(), is_first) {
            (true, _) => "\x1b[H\x1b[2J".to_owned(),
            (false, true) => String::new(),
            (false, false) => "\n".to_owned(),
        }
    }
}

/// What the server told.
struct Told {
    /// All but the clock's.
    lines: Vec<String>,
    totals: Totals,
}

impl Told {
    /// `None`: something is missing.
    fn parse(mut lines: Vec<String>) -> Option<Self> {
        let at = lines.iter().position(|line| kind_of(line) == CLOCK)?;
        let clock = lines.remove(at);
        let server = lines.iter().find(|line| kind_of(line) == "stats")?;
        let number = |key| number(server, key);
        let totals = Totals {
            at: Moment::from_nanos(self::number(&clock, "monotonic_ns")?),
            packets: number("heartbeats")? + number("reports")?,
            bytes_in: number("bytes_in")?,
            bytes_out: number("bytes_out")?,
        };
        Some(Self { lines, totals })
    }

    fn count_rates_from(&mut self, earlier: &Totals) {
        let rates = self.totals.rates_since(earlier).to_string();
        for line in &mut self.lines {
            let at = line.find(" packets_per_s=");
            if let Some(at) = at.filter(|_| kind_of(line) == "stats") {
                line.truncate(at + 1);
                line.push_str(&rates);
            }
        }
    }

    fn text(&self) -> String {
        self.lines.join("\n") + "\n"
    }

    /// An object for each kind of line, and in it a member for each pair; an array of
    /// such objects for the pool, which has several lines.
    fn to_json(&self) -> String {
        let mut all = Map::new();
        let clock = Map::from_iter([("monotonic_ns".to_owned(), self.totals.at.as_nanos().into())]);
        all.insert(CLOCK.to_owned(), Value::Object(clock));
        let mut pool = Vec::new();
        for line in &self.lines {
            let members = pairs(line).map(|(key, text)| (key.to_owned(), value(text)));
            let object = Value::Object(members.collect());
            match kind_of(line) {
                "pool" => pool.push(object),
                kind => drop(all.insert(kind.to_owned(), object)),
            }
        }
        all.insert("pool".to_owned(), Value::Array(pool));
        Value::Object(all).to_string()
    }
}

/// The lines, without characters that a terminal would obey.
fn harmless_lines(text: &str) -> String {
    let lines = text.lines().map(|line| harmless(line) + "\n");
    lines.collect()
}

/// What a line is about: its first word.
fn kind_of(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

fn pairs(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split(' ').filter_map(|word| word.split_once('='))
}

fn number(line: &str, key: &str) -> Option<u64> {
    let (_, text) = pairs(line).find(|(found, _)| *found == key)?;
    text.parse().ok()
}

/// A number as a number, anything else as text.
fn value(text: &str) -> Value {
    let whole = text.parse::<u64>().map(Value::from);
    let number = whole.or_else(|_| text.parse::<f64>().map(Value::from));
    // There is no JSON for what is infinite or no number.
    match number {
        Ok(number) if number.is_number() => number,
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(at: u64, reports: u64) -> Told {
        let lines = [
            format!("clock monotonic_ns={at}"),
            format!(
                "stats connections=2 heartbeats=1 reports={reports} bytes_in=300 bytes_out=7 \
                 packets_per_s=0.5 bytes_in_per_s=9 bytes_out_per_s=9"
            ),
            "agents known=2 online=1".to_owned(),
            "store state=up commits=3".to_owned(),
            "pool class=256 in_use=0".to_owned(),
            "pool class=1024 in_use=1".to_owned(),
        ];
        Told::parse(lines.to_vec()).unwrap()
    }

    #[test]
    fn every_line_is_an_object_and_the_pool_an_array_of_them() {
        let json: Value = serde_json::from_str(&told(5, 1).to_json()).unwrap();
        let expected = serde_json::json!({
            "clock": {"monotonic_ns": 5},
            "stats": {
                "connections": 2, "heartbeats": 1, "reports": 1, "bytes_in": 300,
                "bytes_out": 7, "packets_per_s": 0.5, "bytes_in_per_s": 9, "bytes_out_per_s": 9
            },
            "agents": {"known": 2, "online": 1},
            "store": {"state": "up", "commits": 3},
            "pool": [{"class": 256, "in_use": 0}, {"class": 1024, "in_use": 1}],
        });
        assert_eq!(json, expected);
        assert_eq!(value("inf"), Value::from("inf"));
    }

    #[test]
    fn rates_are_those_between_two_looks() {
        let first = told(1_000_000_000, 1);
        let mut second = told(3_000_000_000, 11);
        second.count_rates_from(&first.totals);
        let server = second.lines[0].clone();
        let rates = "bytes_out=7 packets_per_s=5.0 bytes_in_per_s=0 bytes_out_per_s=0";
        assert!(server.ends_with(rates), "{server}");
    }

    #[test]
    fn the_text_is_that_of_the_log() {
        let text = told(5, 1).text();
        assert!(text.starts_with("stats connections=2 "), "{text}");
        assert!(
            text.ends_with(" in_use=0\npool class=1024 in_use=1\n"),
            "{text}"
        );
    }
}
