//! The page of `servecast explain latency`: what passes are made of, over their size.

use servecast_latency::LatencyModel as _;
use servecast_ops::{Composition, Ops, Part};
use servecast_report::{LatencyPage, PartTimes};

use super::latency::{EAGER, Pass, decode, prompt};

/// Most requests that decode, and tokens of a prompt, on the page.
const MOST_DECODES: u64 = 1024;
const MOST_PROMPT_TOKENS: u64 = 32_768;
/// The shortest prompt on the page.
const LEAST_PROMPT_TOKENS: u64 = 16;

/// All that is on the page.
pub(super) fn page(composition: &Composition, model: &Ops, context: u64) -> LatencyPage {
    // Both kinds of attention are never in one chart, and there are more parts than colours.
    let mut parts = Part::ALL.to_vec();
    parts.sort_by_key(|part| (*part == Part::PromptAttention, *part != Part::DecodeAttention));
    let decodes = sizes(1, MOST_DECODES);
    let prompts = sizes(LEAST_PROMPT_TOKENS, MOST_PROMPT_TOKENS);
    let of_decodes = decodes.iter().map(|&requests| decode(composition, model, requests, context));
    let of_prompts = prompts.iter().map(|&tokens| prompt(composition, model, tokens));
    let charts = vec![
        chart(
            "decodes",
            format!("Decodes of {context} tokens each"),
            "requests",
            &parts,
            &of_decodes.collect::<Vec<_>>(),
            &decodes,
        ),
        chart(
            "prompts",
            "A prompt alone".to_owned(),
            "tokens",
            &parts,
            &of_prompts.collect::<Vec<_>>(),
            &prompts,
        ),
    ];
    let error = model.error_bar().and_then(|bar| {
        let share = |share: Option<f64>| Some(format!("{:.0} %", share? * 100.0));
        Some(format!(
            "nine of ten of {}: TPOT within {}, TTFT within {}",
            bar.basis,
            share(bar.tpot_p90)?,
            share(bar.ttft_p90)?
        ))
    });
    let graphs = format!("recorded graphs: {}; {EAGER}", model.graphs());
    let origins = composition.origins().iter();
    LatencyPage {
        title: model.source().unwrap_or_default().to_owned(),
        about: error.into_iter().chain([graphs]).collect(),
        parts: parts.iter().map(|part| part.name()).collect(),
        charts,
        origins: origins
            .map(|origin| (origin.part.name(), origin.source.clone(), origin.is_estimate))
            .collect(),
    }
}

/// Whole numbers from one to another: all to 16, then eight to each doubling.
fn sizes(first: u64, last: u64) -> Vec<u64> {
    let next = |size: &u64| Some(size + ((1 << size.ilog2()) / 8).max(1)).filter(|next| *next <= last);
    std::iter::successors(Some(first), next).collect()
}

fn chart(
    id: &'static str,
    title: String,
    size: &'static str,
    parts: &[Part],
    passes: &[Pass],
    sizes: &[u64],
) -> PartTimes {
    let ms = |us: f64| (us * 1e3).round() / 1e6;
    let of_part =
        |part: &Part| passes.iter().map(|pass| ms(pass.parts_us.get(part).copied().unwrap_or(0.0))).collect();
    PartTimes {
        id,
        title,
        size,
        sizes: sizes.to_vec(),
        pass_ms: passes.iter().map(|pass| ms(pass.us)).collect(),
        parts_ms: parts.iter().map(of_part).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_go_to_the_last_and_grow_by_a_share() {
        let found = sizes(1, 64);
        assert_eq!(found[..16], (1..=16).collect::<Vec<u64>>());
        assert_eq!((found[found.len() - 2], found[found.len() - 1]), (60, 64));
        assert!(sizes(16, 32_768).len() < 100);
    }
}
