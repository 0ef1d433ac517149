use super::*;

const ATTENTION: &str = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n\
    0,0,1,100,1\n0,0,1,200,2\n0,0,4,100,4\n0,0,4,200,8\n\
    10,0,0,0,5\n10,100,0,0,6\n20,0,0,0,10\n20,100,0,0,12\n\
    10,0,1,100,6\n10,0,1,200,7\n10,0,4,100,9\n10,0,4,200,13\n\
    10,100,1,100,7\n10,100,1,200,8\n10,100,4,100,10\n10,100,4,200,14\n\
    20,0,1,100,11\n20,0,1,200,12\n20,0,4,100,14\n20,0,4,200,18\n\
    20,100,1,100,13\n20,100,1,200,14\n20,100,4,100,16\n20,100,4,200,20\n";
const SHAPE: ModelShape =
    ModelShape { layers: 2, hidden_size: 1000, kv_heads: 1, head_size: 1, parameters: 1, qk_norm: false };

/// Every layer takes 1 µs for a token and 32 µs for 32.
fn dense() -> String {
    let layers = ONCE.into_iter().chain(BLOCK.map(|(layer, _)| layer));
    layers.fold("layer,tokens,time_us\n".to_owned(), |text, layer| {
        text + &format!("{layer},1,1\n{layer},32,32\n")
    })
}

const PER_SEQUENCE: &str =
    "layer,sequences,time_us\nlm_head,1,100\nlm_head,8,100\nsampler,1,10\nsampler,8,10\n";

fn profile(dense: &str, attention: &str, skew: Option<&str>) -> Result<Profile, ProfileError> {
    Profile::new(&ProfileTables { dense, per_sequence: PER_SEQUENCE, attention, skew }, SHAPE, None, 2.0)
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
fn uneven_contexts_of_a_mixed_pass_cost_what_was_measured() {
    let skew = "pc,n,ratio,t_mean_us,t_max_us,t_skew_us\n10,2,0.5,10,20,15\n";
    let [even, uneven] = [None, Some(skew)].map(|skew| profile(&dense(), ATTENTION, skew).unwrap());
    let batch = [(0, 10), (99, 100), (199, 200)];
    // Half way from both at the mean of 150 to both at 200, in each of two blocks.
    let at = |kv: f64| even.attention.us([10.0, 0.0, 2.0, kv]);
    let more = 2.0 * 0.5 * (at(200.0) - at(150.0));
    close(us(&uneven, &batch) - us(&even, &batch), more);
    close(us(&uneven.clone().with_skew(SkewUse::Nowhere), &batch), us(&even, &batch));
    let decodes = [(99, 100), (199, 200)];
    close(us(&uneven, &decodes), us(&even, &decodes));
    assert!(us(&uneven.with_skew(SkewUse::All), &decodes) > us(&even, &decodes));
}

#[test]
fn an_all_reduce_follows_both_halves_of_a_block() {
    let all_reduce = AllReduce { gpus: 2, latency_us: 3.0, bandwidth_gb_per_s: 1.0 };
    let dense = dense();
    let tables =
        ProfileTables { dense: &dense, per_sequence: PER_SEQUENCE, attention: ATTENTION, skew: None };
    let alone = Profile::new(&tables, SHAPE, None, 2.0).unwrap();
    let both = Profile::new(&tables, SHAPE, Some(all_reduce), 2.0).unwrap();
    close(us(&both, &[(99, 100)]) - us(&alone, &[(99, 100)]), 4.0 * 2.0 * (3.0 + 1.0));
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
