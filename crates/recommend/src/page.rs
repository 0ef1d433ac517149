//! What the page of an answer shows: the question in words, every deployment as a point, and the settings that repeat
//! it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use servecast_report::{Curves, ErrorBar, Slo, render_overload, render_recommendation};

use self::lines::{Lines, lines, of_factor, own_lines};
use self::words::{about, question, sentence, title};
use crate::{CutOffEntry, Entry, Headroom, LoadAnswer, Recommendation, Sure, Tally};

mod lines;
mod words;

/// Most deployments on a page, which must stay small.
const MOST_POINTS: usize = 1500;

/// What a page needs beside the answer.
#[derive(Debug, Clone, Default)]
pub struct RecommendationContext {
    /// The settings that all deployments have in common, files and targets included.
    pub common: Map<String, Value>,
    /// Root of all random numbers.
    pub seed: u64,
    /// For each load, the command lines that start the first deployments of its ranking.
    pub start: Vec<Vec<String>>,
    /// For each load, how the first of its ranking go over time.
    pub over_time: Vec<Vec<OverTime>>,
}

/// How a deployment goes over time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OverTime {
    /// What it is called.
    pub name: String,
    /// Its curves, if there are any.
    pub curves: Option<Curves>,
    /// Why there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl OverTime {
    /// What came of the run of a deployment, or why there is nothing to see.
    pub fn new(name: impl Into<String>, curves: Result<Curves, String>) -> Self {
        let (curves, problem) = match curves {
            Ok(curves) => (Some(curves), None),
            Err(problem) => (None, Some(problem)),
        };
        Self { name: name.into(), curves, problem }
    }
}

/// Renders the page of an answer, which needs no other file.
pub fn render_recommendation_page(answer: &Recommendation, context: &RecommendationContext) -> String {
    render_recommendation(&page(answer, context))
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    title: String,
    /// What was run: parts by their names.
    about: Vec<(&'static str, String)>,
    /// What was asked, in sentences.
    question: Vec<String>,
    version: &'a str,
    targets: Vec<Target>,
    latency_source: &'a str,
    latency_error: &'a ErrorBar,
    /// By key, as they stand in a TOML file.
    common: Lines,
    loads: Vec<Load<'a>>,
}

#[derive(Debug, Serialize)]
struct Target {
    /// As it was given.
    objective: String,
    /// What it is about, without the limit.
    figure: String,
    /// In ms, or a share.
    limit: f64,
    is_share: bool,
}

#[derive(Debug, Serialize)]
struct Load<'a> {
    factor: f64,
    /// The answer in a sentence.
    answer: String,
    tally: Tally,
    refused: &'a BTreeMap<String, u64>,
    sure: Option<&'a Sure>,
    /// What the factor changes in the common settings.
    settings: Lines,
    /// The best first, then those that ran to the end, then those that were cut off.
    points: Vec<Point<'a>>,
    /// How many more were simulated than are shown.
    left_out: u64,
    /// How the first of them go over time.
    over_time: &'a [OverTime],
}

/// A deployment that was simulated.
#[derive(Debug, Serialize)]
struct Point<'a> {
    name: String,
    gpus: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_hour: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_million_output_tokens: Option<f64>,
    /// Whether all targets are met.
    met: bool,
    /// What became of each target: its figure, whether it is met, and the margin; none if the run was cut off.
    figures: Vec<(Option<f64>, bool, Option<f64>)>,
    /// Why its run was ended, and the share of the requests that had arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<(&'a str, f64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headroom: Option<&'a Headroom>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overload: Option<String>,
    settings: Lines,
    /// The command lines that start it.
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<&'a str>,
}

fn page<'a>(answer: &'a Recommendation, context: &'a RecommendationContext) -> Page<'a> {
    let most = MOST_POINTS / answer.loads.len().max(1);
    let loads = answer.loads.iter().enumerate().map(|(place, load)| {
        let start = context.start.get(place).map_or(&[][..], Vec::as_slice);
        let over_time = context.over_time.get(place).map_or(&[][..], Vec::as_slice);
        Load { over_time, ..shown(answer, load, start, &context.common, most) }
    });
    Page {
        title: title(answer),
        about: about(answer, context.seed),
        question: question(answer),
        version: &answer.servecast_version,
        targets: answer.slo.iter().map(|objective| target(objective)).collect(),
        latency_source: &answer.latency_source,
        latency_error: &answer.latency_error,
        common: lines(&context.common),
        loads: loads.collect(),
    }
}

