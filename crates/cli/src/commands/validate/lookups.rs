//! Prefix hits as a server counts them: a request that waits for KV blocks is looked up again in each pass, with all its
//! tokens, until it is admitted.

use std::collections::BTreeMap;
use std::path::Path;

use servecast_cluster::Observer;
use servecast_engine::{Decodes, Iteration};
use servecast_record::{RunRecord, StageRecord};
use servecast_types::{Role, Time, WorkerId};

use crate::error::Failure;
use crate::files;

/// What a server says of itself once a second, beside the rows of its requests.
const FILES: [&str; 2] = ["server.csv.gz", "server.csv"];

/// A row of that, as far as it matters here: sums since the server started.
#[derive(serde::Deserialize)]
struct ServerRow {
    prefix_cache_hits: f64,
    prefix_cache_queries: f64,
}

/// The share of looked-up tokens that a server found, if that was recorded beside the rows of its requests.
pub(super) fn recorded(requests: &Path) -> Result<Option<f64>, Failure> {
    let folder = requests.parent().unwrap_or(Path::new("."));
    let Some(path) = FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file()) else {
        return Ok(None);
    };
    let text = files::read_unpacked_text(&path)?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let rows: Result<Vec<ServerRow>, csv::Error> = reader.deserialize().collect();
    let rows = rows.map_err(|error| Failure::input(&error).about(path.display().to_string()))?;
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(None) };
    let queries = last.prefix_cache_queries - first.prefix_cache_queries;
    let hits = last.prefix_cache_hits - first.prefix_cache_hits;
    Ok((queries > 0.0).then(|| 100.0 * hits / queries))
}

/// When passes of each worker ended.
#[derive(Debug, Default)]
pub(super) struct Ends(BTreeMap<(Role, usize), Vec<Time>>);

impl Ends {
    fn of(&mut self, pool: Role, worker: WorkerId) -> &mut Vec<Time> {
        self.0.entry((pool, worker.index())).or_default()
    }

    /// The share of looked-up tokens that the workers of a run found, in percent.
    pub(super) fn hit_percent(&self, record: &RunRecord) -> Option<f64> {
        let mut by_worker: BTreeMap<(Role, usize), Vec<(&StageRecord, u32)>> = BTreeMap::new();
        for request in &record.requests {
            if let Some(stage) = request.stages.first() {
                let worker = (stage.pool, stage.worker.index());
                by_worker.entry(worker).or_default().push((stage, request.input_tokens));
            }
        }
        let (mut hits, mut looked_up) = (0.0, 0.0);
        for (worker, mut stages) in by_worker {
            let ends = self.0.get(&worker).map_or(&[][..], Vec::as_slice);
            stages.sort_by_key(|(stage, _)| stage.queued);
            // Who is behind another one is not looked up.
            let mut head_from = Time::ZERO;
            for (stage, tokens) in stages {
                let Some(admitted) = stage.admitted else { continue };
                let from = ends.partition_point(|end| *end <= head_from.max(stage.queued));
                let to = ends.partition_point(|end| *end <= admitted);
                let passes = to.saturating_sub(from).max(1) as f64;
                hits += passes * f64::from(stage.reused_tokens);
                looked_up += passes * f64::from(tokens);
                head_from = head_from.max(admitted);
            }
        }
        (looked_up > 0.0).then(|| 100.0 * hits / looked_up)
    }
}

impl Observer for Ends {
    fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        self.of(pool, worker).push(iteration.end);
    }

    fn decoded(&mut self, pool: Role, worker: WorkerId, decodes: &Decodes) {
        self.of(pool, worker).extend_from_slice(decodes.ends);
    }
}
