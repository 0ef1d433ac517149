//! Times over one or two whole numbers, sampled once, looked up without a search.

/// Knots to each doubling are 2 to this power.
const STEP_BITS: u32 = 2;
const STEPS: u64 = 1 << STEP_BITS;

/// The last knot that is not above a whole number: all numbers below 4 are knots, then there are four to each doubling.
#[inline]
fn index_of(x: u64) -> usize {
    if x < STEPS {
        return x as usize;
    }
    let shift = x.ilog2() - STEP_BITS;
    (u64::from(shift) * STEPS + (x >> shift)) as usize
}

/// The number at a knot.
fn knot(index: usize) -> u64 {
    let index = index as u64;
    if index < STEPS {
        return index;
    }
    let shift = index / STEPS - 1;
    (index - shift * STEPS) << shift
}

/// Knots from 0 to the first that is at least `last`, two at least.
fn knots(last: u64) -> usize {
    (index_of(last.saturating_sub(1)) + 2).max(2)
}

/// A straight piece of a line: the time at its knot in µs, and by how much each more adds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Piece {
    us: f64,
    slope: f64,
}

impl Piece {
    #[inline]
    fn at(self, from_knot: u64) -> f64 {
        self.us + from_knot as f64 * self.slope
    }

    /// The piece between two.
    #[inline]
    fn between(self, other: Self, share: f64) -> Self {
        Self {
            us: self.us + share * (other.us - self.us),
            slope: self.slope + share * (other.slope - self.slope),
        }
    }
}

/// A time over a whole number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pieces: Vec<Piece>,
}

impl Line {
    /// Samples a function from 0 to `last`; behind it, it goes on as steep as before.
    pub(crate) fn sample(last: u64, mut us: impl FnMut(u64) -> f64) -> Self {
        let us: Vec<f64> = (0..knots(last)).map(|index| us(knot(index))).collect();
        let piece = |(index, pair): (usize, &[f64])| {
            let width = knot(index + 1) - knot(index);
            Piece { us: pair[0], slope: (pair[1] - pair[0]) / width as f64 }
        };
        Self { pieces: us.windows(2).enumerate().map(piece).collect() }
    }

    /// The piece for a number: which, and how far from its knot the number is.
    #[inline]
    fn place(&self, x: u64) -> (usize, u64) {
        let index = index_of(x).min(self.pieces.len() - 1);
        (index, x - knot(index))
    }

    /// The time at a number.
    #[inline]
    pub(crate) fn at(&self, x: u64) -> f64 {
        let (index, rest) = self.place(x);
        self.pieces[index].at(rest)
    }
}

/// A time over two whole numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plane {
    /// A line over the second number at each knot of the first.
    rows: Vec<Line>,
}

impl Plane {
    /// Samples a function from (0, 0) to `last`; behind it, it goes on as steep as before.
    pub(crate) fn sample(last: (u64, u64), mut us: impl FnMut(u64, u64) -> f64) -> Self {
        let rows = (0..knots(last.0)).map(knot);
        Self { rows: rows.map(|first| Line::sample(last.1, |second| us(first, second))).collect() }
    }

    /// The time at a place.
    #[inline]
    pub(crate) fn at(&self, first: u64, second: u64) -> f64 {
        let row = self.row(first);
        let (index, rest) = row.from.place(second);
        row.piece(index).at(rest)
    }

    /// The row of a first number.
    #[inline]
    fn row(&self, first: u64) -> Row<'_> {
        let index = index_of(first).min(self.rows.len() - 2);
        let (from, to) = (knot(index), knot(index + 1));
        Row {
            from: &self.rows[index],
            to: &self.rows[index + 1],
            share: (first - from) as f64 / (to - from) as f64,
        }
    }

    /// The times at second numbers that only grow, with a first number that stays.
    pub(crate) fn along(&self, first: u64) -> Along<'_> {
        Along { row: self.row(first), start: 1, end: 0, piece: Piece::default() }
    }
}

/// What a plane is at a first number: between two of its rows.
#[derive(Debug)]
struct Row<'a> {
    from: &'a Line,
    to: &'a Line,
    /// How far it is from one to the other; beyond 1 behind the last.
    share: f64,
}

impl Row<'_> {
    #[inline]
    fn piece(&self, index: usize) -> Piece {
        self.from.pieces[index].between(self.to.pieces[index], self.share)
    }
}

/// A walk along a row of a [`Plane`], which looks up each of its pieces once.
#[derive(Debug)]
pub(crate) struct Along<'a> {
    row: Row<'a>,
    /// Numbers that the piece holds for.
    start: u64,
    end: u64,
    piece: Piece,
}

impl Along<'_> {
    /// Exactly what [`Plane::at`] says.
    #[inline]
    pub(crate) fn at(&mut self, second: u64) -> f64 {
        if !(self.start..self.end).contains(&second) {
            let (index, _) = self.row.from.place(second);
            let is_last = index + 1 == self.row.from.pieces.len();
            self.start = knot(index);
            self.end = if is_last { u64::MAX } else { knot(index + 1) };
            self.piece = self.row.piece(index);
        }
        self.piece.at(second - self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_lies_between_its_knot_and_the_next() {
        for x in (0..5000).chain([(1 << 40) - 1, 1 << 40, u64::from(u32::MAX)]) {
            let index = index_of(x);
            let (from, to) = (knot(index), knot(index + 1));
            assert!((from..to).contains(&x), "{x}: {from} to {to}");
        }
    }

    #[test]
    fn a_walk_along_a_row_is_exactly_the_plane() {
        let plane = Plane::sample((64, 1000), |first, second| {
            ((first * 7 + 3) as f64).sqrt() * (second as f64).ln_1p()
        });
        for first in [0, 1, 3, 9, 63, 64, 100] {
            let mut along = plane.along(first);
            for second in 0..3000 {
                assert_eq!(plane.at(first, second).to_bits(), along.at(second).to_bits(), "{first} {second}");
            }
        }
    }

    #[test]
    fn straight_lines_stay_what_they_are_also_behind_their_end() {
        let line = Line::sample(1000, |x| 3.0 + 2.0 * x as f64);
        let plane = Plane::sample((64, 1000), |first, second| first as f64 + 2.0 * second as f64);
        for x in [0, 1, 5, 37, 999, 1000, 1024, 5000] {
            assert!((line.at(x) - (3.0 + 2.0 * x as f64)).abs() < 1e-9, "{x}");
            let mut along = plane.along(77);
            for second in [x, x + 1, x + 300] {
                let expected = 77.0 + 2.0 * second as f64;
                assert!((plane.at(77, second) - expected).abs() < 1e-9, "{second}");
                assert!((along.at(second) - expected).abs() < 1e-9, "{second}");
            }
        }
    }
}
