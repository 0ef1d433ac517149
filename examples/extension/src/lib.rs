//! Four things of one's own in a simulation, none of which servecast has: how long a pass takes ([`Balance`]), which worker
//! gets a request ([`WarmFirst`]), which request goes first on a worker ([`ShortWithAge`]), and who follows the run
//! ([`LongestPass`]).
//!
//! All go by what they are told and remember nothing but what came before, so that a run can be repeated.

use std::sync::Arc;

use serde_json::{Value, json};
use servecast::cluster::{Candidate, Observer, Pick, RoutedRequest};
use servecast::engine::{Decodes, Iteration, Order, WaitingRequest};
use servecast::latency::{Batch, LatencyModel, PassTime};
use servecast::record::RunRecord;
use servecast::types::{Role, Time, WorkerId};
use servecast::{Refusal, Replay};

/// A pass is bound by memory or by arithmetic, whichever takes longer.
#[derive(Debug)]
pub struct Balance {
    /// Reading the weights, in ms.
    pub weights_ms: f64,
    /// Reading the KV of a million tokens, in ms.
    pub ms_per_million_kv_tokens: f64,
    /// Computing a thousand tokens, in ms.
    pub ms_per_thousand_tokens: f64,
}

impl LatencyModel for Balance {
    fn pass(&self, batch: &Batch) -> PassTime {
        let kv_tokens = batch.steps.context_tokens as f64;
        let memory_ms = self.weights_ms + self.ms_per_million_kv_tokens * kv_tokens / 1e6;
        let arithmetic_ms = self.ms_per_thousand_tokens * batch.tokens as f64 / 1e3;
        PassTime::whole(batch, memory_ms.max(arithmetic_ms))
    }
}

/// Requests go where their prompt is cached, unless somebody waits there; otherwise where the fewest prompt tokens are to be
/// computed, of equals to the worker that was passed over longest.
#[derive(Debug, Default)]
pub struct WarmFirst {
    /// When each worker was picked last, counted in picks; a worker's number is its place.
    picked: Vec<u64>,
    picks: u64,
}

impl Pick for WarmFirst {
    fn pick(&mut self, request: &RoutedRequest<'_>, candidates: &[Candidate]) -> usize {
        let is_warm = |&at: &usize| request.loads[at].overlap_blocks > 0 && request.loads[at].waiting == 0;
        let places = 0..candidates.len();
        let warm = places.clone().filter(is_warm).max_by_key(|&at| request.loads[at].overlap_blocks);
        let last = |at: usize| self.picked.get(candidates[at].worker.index()).copied().unwrap_or(0);
        let cold = || places.min_by_key(|&at| (request.loads[at].prefill_tokens, last(at)));
        let at = warm.or_else(cold).expect("there is a candidate");
        let worker = candidates[at].worker.index();
        self.picks += 1;
        if self.picked.len() <= worker {
            self.picked.resize(worker + 1, 0);
        }
        self.picked[worker] = self.picks;
        at
    }

    // What workers have cached and have to do is found out for those alone who ask for it.
    fn reads_loads(&self) -> bool {
        true
    }
}

/// Short prompts first; a second of waiting counts as so many tokens less.
#[derive(Debug)]
pub struct ShortWithAge {
    /// Tokens a second.
    pub tokens_per_second: f64,
}

impl Order for ShortWithAge {
    fn key(&self, request: &WaitingRequest, now: Time) -> f64 {
        f64::from(request.prompt_tokens) - self.tokens_per_second * now.since(request.arrival).as_ms() / 1e3
    }
}

/// Notes the longest pass, and how many there were.
#[derive(Debug, Default, PartialEq)]
pub struct LongestPass {
    /// Its length in ms, the worker, and how many tokens were computed in it.
    pub longest: Option<(f64, WorkerId, u64)>,
    /// All passes.
    pub passes: u64,
}

impl Observer for LongestPass {
    fn iteration(&mut self, _pool: Role, worker: WorkerId, iteration: &Iteration) {
        self.passes += 1;
        let ms = iteration.end.since(iteration.start).as_ms();
        if self.longest.is_none_or(|(longest, ..)| ms > longest) {
            self.longest = Some((ms, worker, iteration.total_tokens()));
        }
    }

    // Passes in which the same requests got a token each are told of together.
    fn decoded(&mut self, _pool: Role, _worker: WorkerId, decodes: &Decodes) {
        self.passes += decodes.count();
    }
}

/// Runs a load with all of them, on settings by the names of a configuration file.
///
/// # Errors
/// What is wrong with the settings, or why the run cannot go on.
pub fn run(settings: &Value, observer: &mut LongestPass) -> Result<RunRecord, String> {
    let Value::Object(settings) = settings else {
        return Err(format!("settings are an object, not {settings}"));
    };
    let mut replay = Replay { settings: settings.clone(), ..Replay::default() };
    let model = Balance { weights_ms: 4.8, ms_per_million_kv_tokens: 40.0, ms_per_thousand_tokens: 22.0 };
    replay.models.insert("balance".to_owned(), Arc::new(model));
    replay.settings.insert("latency".to_owned(), json!("callable:balance"));
    let simulation = servecast::simulation(&replay).map_err(|Refusal { message, .. }| message)?;
    let order: Arc<dyn Order> = Arc::new(ShortWithAge { tokens_per_second: 500.0 });
    simulation
        .with_policy(|_pool| Box::new(WarmFirst::default()))
        .with_order(|_pool| Some(Arc::clone(&order)))
        .run(observer)
        .map_err(|error| error.to_string())
}
