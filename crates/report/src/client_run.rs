//! Runs of real requests, as the client that sent them measured them, beside those of simulated ones.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::Serialize;

use crate::differences::{NamedFigures, RunDifference};
use crate::paired::{PairedChange, RequestFigures, changes_of_pairs};
use crate::runs_page::ShownOfRun;
use crate::stats::Stats;

/// What is known of a run that a client measured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct ClientRun {
    /// What the file is, such as ``a result of `vllm bench serve --save-detailed` ``.
    pub source: String,
    /// What has to be known of its figures, in sentences.
    pub notes: Vec<String>,
}

/// A request that a client measured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClientRequest {
    /// Its times and lengths.
    pub figures: RequestFigures,
    /// Times in ms between what came and what came next, tokens or chunks of several; empty if they are not known.
    pub gaps_ms: Vec<f64>,
}

impl ClientRun {
    /// A run of which a file of this kind is.
    pub fn new(source: impl Into<String>) -> Self {
        Self { source: source.into(), notes: Vec::new() }
    }
}

/// The figures of a run that a client measured: those of the requests that were served, over as many as have them, under
/// the keys that a report has for them. What the client did not measure has no key.
///
/// A run takes from its first request to its last token, as a simulated one does, or, where times are not known, as long as
/// the client says.
pub fn figures_of_client(
    name: impl Into<String>,
    mut run: ClientRun,
    requests: &[ClientRequest],
    failed: u64,
    duration_ms: Option<f64>,
) -> NamedFigures {
    let mut figures = BTreeMap::new();
    let mut add = |key: &str, value: f64| {
        figures.insert(key.to_owned(), Some(value));
    };
    let tokens =
        |of: fn(&RequestFigures) -> u32| requests.iter().map(|one| f64::from(of(&one.figures))).sum();
    let (input, output): (f64, f64) = (tokens(|one| one.input_length), tokens(|one| one.output_length));
    let completed = requests.len() as f64;
    add("num_requests", completed + failed as f64);
    add("completed_requests", completed);
    add("total_input_tokens", input);
    add("total_output_tokens", output);
    let measured = duration_of(requests);
    if measured.is_none() && duration_ms.is_some() {
        run.notes
            .push("when requests were sent is not known: the duration is what the client says".to_owned());
    }
    if let Some(ms) = measured.or(duration_ms).filter(|ms| *ms > 0.0) {
        add("duration_ms", ms);
        for (key, count) in [
            ("request_throughput_rps", completed),
            ("input_throughput_tok_s", input),
            ("output_throughput_tok_s", output),
            ("total_throughput_tok_s", input + output),
        ] {
            add(key, count / ms * 1e3);
        }
    }
    for (key, samples) in latencies(requests, &mut run.notes) {
        let stats = Stats::of(&samples).map(Stats::to_array);
        for ((statistic, _), value) in Stats::NAMES.into_iter().zip(stats.into_iter().flatten()) {
            add(&format!("{statistic}_{key}"), value);
        }
    }
    if failed > 0 {
        run.notes.push(format!("{failed} of its requests failed, and are in none of its latencies"));
    }
    NamedFigures {
        name: name.into(),
        figures,
        workload: None,
        measured: Some(run),
        settings: None,
        shown: ShownOfRun::default(),
    }
}

/// From the first request to the last token, if the times of all requests are known.
fn duration_of(requests: &[ClientRequest]) -> Option<f64> {
    let mut span: Option<(f64, f64)> = None;
    for ClientRequest { figures, .. } in requests {
        let sent = figures.arrival_ms?;
        let ended = sent + figures.e2e_latency_ms?;
        span = Some(span.map_or((sent, ended), |(first, last)| (first.min(sent), last.max(ended))));
    }
    span.map(|(first, last)| last - first)
}

