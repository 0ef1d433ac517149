//! Adds up what the operators of a pass take.

use servecast_latency::ModelShape;

use crate::pack::{Pack, PackError};
use crate::setup::OpsSetup;

mod attention;
mod exchange;
mod experts;
mod linear;
mod products;
mod small;
mod split;

use attention::AttentionPart;
use exchange::Exchange;
use experts::ExpertsPart;
use linear::LinearPart;
use products::Products;
use small::Small;
pub(crate) use split::Split;

use crate::library::Library;
use crate::roof::Roof;

/// What a pass consists of, by kind of operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Matrix products of attention.
    AttentionProducts,
    /// Attention of requests that compute one token each.
    DecodeAttention,
    /// Attention of prompts.
    PromptAttention,
    /// Convolution and recurrence of linear attention.
    LinearAttention,
    /// Plain feed-forward parts, and experts that all tokens go through.
    FeedForward,
    /// Experts that tokens are sent to, and their choice.
    Experts,
    /// Sums and exchanges between GPUs.
    Exchange,
    /// Norms, rotary embedding, activations, quantisation.
    Small,
    /// Head and sampling.
    Head,
}

impl Part {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 9] = [
        Self::AttentionProducts,
        Self::DecodeAttention,
        Self::PromptAttention,
        Self::LinearAttention,
        Self::FeedForward,
        Self::Experts,
        Self::Exchange,
        Self::Small,
        Self::Head,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::AttentionProducts => "attention projections",
            Self::DecodeAttention => "decode attention",
            Self::PromptAttention => "prompt attention",
            Self::LinearAttention => "linear attention",
            Self::FeedForward => "feed-forward",
            Self::Experts => "experts",
            Self::Exchange => "exchange between GPUs",
            Self::Small => "short kernels",
            Self::Head => "head and sampling",
        }
    }
}

/// What an operator's times come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The kind of operator.
    pub part: Part,
    /// A table, or the rule that stands in for one.
    pub source: String,
    /// Whether the table is not of this very operator: none was measured, or of another shape only.
    pub is_estimate: bool,
}

/// How much of a composition was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    /// Every operator in the model's shape.
    All,
    /// Some are carried over from other shapes, or follow from the data sheet.
    Partly,
    /// No operator.
    Nothing,
}

/// Where operators were found, and what was missing.
#[derive(Debug, Default)]
pub(crate) struct Origins(Vec<Origin>);

impl Origins {
    pub(crate) fn measured(&mut self, part: Part, source: String) {
        self.note(Origin { part, source, is_estimate: false });
    }

    pub(crate) fn estimated(&mut self, part: Part, source: String) {
        self.note(Origin { part, source, is_estimate: true });
    }

    fn note(&mut self, origin: Origin) {
        if !self.0.contains(&origin) {
            self.0.push(origin);
        }
    }
}

/// The operators of a model on its GPUs.
#[derive(Debug)]
pub struct Composition {
    setup: OpsSetup,
    products: Products,
    attention: Vec<AttentionPart>,
    linear: Option<LinearPart>,
    experts: Option<ExpertsPart>,
    exchange: Exchange,
    small: Small,
    origins: Vec<Origin>,
}

/// What the composition of a deployment reads while it is made.
pub(crate) struct Workbench<'a> {
    pub(crate) setup: &'a OpsSetup,
    pub(crate) library: Library<'a>,
    pub(crate) roof: Roof,
    pub(crate) origins: Origins,
}

impl Workbench<'_> {
    pub(crate) fn model(&self) -> &ModelShape {
        &self.setup.model
    }

    /// GPUs that share the attention of a layer.
    pub(crate) fn shards(&self) -> u32 {
        self.setup.tensor_parallel_size.max(1)
    }
}

