//! The rates with classic reports, as bars.

use std::fmt::Write as _;

use crate::contestants::Contestant;
use crate::loads::CHARTED;
use crate::side_by_side::{Entry, Outcome};
use hawk_testkit::bench::chart::{MARGIN, file};

/// Labels stand left of the bars, rates right of them.
const LABELS: f64 = 170.0;
const BARS: f64 = 430.0;
const BAR: f64 = 16.0;
const STEP: f64 = 22.0;
const HEADING: f64 = 34.0;

/// One panel for each depth, its bars by the panel's own scale. `None`: none of it
/// was measured.
pub(crate) fn draw(outcomes: &[Outcome]) -> Option<String> {
    let mut panels = String::new();
    let mut y = 0.0;
    for outcome in outcomes {
        let Some(depth) = outcome.depth.filter(|_| outcome.part == CHARTED) else {
            continue;
        };
        y = panel(&mut panels, depth, &outcome.contestants, y);
    }
    file(&panels, y, "Replies a second, hawk and others")
}

/// Draws from `y` on; returns where it ends. Writing into a string cannot fail.
fn panel(svg: &mut String, depth: u32, entries: &[Entry], y: f64) -> f64 {
    let longest = entries
        .iter()
        .map(|entry| entry.figures.per_second.max)
        .fold(1.0, f64::max);
    let length = |rate: f64| BARS * rate / longest;
    let frames = if depth == 1 { "report" } else { "reports" };
    let _infallible = writeln!(
        svg,
        "<text class=\"head\" x=\"{MARGIN}\" y=\"{:.0}\">Replies a second, {depth} {frames} in \
         flight on each of 50 connections</text>",
        y + HEADING - 12.0
    );
    let mut top = y + HEADING;
    for entry in entries {
        let rate = entry.figures.per_second;
        let middle = top + BAR / 2.0;
        let class = match entry.contestant {
            Contestant::Hawk | Contestant::HawkStore => "ours",
            _ => "others",
        };
        // Drawn names have no Markdown in them.
        let name = entry.contestant.name().replace('`', "");
        let _infallible = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>\
             <rect class=\"{class}\" x=\"{LABELS}\" y=\"{top:.1}\" width=\"{:.1}\" \
             height=\"{BAR}\" rx=\"2\"/>\
             <line class=\"spread\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" \
             y2=\"{middle:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LABELS - 8.0,
            middle + 4.5,
            length(rate.median).max(1.0),
            LABELS + length(rate.min),
            LABELS + length(rate.max),
            LABELS + length(rate.max) + 8.0,
            middle + 4.5,
            rounded(rate.median)
        );
        top += STEP;
    }
    top
}

/// A rate as one reads it from a chart: `62 k`, `1.35 M`.
fn rounded(rate: f64) -> String {
    if rate < 1e6 {
        format!("{:.0} k", rate / 1e3)
    } else {
        format!("{:.2} M", rate / 1e6)
    }
}
