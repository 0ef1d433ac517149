//! The prices that are fitted, and what each of them is paid for.

use servecast_latency::{Host, Step, StepExperts, StepFeatures, StepPrices};

/// Most prices that a fit has.
pub(crate) const MOST_TERMS: usize = 10;

/// What each price is paid for, in the order of a [`Terms`].
pub(crate) type Columns = [f64; MOST_TERMS];

/// A price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Term {
    Base,
    PrefillToken,
    Sequence,
    ContextToken,
    AttentionPair,
    DecodeBase,
    DecodeSequence,
    DecodeContextToken,
    Experts,
    FrontEnd,
}

/// Whether passes that only decode have prices of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phases {
    /// If that explains much more.
    #[default]
    Auto,
    /// All passes pay the same prices.
    One,
    /// Those in which prompts are computed pay others than those that only decode.
    Two,
}

/// The experts of a model: how many there are, and how many of them a token activates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub count: u32,
    /// How many a token activates; at most `count`.
    pub per_token: u32,
}

/// The prices of a fit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Terms {
    pub(crate) list: Vec<Term>,
    phases: Phases,
    experts: Option<Experts>,
}

impl Terms {
    /// All prices that these phases have; `front_end` if requests are what was measured.
    pub(crate) fn new(phases: Phases, experts: Option<Experts>, front_end: bool) -> Self {
        let mut list =
            vec![Term::Base, Term::PrefillToken, Term::Sequence, Term::ContextToken, Term::AttentionPair];
        if phases != Phases::One {
            list.extend([Term::DecodeBase, Term::DecodeSequence, Term::DecodeContextToken]);
        }
        if experts.is_some() {
            list.push(Term::Experts);
        }
        if front_end {
            list.push(Term::FrontEnd);
        }
        Self { list, phases, experts }
    }

    /// Without the prices of which nothing is known.
    pub(crate) fn retain(&mut self, keep: impl Fn(Term) -> bool) {
        self.list.retain(|&term| keep(term));
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn position(&self, term: Term) -> Option<usize> {
        self.list.iter().position(|&known| known == term)
    }

    /// What a pass with these features pays for.
    pub(crate) fn columns(&self, features: &StepFeatures) -> Columns {
        let mut columns = [0.0; MOST_TERMS];
        let own = self.phases != Phases::One;
        let (prompts, decodes) = if own && !features.computes_prompts() { (0.0, 1.0) } else { (1.0, 0.0) };
        for (column, term) in columns.iter_mut().zip(&self.list) {
            *column = match term {
                Term::Base => prompts,
                Term::PrefillToken => features.prefill_tokens,
                Term::Sequence => prompts * features.sequences,
                Term::ContextToken => prompts * features.context_tokens,
                Term::AttentionPair => features.attention_pairs,
                Term::DecodeBase => decodes,
                Term::DecodeSequence => decodes * features.sequences,
                Term::DecodeContextToken => decodes * features.context_tokens,
                Term::Experts => self.experts.map_or(0.0, |experts| {
                    StepExperts::activated(experts.count, experts.per_token, features.tokens as u64)
                }),
                Term::FrontEnd => 0.0,
            };
        }
        columns
    }

    /// The model with these prices in µs.
    pub(crate) fn step(&self, prices: &[f64]) -> Step {
        let price = |term| self.position(term).map_or(0.0, |position| prices[position]);
        let prefill = StepPrices {
            base_us: price(Term::Base),
            per_prefill_token_us: price(Term::PrefillToken),
            per_sequence_us: price(Term::Sequence),
            per_context_token_us: price(Term::ContextToken),
            per_attention_pair_us: price(Term::AttentionPair),
        };
        let decode = match self.phases {
            Phases::One => StepPrices { per_prefill_token_us: 0.0, per_attention_pair_us: 0.0, ..prefill },
            Phases::Auto | Phases::Two => StepPrices {
                base_us: price(Term::DecodeBase),
                per_sequence_us: price(Term::DecodeSequence),
                per_context_token_us: price(Term::DecodeContextToken),
                ..StepPrices::default()
            },
        };
        let experts = self.experts.map(|Experts { count, per_token }| StepExperts {
            count,
            per_token,
            all_us: price(Term::Experts),
        });
        let host = Host { front_end_us: price(Term::FrontEnd), ..Host::NONE };
        Step { prefill, decode, least_decode_us: 0.0, experts, host, error: None }
    }

    /// The prices of a model; a decode without prices of its own has those of prompts.
    pub(crate) fn prices(&self, step: &Step) -> Vec<f64> {
        let of = |term: &Term| match term {
            Term::Base => step.prefill.base_us,
            Term::PrefillToken => step.prefill.per_prefill_token_us,
            Term::Sequence => step.prefill.per_sequence_us,
            Term::ContextToken => step.prefill.per_context_token_us,
            Term::AttentionPair => step.prefill.per_attention_pair_us,
            Term::DecodeBase => step.decode.base_us,
            Term::DecodeSequence => step.decode.per_sequence_us,
            Term::DecodeContextToken => step.decode.per_context_token_us,
            Term::Experts => step.experts.map_or(0.0, |experts| experts.all_us),
            Term::FrontEnd => step.host.front_end_us,
        };
        self.list.iter().map(of).collect()
    }

    /// What a price is called in the file of a model.
    pub(crate) fn name(&self, position: usize) -> &'static str {
        let own = self.phases != Phases::One;
        match self.list[position] {
            Term::Base if own => "prefill.base_us",
            Term::Base => "base_us",
            Term::PrefillToken => "prefill.per_prefill_token_us",
            Term::Sequence if own => "prefill.per_sequence_us",
            Term::Sequence => "per_sequence_us",
            Term::ContextToken if own => "prefill.per_context_token_us",
            Term::ContextToken => "per_context_token_us",
            Term::AttentionPair => "prefill.per_attention_pair_us",
            Term::DecodeBase => "decode.base_us",
            Term::DecodeSequence => "decode.per_sequence_us",
            Term::DecodeContextToken => "decode.per_context_token_us",
            Term::Experts => "experts.all_us",
            Term::FrontEnd => "front_end_us",
        }
    }
}