impl Composition {
    /// Looks up the operators of a model in a pack; those that it lacks are estimated, all of them without a pack.
    pub fn new(setup: OpsSetup, pack: Option<&Pack>) -> Result<Self, PackError> {
        let mut bench = Workbench {
            library: Library::new(pack, setup.engine, setup.engine_version.as_deref()),
            roof: Roof::of(&setup.gpu),
            origins: Origins::default(),
            setup: &setup,
        };
        let attention = attention::parts(&mut bench)?;
        let products = Products::new(&mut bench, !attention.iter().any(|part| part.has_products))?;
        let linear = LinearPart::new(&mut bench)?;
        let experts = ExpertsPart::new(&mut bench)?;
        let exchange = Exchange::new(&mut bench)?;
        let small = Small::new(&bench);
        let mut origins = bench.origins.0;
        origins.sort();
        Ok(Self { setup, products, attention, linear, experts, exchange, small, origins })
    }

    /// What was composed.
    pub fn setup(&self) -> &OpsSetup {
        &self.setup
    }

    /// What the times come from.
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// How much of them was measured.
    pub fn measured(&self) -> Measured {
        let is_estimate = |origin: &Origin| origin.is_estimate;
        if self.origins.iter().all(is_estimate) {
            Measured::Nothing
        } else if self.origins.iter().any(is_estimate) {
            Measured::Partly
        } else {
            Measured::All
        }
    }

    /// The parts of a pass that grow with its tokens, in µs. Without a recorded graph, exchanges take longer.
    pub fn token_parts_us(&self, tokens: f64, is_graph: bool) -> Vec<(Part, f64)> {
        let groups = f64::from(self.setup.data_parallel_size.max(1));
        // Each group of GPUs has its own requests; only experts see the tokens of all.
        let own = (tokens / groups).max(1.0);
        let mut parts = self.products.token_parts_us(own);
        if let Some(experts) = &self.experts {
            parts.push((Part::Experts, experts.us(tokens)));
        }
        parts.push((Part::Exchange, self.exchange.us(own, tokens, is_graph)));
        parts.push((Part::Small, self.small.us(own)));
        parts
    }

    /// Of those, the parts that go by the tokens of all groups, in a pass without a recorded graph.
    pub fn shared_us(&self, tokens: f64) -> f64 {
        let experts = self.experts.as_ref().map_or(0.0, |experts| experts.us(tokens));
        experts + self.exchange.around_experts_us(tokens, false)
    }

    /// Head and sampler for so many requests, in µs.
    pub fn head_us(&self, requests: f64) -> f64 {
        let own = (requests / f64::from(self.setup.data_parallel_size.max(1))).max(1.0);
        self.products.head_us(own) + self.small.sampler_us(own) + self.exchange.head_us(own)
    }

    /// Attention of `requests` that compute one token each and attend to `context` tokens each, in µs.
    pub fn decode_parts_us(&self, requests: f64, context: f64) -> Vec<(Part, f64)> {
        let own = (requests / f64::from(self.setup.data_parallel_size.max(1))).max(1.0);
        let attention = self.attention.iter().map(|part| part.decode_us(own, context)).sum();
        let mut parts = vec![(Part::DecodeAttention, attention)];
        parts.extend(self.linear.iter().map(|linear| (Part::LinearAttention, linear.decode_us(own))));
        parts
    }

    /// How decode kernels share sequences of uneven lengths out, of those of whom that is known.
    pub(crate) fn splits(&self) -> impl Iterator<Item = Split> {
        self.attention.iter().filter_map(|part| part.split)
    }

    /// Attention of `requests` that compute `length` tokens each without a context, in µs. A prompt with a context is
    /// taken for the one without that has as many query-key pairs.
    pub fn prompt_parts_us(&self, requests: f64, length: f64) -> Vec<(Part, f64)> {
        let groups = f64::from(self.setup.data_parallel_size.max(1));
        // Fewer prompts than groups: those that have one are waited for.
        let own = (requests / groups).max(1.0);
        let attention = self.attention.iter().map(|part| part.prompt_us(own, length)).sum();
        let mut parts = vec![(Part::PromptAttention, attention)];
        parts.extend(self.linear.iter().map(|linear| (Part::LinearAttention, linear.prompt_us(own, length))));
        parts
    }
}
