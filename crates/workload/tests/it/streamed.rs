//! A trace that is used as it is read.

use std::num::NonZeroUsize;

use servecast_types::Duration;
use servecast_workload::{
    Cut, Load, StreamOptions, TraceError, TraceForm, TraceNotes, TraceStream, Turn, TurnStart, Workload,
    read_trace,
};

const OPTIONS: StreamOptions = StreamOptions {
    arrival_speedup_ratio: 1.0,
    max_requests: None,
    sort_window: Duration::from_ns(1_000_000_000),
};

/// What rows stand for whose file does not say so.
fn cut(block_size: Option<u32>) -> Cut {
    Cut::from(block_size.unwrap_or(512))
}

fn streamed(text: &str, options: StreamOptions) -> Result<(Vec<(u32, Turn)>, TraceNotes), TraceError> {
    let mut trace =
        TraceStream::new(text.as_bytes(), &TraceForm::default(), |trace| cut(trace.block_size), options)?;
    let requests: Vec<(u32, Turn)> = trace.by_ref().collect();
    assert!(trace.next().is_none());
    Ok((requests, trace.finish()?))
}

fn whole(text: &str, options: StreamOptions) -> Workload {
    let trace = read_trace(text.as_bytes(), &TraceForm::default()).unwrap();
    let cut = Cut { max_requests: options.max_requests, ..cut(trace.block_size) };
    trace.workload(cut, Load::Open { arrival_speedup_ratio: options.arrival_speedup_ratio }).unwrap()
}

/// It comes to what all of it comes to, in order of arrival.
#[track_caller]
fn check(text: &str, options: StreamOptions) {
    let workload = whole(text, options);
    let order = workload.arrival_order();
    let expected: Vec<(u32, Turn)> =
        order.iter().map(|&index| (index as u32, workload.sessions[index].turns[0].clone())).collect();
    let (requests, notes) = streamed(text, options).unwrap();
    assert_eq!(requests, expected);
    assert_eq!(notes, workload.notes);
}

fn refused(text: &str) -> String {
    let error = streamed(text, OPTIONS).unwrap_err();
    assert!(error.is_of_streaming(), "{error}");
    read_trace(text.as_bytes(), &TraceForm::default()).unwrap();
    error.to_string()
}

fn row(timestamp: &str, rest: &str) -> String {
    format!("{{\"timestamp\": {timestamp}, \"input_length\": 700, \"output_length\": 5{rest}}}\n")
}

const IDS: &str = r#", "hash_ids": [1, 2], "output_hash_ids": [3], "priority": 2"#;

#[test]
fn rows_come_in_order_of_time_and_count_from_the_first() {
    let rows = ["1500", "700.5", "700.5", "1400", "2400", "1401", "9000"].map(|ms| row(ms, IDS));
    check(&rows.concat(), OPTIONS);
    check(&rows.concat(), StreamOptions { arrival_speedup_ratio: 3.0, ..OPTIONS });
    check(&rows.concat(), StreamOptions { max_requests: NonZeroUsize::new(4), ..OPTIONS });
    let (requests, _) = streamed(&rows.concat(), OPTIONS).unwrap();
    let TurnStart::At(last) = requests.last().unwrap().1.start else { panic!() };
    assert_eq!((last.as_ms(), requests.last().unwrap().0), (8299.5, 6));
}

