//! Requests that are sent as their trace is read, and whose records nobody keeps.

use std::ops::{ControlFlow, Range};

use proptest::prelude::*;
use serde_json::Value;
use servecast_cluster::{Observer, RouterMode, Simulation, WithTokens};
use servecast_record::{EndedRequest, RequestRecord, RunRecord, TtftBreakdown};
use servecast_report::{
    Sla, StreamedTally, SummaryOptions, Window, summarize, write_request_row, write_request_rows,
};
use servecast_types::{Duration, RequestId, Time};
use servecast_workload::{
    Cut, Load, StreamOptions, TraceForm, TraceRow, TraceStream, TurnStart, Workload, write_mooncake,
};

use crate::properties::cases;
use crate::scenario::{Scenario, any_scenario, deployment, engine, rows, scenario};

/// Records as they are handed out.
#[derive(Default)]
struct HandedOut {
    requests: Vec<(RequestRecord, Option<TtftBreakdown>)>,
    /// How many had been handed out when so many had ended.
    course: Vec<(u64, usize)>,
}

impl Observer for HandedOut {
    fn ended(&mut self, ended: &EndedRequest<'_>) {
        assert_eq!(ended.id.index(), self.requests.len(), "in order of arrival");
        self.requests.push((ended.record.clone(), ended.ttft_breakdown()));
    }

    fn progress(&mut self, _now: Time, ended: u64) -> ControlFlow<()> {
        self.course.push((ended, self.requests.len()));
        ControlFlow::Continue(())
    }
}

/// Rows of which none names a grammar: they are numbered when all are known.
fn without_grammars(sessions: u8, size: Range<usize>) -> impl Strategy<Value = Vec<TraceRow>> {
    rows(sessions, size).prop_map(|mut rows| {
        for row in &mut rows {
            row.grammar = None;
        }
        rows
    })
}

/// What reports are made with.
fn summary(count_rejected: bool) -> SummaryOptions {
    let slo = [
        "mean ttft <= 1s",
        "p90 e2e <= 2s",
        "max tpot < 30ms",
        "p50 itl <= 9ms",
        "goodput > 70% (ttft <= 300ms)",
    ];
    SummaryOptions {
        sla: Sla { ttft_ms: Some(200.0), tpot_ms: Some(12.0), ..Sla::default() },
        slo: slo.iter().map(|text| text.parse().unwrap()).collect(),
        count_rejected,
        ..SummaryOptions::default()
    }
}

/// The report of a streamed run is that of the run which keeps its requests: to the bit, but for percentiles of latencies, where
/// less than a nanosecond is lost as long as there are few, and for the rounding of standard deviations.
fn check_reports(whole: &RunRecord, record: &RunRecord, out: &HandedOut) -> Result<(), TestCaseError> {
    for count_rejected in [false, true] {
        let options = summary(count_rejected);
        let mut tally = StreamedTally::new(&options);
        for (number, (request, _)) in out.requests.iter().enumerate() {
            let id = RequestId(number as u32);
            let ended = EndedRequest { id, record: request, readmitted: &whole.readmitted, tokens: None };
            tally.add(&ended, |_| Ok::<_, ()>(())).unwrap();
        }
        check_report(whole, &tally, record, &options)?;
    }
    Ok(())
}

fn check_report(
    whole: &RunRecord,
    tally: &StreamedTally,
    record: &RunRecord,
    options: &SummaryOptions,
) -> Result<(), TestCaseError> {
    let whole = serde_json::to_value(summarize(whole, options)).unwrap();
    let mut streamed = serde_json::to_value(tally.summarize(record, options)).unwrap();
    let error = streamed.as_object_mut().unwrap().remove("percentile_relative_error");
    prop_assert_eq!(error, Some(Value::from(1.0 / 1024.0)));
    check_same("", &whole, &streamed)
}

fn check_same(key: &str, whole: &Value, streamed: &Value) -> Result<(), TestCaseError> {
    match (whole, streamed) {
        (Value::Object(one), Value::Object(other)) => {
            prop_assert_eq!(one.len(), other.len(), "{}", key);
            one.iter().try_for_each(|(key, value)| check_same(key, value, &other[key]))
        }
        (Value::Array(one), Value::Array(other)) => {
            prop_assert_eq!(one.len(), other.len(), "{}", key);
            one.iter().zip(other).try_for_each(|(one, other)| check_same(key, one, other))
        }
        (Value::Number(one), Value::Number(other))
            if key.ends_with("_ms") || ["value", "margin", "median", "p90", "p95", "p99"].contains(&key) =>
        {
            let (one, other) = (one.as_f64().unwrap(), other.as_f64().unwrap());
            // Of the whole run, where a part is measured, percentiles are named by themselves.
            let names =
                ["ttft_ms", "ttst_ms", "tpot_ms", "e2e_latency_ms", "queue_time_ms", "value", "margin"];
            let is_of_latency = ["median", "p90", "p95", "p99"].contains(&key)
                || names.iter().any(|name| key.ends_with(name));
            let is_exact =
                !is_of_latency || ["mean_", "min_", "max_"].iter().any(|start| key.starts_with(start));
            let error = if is_exact { 0.0 } else { 1e-6 + 1e-9 * one.abs() };
            prop_assert!((one - other).abs() <= error, "{key}: {one} and {other}");
            Ok(())
        }
        _ => {
            prop_assert_eq!(whole, streamed, "{}", key);
            Ok(())
        }
    }
}

