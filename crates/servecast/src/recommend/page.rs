//! What the page of an answer needs beside it.

use serde_json::{Map, Value, json};
use servecast_recommend::{Recommendation, RecommendationContext, render_recommendation_page};

use super::output::{Growth, SHOWN, places};
use super::{Question, start};
use crate::resolved::absolute;

/// The page of an answer.
pub fn page(question: &Question, answer: &Recommendation, growths: &[Growth]) -> String {
    render_recommendation_page(
        answer,
        &RecommendationContext {
            common: common(question, answer),
            start: growths.iter().map(|growth| scripts(question, growth)).collect(),
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
