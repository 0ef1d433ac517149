//! What holds for any rows, any bytes and any options.

use proptest::prelude::*;
use servecast_types::Time;
use servecast_workload::{
    ArrivalProcess, LengthDistribution, Links, Load, MAX_OUTPUT_TOKENS, Noted, SyntheticSpec, TimeUnit,
    TraceNotes, TraceRow, TurnStart, Workload, generate, read_mooncake, read_trace, write_mooncake,
};

const OPEN: Load = Load::Open { arrival_speedup_ratio: 1.0 };

/// Rows of any content that a file can hold, numbered from line 1.
fn rows() -> impl Strategy<Value = Vec<TraceRow>> {
    let row = (
        prop::option::of(any::<String>()),
        prop::option::of(-1.8e13..1.8e13),
        prop::option::of(prop_oneof![Just(0.0), 0.0..1.8e13]),
        prop::option::of(1_u64..1_000_000_000),
        1..=MAX_OUTPUT_TOKENS,
        (prop::collection::vec(any::<u64>(), 0..5), prop::collection::vec(any::<u64>(), 0..3)),
        (prop_oneof![Just(0), any::<i32>()], prop::option::of(any::<u32>())),
        (prop::option::of(".+"), prop::option::of(".+"), prop::option::of(".+"), links()),
    );
    let row = row.prop_map(
        |(
            session_id,
            timestamp_ms,
            delay_ms,
            input_length,
            output_length,
            (hash_ids, output_ids),
            (priority, more),
            (class, lora, grammar, links),
        )| TraceRow {
            shares_nothing: false,
            hash_runs: Vec::new(),
            line: 0,
            session_id,
            timestamp_ms,
            delay_ms,
            input_length,
            output_length,
            hash_ids,
            output_ids,
            priority,
            max_output: more.map(|more: u32| (output_length as u32).saturating_add(more).min(999_999)),
            class: class.map(String::into_boxed_str),
            lora: lora.map(String::into_boxed_str),
            grammar: grammar.map(String::into_boxed_str),
            links,
        },
    );
    prop::collection::vec(row, 1..8).prop_map(numbered)
}

/// What a row may say of others, whether or not there are such.
fn links() -> impl Strategy<Value = Option<Box<Links>>> {
    let name = || any::<String>().prop_map(String::into_boxed_str);
    let names = || prop::collection::vec(name(), 0..3);
    let links = (prop::option::of(name()), prop::option::of(names()), names(), any::<bool>());
    let links = links.prop_map(|(request_id, wait_for, branches, prefix_reset)| Links {
        request_id,
        wait_for,
        branches,
        prefix_reset,
    });
    links.prop_map(|links| (links != Links::default()).then(|| Box::new(links)))
}

/// Rows that make a workload at a block size of 16.
fn usable_rows() -> impl Strategy<Value = Vec<TraceRow>> {
    let row =
        (prop::option::of("[abc]"), -1e6..1e6, 1..=64_u64).prop_map(|(session_id, timestamp, input)| {
            TraceRow {
                session_id,
                timestamp_ms: Some(timestamp),
                input_length: Some(input),
                output_length: 1,
                hash_ids: vec![1, 2, 3, 4],
                ..TraceRow::default()
            }
        });
    prop::collection::vec(row, 1..20).prop_map(numbered)
}

fn numbered(mut rows: Vec<TraceRow>) -> Vec<TraceRow> {
    rows.iter_mut().zip(1..).for_each(|(row, line)| row.line = line);
    rows
}

fn spec() -> impl Strategy<Value = SyntheticSpec> {
    let counts = (1_u64..5000, 1_u64..500, 1_u64..20, 1_u64..5, 1_u64..4, 1_u32..600);
    let draws = (0.0..1.0, any::<u64>(), any::<bool>(), 0..3_u8);
    (counts, draws).prop_map(
        |((input, output, sessions, turns, groups, block), (ratio, seed, poisson, lengths))| SyntheticSpec {
            turns_per_session: turns,
            num_prefix_groups: groups,
            shared_prefix_ratio: ratio,
            trace_block_size: block,
            seed,
            arrival_process: if poisson { ArrivalProcess::Poisson } else { ArrivalProcess::Constant },
            length_distribution: match lengths {
                0 => LengthDistribution::Constant,
                1 => LengthDistribution::Uniform,
                _ => LengthDistribution::Lognormal,
            },
            length_spread: if lengths == 0 { 0.0 } else { 0.7 },
            ..SyntheticSpec::new(input, output, sessions)
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_reads_back_equal(rows in rows()) {
        let mut file = Vec::new();
        write_mooncake(&rows, &mut file).unwrap();
        prop_assert_eq!(read_trace(file.as_slice(), &TimeUnit::Ms.into()).unwrap().rows, rows);
    }

    #[test]
    fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_mooncake(bytes.as_slice());
    }

    #[test]
    fn no_damage_breaks_the_reader(rows in rows(), at in any::<prop::sample::Index>(), bytes in "\\PC{0,3}|[\"{}:,\\[\\]-]") {
        let mut file = Vec::new();
        write_mooncake(&rows, &mut file).unwrap();
        let at = at.index(file.len());
        file.splice(at..at, bytes.bytes());
        if let Ok(trace) = read_mooncake(file.as_slice()) {
            let _ = trace.workload(16, OPEN);
        }
    }

    #[test]
    fn any_rows_make_a_workload_or_an_error(rows in rows(), block in any::<u32>(), ratio in any::<f64>()) {
        let _ = Workload::from_rows(&rows, block, Load::Closed);
        let _ = Workload::from_rows(&rows, block, Load::Open { arrival_speedup_ratio: ratio });
    }

    #[test]
    fn arrivals_are_sorted_and_start_at_zero(rows in usable_rows()) {
        let workload = Workload::from_rows(&rows, 16, OPEN).unwrap();
        prop_assert_eq!(workload.requests(), rows.len());
        let starts = workload.arrival_order().into_iter().map(|index| match workload.sessions[index].turns[0] {
            ref turn @ servecast_workload::Turn { start: TurnStart::At(time), .. } => (time, turn.line),
            ref turn => panic!("line {} starts a session at {:?}", turn.line, turn.start),
        });
        let starts: Vec<_> = starts.collect();
        prop_assert!(starts.is_sorted());
        prop_assert_eq!(starts[0].0, Time::ZERO);
    }

    #[test]
    fn a_generated_workload_is_what_was_asked_for(spec in spec()) {
        let rows = generate(&spec).unwrap();
        prop_assert_eq!(&rows, &generate(&spec).unwrap());
        let workload = Workload::from_rows(&rows, spec.trace_block_size, OPEN).unwrap();
        prop_assert_eq!(workload.sessions.len() as u64, spec.request_count);
        prop_assert!(workload.sessions.iter().all(|session| session.turns.len() as u64 == spec.turns_per_session));
        // The turns of a session have their shared prefix in common, or nothing.
        let notes = TraceNotes { unrelated_turns: Noted::default(), ..workload.notes.clone() };
        prop_assert_eq!(notes.sentences(), Vec::<String>::new());
        if spec.length_distribution == LengthDistribution::Constant {
            prop_assert!(workload.turns().all(|turn| u64::from(turn.prompt.tokens()) == spec.input_tokens));
            prop_assert!(workload.turns().all(|turn| u64::from(turn.output_tokens) == spec.output_tokens));
        }
        let mut file = Vec::new();
        write_mooncake(&rows, &mut file).unwrap();
        prop_assert_eq!(read_trace(file.as_slice(), &TimeUnit::Ms.into()).unwrap().rows, rows);
    }
}
