//! What pools and workers did over time, as rows of a page.

use serde::Serialize;
use servecast_record::{PoolRecord, RunRecord, WorkerTotals};

use crate::activity::{Activity, Bin, WorkerBins};
use crate::series::{BINS, PoolSeries, Series, WorkerSeries};

/// Most rows of a pool; where there are more workers, those beside each other share a row.
const MOST_ROWS: usize = 128;

/// Most values of all rows of a run, for one figure: a page must not grow with the deployment.
const MOST_VALUES: usize = 12_000;

/// Lengths of a row that divide the bins of the time axis.
const LENGTHS: [usize; 6] = [400, 200, 100, 80, 50, 40];

/// What a pool did.
#[derive(Debug, Serialize)]
pub(super) struct PoolLoad {
    pool: &'static str,
    /// KV blocks of all workers, if they were watched.
    blocks: Option<u64>,
    /// Averages over the bins of the time axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    watched: Option<Watched>,
    /// Share of prompt tokens that were reused, in %, of requests admitted in a bin; absent without any.
    reuse: Vec<Option<f64>>,
    /// Workers a row.
    group: usize,
    rows: Vec<Row>,
    workers: Vec<Worker>,
}

/// What is known of all iterations of a pool.
#[derive(Debug, Serialize)]
struct Watched {
    /// Workers that are in an iteration, in %.
    busy: Vec<f64>,
    /// KV blocks of running requests.
    blocks_in_use: Vec<f64>,
    /// Tokens an iteration.
    batch_tokens: Vec<Option<f64>>,
    /// Tokens a second.
    tokens: Vec<f64>,
}

/// A worker, or several, over time; shares are in %.
#[derive(Debug, Serialize)]
struct Row {
    busy: Vec<f64>,
    kv: Vec<f64>,
    /// Tokens an iteration.
    batch: Vec<Option<f64>>,
    running: Vec<f64>,
    waiting: Vec<f64>,
    reuse: Vec<Option<f64>>,
}

/// A worker over the whole run.
#[derive(Debug, Serialize)]
struct Worker {
    requests: u64,
    reused_tokens: u64,
    /// Share of its time in iterations, in %.
    busy: f64,
}

/// What each pool did.
pub(super) fn pools(run: &RunRecord, series: &Series, activity: Option<&Activity>) -> Vec<PoolLoad> {
    let rows: usize = run.pools.iter().map(|pool| rows_of(pool.workers.len())).sum();
    let length = LENGTHS.into_iter().find(|length| rows * length <= MOST_VALUES).unwrap_or(LENGTHS[5]);
    let duration_ns = series.span.1.since(series.span.0).as_ns();
    let pool = |(record, series_of): (&PoolRecord, &PoolSeries)| {
        let bins = activity.and_then(|activity| activity.of_pool(record.role, series.span, BINS));
        let lines = &series_of.workers;
        let group = record.workers.len().div_ceil(MOST_ROWS).max(1);
        let bin_ns = series.bin_ms * 1e6;
        let row = |number: usize| {
            let members = number * group..((number + 1) * group).min(lines.len());
            let watched = bins.as_ref().map(|bins| &bins[members.clone()]);
            row(&lines[members], watched, length, bin_ns)
        };
        PoolLoad {
            pool: record.role.name(),
            blocks: bins.as_ref().map(|bins| bins.iter().map(|worker| u64::from(worker.blocks)).sum()),
            watched: bins.as_ref().map(|bins| watched(bins, bin_ns)),
            reuse: reuse(lines, BINS),
            group,
            rows: (0..rows_of(lines.len())).map(row).collect(),
            workers: record.workers.iter().map(|totals| worker(totals, duration_ns)).collect(),
        }
    };
    run.pools.iter().zip(&series.pools).map(pool).collect()
}

fn rows_of(workers: usize) -> usize {
    workers.div_ceil(workers.div_ceil(MOST_ROWS).max(1))
}

fn worker(totals: &WorkerTotals, duration_ns: u64) -> Worker {
    let WorkerTotals { requests, reused_tokens, busy_ns, .. } = *totals;
    Worker { requests, reused_tokens, busy: rounded(busy_ns as f64 / duration_ns.max(1) as f64 * 100.0) }
}

fn watched(workers: &[WorkerBins], bin_ns: f64) -> Watched {
    let sum =
        |bin: usize, of: fn(&Bin) -> f64| workers.iter().map(|worker| of(&worker.bins[bin])).sum::<f64>();
    let line = |of: &dyn Fn(usize) -> f64| (0..BINS).map(|bin| rounded(of(bin))).collect();
    let count = workers.len().max(1) as f64;
    let batch_tokens =
        |bin: usize| tokens_an_iteration(sum(bin, |bin| bin.tokens), sum(bin, |bin| bin.iterations));
    Watched {
        busy: line(&|bin| sum(bin, |bin| bin.busy) / bin_ns / count * 100.0),
        blocks_in_use: line(&|bin| (sum(bin, |bin| bin.block_ns) / bin_ns).round()),
        batch_tokens: (0..BINS).map(batch_tokens).collect(),
        tokens: line(&|bin| (sum(bin, |bin| bin.tokens) / bin_ns * 1e9).round()),
    }
}

