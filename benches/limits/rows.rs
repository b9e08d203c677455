//! Figures as rows of one table.

use serde::Serialize;

use hawk_testkit::bench::say;
use hawk_testkit::bench::spread::{Spread, met};

/// One figure under one condition.
#[derive(Serialize)]
pub(crate) struct Row {
    condition: String,
    /// The measured quantity, with its unit.
    figure: String,
    undisturbed: Option<Spread>,
    measured: Spread,
    /// Measured divided by undisturbed, for each round.
    ratio: Option<Spread>,
    /// The target of the ratio, or of the measured figure if there is no ratio.
    target: Option<Target>,
    is_met: Option<bool>,
}

/// The target of a figure's median.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    /// Returns a figure without comparison.
    pub(crate) fn alone(
        condition: &str,
        figure: &str,
        measured: impl IntoIterator<Item = f64>,
        target: Option<Target>,
    ) -> Self {
        Self {
            condition: condition.to_owned(),
            figure: figure.to_owned(),
            undisturbed: None,
            measured: Spread::of(measured),
            ratio: None,
            target,
            is_met: None,
        }
        .judged()
    }

    /// Returns a figure beside that of an undisturbed run, for each round.
    pub(crate) fn beside(
        condition: &str,
        figure: &str,
        rounds: impl IntoIterator<Item = (f64, f64)>,
        target: Option<Target>,
    ) -> Self {
        let rounds: Vec<(f64, f64)> = rounds.into_iter().collect();
        Self {
            undisturbed: Some(Spread::of(rounds.iter().map(|(before, _)| *before))),
            ratio: Some(Spread::of(
                rounds.iter().map(|(before, after)| after / before),
            )),
            ..Self::alone(
                condition,
                figure,
                rounds.iter().map(|(_, after)| *after),
                target,
            )
        }
        .judged()
    }

    fn judged(mut self) -> Self {
        let figure = self.ratio.unwrap_or(self.measured).median;
        let spreads = [Some(self.measured), self.undisturbed, self.ratio];
        // The mean of no values is no number: such a figure meets no target.
        let is_measured = spreads.iter().flatten().all(|it| it.median.is_finite());
        self.is_met = self.target.map(|target| match target {
            Target::AtMost(most) => is_measured && figure <= most,
            Target::AtLeast(least) => is_measured && figure >= least,
        });
        self
    }
}

/// Prints a table of `rows` under `title`.
pub(crate) fn print(title: &str, rows: &[Row]) {
    say!("\n### {title}\n");
    say!("| condition | figure | undisturbed | measured | ratio | target | |");
    say!("|---|---|---|---|---|---|---|");
    for row in rows {
        let undisturbed = row.undisturbed.map(rounded).unwrap_or_default();
        let ratio = row
            .ratio
            .map(|ratio| format!("{ratio:.2}"))
            .unwrap_or_default();
        let target = match row.target {
            Some(Target::AtMost(most)) => format!("≤ {most}"),
            Some(Target::AtLeast(least)) => format!("≥ {least}"),
            None => String::new(),
        };
        say!(
            "| {} | {} | {undisturbed} | {} | {ratio} | {target} | {} |",
            row.condition,
            row.figure,
            rounded(row.measured),
            row.is_met.map(met).unwrap_or_default(),
        );
    }
}

/// Formats a number with about three digits.
fn rounded(spread: Spread) -> String {
    let largest = spread.max.abs();
    if largest >= 100.0 || largest == 0.0 {
        format!("{spread:.0}")
    } else if largest >= 10.0 {
        format!("{spread:.1}")
    } else if largest >= 1.0 {
        format!("{spread:.2}")
    } else {
        format!("{spread:.3}")
    }
}
