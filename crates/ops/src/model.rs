//! The latency model over a composition.

use std::collections::BTreeSet;

use servecast_latency::{Batch, ErrorBar, Host, LatencyModel, PassTime, StepWork};

use crate::compose::{Composition, Measured, Split};
use crate::constants::Constants;
use crate::graphs::Graphs;
use crate::setup::OpsSetup;
use crate::surface::{Line, Plane};

/// The most that is sampled: tokens of a pass, its requests, and tokens that one of them has.
const MOST_TOKENS: u64 = 65_536;
const MOST_REQUESTS: u64 = 4096;
const MOST_PROMPTS: u64 = 512;
const MOST_CONTEXT: u64 = 262_144;

/// Iteration times of a model on GPUs whose operators were measured.
///
/// A pass is one pass over the whole batch: what grows with its tokens (matrix products, experts, exchanges, short
/// kernels), the head of its requests, attention of requests that compute one token each (by their number and mean
/// context; drafts that they verify share the KV that is read), and attention of the others (by their number and the length that has as many query-key pairs).
#[derive(Debug, Clone)]
pub struct Ops {
    source: String,
    /// Whether no operator was measured.
    is_estimate: bool,
    notes: Vec<String>,
    /// µs by tokens, within a recorded graph and without.
    tokens: [Line; 2],
    head: Line,
    decode: Plane,
    /// What uneven contexts of decodes take besides, by kinds of attention of which that is known.
    splits: Vec<Split>,
    prompt: Plane,
    graphs: Graphs,
    /// What passes without prompts are multiplied by.
    decode_factor: f64,
    /// What passes with prompts are multiplied by.
    prompt_factor: f64,
    /// Data-parallel ranks over which a batch is spread.
    ranks: u32,
    /// What goes by the tokens of all of them in passes without a graph, µs by tokens; only where there are several.
    shared: Option<Line>,
    host: Host,
    error_bar: ErrorBar,
}

impl Ops {
    /// Samples a composition, with the constants that come with servecast.
    pub fn new(composition: &Composition) -> Self {
        Self::with(composition, Constants::built_in())
    }

    /// Samples a composition, with these constants around it.
    pub fn with(composition: &Composition, constants: &Constants) -> Self {
        let sum = |parts: Vec<(crate::Part, f64)>| parts.iter().map(|(_, us)| us).sum::<f64>();
        let setup = composition.setup();
        let tokens = |is_graph: bool| {
            Line::sample(
                MOST_TOKENS,
                |tokens| sum(composition.token_parts_us(tokens.max(1) as f64, is_graph)),
            )
        };
        let decode = Plane::sample((MOST_REQUESTS, MOST_CONTEXT), |requests, context| {
            if requests == 0 {
                return 0.0;
            }
            sum(composition.decode_parts_us(requests as f64, context.max(1) as f64))
        });
        let prompt = Plane::sample((MOST_PROMPTS, MOST_CONTEXT), |requests, length| {
            if requests == 0 || length == 0 {
                return 0.0;
            }
            sum(composition.prompt_parts_us(requests as f64, length as f64))
        });
        Self {
            source: source(composition),
            is_estimate: composition.measured() == Measured::Nothing,
            notes: notes(composition),
            tokens: [tokens(true), tokens(false)],
            head: Line::sample(MOST_REQUESTS, |requests| composition.head_us(requests.max(1) as f64)),
            decode,
            splits: composition.splits().collect(),
            prompt,
            graphs: setup.recorded_graphs(),
            decode_factor: constants.factor(setup).unwrap_or(1.0),
            prompt_factor: constants.prompt_factor(setup.engine),
            ranks: setup.data_parallel_size.max(1),
            shared: (setup.data_parallel_size > 1)
                .then(|| Line::sample(MOST_TOKENS, |tokens| composition.shared_us(tokens.max(1) as f64))),
            host: constants.host(setup),
            error_bar: constants.error_bar(setup, composition.measured()),
        }
    }

    /// The passes that are recorded graphs.
    pub fn graphs(&self) -> &Graphs {
        &self.graphs
    }

    /// µs of a pass without its attention: a graph computes what it was recorded for.
    #[inline]
    fn outside_attention(&self, tokens: u64, requests: u64, has_prompts: bool) -> f64 {
        let computed = match self.graphs.padded(tokens, has_prompts) {
            Some(padded) => self.tokens[0].at(padded),
            None => self.tokens[1].at(tokens),
        };
        computed + self.head.at(requests)
    }

