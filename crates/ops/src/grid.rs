//! Measured times over some axes, and times between them.

/// µs that a code of 0 stands for.
const LEAST_US: f64 = 0.1;
/// Codes to each doubling.
const CODES_PER_OCTAVE: f64 = 2048.0;
/// The code of a point that was not measured.
const ABSENT: u16 = u16::MAX;
/// The steepest power law that a time is extrapolated by: attention of a prompt by its length.
const STEEPEST: f64 = 2.0;

/// Measured times on a grid, with holes.
///
/// Between its points times follow power laws (they are interpolated linearly in logarithms); before its first point
/// they are as there; behind its last one they go on by the last power law.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// Logarithms of the values of each axis, the slowest first.
    axes: Vec<Vec<f64>>,
    /// Logarithms of times in µs, row by row; NaN where nothing was measured.
    log_us: Vec<f32>,
}

/// Whether a row may be followed beyond its points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beyond {
    /// Only points between measured ones count.
    Refused,
    /// The last power law goes on.
    Extrapolated,
}

/// The logarithm of a value of an axis; none of them is between 0 and 1.
fn log(value: f64) -> f64 {
    libm::log2(value.max(0.5))
}

impl Grid {
    /// Decodes the codes of a table, of which all but the first of each row are differences to the one before; `None`
    /// if the values of an axis do not rise.
    pub(crate) fn from_differences(
        axes: Vec<Vec<f64>>,
        differences: impl Iterator<Item = u16>,
    ) -> Option<Self> {
        let rises = |axis: &Vec<f64>| {
            axis.first().is_some_and(|first| *first >= 0.0) && axis.is_sorted_by(|one, next| one < next)
        };
        if !axes.iter().all(rises) {
            return None;
        }
        let row = axes.last()?.len();
        let mut code = 0_u16;
        let decoded = differences.enumerate().map(|(at, difference)| {
            code = if at.is_multiple_of(row) { difference } else { code.wrapping_add(difference) };
            if code == ABSENT {
                f32::NAN
            } else {
                (libm::log2(LEAST_US) + f64::from(code) / CODES_PER_OCTAVE) as f32
            }
        });
        let log_us = decoded.collect();
        let axes = axes.into_iter().map(|axis| axis.into_iter().map(log).collect()).collect();
        Some(Self { axes, log_us })
    }

    /// A grid of times in µs, for tests and measurements of one's own; NaN where nothing was measured.
    pub fn of(axes: &[&[f64]], us: &[f64]) -> Self {
        let logs = |values: &[f64]| values.iter().map(|value| log(*value)).collect();
        Self {
            axes: axes.iter().map(|axis| logs(axis)).collect(),
            log_us: us.iter().map(|us| libm::log2(*us) as f32).collect(),
        }
    }

    /// The time at a point in µs; `None` if nothing was measured.
    pub fn us(&self, point: &[f64]) -> Option<f64> {
        debug_assert_eq!(point.len(), self.axes.len(), "a coordinate for each axis");
        let mut logs = [0.0; 4];
        for (log, value) in logs.iter_mut().zip(point) {
            *log = crate::grid::log(*value);
        }
        let logs = &logs[..point.len()];
        let log = self.log_at(0, 0, logs, Beyond::Refused);
        log.or_else(|| self.log_at(0, 0, logs, Beyond::Extrapolated)).map(libm::exp2)
    }

    /// The times along the last axis at a point of the others.
    pub(crate) fn along(&self, point: &[f64]) -> Self {
        let last = &self.axes[point.len()];
        let mut logs: Vec<f64> = point.iter().map(|value| log(*value)).collect();
        logs.push(0.0);
        let at = |value: &f64| {
            logs[point.len()] = *value;
            self.log_at(0, 0, &logs, Beyond::Refused).map_or(f32::NAN, |log| log as f32)
        };
        Self { log_us: last.iter().map(at).collect(), axes: vec![last.clone()] }
    }

    /// How many axes it has.
    pub fn dimensions(&self) -> usize {
        self.axes.len()
    }

    /// The largest value of an axis.
    pub fn last(&self, axis: usize) -> f64 {
        self.axes[axis].last().map_or(0.0, |log| libm::exp2(*log))
    }

