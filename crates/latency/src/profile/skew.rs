//! How much uneven decode contexts cost: time = t(mean) + α · (t(max) − t(mean)).

use super::ProfileError;
use super::table;

const FILE: &str = "skew.csv";
/// Classes by the share of long contexts: these are their upper ends, the last one open.
const SHARES: [f64; 4] = [0.05, 0.15, 0.4, 0.7];
const CLASSES: usize = SHARES.len() + 1;

/// α by prompt tokens in the pass, requests that decode, and the share of long contexts.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Skew {
    chunks: Vec<f64>,
    decodes: Vec<f64>,
    alpha: Vec<f64>,
}

/// Sums of a least-squares fit through the origin.
#[derive(Debug, Clone, Copy, Default)]
struct Fit {
    xy: f64,
    xx: f64,
}

impl Fit {
    fn add(&mut self, x: f64, y: f64) {
        self.xy += x * y;
        self.xx += x * x;
    }

    fn slope(self) -> Option<f64> {
        (self.xx > 0.0).then(|| (self.xy / self.xx).clamp(0.0, 1.0))
    }
}

impl Skew {
    /// α of each class by least squares over its measurements; a class without any takes that of all pass shapes with
    /// its number of prompt tokens.
    pub(super) fn read(text: &str) -> Result<Self, ProfileError> {
        let columns = ["pc", "n", "ratio", "t_mean_us", "t_max_us", "t_skew_us"];
        let rows = table::read(FILE, text, false, &columns)?.rows;
        let axis = |column: usize| {
            let mut axis: Vec<f64> = rows.iter().map(|row| row.values[column]).collect();
            axis.sort_unstable_by(f64::total_cmp);
            axis.dedup();
            axis
        };
        let (chunks, decodes) = (axis(0), axis(1));
        let mut fits = vec![Fit::default(); chunks.len() * decodes.len() * CLASSES];
        let mut by_chunk = vec![Fit::default(); chunks.len()];
        for row in &rows {
            let [pc, n, share, t_mean, t_max, t_skew] = row.values[..] else {
                unreachable!("six columns were read")
            };
            let (chunk, decode) = (nearest(&chunks, pc), nearest(&decodes, n));
            let place = (chunk * decodes.len() + decode) * CLASSES + class(share);
            fits[place].add(t_max - t_mean, t_skew - t_mean);
            by_chunk[chunk].add(t_max - t_mean, t_skew - t_mean);
        }
        let per_chunk = decodes.len() * CLASSES;
        let alpha = fits
            .iter()
            .enumerate()
            .map(|(place, fit)| fit.slope().or(by_chunk[place / per_chunk].slope()).unwrap_or(0.0))
            .collect();
        Ok(Self { chunks, decodes, alpha })
    }

    pub(super) fn alpha(&self, chunk: f64, decodes: f64, share: f64) -> f64 {
        if self.alpha.is_empty() {
            return 0.0;
        }
        let place = nearest_chunk(&self.chunks, chunk) * self.decodes.len() + nearest(&self.decodes, decodes);
        self.alpha[place * CLASSES + class(share)]
    }
}

fn class(share: f64) -> usize {
    SHARES.iter().position(|&end| share <= end).unwrap_or(SHARES.len())
}

/// The point of an axis that is nearest in ratio.
fn nearest(axis: &[f64], x: f64) -> usize {
    let next = axis.partition_point(|&point| point < x);
    if next == 0 {
        return 0;
    }
    if next == axis.len() || x * x < axis[next - 1] * axis[next] { next - 1 } else { next }
}

/// The same, but a pass with any prompt tokens is never one without.
fn nearest_chunk(chunks: &[f64], chunk: f64) -> usize {
    match nearest(chunks, chunk) {
        0 if chunk > 0.0 && chunks[0] <= 0.0 && chunks.len() > 1 => 1,
        place => place,
    }
}
