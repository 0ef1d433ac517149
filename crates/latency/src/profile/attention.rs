//! Attention times on a dense grid: prompt tokens × KV before them × requests that decode × KV of each.

use std::collections::{BTreeMap, BTreeSet};

use super::ProfileError;
use super::table;

const FILE: &str = "attention.csv";
const AXES: usize = 4;

/// A point: prompt tokens, KV before them, requests that decode, KV of each.
pub(super) type Point = [f64; AXES];

/// Times in µs at every combination of the values of four axes, linear in between. Several measured grids, one finer than
/// the other, make one with the points of all.
///
/// The first axis starts with 0 (nothing but decodes), the third one as well (nothing but prompts).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attention {
    axes: [Vec<f64>; AXES],
    /// In order of the axes, the last one running fastest.
    us: Vec<f64>,
    /// Most decodes that were measured together with prompts.
    most_mixed_decodes: f64,
    /// µs of decodes alone, at every number of them up to [`MOST_ROWS`] and every value of the last axis: most passes of
    /// a run are such.
    decodes: Vec<f64>,
}

/// Most numbers of decodes that are stored one by one.
const MOST_ROWS: u64 = 4096;

type Measured = BTreeMap<[u64; AXES], f64>;

impl Attention {
    pub(super) fn read(text: &str) -> Result<Self, ProfileError> {
        let header = text.lines().next().unwrap_or_default();
        let has = |column: &str| header.split(',').any(|name| name.trim() == column);
        // Newer profilers state the mean of what the tokens of a chunk attend to instead of what is before it.
        let is_mean = !has("kv_prefill") && has("prefill_key");
        let before = if is_mean { "prefill_key" } else { "kv_prefill" };
        let mut columns = vec!["prefill_chunk", before, "n_decode", "kv_decode", "time_us"];
        columns.extend(has("decode_q_len").then_some("decode_q_len"));
        let mut measured = Measured::new();
        for row in table::read(FILE, text, false, &columns)?.rows {
            // More than one token a decode is speculative decoding.
            if row.values.get(5).is_some_and(|&tokens| tokens > 1.0) {
                continue;
            }
            let at = |axis: usize| row.values[axis] as u64;
            let own = if is_mean { at(0) / 2 } else { 0 };
            let point = [at(0), at(1).saturating_sub(own), at(2), at(3)];
            if measured.insert(point, row.values[4]).is_some() {
                return Err(ProfileError::Order {
                    file: FILE,
                    line: row.line,
                    layer: "attention".to_owned(),
                    found: format!("the point {point:?}"),
                    before: "the same point".to_owned(),
                });
            }
        }
        Self::on_grid(&measured)
    }

    fn on_grid(measured: &Measured) -> Result<Self, ProfileError> {
        let few = |what: &str| ProfileError::Points {
            file: FILE,
            problem: format!("{what} were not measured on a grid of at least two points an axis"),
        };
        let mixed = Dense::of(measured, |p| p[0] > 0 && p[2] > 0);
        if mixed.axes.iter().any(|axis| axis.len() < 2) {
            return Err(few("passes of prompts and decodes together"));
        }
        let decodes = Dense::of(measured, |p| p[0] == 0 && p[2] > 0);
        if decodes.axes[2].len() < 2 || decodes.axes[3].len() < 2 {
            return Err(few("decodes alone"));
        }
        let prompts = Dense::of(measured, |p| p[0] > 0 && p[2] == 0);
        if prompts.axes[0].len() < 2 || prompts.axes[1].is_empty() {
            return Err(few("prompts alone"));
        }
        let most_mixed = mixed.axes[2][mixed.axes[2].len() - 1];
        let more_decodes = decodes.axes[2].iter().copied().filter(|&n| n > most_mixed);
        let counts = mixed.axes[2].iter().copied().chain(more_decodes);
        let axes: [Vec<u64>; AXES] = [
            std::iter::once(0).chain(mixed.axes[0].iter().copied()).collect(),
            mixed.axes[1].clone(),
            std::iter::once(0).chain(counts).collect(),
            mixed.axes[3].clone(),
        ];
        let cell = |[chunk, before, n, kv]: [u64; AXES]| match (chunk, n) {
            // What does not matter to a pass (the KV of decodes without decodes) may be anything.
            (0, 0) => 0.0,
            (0, _) => decodes.at([0, 0, n, kv]),
            (_, 0) => prompts.at([chunk, before, 0, 0]),
            _ if n <= most_mixed => mixed.at([chunk, before, n, kv]),
            // More decodes than were measured together with prompts cost what they cost more without prompts.
            _ => {
                let more = decodes.at([0, 0, n, kv]) - decodes.at([0, 0, most_mixed, kv]);
                mixed.at([chunk, before, most_mixed, kv]) + more.max(0.0)
            }
        };
        let us: Vec<f64> = points(&axes).map(cell).collect();
        let most = axes[2][axes[2].len() - 1].min(MOST_ROWS);
        let axes: [Vec<f64>; AXES] = axes.map(|axis| axis.into_iter().map(|value| value as f64).collect());
        let row = |n: u64| axes[3].iter().map(move |&kv| [0.0, 0.0, n as f64, kv]);
        let decodes = (0..=most).flat_map(row).map(|point| interpolated(&axes, &us, point)).collect();
        Ok(Self { axes, us, most_mixed_decodes: most_mixed as f64, decodes })
    }

