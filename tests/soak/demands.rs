//! The demands on the result of a run.

use std::time::Duration;

use crate::run::{Soak, TAKEN, no_buffer};
use crate::samples::{Sample, mebibytes};

/// A demand, the result, and whether the demand is met.
#[derive(Clone)]
pub(crate) struct Demand {
    what: &'static str,
    found: String,
    is_met: bool,
}

/// Connections beyond the limit: at most 32 that are being turned away, and one that is
/// being accepted.
const NEWCOMERS: u64 = 32 + 1;

/// Most bytes of the store's log: the writer moves it into the file at 8 MiB, or, while
/// another process reads, at the next commit after that.
const LOG: u64 = 64 << 20;

/// Most lines of the log without statistics: in each interval of 10 s a burst of 50 changes
/// of agents and a line for each of ten other causes, and as many again for the last
/// interval, the start and the end.
const LINES_IN_ALL: u64 = 70;
const LINES_A_SECOND: u64 = 6;

/// Memory is flat if the line through all samples after the warm-up (the first third) rises
/// by at most this part of their mean.
const GROWTH: f64 = 0.05;

/// Shorter runs do not judge memory: the warm-up must be over in a third of the run.
/// SQLite's cache of 8 MiB takes longest; the store fills it in a minute.
const LEAST_LENGTH: Duration = Duration::from_secs(300);

/// Prints all demands, and fails if one is missed.
#[track_caller]
pub(crate) fn expect(demands: &[Demand]) {
    eprintln!("\ndemand | found | verdict");
    for Demand {
        what,
        found,
        is_met,
    } in demands
    {
        let verdict = if *is_met { "met" } else { "MISSED" };
        eprintln!("{what} | {found} | {verdict}");
    }
    let missed: Vec<_> = demands.iter().filter(|it| !it.is_met).collect();
    let missed: Vec<_> = missed.iter().map(|it| (it.what, &it.found)).collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

const fn demand(what: &'static str, found: String, is_met: bool) -> Demand {
    Demand {
        what,
        found,
        is_met,
    }
}

impl Soak {
    /// Returns the demands that hold on every machine, for any length of the run.
    pub(crate) fn balance(&self) -> Vec<Demand> {
        let client = &self.client;
        let sent = client.sent.reports + client.sent.heartbeats;
        let lives: Vec<_> = client.chaos.conducts.iter().map(|it| it.lives).collect();
        let [first, last] = self.files;
        let most_files = self.most(|it| it.files);
        let most_allowed = first as u64 + TAKEN + NEWCOMERS;
        let most_connections = self.most(|it| it.stats.get("connections"));
        let stored = &self.stored;
        let acknowledged = client.sent.reports;
        let counted = self.last.store("reports");
        let panics = self.log.iter().filter(|it| it.contains("panicked")).count();
        let lines = self.log.len() as u64;
        let most_lines = LINES_IN_ALL + LINES_A_SECOND * self.length.as_secs();
        vec![
            demand(
                "good agents suffer no error",
                format!("{} of {sent} frames answered", client.answered),
                client.passed && client.answered == sent,
            ),
            demand(
                "chaos of all eight conducts",
                format!("{lives:?} lives"),
                lives.len() == 8 && lives.iter().all(|lives| *lives > 0),
            ),
            demand(
                "reports acknowledged to good agents are stored",
                format!("{} of {acknowledged}", stored.of_good_agents),
                stored.of_good_agents >= acknowledged,
            ),
            demand(
                "reports stored are those that the server counted",
                format!("{} and {counted}", stored.reports),
                stored.reports == counted,
            ),
            demand(
                "no connection is left",
                self.last.get("connections").to_string(),
                self.last.get("connections") == 0,
            ),
            demand(
                "no buffer is left in use, in any class",
                format!("{:?}", self.last.in_use()),
                no_buffer(&self.last),
            ),
            demand(
                "descriptors after as before",
                format!("{last} and {first}"),
                first == last,
            ),
            demand(
                "descriptors never beyond the limit",
                format!("{most_files} of {most_allowed}"),
                most_files <= most_allowed,
            ),
            demand(
                "connections never beyond the limit",
                format!("{most_connections} of {TAKEN} + {NEWCOMERS} that are turned away"),
                most_connections <= TAKEN + NEWCOMERS,
            ),
            demand(
                "the store's log is bounded",
                format!("{:.1} MiB", mebibytes(self.most(|it| it.wal))),
                self.most(|it| it.wal) <= LOG,
            ),
            demand(
                "lines of the log are bounded",
                format!("{lines} of {most_lines}"),
                lines <= most_lines,
            ),
            demand("no panic", panics.to_string(), panics == 0),
            demand(
                "the server ends well",
                format!("{:?}", self.exit),
                self.exit == Some(0),
            ),
        ]
    }

    /// Returns the demands that only a long run can judge.
    pub(crate) fn steadiness(&self) -> Vec<Demand> {
        let later: Vec<_> = self
            .samples
            .iter()
            .filter(|it| it.at >= self.length / 3)
            .collect();
        let line = Line::through(later.iter().map(|it| {
            let memory = mebibytes(it.resident);
            (it.at.as_secs_f64(), memory)
        }));
        let span = (self.length * 2 / 3).as_secs_f64();
        let (growth, most) = (line.slope * span, GROWTH * line.mean);
        let is_long = self.length >= LEAST_LENGTH;
        let closed = |cause: &str| self.last.get(cause);
        let strikes = ["closed_frame_timeout", "closed_too_many_connections"].map(closed);
        vec![
            demand(
                "memory is flat after the first third",
                match is_long {
                    true => format!(
                        "{growth:+.2} MiB on {:.2}, of {most:.2} allowed, in {} samples",
                        line.mean,
                        later.len()
                    ),
                    false => format!("not judged, as that takes {LEAST_LENGTH:?} or more"),
                },
                !is_long || growth <= most,
            ),
            demand(
                "limits were met",
                format!("{strikes:?} times (frame timeout, too many)"),
                strikes.iter().all(|times| *times > 0),
            ),
        ]
    }

    fn most(&self, of: impl Fn(&Sample) -> u64) -> u64 {
        self.samples.iter().map(of).max().unwrap_or(0)
    }
}

/// Fits a straight line by least squares.
struct Line {
    mean: f64,
    slope: f64,
}

impl Line {
    fn through(points: impl Iterator<Item = (f64, f64)> + Clone) -> Self {
        #[allow(clippy::cast_precision_loss)] // samples are few
        let count = points.clone().count() as f64;
        let (x_sum, y_sum) = points
            .clone()
            .fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        let (x_mean, mean) = (x_sum / count, y_sum / count);
        let (above, below) = points.fold((0.0, 0.0), |(above, below), (x, y)| {
            let x = x - x_mean;
            (above + x * (y - mean), below + x * x)
        });
        Self {
            mean,
            slope: above / below,
        }
    }
}

#[test]
fn a_line_goes_through_its_points() {
    let line = Line::through([(0.0, 1.0), (1.0, 4.0), (2.0, 7.0), (3.0, 4.0)].into_iter());
    assert!((line.mean - 4.0).abs() < 1e-9 && (line.slope - 1.2).abs() < 1e-9);
}
