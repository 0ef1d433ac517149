//! Attention times on a dense grid: prompt tokens × KV before them × requests that decode × KV of each.

use std::collections::BTreeMap;

use super::ProfileError;
use super::table;

const FILE: &str = "attention.csv";
const AXES: usize = 4;

/// A point: prompt tokens, KV before them, requests that decode, KV of each.
pub(super) type Point = [f64; AXES];

/// Times in µs at every combination of the values of four axes, linear in between.
///
/// The first axis starts with 0 (nothing but decodes), the third one as well (nothing but prompts).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attention {
    axes: [Vec<f64>; AXES],
    /// In order of the axes, the last one running fastest.
    us: Vec<f64>,
    /// Most decodes that were measured together with prompts.
    most_mixed_decodes: f64,
}

type Measured = BTreeMap<[u64; AXES], f64>;

impl Attention {
    pub(super) fn read(text: &str) -> Result<Self, ProfileError> {
        let columns = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"];
        let mut measured = Measured::new();
        for row in table::read(FILE, text, false, &columns)?.rows {
            let at = |axis: usize| row.values[axis] as u64;
            let point = [at(0), at(1), at(2), at(3)];
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
        let mixed = complete_axes(measured.keys().filter(|p| p[0] > 0 && p[2] > 0).copied().collect());
        let decode = complete_axes(measured.keys().filter(|p| p[0] == 0 && p[2] > 0).copied().collect());
        if mixed.iter().any(|axis| axis.len() < 2) {
            return Err(few("passes of prompts and decodes together"));
        }
        if decode[2].len() < 2 || mixed[3].iter().any(|kv| !decode[3].contains(kv)) {
            return Err(few("decodes alone"));
        }
        let most_mixed = mixed[2][mixed[2].len() - 1];
        let mut decodes = decode[2].clone();
        decodes.retain(|n| *n > most_mixed || mixed[2].contains(n));
        let with_none = |values: &[u64]| std::iter::once(0).chain(values.iter().copied()).collect();
        let axes: [Vec<u64>; AXES] =
            [with_none(&mixed[0]), mixed[1].clone(), with_none(&decodes), mixed[3].clone()];
        let mut us = Vec::with_capacity(axes.iter().map(Vec::len).product());
        for &chunk in &axes[0] {
            for &before in &axes[1] {
                for &n in &axes[2] {
                    for &kv in &axes[3] {
                        us.push(cell(measured, [chunk, before, n, kv], most_mixed).ok_or_else(|| {
                            ProfileError::Points {
                                file: FILE,
                                problem: format!(
                                    "prefill_chunk {chunk}, kv_prefill {before}, n_decode {n}, kv_decode {kv} was \
                                     not measured, but its neighbours were"
                                ),
                            }
                        })?);
                    }
                }
            }
        }
        let axes = axes.map(|axis| axis.into_iter().map(|value| value as f64).collect());
        Ok(Self { axes, us, most_mixed_decodes: most_mixed as f64 })
    }

    /// Whether a point lies outside what was measured.
    pub(super) fn is_outside(&self, [chunk, before, n, kv]: Point) -> bool {
        let beyond = |axis: usize, x: f64| x > self.axes[axis][self.axes[axis].len() - 1];
        let prompts = chunk > 0.0 && (beyond(0, chunk) || beyond(1, before) || n > self.most_mixed_decodes);
        prompts || (n > 0.0 && (beyond(2, n) || beyond(3, kv)))
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
        let mut places = [(0, 0.0); AXES];
        for ((axis, &x), place) in self.axes.iter().zip(&point).zip(&mut places) {
            *place = locate(axis, x);
        }
        let strides = [
            self.axes[1].len() * self.axes[2].len() * self.axes[3].len(),
            self.axes[2].len() * self.axes[3].len(),
            self.axes[3].len(),
            1,
        ];
        let base: usize = places.iter().zip(&strides).map(|((place, _), stride)| place * stride).sum();
        let mut corners = [0.0; 1 << AXES];
        for (corner, value) in corners.iter_mut().enumerate() {
            let offset: usize =
                (0..AXES).map(|axis| if corner >> axis & 1 == 1 { strides[axis] } else { 0 }).sum();
            *value = self.us[base + offset];
        }
        let mut count = corners.len();
        for axis in (0..AXES).rev() {
            count /= 2;
            let share = places[axis].1;
            for low in 0..count {
                corners[low] += share * (corners[low + count] - corners[low]);
            }
        }
        corners[0]
    }
}

/// The time of a grid point. What does not matter to a pass (the KV of decodes without decodes) may be anything.
fn cell(measured: &Measured, point: [u64; AXES], most_mixed: u64) -> Option<f64> {
    let [chunk, before, n, kv] = point;
    match (chunk, n) {
        (0, 0) => Some(0.0),
        (0, _) => measured.get(&[0, 0, n, kv]).copied(),
        (_, 0) => measured.get(&[chunk, before, 0, 0]).copied(),
        _ if n <= most_mixed => measured.get(&point).copied(),
        // More decodes than were measured together with prompts cost what they cost more without prompts.
        _ => {
            let at_most = measured.get(&[chunk, before, most_mixed, kv])?;
            let (alone, at_most_alone) =
                (measured.get(&[0, 0, n, kv])?, measured.get(&[0, 0, most_mixed, kv])?);
            Some(at_most + (alone - at_most_alone).max(0.0))
        }
    }
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
    let place = axis.partition_point(|&point| point <= x).saturating_sub(1).min(axis.len() - 2);
    let share = (x - axis[place]) / (axis[place + 1] - axis[place]);
    (place, share.clamp(0.0, 1.0))
}
