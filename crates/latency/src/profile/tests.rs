use super::*;
use crate::{AllReduceTable, Experts, Ring};

const ATTENTION: &str = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n\
    0,0,1,100,1\n0,0,1,200,2\n0,0,4,100,4\n0,0,4,200,8\n\
    10,0,0,0,5\n10,100,0,0,6\n20,0,0,0,10\n20,100,0,0,12\n\
    10,0,1,100,6\n10,0,1,200,7\n10,0,4,100,9\n10,0,4,200,13\n\
    10,100,1,100,7\n10,100,1,200,8\n10,100,4,100,10\n10,100,4,200,14\n\
    20,0,1,100,11\n20,0,1,200,12\n20,0,4,100,14\n20,0,4,200,18\n\
    20,100,1,100,13\n20,100,1,200,14\n20,100,4,100,16\n20,100,4,200,20\n";

/// Two blocks of a width of 1000.
fn setup() -> ProfileSetup {
    let config = r#"{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 1000, "intermediate_size": 1,
        "num_attention_heads": 1, "vocab_size": 1}"#;
    ProfileSetup {
        shape: ModelShape::from_config(config).unwrap(),
        all_reduce: None,
        bytes_per_number: 2.0,
        expert_parallel_size: 1,
        ranks: 1,
        exchange: None,
        layers: None,
    }
}

/// Every layer takes 1 µs for a token and 32 µs for 32.
fn dense() -> String {
    let layers = ONCE.into_iter().chain([NORM]).chain(BLOCK).chain(FEED_FORWARD);
    layers.fold("layer,tokens,time_us\n".to_owned(), |text, layer| {
        text + &format!("{layer},1,1\n{layer},32,32\n")
    })
}

const PER_SEQUENCE: &str =
    "layer,sequences,time_us\nlm_head,1,100\nlm_head,8,100\nsampler,1,10\nsampler,8,10\n";

fn profile(dense: &str, attention: &str, skew: Option<&str>) -> Result<Profile, ProfileError> {
    Profile::new(&ProfileTables { attention, skew, ..tables(dense) }, &setup())
}

fn tables(dense: &str) -> ProfileTables<'_> {
    ProfileTables { dense, per_sequence: PER_SEQUENCE, attention: ATTENTION, experts: None, skew: None }
}

fn us(profile: &Profile, chunks: &[(u64, u64)]) -> f64 {
    let mut batch = Batch::new(0);
    for &(start, end) in chunks {
        batch.add_tokens(start, end);
    }
    let PassTime { prompt_ms, decode_ms } = profile.pass(&batch);
    (prompt_ms + decode_ms) * 1000.0
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
}

#[test]
fn a_pass_is_the_sum_of_its_layers() {
    let model = profile(&dense(), ATTENTION, None).unwrap();
    // Two layers once, eight in each of two blocks, the head, and attention in both blocks.
    close(us(&model, &[(99, 100)]), 18.0 + 110.0 + 2.0);
    close(us(&model, &[(0, 10)]), 180.0 + 110.0 + 2.0 * 5.0);
    close(us(&model, &[(50, 60), (149, 150)]), 11.0 * 18.0 + 110.0 + 2.0 * 7.0);
    close(us(&model, &[]), 0.0);
}

#[test]
fn what_was_not_measured_is_extrapolated_and_said() {
    let model = profile(&dense(), ATTENTION, None).unwrap();
    let decode = |context: u64| {
        let mut batch = Batch::new(0);
        batch.add_tokens(context - 1, context);
        batch
    };
    assert!(!model.extrapolates(&decode(200)));
    assert!(model.extrapolates(&decode(400)));
    close(model.pass(&decode(400)).decode_ms * 1000.0, 18.0 + 110.0 + 2.0 * 4.0);
    let mut prompt = Batch::new(0);
    prompt.add_tokens(0, 33);
    assert!(model.extrapolates(&prompt));
}

