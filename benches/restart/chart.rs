//! The pause by the number of connections, beside the time of a full copy. Points are
//! evenly spaced, and heights are logarithms of the time, on one scale.

use std::fmt::Write as _;

use crate::pause::{Load, Outcome, Quantiles};
use hawk_testkit::bench::chart::{MARGIN, WIDTH, file};

const HEADING: f64 = 70.0;
const CURVES: f64 = 240.0;
/// Room for the numbers of connections.
const FOOT: f64 = 44.0;
const LEFT: f64 = 60.0;
/// The ends of the curves; their names follow.
const RIGHT: f64 = 190.0;

/// Draws the pause under the original's load without a store, and the copy with quiet
/// agents. `None`: one of the two was not measured.
pub(crate) fn draw(outcomes: &[Outcome]) -> Option<String> {
    let with = |load| {
        let all = outcomes.iter().filter(move |it| it.is_of(load));
        all.collect::<Vec<_>>()
    };
    let (pauses, copies) = (with(Load::Original), with(Load::None));
    let counts: Vec<usize> = pauses.iter().map(|it| it.connections).collect();
    if counts.len() < 2 || copies.len() != counts.len() {
        return None;
    }
    let pauses: Vec<Quantiles> = pauses.iter().map(|it| it.pause).collect();
    let copies: Vec<Quantiles> = copies.iter().map(|it| it.all).collect();
    let figures = || pauses.iter().chain(&copies);
    let scale = Scale {
        least: figures().map(|it| it.median).fold(f64::MAX, f64::min).ln(),
        most: figures().map(|it| it.p99).fold(f64::MIN, f64::max).ln(),
        step: (WIDTH - LEFT - RIGHT) / (counts.len() - 1) as f64,
    };
    let mut svg = String::new();
    let _infallible = writeln!(
        svg,
        "<text class=\"head\" x=\"{MARGIN}\" y=\"22\">Pause while a new process takes over</text>\
         <text x=\"{MARGIN}\" y=\"40\" font-size=\"smaller\">median, and up to the 99th \
         percentile of the upgrades at each point; the scale is logarithmic</text>"
    );
    curve(
        &mut svg,
        &copies,
        &scale,
        ["others", "curve-of-others"],
        "all copied in the pause",
    );
    curve(
        &mut svg,
        &pauses,
        &scale,
        ["ours", "curve"],
        "hawk: copied before",
    );
    let bottom = HEADING + CURVES;
    for (number, count) in counts.iter().enumerate() {
        let x = scale.x(number);
        let _infallible = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{count}</text>",
            bottom + 34.0
        );
    }
    let _infallible = writeln!(
        svg,
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\">connections</text>",
        WIDTH - RIGHT,
        bottom + 16.0,
        bottom + 16.0,
        WIDTH - RIGHT + 34.0,
        bottom + 34.0
    );
    file(
        &svg,
        bottom + FOOT,
        "The pause of a restart, by connections",
    )
}

struct Scale {
    least: f64,
    most: f64,
    step: f64,
}

impl Scale {
    #[allow(clippy::cast_precision_loss)] // a handful of points
    fn x(&self, number: usize) -> f64 {
        LEFT + self.step * number as f64
    }

    fn y(&self, seconds: f64) -> f64 {
        let share = (seconds.ln() - self.least) / (self.most - self.least).max(1e-9);
        HEADING + CURVES * (1.0 - share)
    }
}

/// Writing into a string cannot fail.
fn curve(
    svg: &mut String,
    points: &[Quantiles],
    scale: &Scale,
    [class, line]: [&str; 2],
    name: &str,
) {
    let mut path = String::new();
    for (number, point) in points.iter().enumerate() {
        let (x, y) = (scale.x(number), scale.y(point.median));
        let _infallible = write!(path, "{x:.1},{y:.1} ");
        let _infallible = writeln!(
            svg,
            "<line class=\"spread\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y:.1}\" y2=\"{:.1}\"/>\
             <circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            scale.y(point.p99),
            x + 7.0,
            y - 7.0,
            time(point.median)
        );
    }
    let end = points.last().map_or(HEADING, |point| scale.y(point.median));
    let _infallible = writeln!(
        svg,
        "<polyline class=\"{line}\" points=\"{}\"/>\
         <text class=\"head\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
        path.trim_end(),
        WIDTH - RIGHT + 16.0,
        end + 12.0
    );
}

fn time(seconds: f64) -> String {
    let milliseconds = seconds * 1e3;
    if milliseconds < 10.0 {
        format!("{milliseconds:.2} ms")
    } else {
        format!("{milliseconds:.0} ms")
    }
}
