//! What is paid for in a pass and around it.

/// A price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Price {
    Base,
    /// Of passes with prompts, on top.
    PromptBase,
    PrefillToken,
    Sequence,
    ContextToken,
    AttentionPair,
    Experts,
    /// Of passes without prompts that take as long as any does.
    Least,
    FrontEnd,
    Gap,
    GapSequence,
    DeliverySequence,
}

/// All of them, in the order of columns.
pub(super) const PRICES: [Price; 12] = [
    Price::Base,
    Price::PromptBase,
    Price::PrefillToken,
    Price::Sequence,
    Price::ContextToken,
    Price::AttentionPair,
    Price::Experts,
    Price::Least,
    Price::FrontEnd,
    Price::Gap,
    Price::GapSequence,
    Price::DeliverySequence,
];

/// What each of [`PRICES`] is paid for, in a row.
pub(super) type Columns = [f64; PRICES.len()];

/// Which of [`PRICES`] are fitted.
pub(super) type Kept = [bool; PRICES.len()];

impl Price {
    /// Its column.
    pub(super) fn place(self) -> usize {
        PRICES.iter().position(|&one| one == self).expect("all are there")
    }

    /// Whether it is part of a pass of decodes that is longer than the least.
    pub(super) fn is_of_decodes(self) -> bool {
        matches!(self, Self::Base | Self::Sequence | Self::ContextToken | Self::Experts)
    }

    /// What it is called in the file of a model.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Base => "base_us",
            Self::PromptBase => "prefill.base_us",
            Self::PrefillToken => "prefill.per_prefill_token_us",
            Self::Sequence => "per_sequence_us",
            Self::ContextToken => "per_context_token_us",
            Self::AttentionPair => "prefill.per_attention_pair_us",
            Self::Experts => "experts.all_us",
            Self::Least => "decode.least_us",
            Self::FrontEnd => "front_end_us",
            Self::Gap => "gap_us",
            Self::GapSequence => "gap_us_per_request",
            Self::DeliverySequence => "delivery_us_per_request",
        }
    }
}
