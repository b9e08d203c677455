//! One figure over several rounds.

use std::fmt;

use serde::Serialize;

/// A figure's median over the rounds, between the least and the greatest.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one figure.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[middle]
        } else {
            f64::midpoint(figures[middle - 1], figures[middle])
        };
        Self {
            median,
            min: figures[0],
            max: figures[figures.len() - 1],
        }
    }

    /// The same in another unit.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            median: self.median * factor,
            min: self.min * factor,
            max: self.max * factor,
        }
    }
}

/// `median (min–max)`, with the decimals of the format.
impl fmt::Display for Spread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = formatter.precision().unwrap_or(2);
        let Self { median, min, max } = self;
        write!(
            formatter,
            "{median:.decimals$} ({min:.decimals$}–{max:.decimals$})"
        )
    }
}

/// The figure below which lies this share of them (by nearest rank), of at least one.
pub fn quantile(figures: &[f64], share: f64) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    let last = figures.len() - 1;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let rank = (share * figures.len() as f64).ceil() as usize;
    figures[rank.saturating_sub(1).min(last)]
}

/// How a target is reported.
pub fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**missed**" }
}