fn shown<'a>(
    answer: &Recommendation,
    load: &'a LoadAnswer,
    start: &'a [String],
    common: &Map<String, Value>,
    most: usize,
) -> Load<'a> {
    let ranked = load.ranking.iter().enumerate().map(|(place, entry)| Point {
        rank: Some(place + 1),
        start: start.get(place).map(String::as_str),
        ..ran(entry, common)
    });
    let ran = load.nearest.iter().chain(&load.others).map(|entry| ran(entry, common));
    let requests = answer.workload.requests.max(1) as f64;
    let cut_off = load.cut_off.iter().map(|entry| cut_off(entry, requests, common));
    let points: Vec<Point<'_>> = ranked.chain(ran).chain(cut_off).take(most).collect();
    let alike: usize = load.ranking.iter().take(most).map(|entry| entry.same.len()).sum();
    Load {
        factor: load.factor,
        answer: sentence(answer, load),
        tally: load.tally,
        refused: &load.refused,
        sure: load.sure.as_ref(),
        settings: lines(&of_factor(load.factor, common)),
        left_out: load.tally.simulated.saturating_sub((points.len() + alike) as u64),
        points,
        over_time: &[],
    }
}

fn ran<'a>(entry: &'a Entry, common: &Map<String, Value>) -> Point<'a> {
    let cost = entry.cost.as_ref();
    Point {
        name: entry.title(),
        gpus: entry.gpus,
        rank: None,
        per_hour: cost.map(|cost| cost.per_hour),
        per_million_output_tokens: cost.and_then(|cost| cost.per_million_output_tokens),
        met: entry.figures.is_met(),
        figures: entry.figures.slo.iter().map(|slo| (slo.value, slo.met, slo.margin)).collect(),
        lost: None,
        headroom: entry.headroom.as_ref(),
        overload: entry.figures.overload.as_ref().map(render_overload),
        settings: own_lines(&entry.settings, common),
        start: None,
    }
}

fn cut_off<'a>(entry: &'a CutOffEntry, requests: f64, common: &Map<String, Value>) -> Point<'a> {
    Point {
        name: entry.deployment.clone(),
        gpus: entry.gpus,
        rank: None,
        per_hour: entry.cost_per_hour,
        per_million_output_tokens: None,
        met: false,
        figures: Vec::new(),
        lost: Some((&entry.reason, entry.arrived as f64 / requests)),
        headroom: None,
        overload: None,
        settings: own_lines(&entry.settings, common),
        start: None,
    }
}