#[test]
fn decodes_in_a_row_are_priced_as_each_by_itself() {
    for skew_use in [SkewUse::Mixed, SkewUse::All] {
        let model = profile(&dense(), ATTENTION, None).unwrap().with_skew(skew_use);
        // From below the measured contexts to above them; more sequences than were measured, and tokens.
        for (n, context) in [(1, 20), (3, 320), (4, 790), (4, 100_000), (7, 30), (9, 950), (33, 3_500)] {
            let first = StepWork {
                requests: n,
                context_tokens: context,
                longest_context_tokens: context / n + 1,
                squared_context_tokens: u128::from(context).pow(2) / u128::from(n),
            };
            let (mut found, mut expected) = ([PassTime::default(); 32], [PassTime::default(); 32]);
            model.decode_passes(first, 0, &mut found);
            one_by_one(&model, first, 0, &mut expected);
            assert_eq!(found, expected, "{n} {context}");
            let outside = |later: &u64| model.extrapolates(&Batch::of_decodes(first.after(*later), 0));
            assert_eq!(
                model.extrapolated_decodes(first, 0, 32),
                (0..32).filter(outside).count() as u64,
                "{n} {context}"
            );
        }
    }
}

#[test]
fn uneven_contexts_of_a_mixed_pass_cost_what_was_measured() {
    let skew = "pc,n,ratio,t_mean_us,t_max_us,t_skew_us\n10,2,0.5,10,20,15\n";
    let [even, uneven] =
        [None, Some(skew)].map(|skew| profile(&dense(), ATTENTION, skew).unwrap().with_skew(SkewUse::Mixed));
    let batch = [(0, 10), (99, 100), (199, 200)];
    // Half way from both at the mean of 150 to both at 200, in each of two blocks.
    let at = |kv: f64| even.attention.us([10.0, 0.0, 2.0, kv]);
    let more = 2.0 * 0.5 * (at(200.0) - at(150.0));
    close(us(&uneven, &batch) - us(&even, &batch), more);
    close(us(&profile(&dense(), ATTENTION, Some(skew)).unwrap(), &batch), us(&even, &batch));
    let decodes = [(99, 100), (199, 200)];
    close(us(&uneven, &decodes), us(&even, &decodes));
    assert!(us(&uneven.with_skew(SkewUse::All), &decodes) > us(&even, &decodes));
}

#[test]
fn an_all_reduce_follows_both_halves_of_a_block() {
    let all_reduce = AllReduce::Ring(Ring { gpus: 2, latency_us: 3.0, bandwidth_gb_per_s: 1.0 });
    let dense = dense();
    let alone = Profile::new(&tables(&dense), &setup()).unwrap();
    let both = ProfileSetup { all_reduce: Some(all_reduce), ..setup() };
    let both = Profile::new(&tables(&dense), &both).unwrap();
    close(us(&both, &[(99, 100)]) - us(&alone, &[(99, 100)]), 4.0 * 2.0 * (3.0 + 1.0));
}

#[test]
fn an_all_reduce_may_be_measured_and_says_how_far() {
    let table = AllReduceTable::read("bytes,time_us\n2000,5\n20000,14\n", 2).unwrap();
    let setup = ProfileSetup { all_reduce: Some(AllReduce::Table(table)), ..setup() };
    let dense = dense();
    let [with, without] = [&setup, &self::setup()].map(|setup| Profile::new(&tables(&dense), setup).unwrap());
    close(us(&with, &[(0, 10)]) - us(&without, &[(0, 10)]), 4.0 * 14.0);
    let mut batch = Batch::new(0);
    batch.add_tokens(0, 11);
    assert!(with.extrapolates(&batch) && !without.extrapolates(&batch));
}

