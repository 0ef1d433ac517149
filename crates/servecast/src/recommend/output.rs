//! What a search says: the answer, a table, CSV, and the settings of the best.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;
use servecast_cluster::LoadMode;
use servecast_recommend::{
    Alternative, Cost, CutOffEntry, Entry, Figures, Goal, Headroom, Interval, LoadAnswer, MOST_OTHERS,
    Outcome, OverSeeds, Place, Recommendation, Search, Sure, Verdict, WorkloadFigures,
};
use servecast_report::{Cells, SchemaVersion, Slo, SloOutcome, TableOptions, render_cells, render_overload};

use super::simulator::{hash, is_one, object, plan};
use super::space::{Limits, Space};
use super::{LEADERS, Prepared, Question, start};
use crate::plan::Plan;
use crate::resolved::resolved;
use servecast_config::error::Failure;

/// Deployments that are shown.
pub(super) const SHOWN: usize = 10;

/// Hours of a month: 365.25 · 24 / 12.
const HOURS_A_MONTH: f64 = 730.5;

/// What is known under one load.
pub struct Growth {
    /// Of the load.
    pub factor: f64,
    /// The search, and what came of every deployment.
    pub search: Search,
    /// How much more load the first ones take, by their places among the candidates.
    pub headrooms: Vec<(usize, Headroom)>,
    /// What is first under other iteration times, where that is known.
    pub sureness: Option<Sureness>,
    /// What the first ones come to under synthetic loads of other seeds.
    pub seeds: Vec<(usize, OverSeeds)>,
}

/// What is first if iterations take more or less.
pub struct Sureness {
    /// How much more or less: a share.
    pub error: f64,
    /// The first as things are.
    pub best: usize,
    /// Whether it keeps its targets if they take more.
    pub first_keeps: bool,
    /// The first one if they take more, if any keeps its targets.
    pub if_slower: Option<usize>,
    /// The first one if they take less.
    pub if_faster: Option<usize>,
}

/// The whole answer, as programs read it.
pub(super) fn answer(prepared: &Prepared, growths: &[Growth]) -> Recommendation {
    let Prepared { question, first, stats, workload, .. } = prepared;
    let of_best = plan_of_best(question, growths);
    let timed = of_best.as_ref().unwrap_or(first);
    Recommendation {
        schema_version: SchemaVersion::V1,
        servecast_version: env!("CARGO_PKG_VERSION").to_owned(),
        workload_name: first.source.name(),
        workload_hash: hash(workload.fingerprint()),
        workload: WorkloadFigures {
            requests: stats.requests,
            span_ms: (first.mode == LoadMode::OpenLoop).then_some(stats.span_ms),
            mean_input_tokens: stats.input_tokens.mean,
            mean_output_tokens: stats.output_tokens.mean,
        },
        given: question.given(),
        slo: question.slo.iter().map(Slo::to_string).collect(),
        objective: question.goals.clone(),
        max_gpus: question.limits.max_gpus,
        prices: question.limits.prices.clone(),
        latency_source: timed.latency_source().to_owned(),
        latency_error: timed.latency_error().clone(),
        loads: growths.iter().map(|growth| load_answer(question, growth)).collect(),
    }
}

/// The plan of the first place, from which iteration times are told, if there is one.
fn plan_of_best(question: &Question, growths: &[Growth]) -> Option<Plan> {
    let (growth, index) = best(growths)?;
    plan(&question.layers, &growth.search.candidates[index].settings, 1.0).ok()
}

fn load_answer(question: &Question, growth: &Growth) -> LoadAnswer {
    let search = &growth.search;
    let order = order(&question.goals, search);
    let places = places(&question.goals, search);
    let settings = |index: usize| object(&search.candidates[index].settings);
    let of_place = |place: &Place| Entry {
        same: place.same.iter().copied().map(settings).collect(),
        ..entry(growth, place.first)
    };
    let entries = |order: &[usize]| order.iter().map(|&index| entry(growth, index)).collect();
    let alternative = |index: usize| {
        let candidate = &search.candidates[index];
        Alternative {
            deployment: candidate.name.clone(),
            gpus: candidate.gpus,
            settings: object(&candidate.settings),
        }
    };
    let sure = growth.sureness.as_ref().map(|sureness| Sure {
        iteration_time_error: sureness.error,
        first_keeps_if_slower: sureness.first_keeps,
        if_slower: sureness.if_slower.map(alternative),
        if_faster: sureness.if_faster.map(alternative),
        first_stays: [sureness.if_slower, sureness.if_faster] == [Some(sureness.best); 2],
    });
    let nearest = if order.is_empty() { search.nearest() } else { Vec::new() };
    let shown: BTreeSet<usize> = order.iter().chain(&nearest).copied().collect();
    let others = search.simulated().into_iter().filter(|index| !shown.contains(index));
    let others: Vec<usize> = others.take(MOST_OTHERS).collect();
    let furthest = search.furthest().into_iter().take(MOST_OTHERS);
    LoadAnswer {
        factor: growth.factor,
        tally: search.tally(),
        refused: refusals(search),
        ranking: places.iter().map(of_place).collect(),
        nearest: entries(&nearest),
        others: entries(&others),
        cut_off: furthest.filter_map(|index| cut_off(search, index)).collect(),
        sure,
    }
}

