//! The commands that use the control socket: `hawk stats`, `hawk upgrade`,
//! `hawk confirm-clock`.

use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{self, Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Map, Value};

use super::output::{self, Audience};
use super::text::harmless;
use super::values;
use crate::control::{self, AskError, Request};
use crate::server::CONTROL_SOCKET;
use crate::stats::Totals;
use hawk_time::Moment;

#[derive(Debug, Args)]
pub(super) struct ControlArgs {
    /// The control socket of the server [default: /run/hawk/control, that of the systemd
    /// unit, where it exists]
    #[arg(long, env = "HAWK_CONTROL", value_name = "PATH")]
    control: Option<PathBuf>,
}

impl ControlArgs {
    pub(super) fn path(&self) -> anyhow::Result<PathBuf> {
        self.path_or(Path::new(CONTROL_SOCKET))
    }

    fn path_or(&self, unit: &Path) -> anyhow::Result<PathBuf> {
        if let Some(path) = &self.control {
            return Ok(path.clone());
        }
        match fs::symlink_metadata(unit) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "there is no {}; give --control PATH, with the path that `hawk serve --control` has",
                unit.display()
            ),
            // Connecting reports any other error.
            _ => Ok(unit.to_owned()),
        }
    }
}

/// The limit for an answer. A server answers between two turns of its event loop, within
/// milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

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

    /// Show the statistics repeatedly, until interrupted
    #[arg(long, short)]
    watch: bool,

    /// With --watch: the time between two blocks
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
            let mut statistics = match Self::ask(&control) {
                // A process that hands over closes open requests; its successor answers.
                Err(AskError::CutOff(_)) if !is_first => Self::ask(&control),
                statistics => statistics,
            }?;
            if let Some(last) = &last {
                statistics.count_rates_from(last);
            }
            last = Some(statistics.totals);
            let text = match self.json {
                true => statistics.to_json() + "\n",
                false => self.frame(is_first) + &harmless_lines(&statistics.text()),
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

    fn ask(control: &Path) -> Result<Statistics, AskError> {
        let lines = control::ask(control, &Request::Statistics, ANSWER_LIMIT)?;
        let strange =
            || AskError::Failed("the server's statistics are not as they should be".to_owned());
        Statistics::parse(lines).ok_or_else(strange)
    }

    /// Returns the text before a block of lines: on a terminal the block replaces the last one,
    /// elsewhere an empty line separates them.
    fn frame(&self, is_first: bool) -> String {
        match (self.watch && io::stdout().is_terminal(), is_first) {
            (true, _) => "\x1b[H\x1b[2J".to_owned(),
            (false, true) => String::new(),
            (false, false) => "\n".to_owned(),
        }
    }
}

/// The answer of the server.
struct Statistics {
    /// All lines but the clock's.
    lines: Vec<String>,
    totals: Totals,
}

impl Statistics {
    /// Returns `None` if a line or key is missing.
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

    /// Returns an object for each kind of line, with a member for each pair, and an array of such
    /// objects for the pool, which has several lines.
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

/// Returns the lines without control characters.
fn harmless_lines(text: &str) -> String {
    let lines = text.lines().map(|line| harmless(line) + "\n");
    lines.collect()
}

/// Returns the kind of a line: its first word.
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

/// Returns a number as a number, and any other text as text.
fn value(text: &str) -> Value {
    let whole = text.parse::<u64>().map(Value::from);
    let number = whole.or_else(|_| text.parse::<f64>().map(Value::from));
    // JSON has neither infinities nor NaN.
    match number {
        Ok(number) if number.is_number() => number,
        _ => text.into(),
    }
}

/// The limit for the outcome of an upgrade: longer than the limits of all its steps in the
/// server.
const UPGRADE_LIMIT: Duration = Duration::from_secs(120);

/// The time after which a note says that the command waits. Most hand-overs end earlier.
const UPGRADE_NOTICE: Duration = Duration::from_secs(10);

/// Replace a running server by a new process, which takes over every connection
///
/// Waits for the outcome and prints it. Without --binary the new process runs the file that is
/// now at the path of the server's program, which is the last --binary if there was one. If the
/// new process cannot take over, the server continues to serve, and this command fails with the
/// step and the cause. An interrupt ends the wait, and not a hand-over that has begun.
#[derive(Debug, Args)]
pub(super) struct UpgradeArgs {
    #[command(flatten)]
    control: ControlArgs,