    /// Whether a point lies outside what was measured.
    pub(super) fn is_outside(&self, [chunk, before, n, kv]: Point) -> bool {
        let beyond = |axis: usize, x: f64| x > self.axes[axis][self.axes[axis].len() - 1];
        let prompts = chunk > 0.0 && (beyond(0, chunk) || beyond(1, before) || n > self.most_mixed_decodes);
        prompts || (n > 0.0 && (beyond(2, n) || beyond(3, kv)))
    }

    /// The times of so many decodes alone, whose context is `kv` and only grows from there.
    pub(super) fn decodes(&self, n: u64, kv: f64) -> Decodes<'_> {
        let kvs = &self.axes[3];
        let row = n as usize * kvs.len();
        let us = self.decodes.get(row..row + kvs.len());
        Decodes { attention: self, n: n as f64, us, place: locate(kvs, kv).0 }
    }

    /// Whether so many decodes, with so many tokens of context in all, lie outside what was measured.
    pub(super) fn are_decodes_outside(&self, n: u64, context_tokens: u64) -> bool {
        let last = |axis: usize| self.axes[axis][self.axes[axis].len() - 1];
        n as f64 > last(2) || context_tokens as f64 > last(3) * n as f64
    }

    /// The time in µs; beyond the measured points in proportion to the work (query-key pairs of prompts, KV read by
    /// decodes).
    pub(super) fn us(&self, point: Point) -> f64 {
        let mut clamped = point;
        for (axis, x) in self.axes.iter().zip(&mut clamped) {
            *x = x.min(axis[axis.len() - 1]);
        }
        if point[0] > 0.0 {
            // Any prompt token makes it a pass with prompts, which runs another kernel.
            clamped[0] = clamped[0].max(self.axes[0][1]);
        }
        let us = self.interpolated(clamped);
        if !self.is_outside(point) {
            return us;
        }
        let work = |[chunk, before, n, kv]: Point| chunk * (before + chunk / 2.0) + n * kv;
        let (all, inside) = (work(point), work(clamped));
        if all > inside && inside > 0.0 { us * all / inside } else { us }
    }

    fn interpolated(&self, point: Point) -> f64 {
        interpolated(&self.axes, &self.us, point)
    }
}

/// So many decodes alone, all of the same context.
pub(super) struct Decodes<'a> {
    attention: &'a Attention,
    n: f64,
    /// Their times at every value of the last axis.
    us: Option<&'a [f64]>,
    /// Between which values of the axis the context was last.
    place: usize,
}

impl Decodes<'_> {
    /// The time in µs: what [`Attention::us`] says, sooner.
    pub(super) fn us(&mut self, kv: f64) -> f64 {
        let Some(us) = self.us else { return self.attention.us([0.0, 0.0, self.n, kv]) };
        let kvs = &self.attention.axes[3];
        let last = kvs[kvs.len() - 1];
        let inside = kv.min(last);
        while self.place + 2 < kvs.len() && kvs[self.place + 1] <= inside {
            self.place += 1;
        }
        let (low, high) = (kvs[self.place], kvs[self.place + 1]);
        let share = ((inside - low) / (high - low)).clamp(0.0, 1.0);
        let us = us[self.place] + share * (us[self.place + 1] - us[self.place]);
        if kv <= last { us } else { us * (self.n * kv) / (self.n * last) }
    }
}

/// What the values of a grid are linear in between; constant beyond its ends.
fn interpolated(axes: &[Vec<f64>; AXES], values: &[f64], point: Point) -> f64 {
    let mut places = [(0, 0.0); AXES];
    for ((axis, &x), place) in axes.iter().zip(&point).zip(&mut places) {
        *place = locate(axis, x);
    }
    let mut strides = [1; AXES];
    for axis in (0..AXES - 1).rev() {
        strides[axis] = strides[axis + 1] * axes[axis + 1].len();
    }
    let base: usize = places.iter().zip(&strides).map(|((place, _), stride)| place * stride).sum();
    // The next point of an axis of one is itself.
    let steps: [usize; AXES] =
        std::array::from_fn(|axis| if axes[axis].len() > 1 { strides[axis] } else { 0 });
    let between = |low: f64, high: f64, axis: usize| low + places[axis].1 * (high - low);
    let line = |at: usize| between(values[at], values[at + steps[3]], 3);
    let plane = |at: usize| between(line(at), line(at + steps[2]), 2);
    let cube = |at: usize| between(plane(at), plane(at + steps[1]), 1);
    between(cube(base), cube(base + steps[0]), 0)
}