#[test]
fn content_notes_and_units_are_those_of_the_whole_trace() {
    let epoch = ["1767225600.5", "1767225600.25", "1767225601"].map(|s| row(s, IDS));
    check(&epoch.concat(), OPTIONS);
    let dates = ["\"2026-01-01T00:00:00Z\"", "\"2026-01-01T00:00:01Z\""].map(|date| row(date, IDS));
    check(&dates.concat(), OPTIONS);
    let lengths = ["0", "1", "100000000"].map(|ms| row(ms, ""));
    check(&lengths.concat(), OPTIONS);
    let odd = ["0", "5", "5"].map(|ms| row(ms, r#", "hash_ids": [7, 8, 9, 10], "unknown": 1"#));
    check(&odd.concat(), OPTIONS);
    let asked = ["0", "1"].map(|ms| row(ms, r#", "max_output_toks": 9"#));
    check(&asked.concat(), OPTIONS);
    let chats = |s: u32| {
        let ids: Vec<u32> = (0..44).collect();
        let ids = format!(r#", "chat_id": {s}, "parent_chat_id": -1, "hash_ids": {ids:?}"#);
        row(&format!("{s}.5"), &ids)
    };
    check(&(0..5).map(chats).collect::<String>(), OPTIONS);
    let tokens = (0..3).map(|ns| {
        format!("{{\"arrival_time_ns\": 1{ns}000000, \"input_tok_ids\": [1, {ns}], \"output_toks\": 3}}\n")
    });
    check(&tokens.collect::<String>(), OPTIONS);
    check("arrived_at,num_prefill_tokens,num_decode_tokens\n100.5,374,44\n\n103.5,9,0\n103,9,9\n", OPTIONS);
}

#[test]
fn what_depends_on_other_rows_is_refused_with_its_line() {
    let session = [row("0", IDS), row("1", r#", "hash_ids": [1, 2], "session_id": "a""#)].concat();
    assert_eq!(
        refused(&session),
        "line 2: the row has a `session_id`, and when it is sent depends on other rows, so the trace cannot be used as it \
         is read (`stream`)"
    );
    let late = [row("5000", IDS), row("4000", IDS), row("3999", IDS)].concat();
    assert_eq!(
        refused(&late),
        "line 3: the row comes 1.001 s before one above it, but `sort_window` is 1 s: give a longer one"
    );
    assert!(refused(&[row("0", ""), row("1", IDS)].concat()).starts_with("line 2: the row has `hash_ids`"));
    let units = [row("1767225600.5", IDS), row("1767225600000", IDS)].concat();
    // Nobody can use such a trace, but only who reads all of it knows that the first row is not the odd one.
    let error = streamed(&units, OPTIONS).unwrap_err();
    assert!(error.to_string().starts_with("line 2: the timestamp of the row has another unit"));
    assert!(read_trace(units.as_bytes(), &TraceForm::default()).is_err());
    let chat = [row("0", r#", "chat_id": 1, "parent_chat_id": -1"#), row("1", "")].concat();
    assert!(refused(&chat).starts_with("line 2: the row has no `chat_id`"));
    let conversation =
        r#"[{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]"#;
    assert_eq!(
        refused(conversation),
        "a file of this form is read as a whole, so `stream` has no effect on it"
    );
}

#[test]
fn what_is_wrong_is_said_as_of_the_whole_trace() {
    for text in [
        "",
        "\n\n",
        &row("\"noon\"", IDS),
        &[row("0", IDS), row("1e99", IDS)].concat(),
        &[row("0", IDS), "{\"timestamp\": 3".to_owned()].concat(),
        &[row("0", IDS), row("1", r#", "hash_ids": [1], "delay": 3"#)].concat(),
        &[row("0", IDS), row("1", r#", "hash_ids": [1]"#)].concat(),
        &[row("0", IDS), row("null", IDS)].concat(),
        "input_tokens,output_tokens\n1,2\n",
    ] {
        let load = Load::Open { arrival_speedup_ratio: 1.0 };
        let as_a_whole = read_trace(text.as_bytes(), &TraceForm::default())
            .and_then(|trace| trace.workload(cut(trace.block_size), load))
            .unwrap_err();
        assert_eq!(streamed(text, OPTIONS).unwrap_err().to_string(), as_a_whole.to_string(), "{text}");
    }
    let ratio = StreamOptions { arrival_speedup_ratio: 0.0, ..OPTIONS };
    assert!(streamed(&row("0", IDS), ratio).unwrap_err().to_string().contains("arrival_speedup_ratio"));
}