    /// The program of the new process, relative to this folder [default: the file that is now
    /// at the path of the server's program]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

impl UpgradeArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        // The server may run in another folder.
        let binary = self.binary.as_deref().map(path::absolute).transpose();
        let binary = binary.context("cannot tell where the binary is")?;
        let (outcome, waited_for) = mpsc::channel::<()>();
        thread::spawn(move || {
            if waited_for.recv_timeout(UPGRADE_NOTICE) == Err(RecvTimeoutError::Timeout) {
                let (so_far, most) = (UPGRADE_NOTICE.as_secs(), UPGRADE_LIMIT.as_secs());
                output::note(&format!(
                    "no outcome after {so_far} s; waiting for one, up to {most} s in all"
                ));
            }
        });
        let control = self.control.path()?;
        let lines = control::ask(&control, &Request::Upgrade { binary }, UPGRADE_LIMIT)?;
        drop(outcome);
        lines
            .iter()
            .try_for_each(|line| output::print(&format!("{}\n", harmless(line))))
    }
}

/// Confirm that the clock of a server's machine is right
///
/// If its clock jumps ahead by more than an hour, a server pauses expiry by age (--retain),
/// so that a wrong clock removes nothing, and logs that. If the clock is right, this
/// resumes it; if not, set the clock. Asks the server over its control socket, and so needs
/// to be run as its user or the superuser.
#[derive(Debug, Args)]
pub(super) struct ConfirmClockArgs {
    #[command(flatten)]
    control: ControlArgs,
}

impl ConfirmClockArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        control::ask(&self.control.path()?, &Request::ConfirmClock, ANSWER_LIMIT)?;
        output::print("expiry by age is resumed\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_socket_is_the_default_where_it_exists() {
        let folder = tempfile::tempdir().unwrap();
        let unit = folder.path().join("control");
        let given = |control: Option<&str>| ControlArgs {
            control: control.map(PathBuf::from),
        };
        let missing = given(None).path_or(&unit).unwrap_err().to_string();
        assert!(missing.contains("give --control PATH"), "{missing}");
        fs::write(&unit, "").unwrap();
        assert_eq!(given(None).path_or(&unit).unwrap(), unit);
        assert_eq!(given(Some("x")).path_or(&unit).unwrap(), Path::new("x"));
    }

    fn statistics(at: u64, reports: u64) -> Statistics {
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
        Statistics::parse(lines.to_vec()).unwrap()
    }

    #[test]
    fn every_line_is_an_object_and_the_pool_an_array_of_them() {
        let json: Value = serde_json::from_str(&statistics(5, 1).to_json()).unwrap();
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
    fn rates_cover_the_time_between_two_answers() {
        let first = statistics(1_000_000_000, 1);
        let mut second = statistics(3_000_000_000, 11);
        second.count_rates_from(&first.totals);
        let server = second.lines[0].clone();
        let rates = "bytes_out=7 packets_per_s=5.0 bytes_in_per_s=0 bytes_out_per_s=0";
        assert!(server.ends_with(rates), "{server}");
    }

    #[test]
    fn the_text_is_that_of_the_log() {
        let text = statistics(5, 1).text();
        assert!(text.starts_with("stats connections=2 "), "{text}");
        assert!(
            text.ends_with(" in_use=0\npool class=1024 in_use=1\n"),
            "{text}"
        );
    }
}