fn order(goals: &[Goal], search: &Search) -> Vec<usize> {
    match goals {
        [first, second] => search.pareto(*first, *second),
        _ => search.ranking(),
    }
}

/// The places of a search, the best first.
pub(super) fn places(goals: &[Goal], search: &Search) -> Vec<Place> {
    search.places(&order(goals, search), goals.contains(&Goal::Headroom))
}

fn entry(growth: &Growth, index: usize) -> Entry {
    let candidate = &growth.search.candidates[index];
    let figures = growth.search.figures(index).expect("who is shown ran").clone();
    let headroom = growth.headrooms.iter().find(|(known, _)| *known == index).map(|(_, found)| found.clone());
    Entry {
        deployment: candidate.name.clone(),
        settings: object(&candidate.settings),
        gpus: candidate.gpus,
        same: Vec::new(),
        cost: candidate.price_per_hour.map(|price| cost(price, &figures)),
        figures,
        headroom,
        over_seeds: growth.seeds.iter().find(|(known, _)| *known == index).map(|(_, found)| found.clone()),
    }
}

fn cut_off(search: &Search, index: usize) -> Option<CutOffEntry> {
    let Verdict::Tried(Outcome::CutOff { reason, arrived }) = &search.verdicts[index] else { return None };
    let candidate = &search.candidates[index];
    Some(CutOffEntry {
        deployment: candidate.name.clone(),
        settings: object(&candidate.settings),
        gpus: candidate.gpus,
        cost_per_hour: candidate.price_per_hour,
        reason: reason.clone(),
        arrived: *arrived,
    })
}

fn cost(per_hour: f64, figures: &Figures) -> Cost {
    let total = per_hour * figures.duration_ms / 3.6e6;
    let each = |count: u64, unit: f64| (count > 0).then(|| total / (count as f64 / unit));
    Cost {
        per_hour,
        total,
        per_million_output_tokens: each(figures.output_tokens, 1e6),
        per_million_tokens: each(figures.input_tokens + figures.output_tokens, 1e6),
        per_request: each(figures.requests, 1.0),
        per_month: per_hour * HOURS_A_MONTH,
    }
}

/// Why engines refused settings, each reason with how often.
fn refusals(search: &Search) -> std::collections::BTreeMap<String, u64> {
    let mut reasons = std::collections::BTreeMap::new();
    for verdict in &search.verdicts {
        if let Verdict::Tried(Outcome::Refused(reason)) = verdict {
            *reasons.entry(reason.clone()).or_insert(0) += 1;
        }
    }
    reasons
}

/// The best deployment of the first load.
pub(super) fn best(growths: &[Growth]) -> Option<(&Growth, usize)> {
    let growth = growths.first()?;
    Some((growth, *growth.search.ranking().first()?))
}

/// Files that repeat the runs of the first places.
pub fn settings_of_leaders(question: &Question, growths: &[Growth]) -> Result<Vec<String>, Failure> {
    let Some(growth) = growths.first() else { return Ok(Vec::new()) };
    let leaders = places(&question.goals, &growth.search).into_iter().take(LEADERS);
    let text = |place: Place| {
        let plan = plan(&question.layers, &growth.search.candidates[place.first].settings, 1.0)?;
        let workload = plan.source.load(plan.load, plan.block_size, &plan.layers)?;
        resolved(&plan, &workload.notes)
    };
    leaders.map(text).collect()
}

/// The answer, for people.
pub fn table(
    question: &Question,
    answer: &Recommendation,
    growths: &[Growth],
    options: TableOptions,
) -> String {
    let loads = answer.loads.iter().zip(growths);
    loads.map(|(load, growth)| text(question, answer, load, growth, options)).collect()
}