    /// The logarithm at a point of the part of the grid that begins at `offset` and has the axes from `axis` on.
    ///
    /// Along the slower axes, rows that hold the rest of the point are preferred to rows that would have to be
    /// extrapolated: large batches were measured with short lengths only.
    fn log_at(&self, axis: usize, offset: usize, point: &[f64], beyond: Beyond) -> Option<f64> {
        let values = &self.axes[axis];
        let inner: usize = self.axes[axis + 1..].iter().map(Vec::len).product();
        let value = |index: usize| {
            let offset = offset + index * inner;
            if axis + 1 == self.axes.len() {
                let log = f64::from(self.log_us[offset]);
                (!log.is_nan()).then_some(log)
            } else {
                self.log_at(axis + 1, offset, point, beyond)
            }
        };
        let x = point[axis];
        let split = values.partition_point(|value| *value <= x);
        let below = (0..split).rev().find_map(|index| Some((index, value(index)?)));
        let above = (split..values.len()).find_map(|index| Some((index, value(index)?)));
        match (below, above) {
            (Some((low, from)), Some((high, to))) => {
                let share = (x - values[low]) / (values[high] - values[low]);
                Some(from + share * (to - from))
            }
            // Exactly on the last point, or behind it.
            (Some((last, log)), None) => {
                let distance = x - values[last];
                let innermost = axis + 1 == self.axes.len();
                if innermost && distance > 1e-9 && beyond == Beyond::Refused {
                    return None;
                }
                let before = (0..last).rev().find_map(|index| Some((index, value(index)?)));
                let slope =
                    before.map_or(1.0, |(index, before)| (log - before) / (values[last] - values[index]));
                Some(log + distance * slope.clamp(0.0, STEEPEST))
            }
            (None, above) => above.map(|(_, log)| log),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(found: Option<f64>, expected: f64) {
        let found = found.unwrap();
        assert!((found / expected - 1.0).abs() < 1e-5, "{found}, not {expected}");
    }

    #[test]
    fn times_follow_power_laws_between_points() {
        let grid = Grid::of(&[&[1.0, 4.0, 16.0]], &[2.0, 4.0, 32.0]);
        near(grid.us(&[4.0]), 4.0);
        near(grid.us(&[2.0]), 8.0_f64.sqrt());
        near(grid.us(&[0.0]), 2.0);
        // 4 to 16 is a factor of 8, so that 16 to 32 is one of its square root.
        near(grid.us(&[32.0]), 32.0 * 8.0_f64.sqrt());
    }

    #[test]
    fn holes_are_bridged() {
        let hole = f64::NAN;
        let grid = Grid::of(&[&[1.0, 2.0, 4.0], &[10.0, 20.0]], &[1.0, 2.0, hole, hole, 4.0, 8.0]);
        near(grid.us(&[2.0, 10.0]), 2.0);
        assert_eq!(Grid::of(&[&[1.0]], &[hole]).us(&[1.0]), None);
    }

    #[test]
    fn rows_that_hold_the_length_are_preferred_to_longer_rows_that_do_not() {
        // Batches of 4 were measured up to 10 only, where they were bound by latency.
        let hole = f64::NAN;
        let grid = Grid::of(
            &[&[1.0, 2.0, 4.0], &[5.0, 10.0, 1000.0]],
            &[1.0, 1.0, 100.0, 1.0, 1.0, 200.0, 1.0, 1.0, hole],
        );
        near(grid.us(&[4.0, 1000.0]), 400.0);
        near(grid.us(&[4.0, 10.0]), 1.0);
    }

    #[test]
    fn a_row_is_the_grid_at_a_point_of_the_other_axes() {
        let grid = Grid::of(&[&[1.0, 4.0], &[1.0, 2.0, 4.0]], &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0]);
        let row = grid.along(&[2.0]);
        for x in [1.0, 1.5, 3.0, 4.0, 9.0] {
            near(row.us(&[x]), grid.us(&[2.0, x]).unwrap());
        }
    }

    #[test]
    fn codes_are_differences_along_rows() {
        let differences = [2048_u16, 2048, 65535, 0, 65535];
        let grid =
            Grid::from_differences(vec![vec![1.0, 2.0], vec![1.0, 2.0]], differences[..4].iter().copied());
        let grid = grid.unwrap();
        near(grid.us(&[1.0, 1.0]), 0.2);
        near(grid.us(&[1.0, 2.0]), 0.4);
        // An absent code, and one that does not differ: the row before it goes on in proportion.
        near(grid.us(&[2.0, 1.0]), 0.4);
        assert_eq!(Grid::from_differences(vec![vec![2.0, 1.0]], differences[..2].iter().copied()), None);
    }
}
