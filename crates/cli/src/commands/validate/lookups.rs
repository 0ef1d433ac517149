//! Prefix hits as a server counts them: a request that waits for KV blocks is looked up again in each pass, with all its
//! tokens, until it is admitted or its KV is loaded from the host. What the host has is counted once a request.

use std::collections::BTreeMap;
use std::path::Path;

use servecast_cluster::Observer;
use servecast_engine::{Decodes, Iteration};
use servecast_record::{RunRecord, StageRecord};
use servecast_types::{RequestId, Role, Time, WorkerId};

use crate::error::Failure;
use crate::files;

/// What a server says of itself once a second, beside the rows of its requests.
const FILES: [&str; 2] = ["server.csv.gz", "server.csv"];

/// A row of that, as far as it matters here: sums since the server started.
#[derive(serde::Deserialize)]
struct ServerRow {
    prefix_cache_hits: f64,
    prefix_cache_queries: f64,
    #[serde(default)]
    cpu_prefix_cache_hits: f64,
    #[serde(default)]
    cpu_prefix_cache_queries: f64,
    num_preemptions_total: Option<f64>,
}

/// What a server or a simulation counted of its KV cache.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counted {
    /// The share of looked-up tokens that the GPUs had, in percent.
    pub(super) gpu_percent: Option<f64>,
    /// The share of prompt tokens that came from the memory of the host, in percent, if there is KV in it.
    pub(super) host_percent: Option<f64>,
    pub(super) preemptions: Option<f64>,
}

impl Counted {
    /// By names of figures.
    pub(super) fn figures(self) -> impl Iterator<Item = (&'static str, f64)> {
        let figures = [
            ("prefix_hit_percent", self.gpu_percent),
            ("host_hit_percent", self.host_percent),
            ("preemptions", self.preemptions),
        ];
        figures.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// What a server counted, if that was recorded beside the rows of its requests.
pub(super) fn recorded(requests: &Path) -> Result<Counted, Failure> {
    let folder = requests.parent().unwrap_or(Path::new("."));
    let Some(path) = FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file()) else {
        return Ok(Counted::default());
    };
    let text = files::read_unpacked_text(&path)?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let rows: Result<Vec<ServerRow>, csv::Error> = reader.deserialize().collect();
    let rows = rows.map_err(|error| Failure::input(&error).about(path.display().to_string()))?;
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(Counted::default()) };
    let share = |of: fn(&ServerRow) -> (f64, f64)| {
        let ((hits, queries), (hits_before, queries_before)) = (of(last), of(first));
        let queries = queries - queries_before;
        (queries > 0.0).then(|| 100.0 * (hits - hits_before) / queries)
    };
    Ok(Counted {
        gpu_percent: share(|row| (row.prefix_cache_hits, row.prefix_cache_queries)),
        host_percent: share(|row| (row.cpu_prefix_cache_hits, row.cpu_prefix_cache_queries)),
        preemptions: last
            .num_preemptions_total
            .zip(first.num_preemptions_total)
            .map(|(last, first)| last - first),
    })
}

/// A request that waits for a worker.
struct Waiting<'a> {
    stage: &'a StageRecord,
    /// Of its prompt.
    tokens: u32,
    /// When it was looked up last.
    looked_up_to: Time,
}

/// When passes of each worker ended, and when it began to load the KV of a request from the host first.
#[derive(Debug, Default)]
pub(super) struct Ends {
    passes: BTreeMap<(Role, usize), Vec<Time>>,
    loads: BTreeMap<RequestId, Time>,
}

impl Ends {
    fn of(&mut self, pool: Role, worker: WorkerId) -> &mut Vec<Time> {
        self.passes.entry((pool, worker.index())).or_default()
    }

    /// What the workers of a run counted.
    pub(super) fn counted(&self, record: &RunRecord) -> Counted {
        let (mut prompts, mut loaded) = (0_u64, 0_u64);
        for request in &record.requests {
            prompts += u64::from(request.input_tokens);
            loaded += u64::from(request.host_reused_tokens());
        }
        let offloads = record.pools.iter().flat_map(|pool| &pool.limits).any(|limits| limits.offloads_kv);
        let preemptions: u64 = record.pools.iter().map(|pool| pool.totals.preemptions).sum();
        Counted {
            gpu_percent: self.gpu_percent(record),
            host_percent: (offloads && prompts > 0).then(|| 100.0 * loaded as f64 / prompts as f64),
            preemptions: Some(preemptions as f64),
        }
    }

    /// The share of looked-up tokens that the workers of a run had, in percent.
    fn gpu_percent(&self, record: &RunRecord) -> Option<f64> {
        let mut by_worker: BTreeMap<(Role, usize), Vec<Waiting>> = BTreeMap::new();
        for (request, number) in record.requests.iter().zip(0..) {
            if let Some(stage) = request.stages.first()
                && let Some(admitted) = stage.admitted
            {
                let worker = (stage.pool, stage.worker.index());
                let looked_up_to = self.loads.get(&RequestId(number)).copied().unwrap_or(admitted);
                let waiting = Waiting { stage, tokens: request.input_tokens, looked_up_to };
                by_worker.entry(worker).or_default().push(waiting);
            }
        }
        let (mut hits, mut looked_up) = (0.0, 0.0);
        for (worker, mut stages) in by_worker {
            let ends = self.passes.get(&worker).map_or(&[][..], Vec::as_slice);
            stages.sort_by_key(|waiting| waiting.stage.queued);
            // Who is behind another one is not looked up.
            let mut head_from = Time::ZERO;
            for Waiting { stage, tokens, looked_up_to } in stages {
                let from = ends.partition_point(|end| *end <= head_from.max(stage.queued));
                let to = ends.partition_point(|end| *end <= looked_up_to);
                let passes = to.saturating_sub(from).max(1) as f64;
                hits += passes * f64::from(stage.reused_tokens - stage.host_reused_tokens);
                looked_up += passes * f64::from(tokens);
                head_from = head_from.max(looked_up_to);
            }
        }
        (looked_up > 0.0).then(|| 100.0 * hits / looked_up)
    }
}

impl Observer for Ends {
    fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        self.of(pool, worker).push(iteration.end);
        for &(id, _) in iteration.offload.iter().flat_map(|log| &log.started) {
            self.loads.entry(id).or_insert(iteration.scheduled_at);
        }
    }

    fn decoded(&mut self, pool: Role, worker: WorkerId, decodes: &Decodes) {
        self.of(pool, worker).extend_from_slice(decodes.ends);
    }
}