/// All combinations of the values of axes, the last one running fastest.
fn points(axes: &[Vec<u64>; AXES]) -> impl Iterator<Item = [u64; AXES]> {
    let [a, b, c, d] = axes;
    a.iter().flat_map(move |&a| {
        b.iter().flat_map(move |&b| c.iter().flat_map(move |&c| d.iter().map(move |&d| [a, b, c, d])))
    })
}

/// Measurements of one kind of pass on a grid without gaps.
struct Dense {
    axes: [Vec<u64>; AXES],
    numbers: [Vec<f64>; AXES],
    us: Vec<f64>,
}

impl Dense {
    /// The grid of all values that were measured. Points that were not lie on the line between the nearest two measured
    /// ones along the axis on which these are closest (by ratio). What cannot be had that way is left out: the grid is
    /// then the largest one of which every combination was measured.
    fn of(measured: &Measured, is_kind: impl Fn(&[u64; AXES]) -> bool) -> Self {
        let known: Vec<[u64; AXES]> = measured.keys().filter(|point| is_kind(point)).copied().collect();
        let all: [Vec<u64>; AXES] = std::array::from_fn(|axis| {
            known.iter().map(|point| point[axis]).collect::<BTreeSet<u64>>().into_iter().collect()
        });
        let mut us: Vec<Option<f64>> = points(&all).map(|point| measured.get(&point).copied()).collect();
        while let Some(more) = filled(&all, &us) {
            us = more;
        }
        let (axes, us) = if let Some(us) = us.into_iter().collect::<Option<Vec<f64>>>() {
            (all, us)
        } else {
            let axes = complete_axes(known);
            let us = points(&axes).filter_map(|point| measured.get(&point).copied()).collect();
            (axes, us)
        };
        let numbers = axes.each_ref().map(|axis| axis.iter().map(|&value| value as f64).collect());
        Self { axes, numbers, us }
    }

    fn at(&self, point: [u64; AXES]) -> f64 {
        interpolated(&self.numbers, &self.us, point.map(|value| value as f64))
    }
}

/// The values with as many gaps filled as lie between two values of an axis; `None` if there are none to fill.
fn filled(axes: &[Vec<u64>; AXES], us: &[Option<f64>]) -> Option<Vec<Option<f64>>> {
    let mut strides = [1; AXES];
    for axis in (0..AXES - 1).rev() {
        strides[axis] = strides[axis + 1] * axes[axis + 1].len();
    }
    let mut more = us.to_vec();
    let mut changed = false;
    for (index, value) in more.iter_mut().enumerate().filter(|(_, value)| value.is_none()) {
        let mut best = None;
        for (axis, values) in axes.iter().enumerate() {
            let place = index / strides[axis] % values.len();
            let at = |other: usize| us[index - place * strides[axis] + other * strides[axis]];
            let below = (0..place).rev().find_map(|other| Some((values[other], at(other)?)));
            let above = (place + 1..values.len()).find_map(|other| Some((values[other], at(other)?)));
            let Some(((low, at_low), (high, at_high))) = below.zip(above) else { continue };
            let ratio = high as f64 / low.max(1) as f64;
            if best.is_none_or(|(smallest, _)| ratio < smallest) {
                let share = (values[place] - low) as f64 / (high - low) as f64;
                best = Some((ratio, at_low + share * (at_high - at_low)));
            }
        }
        if let Some((_, us)) = best {
            *value = Some(us);
            changed = true;
        }
    }
    changed.then_some(more)
}

/// The largest axes, found by leaving out the sparsest value again and again, of which every combination is a point.
fn complete_axes(mut points: Vec<[u64; AXES]>) -> [Vec<u64>; AXES] {
    loop {
        let mut counts: [BTreeMap<u64, usize>; AXES] = Default::default();
        for point in &points {
            for (counts, &value) in counts.iter_mut().zip(point) {
                *counts.entry(value).or_insert(0) += 1;
            }
        }
        let all: usize = counts.iter().map(BTreeMap::len).product();
        if all == points.len() {
            return counts.map(|counts| counts.into_keys().collect());
        }
        let fill = |axis: usize, count: usize| count as f64 * counts[axis].len() as f64 / all as f64;
        let sparsest = (0..AXES)
            .filter(|&axis| counts[axis].len() > 1)
            .flat_map(|axis| counts[axis].iter().map(move |(&value, &count)| (axis, value, count)))
            .min_by(|a, b| fill(a.0, a.2).total_cmp(&fill(b.0, b.2)));
        let Some((axis, value, _)) = sparsest else { return Default::default() };
        points.retain(|point| point[axis] != value);
    }
}

