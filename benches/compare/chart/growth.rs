//! How the cost of a frame grows, as curves. Points stand evenly apart; how high they
//! are goes with the logarithm of the cost, and each panel has a scale of its own.

use std::fmt::Write as _;

use crate::growth::{Outcome, Point};
use hawk_testkit::bench::chart::{MARGIN, WIDTH, file};

const HEADING: f64 = 34.0;
const CURVE: f64 = 144.0;
/// Room for the values under a curve.
const FOOT: f64 = 34.0;
const LEFT: f64 = 40.0;

/// One panel for each thing that grows. `None`: none of it was measured.
pub(crate) fn draw(outcomes: &[Outcome]) -> Option<String> {
    let mut panels = String::new();
    let mut y = 0.0;
    for outcome in outcomes {
        panel(&mut panels, outcome, y);
        y += HEADING + CURVE + FOOT;
    }
    file(&panels, y, "CPU time per frame, as the load grows")
}

/// Writing into a string cannot fail.
fn panel(svg: &mut String, outcome: &Outcome, y: f64) {
    let _infallible = writeln!(
        svg,
        "<text class=\"head\" x=\"{MARGIN}\" y=\"{:.0}\">CPU time per frame by {}</text>\
         <text x=\"{MARGIN}\" y=\"{:.0}\" font-size=\"smaller\">{}</text>",
        y + 22.0,
        outcome.grows,
        y + 40.0,
        outcome.fixed
    );
    let (top, bottom) = (y + HEADING + 44.0, y + HEADING + CURVE);
    let points = &outcome.points;
    let cost = |point: &Point| point.cpu_ns_per_frame.median.ln();
    let most = points.iter().map(cost).fold(f64::MIN, f64::max);
    let least = points.iter().map(cost).fold(f64::MAX, f64::min);
    // A level curve is drawn at the bottom.
    let height = |cost: f64| (bottom - top) * (cost - least) / (most - least).max(1e-9);
    let step = (WIDTH - 2.0 * LEFT - MARGIN) / (points.len().max(2) - 1) as f64;
    let mut path = String::new();
    for (number, point) in points.iter().enumerate() {
        let x = LEFT + step * number as f64;
        let at = bottom - height(cost(point));
        let _infallible = write!(path, "{x:.1},{at:.1} ");
        let _infallible = writeln!(
            svg,
            "<circle class=\"ours\" cx=\"{x:.1}\" cy=\"{at:.1}\" r=\"3.5\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            at - 9.0,
            time(point.cpu_ns_per_frame.median),
            bottom + 22.0,
            point.value
        );
    }
    let _infallible = writeln!(
        svg,
        "<polyline class=\"curve\" points=\"{}\"/>\
         <line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
        path.trim_end(),
        WIDTH - LEFT - MARGIN,
        bottom + 6.0,
        bottom + 6.0
    );
}

fn time(nanoseconds: f64) -> String {
    if nanoseconds < 1e3 {
        format!("{nanoseconds:.0} ns")
    } else {
        format!("{:.1} µs", nanoseconds / 1e3)
    }
}