    /// µs of a pass as if all ranks had as many tokens as the slowest, `even` in all, of which they have `tokens`.
    ///
    /// Ranks that run a recorded graph pad what they compute to the most of one. Without a graph they do not: each
    /// computes what it has, and experts see what that comes to.
    fn saved_us(&self, even: u64, tokens: u64, has_prompts: bool) -> f64 {
        match &self.shared {
            Some(shared) if self.graphs.padded(even, has_prompts).is_none() => {
                (shared.at(even) - shared.at(tokens)).max(0.0)
            }
            _ => 0.0,
        }
    }

    /// What a pass costs, less what was counted too much outside its attention.
    #[inline]
    fn priced(&self, batch: &Batch, saved_us: f64) -> PassTime {
        if batch.requests == 0 {
            return PassTime::default();
        }
        let steps = batch.steps;
        let prompts = batch.requests - steps.requests;
        let mut us = self.outside_attention(batch.tokens, batch.sampled_rows(), prompts > 0) - saved_us;
        if steps.requests > 0 {
            us +=
                self.decode.at(steps.requests, steps.context_tokens / steps.requests) + self.uneven_us(steps);
        }
        if prompts > 0 {
            let pairs = batch.chunk_pairs();
            us += self.prompt.at(prompts, (2 * pairs / prompts).isqrt());
            us *= self.prompt_factor;
        } else {
            us *= self.decode_factor;
        }
        PassTime::whole(batch, us / 1000.0)
    }

    /// µs that requests which compute one token each take beyond as many of one context.
    #[inline]
    fn uneven_us(&self, steps: StepWork) -> f64 {
        let StepWork { requests, context_tokens, longest_context_tokens, .. } = steps;
        let of = |split: &Split| {
            split.uneven_us(requests as f64, context_tokens as f64, longest_context_tokens as f64)
        };
        self.splits.iter().map(of).sum()
    }
}

/// What was composed, and which parts are estimates.
fn source(composition: &Composition) -> String {
    let OpsSetup { model_name, gpu, engine, weights, .. } = composition.setup();
    let (gpus, name) = (composition.setup().gpus(), engine.name());
    let estimated: BTreeSet<&str> = composition
        .origins()
        .iter()
        .filter(|origin| origin.is_estimate)
        .map(|origin| origin.part.name())
        .collect();
    let parts = if estimated.is_empty() {
        String::new()
    } else {
        format!("; estimated: {}", estimated.into_iter().collect::<Vec<_>>().join(", "))
    };
    let what = format!("operators of {model_name} ({}) on {gpus} {} with {name}", weights.name(), gpu.name);
    if composition.measured() == Measured::Nothing {
        return format!("{what}, by the data sheet of the GPU");
    }
    format!("measured {what}{parts}")
}

/// What is said of operators that were not measured in the model's shape.
fn notes(composition: &Composition) -> Vec<String> {
    if composition.measured() == Measured::Nothing {
        return Vec::new();
    }
    let estimated = composition.origins().iter().filter(|origin| origin.is_estimate);
    estimated
        .map(|origin| format!("{} of this shape were not measured: {}", origin.part.name(), origin.source))
        .collect()
}

impl LatencyModel for Ops {
    fn pass(&self, batch: &Batch) -> PassTime {
        self.priced(batch, 0.0)
    }

    fn pass_of_ranks(&self, own: &Batch, tokens: u64) -> PassTime {
        let even = own.on_ranks(self.ranks);
        let has_prompts = own.requests > own.steps.requests;
        self.priced(&even, self.saved_us(even.tokens, tokens, has_prompts))
    }

    fn decode_passes(&self, first: StepWork, _kv_capacity_tokens: u64, passes: &mut [PassTime]) {
        if first.requests == 0 {
            passes.fill(PassTime::default());
            return;
        }
        let outside = self.outside_attention(first.requests, first.requests, false);
        let mut along = self.decode.along(first.requests);
        // The mean grows by one a pass, and so does what is cut off to a whole number.
        let mean = first.context_tokens / first.requests;
        for ((context, later), pass) in (mean..).zip(0..).zip(passes) {
            let uneven = if self.splits.is_empty() { 0.0 } else { self.uneven_us(first.after(later)) };
            let us = (outside + (along.at(context) + uneven)) * self.decode_factor;
            *pass = PassTime { prompt_ms: 0.0, decode_ms: us / 1000.0 };
        }
    }

    fn ranks(&self) -> u32 {
        self.ranks
    }

    fn host(&self) -> Host {
        self.host
    }

    fn error_bar(&self) -> Option<ErrorBar> {
        Some(self.error_bar.clone())
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn estimate(&self) -> Option<&str> {
        self.is_estimate.then_some(&*self.source)
    }

    fn source(&self) -> Option<&str> {
        Some(&self.source)
    }
}