/// The segment of an axis on which `x` lies, and how far along it.
fn locate(axis: &[f64], x: f64) -> (usize, f64) {
    if axis.len() < 2 {
        return (0, 0.0);
    }
    let place = axis.partition_point(|&point| point <= x).saturating_sub(1).min(axis.len() - 2);
    let share = (x - axis[place]) / (axis[place + 1] - axis[place]);
    (place, share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// Two grids that have some points in common: 0, 4, 8 × 0, 4, 8 and 0, 2, 8 × 0, 2, 8.
    #[test]
    fn grids_of_different_points_are_laid_over_each_other() {
        let plane = |point: [u64; AXES]| (3 * point[0] + 5 * point[1]) as f64;
        let mut measured = Measured::new();
        for grid in [[1, 4, 8], [1, 2, 8]] {
            for point in grid.iter().flat_map(|&a| grid.map(|b| [a, b, 1, 1])) {
                measured.insert(point, plane(point));
            }
        }
        assert!(!measured.contains_key(&[2, 4, 1, 1]));
        let dense = Dense::of(&measured, |_| true);
        assert_eq!(dense.axes[0], [1, 2, 4, 8]);
        for point in points(&dense.axes) {
            assert!((dense.at(point) - plane(point)).abs() < 1e-9, "{point:?}");
        }
    }

    #[test]
    fn decodes_alone_take_the_same_either_way() {
        let measured: Measured = points(&[vec![0, 8, 16], vec![0, 64], vec![0, 1, 4, 32], vec![16, 64, 512]])
            .map(|[a, b, c, d]| {
                ([a, if a == 0 { 0 } else { b }, c, if c == 0 { 0 } else { d }], 1.0 + (a + b + c * d) as f64)
            })
            .filter(|(point, _)| point[0] + point[2] > 0)
            .collect();
        let attention = Attention::on_grid(&measured).unwrap();
        for n in [1_u64, 2, 3, 31, 32, 33, 100] {
            for kv in [1.0, 16.0, 17.5, 300.0, 512.0, 600.0, 5000.0] {
                let (general, own) =
                    (attention.us([0.0, 0.0, n as f64, kv]), attention.decodes(n, kv).us(kv));
                assert!((general - own).abs() < 1e-9 * general, "{n} {kv}: {general} {own}");
                let context = (kv * n as f64) as u64;
                let mean = context as f64 / n as f64;
                let outside = attention.is_outside([0.0, 0.0, n as f64, mean]);
                assert_eq!(attention.are_decodes_outside(n, context), outside, "{n} {kv}");
            }
        }
    }

    #[test]
    fn both_ways_to_state_what_a_prompt_attends_to_are_read() {
        let rows = "0,0,1,16,1\n0,0,2,16,2\n0,0,1,32,2\n0,0,2,32,4\n";
        let mut before = format!("prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n{rows}");
        let mut mean = format!("prefill_chunk,prefill_key,n_decode,kv_decode,time_us\n{rows}");
        for (chunk, kv, n, context) in points(&[vec![8, 16], vec![0, 64], vec![0, 1, 2], vec![16, 32]])
            .map(|[a, b, c, d]| (a, b, c, if c == 0 { 0 } else { d }))
            .collect::<BTreeSet<_>>()
        {
            writeln!(before, "{chunk},{kv},{n},{context},{}", chunk + kv + n).unwrap();
            writeln!(mean, "{chunk},{},{n},{context},{}", kv + chunk / 2, chunk + kv + n).unwrap();
        }
        assert_eq!(Attention::read(&before).unwrap(), Attention::read(&mean).unwrap());
        let drafts = before.replace("time_us", "time_us,decode_q_len").replace('\n', ",1\n");
        let drafts = drafts.replacen(",1\n", "\n", 1) + "8,0,1,16,999,4\n";
        assert_eq!(Attention::read(&before).unwrap(), Attention::read(&drafts).unwrap());
    }

    #[test]
    fn a_gap_at_the_edge_is_left_out() {
        let mut measured: Measured =
            points(&[vec![1, 2, 4], vec![1, 2, 4], vec![1], vec![1]]).map(|point| (point, 1.0)).collect();
        measured.remove(&[4, 4, 1, 1]);
        let dense = Dense::of(&measured, |_| true);
        assert_eq!(dense.axes[0].len() * dense.axes[1].len(), 6);
        assert_eq!(dense.us.len(), 6);
    }
}