/// A scenario in which each row is a session of its own, at a time of its own.
fn of_single_requests(scenario: Scenario) -> Scenario {
    let router_mode = match scenario.router_mode {
        RouterMode::PrefixHash => RouterMode::RoundRobin,
        mode => mode,
    };
    let mut scenario = Scenario { concurrency: None, router_mode, ..scenario };
    for row in &mut scenario.rows {
        (row.session_id, row.delay_ms) = (None, None);
        row.timestamp_ms = row.timestamp_ms.or(Some(17.0));
        // Some end before they have what they asked for.
        row.max_output = (row.line % 3 == 0).then_some(row.output_length as u32 + 7);
    }
    scenario
}

fn run_as_a_whole(scenario: &Scenario, plain: bool) -> RunRecord {
    let load = Load::Open { arrival_speedup_ratio: 1.0 };
    let workload = Workload::from_rows(&scenario.rows, 6, load).unwrap();
    let (topology, options) = deployment(scenario, plain);
    Simulation::new(&topology, workload, &options).unwrap().run(&mut ()).unwrap()
}

/// The same as it is read from a file, whose rows may come so long before one above them.
fn run_streamed(scenario: &Scenario, plain: bool, window_ms: u64) -> (RunRecord, HandedOut) {
    let mut text = Vec::new();
    write_mooncake(&scenario.rows, &mut text).unwrap();
    let options = StreamOptions {
        arrival_speedup_ratio: 1.0,
        max_requests: None,
        sort_window: Duration::from_ns(window_ms * 1_000_000),
    };
    let mut trace = TraceStream::new(&text[..], &TraceForm::default(), |_| Cut::from(6), options).unwrap();
    let (topology, options) = deployment(scenario, plain);
    let mut out = HandedOut::default();
    let record = Simulation::run_streamed(&topology, &options, &mut trace, &mut out).unwrap();
    trace.finish().unwrap();
    assert!(record.requests.is_empty() && record.readmitted.is_empty());
    (record, out)
}

/// All that is recorded is the same.
fn check(scenario: &Scenario, plain: bool, window_ms: u64) -> Result<(), TestCaseError> {
    let whole = run_as_a_whole(scenario, plain);
    let (record, out) = run_streamed(scenario, plain, window_ms);
    prop_assert_eq!(out.requests.len(), whole.requests.len());
    for (number, (request, breakdown)) in out.requests.iter().enumerate() {
        prop_assert_eq!(request, &whole.requests[number]);
        prop_assert_eq!(*breakdown, whole.ttft_breakdown(number));
    }
    prop_assert_eq!(&record.gaps, &whole.gaps);
    prop_assert_eq!(&record.pools, &whole.pools);
    prop_assert_eq!(record.extrapolated_iterations, whole.extrapolated_iterations);
    check_reports(&whole, &record, &out)
}

/// What comes of requests as they are handed out: figures and rows.
struct Windowed {
    tally: StreamedTally,
    rows: Vec<u8>,
}

impl Observer for Windowed {
    fn ended(&mut self, ended: &EndedRequest<'_>) {
        self.tally.add(ended, |request| write_request_row(request, &mut self.rows)).unwrap();
    }
}

