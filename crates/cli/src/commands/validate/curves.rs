//! What happened over time, in the recording and in the simulation.

use std::path::Path;

use servecast_cluster::{Detail, Observer};
use servecast_engine::Iteration;
use servecast_report::CurvePair;
use servecast_types::{Role, Time, WorkerId};

use crate::error::Failure;
use crate::files;

/// A row a second, by number: what it is called, and whether rows add up.
const COLUMNS: [(&str, &str); 5] = [
    ("prompt_throughput", "Prompt tokens a second"),
    ("gen_throughput", "Output tokens a second"),
    ("running", "Running requests"),
    ("waiting", "Waiting requests"),
    ("kv_cache_pct", "KV cache in use (%)"),
];
const KV_USE: usize = 4;
/// Rows that a rate is averaged over before it is compared: a token earlier or later is no error.
const WINDOW: usize = 10;

/// Values of each of the columns by second; none where the file has no such column.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Curves {
    columns: [Vec<f64>; COLUMNS.len()],
}

impl Curves {
    /// Reads `timeseries.csv` of a recorded run, if there is one.
    pub(super) fn recorded(folder: &Path) -> Result<Option<Self>, Failure> {
        let path = folder.join("timeseries.csv");
        if !path.exists() {
            return Ok(None);
        }
        let text = files::read_text(&path)?;
        let problem = |error: csv::Error| Failure::input(&error).about(path.display().to_string());
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
        let header = reader.headers().map_err(problem)?.clone();
        let place = |name: &str| header.iter().position(|column| column == name);
        if place("t").is_none() {
            return Err(Failure::user(format!("{}: there is no column `t`, in seconds", path.display())));
        }
        let places = COLUMNS.map(|(name, _)| place(name));
        let mut curves = Self::default();
        for record in reader.records() {
            let record = record.map_err(problem)?;
            for (values, (place, (name, _))) in curves.columns.iter_mut().zip(places.iter().zip(COLUMNS)) {
                let Some(place) = place else { continue };
                let text = record.get(*place).unwrap_or("");
                let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
                values.push(value.ok_or_else(|| {
                    let line = record.position().map_or(0, csv::Position::line);
                    let path = path.display();
                    Failure::user(format!(
                        "{path}, line {line}: `{name}` is `{text}`, but must be a number of at least 0"
                    ))
                })?);
            }
        }
        // Nobody measured a cache that is never used.
        if curves.columns[KV_USE].iter().all(|used| *used == 0.0) {
            curves.columns[KV_USE].clear();
        }
        Ok(Some(curves))
    }

    /// The curves that both have, over the time of the recording.
    pub(super) fn beside(&self, ours: &Self) -> Vec<CurvePair> {
        let chart = |column: usize| {
            let (real, mut ours) = (self.columns[column].clone(), ours.columns[column].clone());
            ours.resize(real.len().max(ours.len()), 0.0);
            CurvePair { name: COLUMNS[column].1.to_owned(), bin_s: 1.0, real, ours }
        };
        (0..COLUMNS.len()).filter(|&column| !self.columns[column].is_empty()).map(chart).collect()
    }

    /// How far ours are off over time: tokens a second by what is wrong in each ten seconds as a share of all, in
    /// percent, and KV use in percentage points.
    pub(super) fn errors(&self, ours: &Self) -> Vec<(&'static str, f64)> {
        let mut errors = Vec::new();
        let named = [(1, "gen_throughput_over_time"), (KV_USE, "kv_use_over_time")];
        for (column, name) in named {
            let (real, ours) = (&self.columns[column], &ours.columns[column]);
            if real.is_empty() {
                continue;
            }
            let windows = real.len().max(ours.len()).div_ceil(WINDOW);
            let of = |values: &[f64], window: usize| {
                let from = (window * WINDOW).min(values.len());
                let to = (from + WINDOW).min(values.len());
                values[from..to].iter().sum::<f64>()
            };
            let wrong: f64 = (0..windows).map(|window| (of(ours, window) - of(real, window)).abs()).sum();
            let of_what =
                if column == KV_USE { (windows * WINDOW) as f64 } else { real.iter().sum::<f64>() / 100.0 };
            if of_what > 0.0 {
                errors.push((name, wrong / of_what));
            }
        }
        errors
    }