/// The answer for one load, for people.
fn text(
    question: &Question,
    answer: &Recommendation,
    load: &LoadAnswer,
    growth: &Growth,
    options: TableOptions,
) -> String {
    let mut text = String::new();
    let shown = if load.ranking.is_empty() { &load.nearest } else { &load.ranking };
    let of_load =
        if is_one(load.factor) { String::new() } else { format!(", {} times the load", load.factor) };
    let goals: Vec<&str> = question.goals.iter().map(|goal| goal.in_words()).collect();
    let title = if load.ranking.is_empty() {
        format!("servecast | What comes nearest{of_load}")
    } else {
        format!("servecast | Recommendation: {}{of_load}", goals.join(" and "))
    };
    if !shown.is_empty() {
        text += &render_cells(&title, &cells(answer, shown), options);
    }
    if shown.len() > SHOWN {
        let _ =
            writeln!(text, "… and {} more, with --format json, --csv or --output-dir", shown.len() - SHOWN);
    }
    let tally = load.tally;
    let _ = writeln!(
        text,
        "{} deployments: {} simulated ({} of them cut off when a target was lost), {} keep all targets; {} proved to be no \
         better without a run, {} refused{}",
        tally.candidates,
        tally.simulated,
        tally.cut_off,
        tally.met,
        tally.proved_worse,
        tally.refused,
        if tally.not_reached > 0 { format!(", {} not reached", tally.not_reached) } else { String::new() }
    );
    for (reason, times) in &load.refused {
        let _ = writeln!(text, "  refused {times} times: {}", reason.lines().next().unwrap_or_default());
    }
    if let Some(overload) = load.ranking.first().and_then(|best| best.figures.overload.as_ref()) {
        let _ = writeln!(text, "The first: {}", render_overload(overload));
    }
    for (index, headroom) in growth.headrooms.iter().filter(|(_, headroom)| !headroom.is_monotone) {
        let name = &growth.search.candidates[*index].name;
        let _ = writeln!(
            text,
            "{name}: targets are missed at {} times the load, yet kept at a larger one",
            headroom.missed_at.unwrap_or(0.0)
        );
    }
    let _ = writeln!(text, "Iteration times: {}", answer.latency_source);
    text += &load.sure.as_ref().map(how_sure).unwrap_or_default();
    text += &load.ranking.first().and_then(over_seeds).unwrap_or_default();
    if let Some(best) = load.ranking.first() {
        text += "To start the first:\n";
        let candidate = growth.search.candidates.iter().find(|candidate| candidate.name == best.deployment);
        for line in candidate.map(|candidate| start::script(question, candidate)).unwrap_or_default().lines()
        {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

/// How far the figures of the first depend on the seed of a synthetic load.
fn over_seeds(first: &Entry) -> Option<String> {
    let OverSeeds { seeds, met, targets } = first.over_seeds.as_ref()?;
    let mut text = format!("Over {} seeds of the load, the first keeps all targets with {met}", seeds.len());
    for (slo, interval) in first.figures.slo.iter().zip(targets) {
        let Some(Interval { mean, low, high }) = interval else { continue };
        let shown = |value: &f64| if is_share(slo) { value * 100.0 } else { *value };
        let unit = if is_share(slo) { "%" } else { "ms" };
        let (mean, low, high) = (shown(mean), shown(low), shown(high));
        let _ = write!(text, "; {}: {mean:.1} {unit} (95 % interval {low:.1} to {high:.1})", slo.objective);
    }
    Some(text + "\n")
}

fn is_share(slo: &SloOutcome) -> bool {
    slo.objective.starts_with("goodput")
}

fn how_sure(sure: &Sure) -> String {
    let percent = sure.iteration_time_error * 100.0;
    let first = |found: &Option<Alternative>| match found {
        Some(found) => format!("{} ({} GPUs)", found.deployment, found.gpus),
        None => "none keeps its targets".to_owned(),
    };
    let head =
        format!("How sure: nine of ten measured runs are within {percent:.0} % of the times used here.");
    if sure.first_stays {
        return format!(
            "{head} The first place is the same if iterations take {percent:.0} % more or less.\n"
        );
    }
    let kept = if sure.first_keeps_if_slower { "keeps" } else { "misses" };
    format!(
        "{head} The first place depends on it:\n  {percent:.0} % more: {}; the first above {kept} its targets\n  \
         {percent:.0} % less: {}\n  A measurement settles it: `vllm bench serve` on the GPUs, then `servecast calibrate`\n",
        first(&sure.if_slower),
        first(&sure.if_faster)
    )
}

/// The table of some deployments.
fn cells(answer: &Recommendation, shown: &[Entry]) -> Cells {
    let has_cost = shown.iter().any(|entry| entry.cost.is_some());
    let has_headroom = shown.iter().any(|entry| entry.headroom.is_some());
    let mut headers = vec![String::new(), "Deployment".to_owned(), "GPUs".to_owned()];
    headers.extend(answer.slo.iter().cloned());
    if has_headroom {
        headers.push("Headroom".to_owned());
    }
    if has_cost {
        headers.extend(["Cost\n(an hour)".to_owned(), "Cost (1M\noutput)".to_owned()]);
    }
    let rows = shown.iter().take(SHOWN).enumerate().map(|(place, entry)| {
        let mut row = vec![(place + 1).to_string(), entry.title(), entry.gpus.to_string()];
        row.extend(entry.figures.slo.iter().map(|slo| {
            let mark = if slo.met { '✓' } else { '✗' };
            match (slo.value, slo.margin) {
                (Some(value), Some(_)) if is_share(slo) => format!("{mark} {:.2} %", value * 100.0),
                (Some(value), Some(margin)) => format!("{mark} {value:.1} ms ({:+.0} %)", -margin * 100.0),
                _ => format!("{mark} infinite"),
            }
        }));
        if has_headroom {
            row.push(entry.headroom.as_ref().map_or_else(String::new, |headroom| {
                let least = if headroom.missed_at.is_none() { "≥ " } else { "" };
                format!("{least}{:.2} x", headroom.factor)
            }));
        }
        if has_cost {
            let cost = entry.cost.as_ref();
            row.push(cost.map_or_else(String::new, |cost| format!("{:.2}", cost.per_hour)));
            row.push(
                cost.and_then(|cost| cost.per_million_output_tokens)
                    .map_or_else(String::new, |cost| format!("{cost:.2}")),
            );
        }
        row
    });
    Cells { left: 2, rows: rows.collect(), headers }
}

/// The answer as CSV: a line a deployment.
///
/// # Panics
/// Never: settings are plain data.
pub fn csv(answer: &Recommendation) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut text = "load,rank,deployment,gpus,met,least_margin,headroom,cost_per_hour,cost,cost_per_million_output_tokens,settings".to_owned();
    for slo in &answer.slo {
        let _ = write!(text, ",{}", quoted(slo));
    }
    text.push('\n');
    let number = |value: Option<f64>| {
        value.filter(|value| value.is_finite()).map_or_else(String::new, |value| value.to_string())
    };
    for load in &answer.loads {
        for (place, entry) in load.ranking.iter().chain(&load.nearest).enumerate() {
            let cost = entry.cost.as_ref();
            let settings = serde_json::to_string(&entry.settings).expect("settings are plain data");
            let _ = write!(
                text,
                "{},{},{},{},{},{},{},{},{},{},{}",
                load.factor,
                place + 1,
                quoted(&entry.deployment),
                entry.gpus,
                entry.figures.is_met(),
                number(Some(entry.figures.least_margin())),
                number(entry.headroom.as_ref().map(|headroom| headroom.factor)),
                number(cost.map(|cost| cost.per_hour)),
                number(cost.map(|cost| cost.total)),
                number(cost.and_then(|cost| cost.per_million_output_tokens)),
                quoted(&settings)
            );
            for slo in &entry.figures.slo {
                let _ = write!(text, ",{}", number(slo.value));
            }
            text.push('\n');
        }
    }
    text
}

/// What would be looked at, for people.
pub fn dry_run(space: &Space, limits: &Limits) -> String {
    let mut text_of_space =
        format!("{} deployments of up to {} GPUs\n", space.candidates.len(), limits.max_gpus);
    for dimension in &space.dimensions {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        let choices = dimension.choices.iter().map(|choice| match &choice[..] {
            [(key, value)] if *key == dimension.name => text(value),
            several => several
                .iter()
                .map(|(key, value)| format!("{key} {}", text(value)))
                .collect::<Vec<_>>()
                .join(" "),
        });
        let _ = writeln!(text_of_space, "  {}: {}", dimension.name, choices.collect::<Vec<_>>().join(", "));
    }
    let count = |key: &str| {
        space
            .candidates
            .iter()
            .filter(|candidate| candidate.settings.iter().any(|(known, _)| known == key))
            .count()
    };
    let _ = writeln!(text_of_space, "  aggregated: {}", count("num_workers"));
    let _ = writeln!(text_of_space, "  prefill and decode: {}", count("num_prefill_workers"));
    let mut by_gpus = std::collections::BTreeMap::<u32, u64>::new();
    for candidate in &space.candidates {
        *by_gpus.entry(candidate.gpus).or_default() += 1;
    }
    let by_gpus: Vec<String> = by_gpus.iter().map(|(gpus, count)| format!("{gpus}: {count}")).collect();
    let _ = writeln!(text_of_space, "  by GPUs: {}", by_gpus.join(", "));
    text_of_space
}
