use rustc_hash::FxHashSet;

use super::*;

fn spec() -> SyntheticSpec {
    SyntheticSpec::new(1000, 20, 4)
}

fn error(spec: &SyntheticSpec) -> String {
    generate(spec).unwrap_err().to_string()
}

fn timestamps(spec: &SyntheticSpec) -> Vec<f64> {
    generate(spec).unwrap().iter().filter_map(|row| row.timestamp_ms).collect()
}

#[test]
fn the_plain_workload_is_requests_at_an_interval() {
    let rows = generate(&SyntheticSpec { arrival_interval_ms: 2.5, ..spec() }).unwrap();
    assert_eq!(rows.iter().map(|row| row.timestamp_ms.unwrap()).collect::<Vec<_>>(), [0.0, 2.5, 5.0, 7.5]);
    assert_eq!(rows[1].hash_ids, [3, 4]);
    assert!(rows.iter().all(|row| row.session_id.is_none() && row.delay_ms.is_none()));
    assert!(rows.iter().all(|row| row.input_length == Some(1000) && row.output_length == 20));
}

#[test]
fn later_turns_have_the_delay_and_no_timestamp() {
    let spec = SyntheticSpec { turns_per_session: 3, inter_turn_delay_ms: 50.0, ..spec() };
    let rows = generate(&spec).unwrap();
    assert_eq!(rows.len(), 12);
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row.session_id.as_deref(), Some(format!("session_{}", index / 3).as_str()));
        assert_eq!(row.timestamp_ms.is_some(), index % 3 == 0);
        assert_eq!(row.delay_ms, (index % 3 > 0).then_some(50.0));
    }
}

#[test]
fn every_group_has_a_prefix_of_its_own() {
    let spec = SyntheticSpec {
        input_tokens: 512 * 8,
        request_count: 200,
        shared_prefix_ratio: 0.45,
        num_prefix_groups: 5,
        ..spec()
    };
    let rows = generate(&spec).unwrap();
    let prefixes: FxHashSet<_> = rows.iter().map(|row| &row.hash_ids[..4]).collect();
    assert_eq!(prefixes.len(), 5, "8 × 0.45 = 3.6 blocks round to 4");
    let distinct: FxHashSet<_> = rows.iter().flat_map(|row| &row.hash_ids).collect();
    assert_eq!(distinct.len(), 5 * 4 + 200 * 4);
}

#[test]
fn all_of_a_prompt_can_be_shared() {
    let spec = SyntheticSpec { shared_prefix_ratio: 1.0, num_prefix_groups: 1, ..spec() };
    let rows = generate(&spec).unwrap();
    assert!(rows.iter().all(|row| row.hash_ids == rows[0].hash_ids));
}

#[test]
fn poisson_gaps_have_the_interval_as_mean_and_deviation() {
    let spec = SyntheticSpec {
        request_count: 20_001,
        arrival_interval_ms: 8.0,
        arrival_process: ArrivalProcess::Poisson,
        ..spec()
    };
    let times = timestamps(&spec);
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mean = gaps.iter().sum::<f64>() / 20_000.0;
    let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / 20_000.0).sqrt();
    // Four standard errors: 8 / sqrt(20000) = 0.057 for the mean, 0.08 for the deviation.
    assert!((mean - 8.0).abs() < 0.23, "{mean}");
    assert!((deviation - 8.0).abs() < 0.33, "{deviation}");
    assert_eq!(times[0], 0.0);
}

