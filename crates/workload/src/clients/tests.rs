use super::*;
use crate::{Load, Workload};

/// A mix by the text of its file.
fn mix(text: &str) -> ClientMix {
    let mix: ClientMix = toml::from_str(text).unwrap();
    mix.validate().unwrap();
    mix
}

const CHAT: &str = r#"
    [[client]]
    name = "chat"
    rate_per_s = 1.0
    input_tokens = { mean = 400, spread = 0.5 }
    output_tokens = { min = 10, max = 20 }
    shared_prefix_tokens = 100
"#;

const BATCH: &str = r#"
    [[client]]
    name = "batch"
    rate_per_s = 3.0
    burstiness = 0.25
    input_tokens = { histogram = [[100, 1], [200, 0], [300, 3]] }
    output_tokens = 5
    shared_prefix_tokens = 64
"#;

fn generated(mix: &ClientMix, sessions: u64) -> Vec<TraceRow> {
    mix.generate(&[], sessions, 32, 42).unwrap()
}

fn of<'a>(rows: &'a [TraceRow], name: &str) -> Vec<&'a TraceRow> {
    rows.iter().filter(|row| row.class.as_deref() == Some(name)).collect()
}

#[test]
fn each_client_has_its_rate_and_its_lengths() {
    let rows = generated(&mix(&[CHAT, BATCH].concat()), 20_000);
    let (chat, batch) = (of(&rows, "chat"), of(&rows, "batch"));
    assert!((4_700..5_300).contains(&chat.len()), "{}", chat.len());
    let span_s = rows.last().unwrap().timestamp_ms.unwrap() / 1e3;
    assert!((4_800.0..5_200.0).contains(&span_s), "{span_s}");
    // Behind the whole blocks that all prompts have in common: 96 and 64 tokens.
    let added = |row: &&TraceRow, prefix: u64| (row.input_length.unwrap() - prefix) as f64;
    let mean = chat.iter().map(|row| added(row, 96)).sum::<f64>() / chat.len() as f64;
    assert!((390.0..410.0).contains(&mean), "{mean}");
    assert!(chat.iter().all(|row| (10..=20).contains(&row.output_length)));
    let bins = |from: f64, to: f64| batch.iter().filter(|row| (from..=to).contains(&added(row, 64))).count();
    assert_eq!((bins(1.0, 100.0) + bins(201.0, 300.0), bins(101.0, 200.0)), (batch.len(), 0));
    let share = bins(1.0, 100.0) as f64 / batch.len() as f64;
    assert!((0.24..0.26).contains(&share), "{share}");
    assert!(rows.is_sorted_by_key(|row| row.timestamp_ms.map(|ms| (ms * 1e3) as u64)));
}

#[test]
fn gaps_have_the_shape_that_is_asked_for() {
    let rows = generated(&mix(&[CHAT, BATCH].concat()), 20_000);
    let variation = |name: &str| {
        let times: Vec<f64> = of(&rows, name).iter().filter_map(|row| row.timestamp_ms).collect();
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let squares = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        squares.sqrt() / mean
    };
    // One over the root of the shape.
    assert!((0.95..1.05).contains(&variation("chat")), "{}", variation("chat"));
    assert!((1.9..2.1).contains(&variation("batch")), "{}", variation("batch"));
}

#[test]
fn what_a_client_draws_does_not_depend_on_others() {
    let alone = generated(&mix(CHAT), 100);
    let both = generated(&mix(&[BATCH, CHAT].concat()), 800);
    let drawn = |row: &TraceRow| (row.timestamp_ms, row.input_length, row.output_length);
    let alone: Vec<_> = alone.iter().map(drawn).collect();
    let both: Vec<_> = of(&both, "chat").into_iter().map(drawn).collect();
    assert_eq!(alone, both[..100]);
}

#[test]
fn prompts_share_the_prefix_of_their_client_and_turns_go_on() {
    let turns = "turns = 3\nthink_time_s = 2.5\n";
    let rows = generated(&mix(&[CHAT, turns, BATCH].concat()), 400);
    let load = Load::Open { arrival_speedup_ratio: 1.0 };
    let workload = Workload::from_rows(&rows, 32, load).unwrap();
    let first = |name: &str| {
        let class = workload.classes.iter().position(|class| **class == *name).unwrap();
        let sessions = workload
            .sessions
            .iter()
            .filter(move |session| session.turns[0].class.is_some_and(|of| of.index() == class));
        sessions.collect::<Vec<_>>()
    };
    let (chat, batch) = (first("chat"), first("batch"));
    assert_eq!(chat[0].turns[0].prompt.common_prefix(&chat[1].turns[0].prompt), 96);
    assert_eq!(batch[0].turns[0].prompt.common_prefix(&batch[1].turns[0].prompt), 64);
    assert_eq!(chat[0].turns[0].prompt.common_prefix(&batch[0].turns[0].prompt), 0);
    for session in chat {
        assert_eq!(session.turns.len(), 3);
        for pair in session.turns.windows(2) {
            let whole = pair[0].prompt.tokens();
            assert_eq!(pair[0].prompt.common_prefix(&pair[1].prompt), whole);
            assert!(pair[1].prompt.tokens() > whole + pair[0].output_tokens, "it adds something");
        }
    }
}

