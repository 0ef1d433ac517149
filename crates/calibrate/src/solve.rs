//! Least squares that no outlier decides and no price of which is negative.

use nalgebra::{DMatrix, DVector};

/// Rows `columns · prices ≈ target`, each divided by what it is measured in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Problem {
    width: usize,
    columns: Vec<f64>,
    targets: Vec<f64>,
    /// How often each row counts.
    counts: Vec<f64>,
}

/// Where the prices are held, and how firmly: a step of Levenberg and Marquardt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hold<'a> {
    pub(crate) at: &'a [f64],
    pub(crate) strength: f64,
}

/// Rounds of reweighting; each is a solution of its own.
const MOST_ROUNDS: usize = 50;
/// Most rounds with errors counted in full less and less far.
pub(crate) const MOST_REFINEMENTS: usize = 6;
/// Groups of rows that are left out one after the other.
const GROUPS: usize = 20;
/// Student's t for 95 % with as many groups.
const T_95: f64 = 2.093;
/// Prices whose columns agree to this share of their length cannot be told apart.
const INSEPARABLE: f64 = 1e-7;

impl Problem {
    pub(crate) fn new(width: usize) -> Self {
        Self { width, ..Self::default() }
    }

    /// Adds a row in units of `scale`.
    pub(crate) fn push(&mut self, columns: &[f64], target: f64, scale: f64) {
        self.push_counted(columns, target, scale, 1.0);
    }

    /// The same of a row that stands for several.
    pub(crate) fn push_counted(&mut self, columns: &[f64], target: f64, scale: f64, count: f64) {
        self.columns.extend(columns[..self.width].iter().map(|column| column / scale));
        self.targets.push(target / scale);
        self.counts.push(count);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.columns.extend(other.columns);
        self.targets.extend(other.targets);
        self.counts.extend(other.counts);
    }

    pub(crate) fn len(&self) -> usize {
        self.targets.len()
    }

    /// The same with nothing in the other columns.
    pub(crate) fn only(&self, columns: &[bool]) -> Self {
        let mut rest = self.clone();
        for row in rest.columns.chunks_mut(self.width) {
            for (value, kept) in row.iter_mut().zip(columns) {
                if !kept {
                    *value = 0.0;
                }
            }
        }
        rest
    }

    fn row(&self, index: usize) -> &[f64] {
        &self.columns[index * self.width..(index + 1) * self.width]
    }

    /// What row `index` is off by.
    pub(crate) fn residual(&self, index: usize, prices: &[f64]) -> f64 {
        let sum: f64 = self.row(index).iter().zip(prices).map(|(column, price)| column * price).sum();
        sum - self.targets[index]
    }

    /// The median of what rows are off by.
    pub(crate) fn median_off(&self, prices: &[f64]) -> f64 {
        let mut off: Vec<f64> = (0..self.len()).map(|index| self.residual(index, prices).abs()).collect();
        off.sort_unstable_by(f64::total_cmp);
        off.get(off.len() / 2).copied().unwrap_or(0.0)
    }

    /// Mean of Huber's loss: squares up to `delta`, and beyond in proportion.
    pub(crate) fn loss(&self, prices: &[f64], delta: f64) -> f64 {
        let of = |index| {
            let off = self.residual(index, prices).abs();
            let loss = if off <= delta { off * off } else { delta * (2.0 * off - delta) };
            self.counts[index] * loss
        };
        (0..self.len()).map(of).sum::<f64>() / self.counts.iter().sum::<f64>().max(1.0)
    }

    /// The prices, none below 0, at which the loss is least.
    pub(crate) fn solve(&self, delta: f64, hold: Option<Hold<'_>>) -> Vec<f64> {
        let mut weights = self.counts.clone();
        if let Some(Hold { at, .. }) = hold {
            self.reweight(at, delta, &mut weights);
        }
        let mut prices = vec![0.0; self.width];
        for _ in 0..MOST_ROUNDS {
            let normal = self.normal(&weights, 0..self.len());
            let next = normal.held(hold).solve();
            let moved = next.iter().zip(&prices).map(|(new, old)| (new - old).abs() / (new.abs() + 1e-12));
            let settled = moved.fold(0.0, f64::max) < 1e-9;
            prices = next;
            if settled {
                break;
            }
            self.reweight(&prices, delta, &mut weights);
        }
        prices
    }