#[test]
fn lengths_have_the_mean_and_spread_that_was_asked_for() {
    for (distribution, spread, deviation) in
        [(LengthDistribution::Uniform, 0.5, 0.5 / 3.0_f64.sqrt()), (LengthDistribution::Lognormal, 0.8, 0.8)]
    {
        let spec = SyntheticSpec {
            request_count: 20_000,
            length_distribution: distribution,
            length_spread: spread,
            ..spec()
        };
        let lengths: Vec<f64> =
            generate(&spec).unwrap().iter().map(|row| row.input_length.unwrap() as f64).collect();
        let mean = lengths.iter().sum::<f64>() / 20_000.0;
        let variance = lengths.iter().map(|length| (length - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!((mean / 1000.0 - 1.0).abs() < 0.025, "{distribution:?}: {mean}");
        assert!((variance.sqrt() / 1000.0 - deviation).abs() < 0.08, "{distribution:?}: {}", variance.sqrt());
    }
    let spec = SyntheticSpec {
        length_distribution: LengthDistribution::Uniform,
        length_spread: 1.0,
        input_tokens: 1,
        request_count: 1000,
        ..spec()
    };
    assert!(generate(&spec).unwrap().iter().all(|row| (1..=2).contains(&row.input_length.unwrap())));
}

#[test]
fn what_one_option_draws_does_not_move_the_others() {
    let base = SyntheticSpec {
        request_count: 50,
        arrival_process: ArrivalProcess::Poisson,
        num_prefix_groups: 3,
        ..spec()
    };
    let varied = SyntheticSpec {
        length_distribution: LengthDistribution::Lognormal,
        length_spread: 0.5,
        ..base.clone()
    };
    assert_eq!(timestamps(&base), timestamps(&varied));
    let other_seed = SyntheticSpec { seed: 1, ..base.clone() };
    assert_ne!(timestamps(&base), timestamps(&other_seed));
}

#[test]
fn every_option_out_of_range_is_named_with_its_range() {
    let cases = [
        (
            SyntheticSpec { input_tokens: 0, ..spec() },
            "`input_tokens` is 0, but must be from 1 to 1000000000",
        ),
        (
            SyntheticSpec { output_tokens: 1_000_000, ..spec() },
            "`output_tokens` is 1000000, but must be from 1 to 999999",
        ),
        (
            SyntheticSpec { request_count: 0, ..spec() },
            "`request_count` is 0, but must be from 1 to 10000000",
        ),
        (
            SyntheticSpec { turns_per_session: 0, ..spec() },
            "`turns_per_session` is 0, but must be from 1 to 10000000",
        ),
        (
            SyntheticSpec { num_prefix_groups: u64::MAX, ..spec() },
            "`num_prefix_groups` is 18446744073709551615, but must be from 0 to 1000000",
        ),
        (
            SyntheticSpec { trace_block_size: 0, ..spec() },
            "`trace_block_size` is 0, but must be from 1 to 1000000",
        ),
        (
            SyntheticSpec { arrival_interval_ms: f64::NAN, ..spec() },
            "`arrival_interval_ms` is NaN, but must be a number from 0 to 1000000000",
        ),
        (
            SyntheticSpec { inter_turn_delay_ms: -1.0, ..spec() },
            "`inter_turn_delay_ms` is -1, but must be a number from 0 to 1000000000",
        ),
        (
            SyntheticSpec { shared_prefix_ratio: 1.5, ..spec() },
            "`shared_prefix_ratio` is 1.5, but must be a number from 0 to 1",
        ),
        (
            SyntheticSpec { shared_prefix_ratio: 0.5, ..spec() },
            "`shared_prefix_ratio` is 0.5, but `num_prefix_groups` is 0: it must be at least 1 for prompts to share \
             a prefix",
        ),
        (
            SyntheticSpec { length_spread: 0.5, ..spec() },
            "`length_spread` is 0.5, but must be 0 unless `length_distribution` is uniform or lognormal",
        ),
        (
            SyntheticSpec { length_distribution: LengthDistribution::Uniform, length_spread: 1.1, ..spec() },
            "`length_spread` is 1.1, but must be above 0 and at most 1 for uniform lengths",
        ),
        (
            SyntheticSpec { length_distribution: LengthDistribution::Lognormal, ..spec() },
            "`length_spread` is 0, but must be above 0 and at most 10 for lognormal lengths",
        ),
        (
            SyntheticSpec { request_count: 10_000_000, turns_per_session: 2, ..spec() },
            "`request_count` × `turns_per_session` is 20000000 requests, but must be at most 10000000",
        ),
        (
            SyntheticSpec { request_count: 10_000_000, trace_block_size: 1, ..spec() },
            "the prompts have 10000000000 blocks of `trace_block_size` tokens in all, but must have at most \
             100000000: use fewer requests or larger blocks",
        ),
        (
            SyntheticSpec { request_count: 100_000, arrival_interval_ms: 1e9, ..spec() },
            "`arrival_interval_ms` is 1000000000, but must be at most 100000000 for so many requests, whose \
             arrivals must fit 1e13 ms",
        ),
    ];
    for (spec, message) in cases {
        assert_eq!(error(&spec), message);
    }
}

#[test]
fn a_configuration_has_defaults_and_no_unknown_fields() {
    let json = r#"{"input_tokens": 1000, "output_tokens": 20, "request_count": 4}"#;
    assert_eq!(serde_json::from_str::<SyntheticSpec>(json).unwrap(), spec());
    assert!(serde_json::from_str::<SyntheticSpec>(&json.replace("output", "ouput")).is_err());
}
