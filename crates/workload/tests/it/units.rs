//! What the times of a trace are in.

use servecast_types::Time;
use servecast_workload::{Load, TimeUnit, TraceError, TraceForm, TurnStart, Workload, read_trace};

fn read(text: &str, unit: Option<TimeUnit>) -> Result<Workload, TraceError> {
    let trace = read_trace(text.as_bytes(), &TraceForm { unit, ..TraceForm::default() })?;
    trace.workload(trace.block_size.unwrap_or(100), Load::Open { arrival_speedup_ratio: 1.0 })
}

/// Rows of these timestamps.
fn rows(timestamps: &[&str]) -> String {
    let row = |time: &&str| {
        format!("{{\"timestamp\": {time}, \"input_length\": 9, \"output_length\": 1, \"hash_ids\": [1]}}\n")
    };
    timestamps.iter().map(row).collect()
}

/// When sessions start, in ms, and the notes.
fn outcome(text: &str, unit: Option<TimeUnit>) -> (Vec<f64>, String) {
    let workload = read(text, unit).unwrap();
    let starts = workload.turns().map(|turn| match turn.start {
        TurnStart::At(time) => time.since(Time::ZERO).as_ms(),
        other => panic!("{other:?}"),
    });
    (starts.collect(), workload.notes.sentences().join("; "))
}

fn check(timestamps: &[&str], unit: Option<TimeUnit>, starts_ms: &[f64], notes: &str) {
    assert_eq!(outcome(&rows(timestamps), unit), (starts_ms.to_vec(), notes.to_owned()), "{timestamps:?}");
}

#[test]
fn a_unit_that_is_given_holds() {
    use TimeUnit::{Ms, Ns, S, Us};
    check(&["0.0", "0.2", "0.4"], Some(S), &[0.0, 200.0, 400.0], "");
    check(&["0.0", "0.2", "0.4"], Some(Ms), &[0.0, 0.2, 0.4], "");
    check(&["7", "7000"], Some(Us), &[0.0, 6.993], "");
    check(&["0", "1500000"], Some(Ns), &[0.0, 1.5], "");
    check(&["1767225600.25", "1767225660.75"], Some(S), &[0.0, 60_500.0], "");
    check(&["1767225600.25", "1767225660.75"], Some(Ms), &[0.0, 60.5], "");
    check(&["1767225600250000", "1767225660750000"], Some(Us), &[0.0, 60_500.0], "");
}

#[test]
fn times_since_1970_are_recognised_by_their_size_if_all_have_it() {
    let note = |unit| {
        format!(
            "timestamps of this size are {unit} since 1970 and are read as such: --time-unit ms if they are not"
        )
    };
    check(&["1767225600.25", "1767225660.75"], None, &[0.0, 60_500.0], &note("seconds"));
    check(&["1767225600250000", "1767225660750000"], None, &[0.0, 60_500.0], &note("microseconds"));
    // 64-bit floats have steps of 256 ns there.
    let (starts, notes) = outcome(&rows(&["1767225600250000000", "1767225660750000000"]), None);
    assert!((starts[1] - 60_500.0).abs() < 1e-3, "{starts:?}");
    assert_eq!(notes, note("nanoseconds"));
    check(&["1767225600250", "1767225660750"], None, &[0.0, 60_500.0], "");
    check(&["1767225600", "99000000000"], None, &[0.0, 97_232_774_400.0], "");
    let error = read(&rows(&["0", "1767225600250000"]), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2: `timestamp` is 1.76722560025e15, but must be a number of milliseconds from -1.8e13 to 1.8e13"
    );
}

#[test]
fn dates_are_recognised() {
    let dates = ["\"2026-01-01T00:00:00.250Z\"", "\"2026-01-01T02:01:00.75+02:00\""];
    let note = "timestamps are dates, read as UTC unless they say another zone";
    for unit in [None, Some(TimeUnit::S)] {
        check(&dates, unit, &[0.0, 60_500.0], note);
    }
    let error = read(&rows(&[dates[0], "5"]), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2: some timestamps are dates and others numbers: write all of them in one way"
    );
}

#[test]
fn an_odd_rate_is_noted() {
    let note = |rate: &str| {
        format!(
            "the times, read as milliseconds, make {rate}: --time-unit s, us or ns if they are in another unit"
        )
    };
    check(&["0.0", "0.2", "0.4"], None, &[0.0, 0.2, 0.4], &note("5000 requests a second"));
    check(&["0", "200000", "400000"], None, &[0.0, 2e5, 4e5], &note("a request every 200 seconds"));
    check(&["0", "200000"], None, &[0.0, 2e5], "");
    check(&["0", "0", "0"], None, &[0.0; 3], "");
    let closed = read_trace(rows(&["0.0", "0.2"]).as_bytes(), &TraceForm::default())
        .unwrap()
        .workload(100, Load::Closed);
    assert_eq!(closed.unwrap().notes.sentences(), [""; 0], "no times, no rate");
}

#[test]
fn rows_of_chats_are_in_seconds_and_have_16_tokens_to_an_id() {
    let row = |time: f64| {
        format!(
            "{{\"chat_id\": 7, \"parent_chat_id\": -1, \"timestamp\": {time}, \"input_length\": 30, \"output_length\": 1, \
             \"hash_ids\": [1, 2], \"turn\": 1}}\n"
        )
    };
    let text = row(0.114) + &row(1.114);
    let trace = read_trace(text.as_bytes(), &TraceForm::default()).unwrap();
    assert_eq!(trace.block_size, Some(16));
    let note = "rows with `chat_id` and `parent_chat_id` are read with timestamps in seconds and 16 tokens to a hash id, \
                unless --time-unit and --trace-block-size say otherwise; 2 rows have keys that are ignored: `chat_id`, \
                `parent_chat_id`, `turn`";
    assert_eq!(outcome(&text, None), (vec![0.0, 1000.0], note.to_owned()));
    assert_eq!(outcome(&text, Some(TimeUnit::Ms)).0, [0.0, 1.0]);
}

#[test]
fn delays_follow_the_unit_unless_their_key_has_one() {
    let delay = |key: &str, unit| {
        let text = format!(
            "{{\"session_id\": \"a\", \"timestamp\": 0, \"output_length\": 1, \"hash_ids\": [1]}}\n\
             {{\"session_id\": \"a\", \"{key}\": 1.5, \"output_length\": 1, \"hash_ids\": [1]}}"
        );
        let workload = read(&text, unit).unwrap();
        match workload.sessions[0].turns[1].start {
            TurnStart::AfterPrevious(delay) => delay.as_ns() / 1000,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        [delay("delay", None), delay("delay", Some(TimeUnit::S)), delay("delay_ms", Some(TimeUnit::S))],
        [1_500, 1_500_000, 1_500]
    );
}

#[test]
fn a_unit_goes_before_that_in_the_name_of_a_key_with_a_note() {
    let row =
        |time: u64| format!("{{\"arrival_time_ns\": {time}, \"output_toks\": 1, \"input_tok_ids\": [1]}}\n");
    let text = row(0) + &row(1_500_000);
    assert_eq!(outcome(&text, None), (vec![0.0, 1.5], String::new()));
    let note = "`arrival_time_ns` is read as microseconds, since --time-unit says so";
    assert_eq!(outcome(&text, Some(TimeUnit::Us)), (vec![0.0, 1500.0], note.to_owned()));
}

#[test]
fn times_out_of_range_are_refused_in_their_unit() {
    let error = read(&rows(&["1e11"]), Some(TimeUnit::S)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 1: `timestamp` is the number 1e11, but must be a number of seconds from -1.8e10 to 1.8e10"
    );
}