    /// The names of [`Curves::errors`].
    pub(super) const NAMES: [&'static str; 2] = ["gen_throughput_over_time", "kv_use_over_time"];
}

/// Takes down what a simulation does in each second; every iteration has to be shown to it.
#[derive(Debug)]
pub(super) struct Recorder {
    curves: Curves,
    /// KV blocks of each data-parallel rank of a worker.
    blocks: f64,
    /// Ranks of a worker.
    ranks: usize,
    /// Of each rank of each worker: running, waiting, share of the blocks in use.
    now: Vec<[f64; 3]>,
    /// The second up to which levels are known.
    filled: usize,
}

impl Recorder {
    pub(super) fn new(blocks: u32, workers: u32, ranks: u32) -> Self {
        let ranks = ranks.max(1) as usize;
        Self {
            curves: Curves::default(),
            blocks: f64::from(blocks.max(1)),
            ranks,
            now: vec![[0.0; 3]; workers as usize * ranks],
            filled: 0,
        }
    }

    pub(super) fn into_curves(mut self) -> Curves {
        self.fill(self.filled + 1);
        self.curves
    }

    /// Levels stay what they are until the second `until`.
    fn fill(&mut self, until: usize) {
        let sum = |of: usize| self.now.iter().map(|worker| worker[of]).sum::<f64>();
        let levels = [sum(0), sum(1), 100.0 * sum(2) / self.now.len().max(1) as f64];
        for (column, level) in self.curves.columns[2..].iter_mut().zip(levels) {
            column.resize(until.max(column.len()), level);
        }
        for column in &mut self.curves.columns[..2] {
            column.resize(until.max(column.len()), 0.0);
        }
        self.filled = until.max(self.filled);
    }
}

impl Observer for Recorder {
    fn detail(&self) -> Detail {
        Detail::Iterations
    }

    fn iteration(&mut self, _pool: Role, worker: WorkerId, iteration: &Iteration) {
        let second = |time: Time| (time.as_ns() / 1_000_000_000) as usize;
        self.fill(second(iteration.scheduled_at).max(self.filled));
        let rank = worker.index() * self.ranks + iteration.dp_rank as usize;
        if let Some(now) = self.now.get_mut(rank) {
            let used = 1.0 - f64::from(iteration.free_blocks_after_schedule) / self.blocks;
            *now = [f64::from(iteration.num_running), f64::from(iteration.num_waiting), used.max(0.0)];
        }
        let (joined, at) = (second(iteration.scheduled_at), second(iteration.end));
        for column in &mut self.curves.columns[..2] {
            if column.len() <= at {
                column.resize(at + 1, 0.0);
            }
        }
        let steps = iteration.scheduled.iter().filter(|one| one.tokens > 1).map(|one| f64::from(one.tokens));
        self.curves.columns[0][at] += steps.sum::<f64>();
        self.curves.columns[1][joined] += iteration.joined.len() as f64;
        self.curves.columns[1][at] += iteration.tokens_emitted() as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curves(tokens: &[f64], used: &[f64]) -> Curves {
        let mut curves = Curves::default();
        curves.columns[1] = tokens.to_vec();
        curves.columns[KV_USE] = used.to_vec();
        curves
    }

    #[test]
    fn errors_over_time_are_those_of_ten_seconds() {
        let real = curves(&[[10.0; 10], [30.0; 10]].concat(), &[50.0; 20]);
        let ours = curves(&[[9.0; 10], [30.0; 10]].concat(), &[[51.0; 10], [50.0; 10]].concat());
        assert_eq!(real.errors(&ours), [("gen_throughput_over_time", 2.5), ("kv_use_over_time", 0.5)]);
        let late = curves(&[[9.0, 11.0].repeat(5), [30.0].repeat(10)].concat(), &[50.0; 20]);
        assert_eq!(real.errors(&late)[0], ("gen_throughput_over_time", 0.0));
        assert_eq!(real.beside(&ours).len(), 2);
    }
}