/// The samples of latencies by key, and notes on those that only some requests have.
fn latencies(requests: &[ClientRequest], notes: &mut Vec<String>) -> [(&'static str, Vec<f64>); 4] {
    let of = |of: fn(&RequestFigures) -> Option<f64>| -> Vec<f64> {
        requests.iter().filter_map(|one| of(&one.figures)).collect()
    };
    let (ttft, tpot, e2e) = (of(|one| one.ttft_ms), of(|one| one.tpot_ms), of(|one| one.e2e_latency_ms));
    let several: Vec<_> = requests.iter().filter(|one| one.figures.output_length > 1).collect();
    let with_gaps = several.iter().filter(|one| !one.gaps_ms.is_empty()).count();
    let counts = [
        ("TTFT", ttft.len(), requests.len()),
        ("TPOT", tpot.len(), several.len()),
        ("ITL", with_gaps, several.len()),
        ("E2E latency", e2e.len(), requests.len()),
    ];
    for (name, known, all) in counts.into_iter().filter(|(_, known, all)| known < all) {
        notes.push(match known {
            0 => format!("it has no {name}"),
            _ => format!("{name} is over {known} of {all} requests: of the others it is not known"),
        });
    }
    let by_chunk = |one: &&&ClientRequest| {
        !one.gaps_ms.is_empty() && one.gaps_ms.len() + 1 != one.figures.output_length as usize
    };
    let chunked = several.iter().filter(by_chunk).count();
    if chunked > 0 {
        notes.push(format!(
            "ITL is between chunks as they came: in {chunked} of {with_gaps} requests they are not one for each token"
        ));
    }
    let gaps = several.iter().flat_map(|one| one.gaps_ms.iter().copied()).collect();
    [("ttft_ms", ttft), ("tpot_ms", tpot), ("itl_ms", gaps), ("e2e_latency_ms", e2e)]
}

/// Requests of two runs that have the same lengths, one by one.
#[derive(Debug, Clone)]
pub struct MatchedRequests<'a> {
    pairs: Vec<(&'a RequestFigures, &'a RequestFigures)>,
    by_line: bool,
}

/// Matches the requests of two runs, one of which a client measured: in the order in which they were sent, or by the line
/// of their file where a simulated run has later turns, which follow its own times.
///
/// # Errors
/// They are not the same, and in what.
pub fn matched_requests<'a>(
    baseline: &'a [RequestFigures],
    other: &'a [RequestFigures],
) -> Result<MatchedRequests<'a>, String> {
    if baseline.len() != other.len() {
        return Err(format!("they are {} and {}", baseline.len(), other.len()));
    }
    let by_line = [baseline, other].iter().any(|run| run.iter().any(|request| request.turn > 0));
    let pairs: Vec<_> = if by_line {
        let lines: FxHashMap<u64, &RequestFigures> =
            baseline.iter().map(|request| (request.line, request)).collect();
        let twin = |request: &'a RequestFigures| {
            let twin = lines.get(&request.line).filter(|_| lines.len() == baseline.len());
            twin.map(|twin| (*twin, request)).ok_or_else(|| {
                "with later turns of sessions, requests are matched by the lines of one file, and these are of two"
                    .to_owned()
            })
        };
        other.iter().map(twin).collect::<Result<_, _>>()?
    } else {
        as_sent(baseline).into_iter().zip(as_sent(other)).collect()
    };
    for (place, (one, other)) in pairs.iter().enumerate() {
        if !is_alike(one, other) {
            let lengths = |one: &RequestFigures| format!("{} and {}", one.input_length, output_length(one));
            let which =
                if by_line { format!("line {}", other.line) } else { format!("number {}", place + 1) };
            return Err(format!(
                "{which} has {} tokens of prompt and output in one, {} in the other",
                lengths(one),
                lengths(other)
            ));
        }
    }
    Ok(MatchedRequests { pairs, by_line })
}

/// Output tokens that a request got, or asked for if it was not served.
fn output_length(request: &RequestFigures) -> u32 {
    if request.status == "finished" { request.output_length } else { request.requested_output_length }
}