/// What is asked of a deployment, without the limit of it.
fn target(objective: &str) -> Target {
    let (figure, limit, is_share) = match objective.parse::<Slo>() {
        Ok(Slo::Latency { statistic, limit }) => {
            (format!("{statistic} {}", limit.metric.name().to_uppercase()), limit.ms, false)
        }
        Ok(Slo::Goodput { share, .. }) => ("goodput".to_owned(), share, true),
        Err(_) => (objective.to_owned(), 0.0, false),
    };
    Target { objective: objective.to_owned(), figure, limit, is_share }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use servecast_report::{SchemaVersion, SloOutcome};

    use super::*;
    use crate::{Cost, Figures, Goal, Price, Probe, WorkloadFigures};

    fn slo(value: f64) -> SloOutcome {
        SloOutcome {
            objective: "p95 ttft <= 1s".to_owned(),
            met: value <= 1000.0,
            value: Some(value),
            limit: 1000.0,
            margin: Some((1000.0 - value) / 1000.0),
            samples: 200,
            misses: 1,
            unserved: 0,
        }
    }

    fn entry(workers: u32, ttft: f64) -> Entry {
        let probe =
            |factor: f64, met| Probe { factor, met, values: if met { vec![Some(ttft)] } else { Vec::new() } };
        let is_met = ttft <= 1000.0;
        let tried = vec![probe(1.0, true), probe(2.0, false)];
        Entry {
            deployment: format!("{workers} x 1 GPU"),
            settings: BTreeMap::from([
                ("num_workers".to_owned(), json!(workers)),
                ("engine_args.max_num_seqs".to_owned(), json!(8)),
            ]),
            gpus: workers,
            same: Vec::new(),
            over_seeds: None,
            cost: Some(Cost {
                per_hour: 2.5 * f64::from(workers),
                total: 1.0,
                per_million_output_tokens: Some(4.0),
                per_million_tokens: None,
                per_request: None,
                per_month: 1.0,
            }),
            figures: Figures {
                slo: vec![slo(ttft)],
                duration_ms: 1e6,
                requests: 200,
                good_requests: 199,
                input_tokens: 1,
                output_tokens: 1,
                overload: None,
                headroom: None,
            },
            headroom: is_met.then_some(Headroom {
                factor: 1.0,
                missed_at: Some(2.0),
                is_monotone: true,
                tried,
            }),
        }
    }

    fn load(factor: f64) -> LoadAnswer {
        LoadAnswer {
            factor,
            tally: Tally {
                candidates: 9,
                simulated: 4,
                cut_off: 1,
                met: 1,
                proved_worse: 5,
                ..Tally::default()
            },
            refused: BTreeMap::new(),
            ranking: vec![entry(3, 400.0)],
            nearest: Vec::new(),
            others: vec![entry(2, 1500.0)],
            cut_off: vec![CutOffEntry {
                deployment: "1 x 1 GPU".to_owned(),
                settings: BTreeMap::from([("num_workers".to_owned(), json!(1))]),
                gpus: 1,
                cost_per_hour: Some(2.5),
                reason: "p95 ttft <= 1s: lost".to_owned(),
                arrived: 50,
            }],
            sure: None,
        }
    }

    fn answer(loads: Vec<LoadAnswer>) -> Recommendation {
        let given = [("model", "a/</script>"), ("gpu", "H100-SXM,H200"), ("engine_preset", "vllm-0.33")];
        Recommendation {
            schema_version: SchemaVersion::V1,
            servecast_version: "1.2.3".to_owned(),
            workload_name: "t.csv".to_owned(),
            workload_hash: "00".to_owned(),
            workload: WorkloadFigures {
                requests: 1200,
                span_ms: Some(6e5),
                mean_input_tokens: 1155.2,
                mean_output_tokens: 211.0,
            },
            given: given.map(|(key, value)| (key.to_owned(), json!(value))).into(),
            slo: vec!["p95 ttft <= 1s".to_owned()],
            objective: vec![Goal::Gpus],
            max_gpus: 8,
            prices: vec![Price { gpu: "H100-SXM".to_owned(), per_hour: 2.5 }],
            latency_source: "an estimate".to_owned(),
            latency_error: ErrorBar::unknown("of no GPU"),
            loads,
        }
    }

    fn context(common: &Value) -> RecommendationContext {
        let common = common.as_object().unwrap().clone();
        let start = vec![vec!["vllm serve a\n".to_owned()]];
        RecommendationContext { common, seed: 7, start, ..RecommendationContext::default() }
    }

    fn data(answer: &Recommendation, common: &Value) -> Value {
        let page = render_recommendation_page(answer, &context(common));
        for reference in
            ["src=", "<link", "@import", "url(", "fetch(", "XMLHttpRequest", "/*DATA*/", "/*SCRIPT*/"]
        {
            assert!(!page.contains(reference), "{reference}");
        }
        assert!(!page.contains("a/</script>"));
        let (_, rest) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    /// The file that the page puts together for a point, as its readers see it.
    fn file(data: &Value, load: usize, point: usize) -> toml::Table {
        let load = &data["loads"][load];
        let mut all = data["common"].as_object().unwrap().clone();
        for settings in [&load["settings"], &load["points"][point]["settings"]] {
            all.extend(settings.as_object().unwrap().clone());
        }
        let lines = all.iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", value.as_str()?)));
        toml::from_str(&lines.collect::<String>()).unwrap()
    }

    #[test]
    fn question_and_answer_are_sentences() {
        let found = data(&answer(vec![load(1.0)]), &json!({}));
        assert_eq!(found["title"], "a/</script> on H100-SXM or H200 with vllm-0.33: t.csv");
        assert_eq!(
            found["about"],
            json!([
                ["Model", "a/</script>"],
                ["GPU", "H100-SXM or H200"],
                ["Engine", "vllm-0.33"],
                ["Workload", "t.csv, hash 00"],
                ["Seed", "7"],
                ["servecast", "1.2.3"],
            ])
        );
        assert_eq!(
            found["question"],
            json!([
                "Which deployment of a/</script> on H100-SXM or H200 with vllm-0.33 keeps p95 ttft <= 1s, and has the \
                 fewest GPUs?",
                "The load: t.csv, 1,200 requests in 10.0 minutes, 2.00 a second; on average 1,155 prompt and 211 output \
                 tokens. Deployments of up to 8 GPUs. Prices: H100-SXM: 2.50 an hour.",
            ])
        );
        let of = |answer: &Recommendation| data(answer, &json!({}))["loads"][0]["answer"].clone();
        assert_eq!(
            found["loads"][0]["answer"],
            "3 x 1 GPU: 3 GPUs, 7.50 an hour; keeps its targets up to 1.00 times this load"
        );
        let two = LoadAnswer { ranking: vec![entry(3, 400.0), entry(4, 300.0)], ..load(1.0) };
        let two = Recommendation { objective: vec![Goal::Gpus, Goal::Latency], ..answer(vec![two]) };
        assert!(
            of(&two).as_str().unwrap().starts_with("One of 2 that no other one beats in both: 3 x 1 GPU: ")
        );
        let none = LoadAnswer { ranking: Vec::new(), nearest: vec![entry(1, 1500.0)], ..load(1.0) };
        assert_eq!(
            of(&answer(vec![none.clone()])),
            "None keeps all targets. 1 x 1 GPU (1 GPU) comes nearest: ✗ p95 ttft <= 1s: 1,500.00 ms, 50.0 % above"
        );
        let nothing = LoadAnswer { nearest: Vec::new(), ..none.clone() };
        assert_eq!(of(&answer(vec![nothing])), "None keeps all targets: all lost one before their end.");
        let refused = LoadAnswer { nearest: Vec::new(), tally: Tally::default(), ..none };
        assert_eq!(of(&answer(vec![refused])), "None could be simulated.");
    }

    #[test]
    fn points_are_all_that_was_simulated_the_best_first() {
        let found = data(&answer(vec![load(1.0)]), &json!({}));
        assert_eq!(
            found["targets"],
            json!([{"objective": "p95 ttft <= 1s", "figure": "p95 TTFT", "limit": 1000.0, "is_share": false}])
        );
        let points = found["loads"][0]["points"].as_array().unwrap();
        let told: Vec<_> =
            points.iter().map(|one| (&one["rank"], &one["met"], &one["figures"], &one["lost"])).collect();
        assert_eq!(
            told,
            [
                (&json!(1), &json!(true), &json!([[400.0, true, 0.6]]), &Value::Null),
                (&Value::Null, &json!(false), &json!([[1500.0, false, -0.5]]), &Value::Null),
                // 50 of 1,200 had arrived.
                (&Value::Null, &json!(false), &json!([]), &json!(["p95 ttft <= 1s: lost", 50.0 / 1200.0])),
            ]
        );
        assert_eq!(points[0]["start"], "vllm serve a\n");
        assert_eq!(points[0]["headroom"]["tried"][1], json!({"factor": 2.0, "met": false, "values": []}));
        assert_eq!(found["loads"][0]["left_out"], 1);
        let many = LoadAnswer { cut_off: vec![load(1.0).cut_off[0].clone(); 2000], ..load(1.0) };
        let found = data(&answer(vec![many.clone(), many]), &json!({}));
        let counts: Vec<usize> =
            (0..2).map(|n| found["loads"][n]["points"].as_array().unwrap().len()).collect();
        assert_eq!(counts, [MOST_POINTS / 2; 2]);
        let goodput = target("goodput >= 99% (ttft <= 2s, tpot <= 50ms)");
        assert_eq!((goodput.figure.as_str(), goodput.limit, goodput.is_share), ("goodput", 0.99, true));
    }

    #[test]
    fn settings_repeat_the_run() {
        let odd = "a \"quoted\" \\ path\u{7f}\u{1}\n";
        let common = json!({
            "trace_file": odd, "num_workers": 7, "seed": u64::MAX >> 1, "arrival_speedup_ratio": 2.0,
            "engine_args": {"max_num_seqs": 64, "latency": "linear:1,2,3", "a b": [1, true]}, "nothing": null,
        });
        let found = data(&answer(vec![load(1.0), load(1.5)]), &common);
        let own = file(&found, 0, 0);
        let args =
            toml::Table::try_from(json!({"max_num_seqs": 8, "latency": "linear:1,2,3", "a b": [1, true]}));
        let expected = toml::Table::try_from(json!({
            "trace_file": odd, "num_workers": 3, "seed": u64::MAX >> 1, "arrival_speedup_ratio": 2.0,
            "engine_args": args.unwrap(),
        }));
        assert_eq!(own, expected.unwrap());
        assert_eq!(file(&found, 1, 0)["arrival_speedup_ratio"].as_float(), Some(3.0));
        assert_eq!(file(&found, 0, 2)["engine_args"]["max_num_seqs"].as_integer(), Some(64));
        let closed = data(&answer(vec![load(1.5)]), &json!({"replay_concurrency": 5}));
        assert_eq!(file(&closed, 0, 0)["replay_concurrency"].as_integer(), Some(8));
    }

    #[test]
    fn a_setting_that_is_taken_away_is_not_in_the_file() {
        let mut only = load(1.0);
        only.ranking[0].settings.insert("gpu".to_owned(), Value::Null);
        let found = data(&answer(vec![only]), &json!({"gpu": "H100-SXM", "num_workers": 1}));
        assert!(!file(&found, 0, 0).contains_key("gpu"));
    }
}