#[test]
fn experts_are_priced_by_how_many_are_activated() {
    let mut setup = setup();
    setup.shape.experts =
        Some(Experts { count: 4, per_token: 2, inner_size: 1, shared_inner_size: 0, layers: 2 });
    let dense = dense();
    let without = dense.lines().filter(|line| FEED_FORWARD.iter().all(|layer| !line.starts_with(layer)));
    let without = without.collect::<Vec<_>>().join("\n");
    let missing = Profile::new(&tables(&without), &setup).unwrap_err().to_string();
    assert!(missing.starts_with("moe.csv is missing, but the model has 4 experts a block"), "{missing}");
    let moe = "tokens,activated_experts,time_us\n1,2,20\n2,2,22\n2,4,42\n32,4,50\n";
    let moe = ProfileTables { experts: Some(moe), ..tables(&without) };
    let profile = Profile::new(&moe, &setup).unwrap();
    // Two layers once, five in each of two blocks, the head, attention, and the experts of both blocks.
    close(us(&profile, &[(99, 100)]), 12.0 + 110.0 + 2.0 + 2.0 * 20.0);
    // Two tokens go to 4 · (1 − ¼) = 3 experts.
    let attention = profile.attention.us([0.0, 0.0, 2.0, 100.0]);
    close(us(&profile, &[(99, 100), (99, 100)]), 2.0 * 12.0 + 110.0 + 2.0 * attention + 2.0 * 32.0);
    // With experts in one block only, the other one has a plain feed-forward part.
    setup.shape.experts = setup.shape.experts.map(|experts| Experts { layers: 1, ..experts });
    let half = ProfileTables { dense: &dense, ..moe };
    let half = Profile::new(&half, &setup).unwrap();
    close(us(&half, &[(99, 100)]), 12.0 + 3.0 + 110.0 + 2.0 + 20.0);
    let more = Profile::new(&moe, &setup).unwrap_err().to_string();
    assert!(more.contains("layer `gate_up_proj` is missing"), "{more}");
}

#[test]
fn layers_of_other_models_may_be_named() {
    let dense = "layer,tokens,time_us\nembed,1,1\nembed,32,32\nmixer,1,2\nmixer,32,64\n";
    let named = |names: &[(&str, f64)]| names.iter().map(|&(name, times)| (name.to_owned(), times)).collect();
    let layers = Layers { block: named(&[("mixer", 3.0)]), pass: named(&[("embed", 1.0)]) };
    let other = ProfileSetup { layers: Some(layers), ..setup() };
    let profile = Profile::new(&tables(dense), &other).unwrap();
    close(us(&profile, &[(99, 100)]), 1.0 + 2.0 * 3.0 * 2.0 + 110.0 + 2.0);
    assert!(Profile::new(&tables(dense), &setup()).is_err());
}

#[track_caller]
fn refused(dense: &str, attention: &str, message: &str) {
    assert_eq!(profile(dense, attention, None).unwrap_err().to_string(), message);
}

#[test]
fn bad_tables_are_refused() {
    let good = dense();
    refused(
        &good.replace("o_proj,1,1\n", "").replace("o_proj,32,32\n", ""),
        ATTENTION,
        "dense.csv: layer `o_proj` is missing, which the model runs in every pass; measure it",
    );
    refused(
        &good.replace("time_us", "time_ms"),
        ATTENTION,
        "dense.csv: there is no column `time_us`, only `layer`, `tokens`, `time_ms`",
    );
    refused(
        &good.replace("embedding,32,", "embedding,1,"),
        ATTENTION,
        "dense.csv, line 3: 1 of layer `embedding` comes after 1, but points must increase",
    );
    refused(
        &good.replace("embedding,32,32", "embedding,32,-1"),
        ATTENTION,
        "dense.csv, line 3: `time_us` is `-1`, but must be a number of at least 0",
    );
    let unknown = profile(&(good.clone() + "mamba,1,1\n"), ATTENTION, None).unwrap_err();
    assert!(matches!(unknown, ProfileError::UnknownLayer { .. }), "{unknown}");
    let few = profile(&good, "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,1,16,1\n", None);
    assert!(matches!(few, Err(ProfileError::Points { .. })), "{few:?}");
}

#[test]
fn blocks_that_no_file_has_times_of_are_refused() {
    let mut hybrid = setup();
    hybrid.shape = ModelShape::by_name("Qwen/Qwen3.5-27B").unwrap();
    assert_eq!(
        Profile::new(&tables(&dense()), &hybrid).unwrap_err().to_string(),
        "attention.csv: the model has 48 blocks with linear attention, whose times no file has"
    );
}