fn is_alike(one: &RequestFigures, other: &RequestFigures) -> bool {
    one.input_length == other.input_length && output_length(one) == output_length(other)
}

/// Requests in the order in which they were sent; that of their list if times are not known.
fn as_sent(requests: &[RequestFigures]) -> Vec<&RequestFigures> {
    let mut sorted: Vec<_> = requests.iter().collect();
    if requests.iter().all(|request| request.arrival_ms.is_some()) {
        let key = |request: &RequestFigures| request.arrival_ms.unwrap_or(f64::INFINITY);
        sorted.sort_by(|one, other| key(one).total_cmp(&key(other)).then(one.line.cmp(&other.line)));
    }
    sorted
}

/// How far latencies are off, request by request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AbsoluteError {
    /// `ttft`, `tpot` or `e2e`.
    pub latency: &'static str,
    /// A share; absent without a pair.
    pub mean: Option<f64>,
    /// Pairs whose latency in the baseline is less than a nanosecond, of which nothing is a share.
    pub left_out: usize,
}

/// A nanosecond.
const LEAST_MS: f64 = 1e-6;

impl MatchedRequests<'_> {
    /// How latencies differ over the pairs.
    pub fn changes(&self, seed: u64) -> Vec<PairedChange> {
        changes_of_pairs(&self.pairs, seed)
    }

    /// Means over the pairs of how far the other run is off, either way, as shares of the baseline; over the requests that
    /// both served and that have the latency.
    pub fn absolute_errors(&self) -> [AbsoluteError; 3] {
        type Of = fn(&RequestFigures) -> Option<f64>;
        let latencies: [(&'static str, Of); 3] =
            [("ttft", |one| one.ttft_ms), ("tpot", |one| one.tpot_ms), ("e2e", |one| one.e2e_latency_ms)];
        latencies.map(|(latency, of)| {
            let served = self.pairs.iter().filter(|(_, other)| other.status == "finished");
            let pairs: Vec<(f64, f64)> =
                served.filter_map(|(one, other)| Some((of(one)?, of(other)?))).collect();
            let lasting = pairs.iter().filter(|(one, _)| *one >= LEAST_MS);
            let errors: Vec<f64> = lasting.map(|(one, other)| (other / one - 1.0).abs()).collect();
            let mean = (!errors.is_empty()).then(|| errors.iter().sum::<f64>() / errors.len() as f64);
            AbsoluteError { latency, mean, left_out: pairs.len() - errors.len() }
        })
    }

    /// The most ms by which a request was sent earlier or later in one run than in the other, each run's times counted from
    /// its first request; `None` if times are not known.
    pub fn largest_shift_ms(&self) -> Option<f64> {
        let first = |of: fn(&(&RequestFigures, &RequestFigures)) -> Option<f64>| {
            self.pairs.iter().map(of).collect::<Option<Vec<f64>>>()?.into_iter().reduce(f64::min)
        };
        let starts = first(|pair| pair.0.arrival_ms).zip(first(|pair| pair.1.arrival_ms))?;
        let shifts = self.pairs.iter().filter_map(|(one, other)| {
            Some(((other.arrival_ms? - starts.1) - (one.arrival_ms? - starts.0)).abs())
        });
        shifts.reduce(f64::max)
    }

    /// From the first request of the baseline to its last, in ms; `None` if times are not known.
    pub fn span_ms(&self) -> Option<f64> {
        let times = self.pairs.iter().map(|(one, _)| one.arrival_ms).collect::<Option<Vec<f64>>>()?;
        let first = times.iter().copied().reduce(f64::min)?;
        times.into_iter().reduce(f64::max).map(|last| last - first)
    }

    /// How they were matched, in a sentence.
    pub fn sentence(&self) -> String {
        let how =
            if self.by_line { "by the lines of their file" } else { "in the order in which they were sent" };
        format!("the {} requests of both have the same lengths, one by one {how}", self.pairs.len())
    }
}

/// What is to be said of a run that a client measured: a sentence, and one for each note.
pub(crate) fn about_run(name: &str, run: Option<&ClientRun>) -> Vec<String> {
    let Some(run) = run else { return Vec::new() };
    let sentence =
        format!("{name} was measured ({}): settings, targets and workload are not in it", run.source);
    [sentence].into_iter().chain(run.notes.iter().cloned()).collect()
}

/// The same for a terminal.
pub(crate) fn about_run_text(name: &str, run: Option<&ClientRun>) -> String {
    let mut lines = about_run(name, run).into_iter();
    let sentence = lines.next().map(|sentence| sentence + "\n");
    sentence.into_iter().chain(lines.map(|note| format!("  {note}\n"))).collect()
}

/// How the requests of a run are those of the baseline, if a client measured one of the two.
pub(crate) fn about_requests(run: &RunDifference, baseline: &NamedFigures) -> Option<String> {
    Some(format!("{} and {}: {}", baseline.name, run.name, run.requests.as_ref()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: u64, sent_ms: f64, output_length: u32) -> ClientRequest {
        let gaps = output_length.saturating_sub(1);
        ClientRequest {
            figures: RequestFigures {
                line,
                arrival_ms: Some(sent_ms),
                input_length: 100,
                output_length,
                requested_output_length: output_length,
                status: "finished".to_owned(),
                measured: true,
                ttft_ms: Some(50.0),
                tpot_ms: (gaps > 0).then_some(10.0),
                e2e_latency_ms: Some(50.0 + 10.0 * f64::from(gaps)),
                ..RequestFigures::default()
            },
            gaps_ms: vec![10.0; gaps as usize],
        }
    }

    fn figures(requests: &[ClientRequest], failed: u64, duration_ms: Option<f64>) -> NamedFigures {
        figures_of_client("real", ClientRun::new("a result"), requests, failed, duration_ms)
    }

    fn rows(requests: &[ClientRequest]) -> Vec<RequestFigures> {
        requests.iter().map(|request| request.figures.clone()).collect()
    }

    #[test]
    fn figures_are_over_the_requests_that_were_served() {
        let found = figures(&[request(1, 1000.0, 11), request(2, 1500.0, 1)], 1, Some(9e9));
        let expected = [
            ("num_requests", 3.0),
            ("completed_requests", 2.0),
            ("total_input_tokens", 200.0),
            ("total_output_tokens", 12.0),
            // From 1000 to 1550 ms, whatever the client says.
            ("duration_ms", 550.0),
            ("request_throughput_rps", 2.0 / 0.55),
            ("output_throughput_tok_s", 12.0 / 0.55),
            ("mean_ttft_ms", 50.0),
            ("mean_tpot_ms", 10.0),
            ("max_itl_ms", 10.0),
            ("mean_e2e_latency_ms", 100.0),
        ];
        for (key, value) in expected {
            let figure = found.figures[key].unwrap();
            assert!((figure - value).abs() < 1e-9, "{key}: {figure}");
        }
        for key in ["rejected_requests", "mean_queue_time_ms", "total_preemptions"] {
            assert!(!found.figures.contains_key(key), "{key} was not measured");
        }
        assert_eq!(
            found.measured.unwrap().notes,
            ["1 of its requests failed, and are in none of its latencies"]
        );
    }

    #[test]
    fn what_is_not_measured_is_absent_and_said() {
        let mut requests = [request(1, 0.0, 11), request(2, 0.0, 11)];
        requests[0].figures.arrival_ms = None;
        requests[0].figures.ttft_ms = None;
        requests[1].gaps_ms.truncate(5);
        for request in &mut requests {
            request.figures.tpot_ms = None;
        }
        let found = figures(&requests, 0, Some(2000.0));
        assert_eq!(found.figures["request_throughput_rps"], Some(1.0));
        assert!(!found.figures.contains_key("mean_tpot_ms"));
        insta::assert_snapshot!(found.measured.unwrap().notes.join("\n"), @r"
        when requests were sent is not known: the duration is what the client says
        TTFT is over 1 of 2 requests: of the others it is not known
        it has no TPOT
        ITL is between chunks as they came: in 1 of 2 requests they are not one for each token
        ");
        let without = figures(&requests, 0, None);
        assert!(!without.figures.contains_key("duration_ms"), "{without:?}");
        let nobody = figures(&[], 2, None).figures;
        assert_eq!(nobody["completed_requests"], Some(0.0));
        assert!(!nobody.keys().any(|key| key.contains("ttft")), "{nobody:?}");
    }

    #[test]
    fn requests_are_matched_in_the_order_in_which_they_were_sent() {
        // Records are written as requests end.
        let real = rows(&[request(1, 900.0, 7), request(2, 500.0, 9)]);
        let simulated = rows(&[request(1, 0.0, 9), request(2, 400.0, 7)]);
        let matched = matched_requests(&real, &simulated).unwrap();
        assert_eq!((matched.span_ms(), matched.largest_shift_ms()), (Some(400.0), Some(0.0)));
        let changes = matched.changes(1);
        assert_eq!((changes[0].pairs, changes[0].mean_change_ms), (2, 0.0));
        assert_eq!(changes[2].mean_change_ms, 0.0, "the long one beside the long one");
        let mut unknown = real.clone();
        unknown[0].arrival_ms = None;
        let slower = RequestFigures { ttft_ms: Some(60.0), ..simulated[0].clone() };
        let errors = [slower, simulated[1].clone()];
        let errors = matched_requests(&real, &errors).unwrap().absolute_errors();
        assert!((errors[0].mean.unwrap() - 0.1).abs() < 1e-12, "20 % of one of two: {errors:?}");
        assert_eq!(errors[2], AbsoluteError { latency: "e2e", mean: Some(0.0), left_out: 0 });
        let mut at_once = real.clone();
        at_once[0].ttft_ms = Some(0.0);
        let errors = matched_requests(&at_once, &simulated).unwrap().absolute_errors();
        assert_eq!((errors[0].mean, errors[0].left_out), (Some(0.0), 1), "nothing is a share of 0");
        let refused = matched_requests(&unknown, &simulated).unwrap_err();
        assert_eq!(
            refused,
            "number 1 has 100 and 7 tokens of prompt and output in one, 100 and 9 in the other"
        );
        assert_eq!(matched_requests(&real[..1], &simulated).unwrap_err(), "they are 1 and 2");
    }

    #[test]
    fn later_turns_are_matched_by_line() {
        let real = rows(&[request(1, 900.0, 7), request(2, 500.0, 7)]);
        let mut simulated = rows(&[request(2, 0.0, 7), request(1, 400.0, 7)]);
        simulated[1].turn = 1;
        simulated[1].ttft_ms = Some(60.0);
        let matched = matched_requests(&real, &simulated).unwrap();
        assert!(matched.sentence().ends_with("by the lines of their file"), "{}", matched.sentence());
        assert_eq!(matched.changes(1)[0].slower, 0.5);
        assert_eq!(matched.largest_shift_ms(), Some(0.0));
        simulated[0].line = 5;
        assert!(matched_requests(&real, &simulated).unwrap_err().contains("of two"));
    }

    #[test]
    fn a_request_that_was_not_served_matches_by_what_it_asked_for() {
        let real = rows(&[request(1, 0.0, 7), request(2, 1.0, 7)]);
        let mut simulated = real.clone();
        simulated[1].status = "rejected".to_owned();
        simulated[1].output_length = 0;
        assert_eq!(matched_requests(&real, &simulated).unwrap().changes(1)[0].pairs, 1);
    }
}
