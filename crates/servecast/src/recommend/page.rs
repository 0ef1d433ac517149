//! What the page of an answer needs beside it.

use serde_json::{Map, Value, json};
use servecast_recommend::{OverTime, Recommendation, RecommendationContext, render_recommendation_page};
use servecast_report::Curves;

use super::output::{Growth, SHOWN, places};
use super::simulator::Trial;
use super::{LEADERS, Prepared, Question, Watch, start};
use crate::resolved::absolute;

/// The page of an answer; for it the first deployments are run once more, to see how they go over time,; `watch` hears
/// of each of these runs, and may stop them.
pub fn page(prepared: &Prepared, answer: &Recommendation, growths: &[Growth], watch: &dyn Watch) -> String {
    let question = &prepared.question;
    render_recommendation_page(
        answer,
        &RecommendationContext {
            common: common(question, answer),
            seed: prepared.first.seed(),
            start: growths.iter().map(|growth| scripts(question, growth)).collect(),
            over_time: growths.iter().map(|growth| over_time(prepared, growth, watch)).collect(),
        },
    )
}

/// The settings of all deployments, from wherever their run is repeated.
fn common(question: &Question, answer: &Recommendation) -> Map<String, Value> {
    let mut common: Map<String, Value> = answer.given.clone().into_iter().collect();
    if let Some(trace) = &question.config.trace.trace_file {
        common.insert("trace_file".to_owned(), json!(absolute(trace)));
    }
    common.insert("slo".to_owned(), json!(answer.slo));
    common
}

/// How the first of a ranking are started.
fn scripts(question: &Question, growth: &Growth) -> Vec<String> {
    let first = places(&question.goals, &growth.search).into_iter().take(SHOWN);
    first.map(|place| start::script(question, &growth.search.candidates[place.first])).collect()
}

/// How the first of a ranking go over time, or those that come nearest.
fn over_time(prepared: &Prepared, growth: &Growth, watch: &dyn Watch) -> Vec<OverTime> {
    let places = places(&prepared.question.goals, &growth.search);
    let firsts: Vec<usize> = places.into_iter().map(|place| place.first).collect();
    let shown = if firsts.is_empty() { growth.search.nearest() } else { firsts };
    let one = |index: usize| {
        let candidate = &growth.search.candidates[index];
        let settings = candidate.settings.clone();
        let trial = Trial { settings, factor: growth.factor, slowdown: 1.0, to_the_end: true };
        let curves = prepared.simulator.curves(&trial, Curves::bins(LEADERS), &|| watch.is_stopped());
        watch.ran();
        OverTime::new(candidate.name.clone(), curves)
    };
    shown.into_iter().take(LEADERS).map(one).collect()
}