    /// The prices at which the loss is least, with errors in full up to `widest` at first and then as far as most of them
    /// go; and how far that is.
    pub(crate) fn solve_robustly(&self, widest: f64) -> (Vec<f64>, f64) {
        let (mut prices, mut delta) = (self.solve(widest, None), widest);
        for _ in 0..MOST_REFINEMENTS {
            let narrower = self.narrower(&prices, delta);
            prices = self.solve(narrower, None);
            let settled = narrower > 0.5 * delta;
            delta = narrower;
            if settled {
                break;
            }
        }
        (prices, delta)
    }

    /// Twice what a typical row is off by, and at most `delta`.
    pub(crate) fn narrower(&self, prices: &[f64], delta: f64) -> f64 {
        (2.0 * self.median_off(prices)).clamp(1e-7, delta)
    }

    fn reweight(&self, prices: &[f64], delta: f64, weights: &mut [f64]) {
        for (index, weight) in weights.iter_mut().enumerate() {
            let off = self.residual(index, prices).abs();
            *weight = self.counts[index] * if off <= delta { 1.0 } else { delta / off };
        }
    }

    /// Half of the 95 % interval of each price: how far they move when neighbouring rows are left out together, so that
    /// what they share does not count as certainty.
    pub(crate) fn half_widths(&self, prices: &[f64], delta: f64) -> Vec<f64> {
        let groups = GROUPS.min(self.len());
        if groups < 2 {
            return vec![0.0; self.width];
        }
        let mut weights = self.counts.clone();
        self.reweight(prices, delta, &mut weights);
        let whole = self.normal(&weights, 0..self.len());
        let without = |group: usize| {
            let from = group * self.len() / groups;
            let to = (group + 1) * self.len() / groups;
            whole.minus(&self.normal(&weights, from..to)).solve()
        };
        let solutions: Vec<Vec<f64>> = (0..groups).map(without).collect();
        let of = |column: usize| {
            let mean = solutions.iter().map(|prices| prices[column]).sum::<f64>() / groups as f64;
            let spread: f64 = solutions.iter().map(|prices| (prices[column] - mean).powi(2)).sum();
            T_95 * (spread * (groups - 1) as f64 / groups as f64).sqrt()
        };
        (0..self.width).map(of).collect()
    }

    fn normal(&self, weights: &[f64], rows: std::ops::Range<usize>) -> Normal {
        let mut normal =
            Normal { gram: DMatrix::zeros(self.width, self.width), moment: DVector::zeros(self.width) };
        for index in rows {
            let (row, target, weight) = (self.row(index), self.targets[index], weights[index]);
            for (i, left) in row.iter().enumerate() {
                if *left == 0.0 {
                    continue;
                }
                normal.moment[i] += weight * left * target;
                for (j, right) in row.iter().enumerate().take(i + 1) {
                    normal.gram[(i, j)] += weight * left * right;
                }
            }
        }
        normal.gram.fill_upper_triangle_with_lower_triangle();
        normal
    }

    /// Columns that are nothing in every row.
    pub(crate) fn empty_columns(&self) -> Vec<usize> {
        let is_empty = |column: &usize| (0..self.len()).all(|index| self.row(index)[*column] == 0.0);
        (0..self.width).filter(is_empty).collect()
    }

    /// Sets of columns that agree up to their sizes, so that the data say nothing of their prices but a sum.
    pub(crate) fn inseparable(&self) -> Vec<Vec<usize>> {
        let gram = self.normal(&self.counts, 0..self.len()).scaled().0.gram;
        let filled: Vec<usize> = (0..self.width).filter(|&column| gram[(column, column)] > 0.0).collect();
        let eigen = DMatrix::from_fn(filled.len(), filled.len(), |i, j| gram[(filled[i], filled[j])])
            .symmetric_eigen();
        let mut sets = Vec::new();
        for (value, vector) in eigen.eigenvalues.iter().zip(eigen.eigenvectors.column_iter()) {
            if *value < INSEPARABLE {
                let most = vector.amax();
                let with = |&(_, part): &(usize, &f64)| part.abs() > 0.3 * most;
                sets.push(vector.iter().enumerate().filter(with).map(|(at, _)| filled[at]).collect());
            }
        }
        sets
    }

