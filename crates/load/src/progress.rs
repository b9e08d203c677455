//! The progress of a run on stderr: a line updated in place on a terminal, elsewhere one line
//! a second.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::report::{grouped, rounded};

/// How far a run has come.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Whether connections are still being opened, and nothing else counts yet.
    pub opening: bool,
    /// Connections that are established.
    pub open: usize,
    /// Time since the traffic began.
    pub elapsed: Duration,
    /// Frames sent.
    pub sent: u64,
    /// Right replies.
    pub answered: u64,
    /// Right replies per second, since the last tick.
    pub rate: f64,
    /// The 99th percentile from the intended send time, since the last tick.
    pub p99: Option<Duration>,
    /// Faults so far.
    pub faults: u64,
}

/// Shows ticks.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A display that suits what stderr is.
    #[must_use]
    pub fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::new_spinner().with_style(style)
        });
        Self { bar }
    }

    /// Shows how far the run has come.
    pub fn show(&self, tick: &Tick) {
        let line = line(tick);
        if let Some(bar) = &self.bar {
            bar.set_message(line);
            bar.tick();
        } else {
            // A closed stderr does not end the run.
            let _unheard = writeln!(io::stderr().lock(), "{line}");
        }
    }

    /// Makes way for the summary.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

fn line(tick: &Tick) -> String {
    if tick.opening {
        return format!("opening: {} connections", grouped(tick.open as u64));
    }
    let p99 = tick.p99.map_or("-".into(), |p99| {
        format!("{:.3} ms", p99.as_secs_f64() * 1e3)
    });
    let mut line = format!(
        "{:>4.0} s  sent {}  answered {}  {}/s  p99 {p99}",
        tick.elapsed.as_secs_f64(),
        grouped(tick.sent),
        grouped(tick.answered),
        rounded(tick.rate),
    );
    if tick.faults > 0 {
        line += &format!("  errors {}", grouped(tick.faults));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let mut tick = Tick {
            opening: false,
            open: 7,
            elapsed: Duration::from_millis(3_001),
            sent: 6_310,
            answered: 6_309,
            rate: 2_103.2,
            p99: Some(Duration::from_micros(81)),
            faults: 0,
        };
        assert_eq!(
            line(&tick),
            "   3 s  sent 6,310  answered 6,309  2,103/s  p99 0.081 ms"
        );
        (tick.faults, tick.p99) = (2, None);
        assert!(line(&tick).ends_with("p99 -  errors 2"));
        tick.opening = true;
        assert_eq!(line(&tick), "opening: 7 connections");
    }
}
