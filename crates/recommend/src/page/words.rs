//! Question and answer in sentences.

use serde_json::Value;
use servecast_report::{grouped, render_slo};

use crate::{Entry, LoadAnswer, Recommendation};

/// What is looked for, in a line.
pub(super) fn title(answer: &Recommendation) -> String {
    let asked = asked(answer);
    if asked.is_empty() { answer.workload_name.clone() } else { format!("{asked}: {}", answer.workload_name) }
}

/// The model and its GPUs, as far as they are given.
fn asked(answer: &Recommendation) -> String {
    let text = |key: &str| answer.given.get(key).and_then(Value::as_str);
    let on = |gpu: &str| format!(" on {}", gpu.replace(',', " or "));
    let engine = text("engine_preset").or_else(|| text("engine")).map(|engine| format!(" with {engine}"));
    let Some(model) = text("model") else { return String::new() };
    [model.to_owned(), text("gpu").map(on).unwrap_or_default(), engine.unwrap_or_default()].concat()
}

/// What was run, as far as it was given: parts by their names.
pub(super) fn about(answer: &Recommendation, seed: u64) -> Vec<(&'static str, String)> {
    let text = |key: &str| answer.given.get(key).and_then(Value::as_str).map(str::to_owned);
    let parts = [
        ("Model", text("model")),
        ("GPU", text("gpu").map(|gpu| gpu.replace(',', " or "))),
        ("Engine", text("engine_preset").or_else(|| text("engine"))),
        ("Workload", Some(format!("{}, hash {}", answer.workload_name, answer.workload_hash))),
        ("Seed", Some(seed.to_string())),
        ("servecast", Some(answer.servecast_version.clone())),
    ];
    parts.into_iter().filter_map(|(name, text)| Some((name, text?))).collect()
}

/// The question in sentences.
pub(super) fn question(answer: &Recommendation) -> Vec<String> {
    let targets = answer.slo.join(" and ");
    let goals: Vec<&str> = answer.objective.iter().map(|goal| goal.in_words()).collect();
    // No other one beats any of a frontier in both.
    let (deployments, best) = match &goals[..] {
        [first, second] => ("Which deployments", format!("keep {targets}, from {first} to {second}")),
        _ => ("Which deployment", format!("keeps {targets}, and has {}", goals.concat())),
    };
    let of = Some(asked(answer)).filter(|asked| !asked.is_empty()).map(|asked| format!(" of {asked}"));
    let of = of.unwrap_or_default();
    let all = &answer.workload;
    let rate = all.span_ms.filter(|span| *span > 0.0).map(|span| {
        let per_second = all.requests as f64 / (span / 1e3);
        let (span, unit) = if span < 120e3 { (span / 1e3, "seconds") } else { (span / 6e4, "minutes") };
        format!(" in {} {unit}, {} a second", grouped(span, 1), grouped(per_second, 2))
    });
    let sessions = answer.given.get("replay_concurrency").and_then(Value::as_u64);
    let sessions = sessions.map(|sessions| format!(", {sessions} sessions at a time"));
    let prices = answer.prices.iter().map(|price| format!("{}: {:.2} an hour", price.gpu, price.per_hour));
    let prices: Vec<String> = prices.collect();
    let prices = if prices.is_empty() { String::new() } else { format!(" Prices: {}.", prices.join(", ")) };
    vec![
        format!("{deployments}{of} {best}?"),
        format!(
            "The load: {}, {} requests{}{}; on average {} prompt and {} output tokens. Deployments of up to {} GPUs.{prices}",
            answer.workload_name,
            grouped(all.requests as f64, 0),
            rate.unwrap_or_default(),
            sessions.unwrap_or_default(),
            grouped(all.mean_input_tokens, 0),
            grouped(all.mean_output_tokens, 0),
            answer.max_gpus,
        ),
    ]
}

/// The answer under a load in a sentence.
pub(super) fn sentence(answer: &Recommendation, load: &LoadAnswer) -> String {
    let gpus =
        |entry: &Entry| if entry.gpus == 1 { "1 GPU".to_owned() } else { format!("{} GPUs", entry.gpus) };
    let Some(best) = load.ranking.first() else {
        return match load.nearest.first() {
            Some(nearest) => {
                let missed = nearest.figures.slo.iter().filter(|slo| !slo.met).map(render_slo);
                let missed: Vec<String> = missed.collect();
                format!(
                    "None keeps all targets. {} ({}) comes nearest: {}",
                    nearest.deployment,
                    gpus(nearest),
                    missed.join("; ")
                )
            }
            None if load.tally.simulated > 0 => {
                "None keeps all targets: all lost one before their end.".to_owned()
            }
            None => "None could be simulated.".to_owned(),
        };
    };
    let cost = best.cost.as_ref().map(|cost| format!(", {} an hour", grouped(cost.per_hour, 2)));
    let headroom = best
        .headroom
        .as_ref()
        .map(|headroom| format!("; keeps its targets up to {} times this load", grouped(headroom.factor, 2)));
    let several = match load.ranking.len() {
        number if answer.objective.len() > 1 && number > 1 => {
            format!("One of {number} that no other one beats in both: ")
        }
        _ => String::new(),
    };
    [
        several,
        best.deployment.clone(),
        ": ".to_owned(),
        gpus(best),
        cost.unwrap_or_default(),
        headroom.unwrap_or_default(),
    ]
    .concat()
}