    /// How the errors of two prices go together, from −1 to 1.
    pub(crate) fn correlation(&self, left: usize, right: usize) -> f64 {
        let gram = self.normal(&self.counts, 0..self.len()).scaled().0.gram;
        let filled: Vec<usize> = (0..self.width).filter(|&column| gram[(column, column)] > 0.0).collect();
        let place = |column| filled.iter().position(|&filled| filled == column);
        let (Some(left), Some(right)) = (place(left), place(right)) else { return 0.0 };
        let inner = DMatrix::from_fn(filled.len(), filled.len(), |i, j| {
            gram[(filled[i], filled[j])] + if i == j { 1e-12 } else { 0.0 }
        });
        inner.try_inverse().map_or(0.0, |inverse| {
            inverse[(left, right)] / (inverse[(left, left)] * inverse[(right, right)]).sqrt()
        })
    }
}

/// The normal equations of weighted least squares.
#[derive(Debug, Clone)]
struct Normal {
    gram: DMatrix<f64>,
    moment: DVector<f64>,
}

impl Normal {
    fn minus(&self, other: &Self) -> Self {
        Self { gram: &self.gram - &other.gram, moment: &self.moment - &other.moment }
    }

    fn held(mut self, hold: Option<Hold<'_>>) -> Self {
        if let Some(Hold { at, strength }) = hold {
            for (column, price) in at.iter().enumerate() {
                let pull = strength * self.gram[(column, column)];
                self.gram[(column, column)] += pull;
                self.moment[column] += pull * price;
            }
        }
        self
    }

    /// With every column of length 1, and what each was divided by.
    fn scaled(self) -> (Self, Vec<f64>) {
        let size = |column: usize| {
            let square: f64 = self.gram[(column, column)];
            if square > 0.0 { square.sqrt() } else { 1.0 }
        };
        let sizes: Vec<f64> = (0..self.moment.len()).map(size).collect();
        let gram = self.gram.map_with_location(|i, j, value| value / (sizes[i] * sizes[j]));
        let moment = DVector::from_fn(self.moment.len(), |i, _| self.moment[i] / sizes[i]);
        (Self { gram, moment }, sizes)
    }

    /// Non-negative least squares by the active set of Lawson and Hanson, on the normal equations as Bro and de Jong do.
    fn solve(self) -> Vec<f64> {
        let (Self { gram, moment }, sizes) = self.scaled();
        let width = moment.len();
        let mut free = vec![false; width];
        let mut prices: DVector<f64> = DVector::zeros(width);
        for _ in 0..8 * width.max(1) {
            let gradient = &moment - &gram * &prices;
            let next = (0..width)
                .filter(|&column| !free[column] && gram[(column, column)] > 0.0 && gradient[column] > 1e-12)
                .max_by(|&left, &right| gradient[left].total_cmp(&gradient[right]));
            let Some(next) = next else { break };
            free[next] = true;
            loop {
                let candidate = unconstrained(&gram, &moment, &free);
                let low = (0..width).filter(|&column| free[column] && candidate[column] <= 0.0);
                // As far towards it as no price falls below 0.
                let share = low.fold(1.0_f64, |share, column| {
                    let (from, to) = (prices[column], candidate[column]);
                    share.min(if from > to { from / (from - to) } else { 0.0 })
                });
                if share >= 1.0 {
                    prices = candidate;
                    break;
                }
                prices = &prices + (candidate - &prices) * share;
                for column in 0..width {
                    if free[column] && prices[column] <= 1e-14 {
                        free[column] = false;
                        prices[column] = 0.0;
                    }
                }
            }
        }
        prices.iter().zip(sizes).map(|(price, size)| (price / size).max(0.0)).collect()
    }
}