fn tokens_an_iteration(tokens: f64, iterations: f64) -> Option<f64> {
    // What is left of an iteration at the edge of a bin can be next to nothing.
    (iterations > 1e-9).then(|| rounded(tokens / iterations))
}

fn row(lines: &[WorkerSeries], watched: Option<&[WorkerBins]>, length: usize, bin_ns: f64) -> Row {
    let step = BINS / length;
    let workers = lines.len().max(1) as f64;
    let mean = |of: &dyn Fn(usize) -> f64| -> Vec<f64> {
        let part = |number: usize| (number * step..(number + 1) * step).map(of).sum::<f64>();
        (0..length).map(|number| rounded(part(number) / step as f64 / workers)).collect()
    };
    // With the KV blocks of the worker.
    let of_bins = |of: &dyn Fn(&Bin, f64) -> f64| match watched {
        None => Vec::new(),
        Some(workers) => mean(&|bin| {
            let one = |worker: &WorkerBins| of(&worker.bins[bin], f64::from(worker.blocks.max(1)));
            workers.iter().map(one).sum::<f64>() / bin_ns
        }),
    };
    let batch = |number: usize| {
        let bins = watched.into_iter().flatten();
        let bins = bins.flat_map(|worker| &worker.bins[number * step..(number + 1) * step]);
        let (tokens, iterations) =
            bins.fold((0.0, 0.0), |sum, bin| (sum.0 + bin.tokens, sum.1 + bin.iterations));
        tokens_an_iteration(tokens, iterations)
    };
    Row {
        busy: of_bins(&|bin, _| bin.busy * 100.0),
        kv: of_bins(&|bin, blocks| bin.block_ns / blocks * 100.0),
        batch: (0..if watched.is_some() { length } else { 0 }).map(batch).collect(),
        running: mean(&|bin| lines.iter().map(|line| line.running[bin]).sum()),
        waiting: mean(&|bin| lines.iter().map(|line| line.waiting[bin]).sum()),
        reuse: reuse(lines, length),
    }
}

/// Share of prompt tokens that were reused, in %, in equal parts of the time.
fn reuse(lines: &[WorkerSeries], length: usize) -> Vec<Option<f64>> {
    let step = BINS / length;
    let part = |number: usize| {
        let bins = lines.iter().flat_map(|line| &line.prompts[number * step..(number + 1) * step]);
        let (reused, all) = bins.fold((0.0, 0.0), |sum, bin| (sum.0 + bin.0, sum.1 + bin.1));
        (all > 0.0).then(|| rounded(reused / all * 100.0))
    };
    (0..length).map(part).collect()
}

/// What a chart shows: three significant digits, and not more than two after the point.
pub(crate) fn rounded(value: f64) -> f64 {
    let factor = match value.abs() {
        size if size >= 100.0 => 1.0,
        size if size >= 10.0 => 10.0,
        _ => 100.0,
    };
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use servecast_types::{Role, Time, WorkerId};

    use super::*;
    use crate::activity::{BusySpan, PoolSize};
    use crate::fixture;
    use crate::series::series;

    #[test]
    fn rows_are_averages_of_their_workers() {
        let run = fixture::run();
        let mut activity =
            Activity::new([Role::Aggregated, Role::Prefill, Role::Decode].map(|role| PoolSize {
                role,
                workers: if role == Role::Decode { 2 } else { 1 },
                blocks: 10,
                ranks: 1,
                stages: 1,
            }));
        let ms = |ms: u64| Time::from_ns(ms * 1_000_000);
        let span = BusySpan {
            start: ms(10),
            end: ms(95),
            busy: ms(95).since(ms(10)),
            iterations: 1,
            tokens: 850,
            free_blocks: 4,
            free_blocks_after: 10,
        };
        activity.add(Role::Decode, WorkerId(1), &span);
        let pools = pools(&run, &series(&run), Some(&activity));
        let decode = &pools[2];
        assert_eq!((decode.blocks, decode.group, decode.rows.len()), (Some(20), 1, 2));
        let mean = |line: &[f64]| line.iter().sum::<f64>() / line.len() as f64;
        // 85 of the run's 170 ms, in one worker of two.
        assert!((mean(&decode.rows[1].busy) - 50.0).abs() < 0.5);
        assert!((mean(&decode.rows[1].kv) - 30.0).abs() < 0.5);
        assert!(mean(&decode.rows[0].busy).abs() < 1e-9);
        let watched = decode.watched.as_ref().unwrap();
        assert!((mean(&watched.busy) - 25.0).abs() < 0.5);
        assert!((mean(&watched.tokens) - 850.0 / 0.17).abs() < 50.0);
        assert_eq!((watched.batch_tokens[100], decode.rows[1].batch[100]), (Some(850.0), Some(850.0)));
        assert_eq!(decode.rows[0].batch[100], None);
        assert_eq!(decode.workers.len(), 2);
    }

    #[test]
    fn many_workers_share_rows_and_values_are_bounded() {
        assert_eq!([1, 128, 129, 1000].map(rows_of), [1, 128, 65, 125]);
        for rows in 1..=2 * MOST_ROWS {
            let length = LENGTHS.into_iter().find(|length| rows * length <= MOST_VALUES);
            assert!(length.is_some(), "{rows}");
        }
    }
}