/// Figures and rows of a part of the run are those of a run that keeps its requests.
fn check_window(scenario: &Scenario, plain: bool, window: Window, ms: u64) -> Result<(), TestCaseError> {
    let options = SummaryOptions { window, ..summary(false) };
    let (topology, simulated) = deployment(scenario, plain);
    let load = Load::Open { arrival_speedup_ratio: 1.0 };
    let workload = Workload::from_rows(&scenario.rows, 6, load).unwrap();
    let mut observer = ();
    let mut tokens = WithTokens::new(&topology, true, &mut observer);
    let whole = Simulation::new(&topology, workload, &simulated).unwrap().run(&mut tokens).unwrap();
    let whole = RunRecord { token_times: tokens.into_times(), ..whole };

    let mut text = Vec::new();
    write_mooncake(&scenario.rows, &mut text).unwrap();
    let sort_window = Duration::from_ns(ms * 1_000_000);
    let streaming = StreamOptions { arrival_speedup_ratio: 1.0, max_requests: None, sort_window };
    let mut trace = TraceStream::new(&text[..], &TraceForm::default(), |_| Cut::from(6), streaming).unwrap();
    let mut windowed = Windowed { tally: StreamedTally::new(&options), rows: Vec::new() };
    let sent = windowed.tally.sent_times();
    let feed = trace.by_ref().inspect(|(_, turn)| {
        let TurnStart::At(time) = turn.start else { panic!("a request of a stream has a time") };
        if let Some(sent) = &sent {
            sent.borrow_mut().add(time);
        }
    });
    let mut tokens = WithTokens::new(&topology, true, &mut windowed);
    let record = Simulation::run_streamed(&topology, &simulated, feed, &mut tokens).unwrap();
    windowed.tally.finish(|request| write_request_row(request, &mut windowed.rows)).unwrap();

    let mut rows = Vec::new();
    write_request_rows(&whole, window, &mut rows).unwrap();
    prop_assert_eq!(String::from_utf8(windowed.rows).unwrap(), String::from_utf8(rows).unwrap());
    check_report(&whole, &windowed.tally, &record, &options)
}

/// What is left out at an end: nothing, a number of requests, or a time.
fn margin() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        Just(None),
        (0_u64..60).prop_map(|number| Some(number.to_string())),
        (0_u64..3000).prop_map(|ms| Some(format!("{ms}ms"))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn a_trace_that_is_streamed_comes_to_the_same(
        scenario in any_scenario(),
        rows in without_grammars(0, 1..100),
        spread in prop_oneof![Just(1.0), 1.0_f64..100.0],
        plain in any::<bool>(),
    ) {
        let mut scenario = of_single_requests(Scenario { rows, ..scenario });
        for ms in scenario.rows.iter_mut().filter_map(|row| row.timestamp_ms.as_mut()) {
            *ms *= spread;
        }
        // Rows may stand in any order.
        check(&scenario, plain, 40 * 100)?;
        scenario.rows.sort_by(|one, other| one.timestamp_ms.partial_cmp(&other.timestamp_ms).unwrap());
        for (row, line) in scenario.rows.iter_mut().zip(1..) {
            row.line = line;
        }
        check(&scenario, plain, 0)?;
    }

    #[test]
    fn a_part_of_a_streamed_run_is_that_of_one_which_keeps_its_requests(
        scenario in any_scenario(),
        rows in without_grammars(0, 1..100),
        margins in (margin(), margin()),
        step_ms in prop_oneof![Just(1.0), Just(50.0)],
        plain in any::<bool>(),
    ) {
        let mut scenario = of_single_requests(Scenario { rows, ..scenario });
        // Many are sent at one time.
        for ms in scenario.rows.iter_mut().filter_map(|row| row.timestamp_ms.as_mut()) {
            *ms = (*ms / step_ms).floor() * step_ms;
        }
        let parse = |text: Option<String>| text.map(|text| text.parse().unwrap());
        let window = Window { warmup: parse(margins.0), cooldown: parse(margins.1) };
        check_window(&scenario, plain, window, 40 * 100)?;
    }

    /// A long run on few blocks, where requests are preempted, also in the pass that is decided while their last token comes.
    #[test]
    fn requests_are_handed_out_along_the_way(scenario in scenario(), engine in engine(), rows in without_grammars(0, 8..12)) {
        let mut scenario = of_single_requests(Scenario { rows, prefill: engine, decode: None, ..scenario });
        let count = scenario.rows.len() as u64;
        let again = |round: u64| {
            let later = move |row: &TraceRow| TraceRow {
                line: row.line + round * count,
                timestamp_ms: row.timestamp_ms.map(|ms| ms + 5e6 * round as f64),
                ..row.clone()
            };
            scenario.rows.iter().map(later).collect::<Vec<_>>()
        };
        scenario.rows = (0..20).flat_map(again).collect();
        check(&scenario, false, 100)?;
        let (_, out) = run_streamed(&scenario, false, 100);
        // A round is over long before the next one.
        let before_the_last = out.course.iter().filter(|(ended, _)| *ended <= 18 * count);
        let out_by_then = before_the_last.map(|(_, out)| *out).max().unwrap_or(0);
        let lags = scenario.router_mode == RouterMode::RoundRobin || scenario.router_mode == RouterMode::Random;
        prop_assert!(lags || out_by_then as u64 >= 15 * count, "{out_by_then} of {count} a round");
    }
}