/// Least squares over the free columns; the others are 0.
fn unconstrained(gram: &DMatrix<f64>, moment: &DVector<f64>, free: &[bool]) -> DVector<f64> {
    let columns: Vec<usize> = (0..free.len()).filter(|&column| free[column]).collect();
    // Columns that agree share their price.
    let ridge = |i, j| if i == j { 1e-13 } else { 0.0 };
    let inner =
        DMatrix::from_fn(columns.len(), columns.len(), |i, j| gram[(columns[i], columns[j])] + ridge(i, j));
    let right = DVector::from_fn(columns.len(), |i, _| moment[columns[i]]);
    let solution = inner.clone().cholesky().map(|factor| factor.solve(&right));
    let solution = solution.or_else(|| inner.lu().solve(&right));
    let mut prices = DVector::zeros(free.len());
    if let Some(solution) = solution {
        for (column, price) in columns.iter().zip(solution.iter()) {
            prices[*column] = *price;
        }
    }
    prices
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of two columns.
    fn problem(rows: &[(f64, f64, f64)]) -> Problem {
        let mut problem = Problem::new(2);
        for &(left, right, target) in rows {
            problem.push(&[left, right], target, 1.0);
        }
        problem
    }

    #[track_caller]
    fn solves(rows: &[(f64, f64, f64)], expected: [f64; 2]) {
        let prices = problem(rows).solve(1e9, None);
        for (price, expected) in prices.iter().zip(expected) {
            assert!((price - expected).abs() < 1e-6 * (1.0 + expected.abs()), "{prices:?}");
        }
    }

    #[test]
    fn exact_rows_give_their_prices() {
        solves(&[(1.0, 1e3, 5e3 + 3.0), (1.0, 2e3, 1e4 + 3.0), (1.0, 7e3, 3.5e4 + 3.0)], [3.0, 5.0]);
    }

    #[test]
    fn no_price_is_negative() {
        // Freely, it would be −1 and 2.
        solves(&[(1.0, 1.0, 1.0), (1.0, 2.0, 3.0), (1.0, 3.0, 5.0)], [0.0, 22.0 / 14.0]);
        solves(&[(1.0, 0.0, -1.0), (0.0, 1.0, -2.0)], [0.0, 0.0]);
    }

    #[test]
    fn an_outlier_decides_nothing() {
        let mut rows: Vec<(f64, f64, f64)> =
            (1..50).map(|x| (1.0, f64::from(x), 2.0 + 3.0 * f64::from(x))).collect();
        rows[20].2 = 10_000.0;
        let prices = problem(&rows).solve(0.01, None);
        assert!((prices[0] - 2.0).abs() < 0.01 && (prices[1] - 3.0).abs() < 0.01, "{prices:?}");
    }

    #[test]
    fn a_row_that_stands_for_several_counts_as_often() {
        let rows = [(1.0, 1.0, 4.0), (1.0, 2.0, 5.0), (1.0, 3.0, 9.0)];
        let [mut counted, mut repeated] = [problem(&rows), problem(&rows)];
        counted.push_counted(&[1.0, 4.0], 3.0, 1.0, 3.0);
        (0..3).for_each(|_| repeated.push(&[1.0, 4.0], 3.0, 1.0));
        for delta in [1e9, 0.5] {
            let [once, thrice] = [&counted, &repeated].map(|rows| rows.solve(delta, None));
            let apart = once.iter().zip(&thrice).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max);
            assert!(apart < 1e-9, "{once:?} and {thrice:?}");
            assert!((counted.loss(&once, delta) - repeated.loss(&once, delta)).abs() < 1e-9);
        }
    }

    #[test]
    fn columns_that_agree_are_named() {
        let same: Vec<(f64, f64, f64)> = (1..9).map(|x| (f64::from(x), 2.0 * f64::from(x), 1.0)).collect();
        assert_eq!(problem(&same).inseparable(), [[0, 1]]);
        assert_eq!(problem(&[(1.0, 0.0, 1.0), (2.0, 0.0, 1.0)]).empty_columns(), [1]);
        assert!(problem(&[(1.0, 0.0, 1.0), (1.0, 1.0, 1.0)]).inseparable().is_empty());
    }

    #[test]
    fn intervals_hold_the_truth_and_vanish_without_noise() {
        let noise = |x: i32| f64::from((x * 7919) % 101 - 50) / 50.0;
        let rows: Vec<(f64, f64, f64)> =
            (1..200).map(|x| (1.0, f64::from(x), 20.0 + 3.0 * f64::from(x) + noise(x))).collect();
        let noisy = problem(&rows);
        let prices = noisy.solve(1e9, None);
        let widths = noisy.half_widths(&prices, 1e9);
        assert!((prices[0] - 20.0).abs() < widths[0] && widths[0] < 1.0, "{prices:?} {widths:?}");
        assert!(noisy.correlation(0, 1) < -0.7);
        let exact: Vec<(f64, f64, f64)> = (1..200).map(|x| (1.0, f64::from(x), 2.0 + f64::from(x))).collect();
        let widths = problem(&exact).half_widths(&[2.0, 1.0], 1e9);
        assert!(widths.iter().all(|width| *width < 1e-6), "{widths:?}");
    }

    #[test]
    fn a_hold_keeps_prices_near() {
        let rows = problem(&[(1.0, 0.0, 10.0), (0.0, 1.0, 10.0)]);
        let prices = rows.solve(1e9, Some(Hold { at: &[0.0, 0.0], strength: 1.0 }));
        assert!((prices[0] - 5.0).abs() < 1e-9, "{prices:?}");
    }
}