#[test]
fn lengths_of_a_trace_are_drawn_together() {
    let text = "[[client]]\nname = 'a'\nrate_per_s = 1\nlengths_of = 't.jsonl'";
    let rows = mix(text).generate(&[vec![(10, 1), (20, 2), (30, 3)]], 300, 32, 1).unwrap();
    let pairs: Vec<_> = rows.iter().map(|row| (row.input_length.unwrap(), row.output_length)).collect();
    for number in 1..=3 {
        let count = pairs.iter().filter(|pair| **pair == (10 * number, number)).count();
        assert!((70..130).contains(&count), "{number}: {count}");
    }
    assert_eq!(pairs.len(), 300);
}

#[test]
fn a_client_that_makes_no_sense_is_refused() {
    let refused = |text: &str, problem: &str| {
        let outcome = toml::from_str::<ClientMix>(text).map_err(|error| error.message().to_owned());
        let outcome = outcome.and_then(|mix| mix.validate().map_err(|problem| problem.to_string()));
        let found = outcome.unwrap_err();
        assert!(found.contains(problem), "{found}");
    };
    refused("client = []", "there is no client");
    refused("[[client]]\nname = ''\nrate_per_s = 1", "`name` is \"\"");
    refused(&[CHAT, CHAT].concat(), "client 2: `name` is \"chat\", but must be a name of its own");
    refused(&[CHAT, "rate = 1"].concat(), "unknown field `rate`");
    for (from, to, problem) in [
        ("rate_per_s = 1.0", "", "`rate_per_s` is missing"),
        ("rate_per_s = 1.0", "rate_per_s = 0", "`rate_per_s` is 0"),
        ("rate_per_s = 1.0", "rate_per_s = 1\nburstiness = -1", "`burstiness` is -1"),
        ("rate_per_s = 1.0", "rate_per_s = 1\nturns = 0", "`turns` is 0"),
        ("rate_per_s = 1.0", "rate_per_s = 1\nthink_time_s = inf", "`think_time_s` is inf"),
        ("rate_per_s = 1.0", "rate_per_s = 1\nlengths_of = 'x'", "`lengths_of` says both lengths"),
        ("{ min = 10, max = 20 }", "{ min = 30, max = 20 }", "`output_tokens` is from 30 to 20"),
        ("{ min = 10, max = 20 }", "0", "`output_tokens` is 0"),
        ("{ min = 10, max = 20 }", "{ histogram = [[9, 1], [5, 1]] }", "bins must rise"),
        ("{ min = 10, max = 20 }", "{ histogram = [[9, 0]] }", "one of them above"),
        (
            "{ mean = 400, spread = 0.5 }",
            "{ mean = 400 }",
            "the keys are those of no law: expected a number of tokens, {mean = M",
        ),
        (
            "{ mean = 400, spread = 0.5 }",
            "{ mean = 400, sprad = 1 }",
            "unknown field `sprad`, expected one of `mean`, `spread`",
        ),
        ("{ mean = 400, spread = 0.5 }", "\"many\"", "expected a number of tokens, {mean = M"),
        ("{ mean = 400, spread = 0.5 }", "-1", "expected a number of tokens, {mean = M"),
        ("{ mean = 400, spread = 0.5 }", "{ mean = 0.5, spread = 1 }", "the mean must be from 1"),
        ("input_tokens = { mean = 400, spread = 0.5 }", "", "`input_tokens` is missing"),
    ] {
        assert!(CHAT.contains(from));
        refused(&CHAT.replace(from, to), problem);
    }
    let ends = "[[client]]\nname = 'a'\ninput_tokens = 1\noutput_tokens = 1\n[[client.profile.segment]]\nduration_s = 10\n\
                rate_per_s = 1\n[[client.profile.segment]]\nduration_s = 1\nrate_per_s = 0";
    let error = mix(ends).generate(&[], 100, 16, 1).unwrap_err().to_string();
    assert!(error.contains("of 100 sessions"), "{error}");
}
