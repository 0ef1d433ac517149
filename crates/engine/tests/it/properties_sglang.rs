//! What holds for SGLang whatever its settings and the load, beyond what holds for every engine.

use proptest::prelude::*;
use rustc_hash::FxHashSet;
use serde_json::{Value, json};
use servecast_engine::{Admitted, Iteration};
use servecast_types::{BlockHasher, Duration, KvEvent, RequestId, Run, SequenceHash};

use crate::load::{Submission, check_share_of_stretches, latency, load, run};
use crate::properties::cases;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_load_is_served_by_sglang(settings in settings(1..150), load in load(24)) {
        let load = with_repeats(load);
        let iterations = run(&settings, &load);
        check_batches(&settings, &iterations);
        check_hits(&settings, &load, &iterations);
        prop_assert_eq!(iterations, run(&settings, &load), "two runs differ");
    }

    #[test]
    fn sglang_decides_the_same_if_decodes_are_taken_together(
        settings in prop_oneof![settings(1..150), settings(2..14)],
        load in load(24),
    ) {
        run(&settings, &load);
    }

    #[test]
    fn pools_of_a_few_pages_do_not_stall_sglang(settings in settings(2..14), load in load(12)) {
        check_batches(&settings, &run(&settings, &load));
    }

    #[test]
    fn sliding_windows_give_all_slots_back(
        settings in prop_oneof![windows(1..40), windows(2..14)],
        load in load(8),
    ) {
        let load = with_repeats(load);
        let iterations = run(&settings, &load);
        check_batches(&settings, &iterations);
        check_windows(&settings, &iterations);
    }
}

/// The property above would say nothing without them.
#[test]
fn random_loads_of_sglang_decode_together() {
    for serial in [false, true] {
        let with = |mut settings: Value| {
            settings["sglang"]["disable_overlap_schedule"] = serial.into();
            settings
        };
        check_share_of_stretches(2, &format!("serial: {serial}"), settings(1..150).prop_map(with));
    }
}

/// Requests that each need most of the largest pages.
#[test]
fn limits_are_no_pitfalls_for_sglang() {
    for disable_overlap_schedule in [false, true] {
        for (page_size, pages) in [(1_u32 << 31, 3), ((1 << 31) - 1, 3), (1 << 30, 1 << 24), (u32::MAX, 4)] {
            let own = json!({
                "page_size": page_size, "chunked_prefill_size": -1, "disable_overlap_schedule": disable_overlap_schedule,
                "schedule_policy": "lpm",
            });
            let settings = json!({"engine_type": "sglang", "num_gpu_blocks": pages, "sglang": own});
            let request =
                Submission { prefix_len: i32::MAX as u32 - 7, max_tokens: u32::MAX, ..Submission::default() };
            let iterations = run(&settings, &[request.clone(), request]);
            assert_eq!(iterations.iter().map(Iteration::tokens_emitted).sum::<u64>(), 10);
        }
    }
}

fn settings(pages: std::ops::Range<u32>) -> impl Strategy<Value = Value> {
    let limit = |limits: std::ops::Range<u32>| prop::option::weighted(0.6, limits);
    let pool = (prop_oneof![Just(1_u32), 2_u32..9, 9_u32..33], pages);
    let chunk = prop::option::weighted(0.7, prop_oneof![1_u32..4, 1_u32..40]);
    let budgets =
        (chunk, prop_oneof![1_u32..250, Just(16_384)], prop_oneof![1_u32..20, Just(4_096)], limit(1..4));
    let limits = (limit(1..12), limit(9..250), prop_oneof![Just(0.0), 0.0..3.0], 0_u32..3);
    let interval = prop_oneof![2 => Just(1_u32), 2 => 2_u32..8, 1 => Just(2_000)];
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let policy = prop::sample::select(vec![
        "fcfs",
        "lpm",
        "lof",
        "dfs-weight",
        "random",
        "hrrn",
        "shortest-prefill-first",
        "routing-key",
    ]);
    let decodes = (prop_oneof![2 => Just(0_u32), 1 => 1_u32..6, 1 => Just(u32::MAX)], 0_u32..4);
    let tier = prop::option::weighted(0.4, (0_usize..3, 0.1..3.0, 0.0..3_000.0, 0.01..2.0));
    let others = (latency(), interval, decodes, any::<bool>(), tier);
    (pool, budgets, limits, switches, policy, others).prop_map(
        |(pool, budgets, limits, switches, policy, (latency, interval, decodes, by_priority, tier))| {
            let (prefill_decode_interval, min_bs) = decodes;
            let (page_size, pages) = pool;
            // Beside what no prompt may take.
            let num_gpu_blocks = pages + 6_u32.div_ceil(page_size);
            let (chunk, max_prefill_tokens, clip_max_new_tokens, prefill_max_requests) = budgets;
            let (max_num_seqs, max_model_len, conservativeness, threshold) = limits;
            let (mixed, radix, serial, priorities, low_first) = switches;
            let priorities = priorities && matches!(policy, "fcfs" | "lof");
            let radix = radix || policy == "shortest-prefill-first";
            let mut settings = json!({
                "engine_type": "sglang",
                "num_gpu_blocks": num_gpu_blocks,
                "max_num_seqs": max_num_seqs,
                "max_model_len": max_model_len,
                "enable_prefix_caching": radix,
                "latency": latency,
                "sglang": {
                    "page_size": page_size,
                    "max_prefill_tokens": max_prefill_tokens,
                    "chunked_prefill_size": chunk.map_or(-1, |pages| i64::from(pages * page_size)),
                    "clip_max_new_tokens": clip_max_new_tokens,
                    "prefill_max_requests": prefill_max_requests,
                    "prefill_decode_interval": prefill_decode_interval,
                    "prefill_decode_interval_min_bs": if prefill_decode_interval > 0 { min_bs } else { 0 },
                    "retraction_policy": if by_priority && priorities { "priority" } else { "length" },
                    "scheduler_recv_interval": interval,
                    "schedule_policy": policy,
                    "schedule_conservativeness": conservativeness,
                    "enable_mixed_chunk": mixed && chunk.is_some(),
                    "disable_overlap_schedule": serial,
                    "enable_priority_scheduling": priorities,
                    "schedule_low_priority_values_first": low_first,
                    "priority_scheduling_preemption_threshold": threshold,
                },
            });
            // The host holds a page at least.
            if let Some((policy, ratio, copy_us, bandwidth)) = tier.filter(|_| radix) {
                let own = &mut settings["sglang"];
                own["enable_hierarchical_cache"] = json!(true);
                own["hicache_ratio"] = json!(f64::max(ratio, 1.001 / f64::from(num_gpu_blocks)));
                own["hicache_write_policy"] =
                    json!(["write_through", "write_through_selective", "write_back"][policy]);
                own["hicache_write_us"] = json!(copy_us);
                own["hicache_load_us"] = json!(copy_us / 2.0);
                own["hicache_write_bandwidth"] = json!(bandwidth);
                settings["kv_bytes_per_token"] = json!(1_000);
            }
            settings
        },
    )
}

/// Settings with a pool of its own for layers with a sliding window.
fn windows(pages: std::ops::Range<u32>) -> impl Strategy<Value = Value> {
    (settings(pages), 0.0..1.0_f64, 0.0..1.0_f64).prop_map(|(mut settings, window, room)| {
        settings["enable_prefix_caching"] = json!(true);
        let pages = settings["num_gpu_blocks"].as_f64().unwrap().max(3.0);
        settings["num_gpu_blocks"] = json!(pages as u32);
        let own = settings["sglang"].as_object_mut().unwrap();
        own.remove("enable_hierarchical_cache");
        own.retain(|key, _| !key.starts_with("hicache"));
        let page = own["page_size"].as_f64().unwrap();
        let most = (pages - 2.0) * page;
        let window = (1.0 + window * (most - 1.0)).floor().min(100.0);
        let least = (window / page).ceil() + 2.0;
        let ratio = (least + (room * (pages - least)).round()) / pages;
        own.insert("sliding_window_size".to_owned(), json!(window as u32));
        own.insert("swa_full_tokens_ratio".to_owned(), json!(ratio));
        settings
    })
}

/// Slots of windows are those of the pool at any time, and belong to nobody when all requests have ended.
fn check_windows(settings: &Value, iterations: &[Iteration]) {
    let own = &settings["sglang"];
    let pages = own["swa_full_tokens_ratio"].as_f64().unwrap() * settings["num_gpu_blocks"].as_f64().unwrap();
    let capacity = ((pages + 1e-6).floor() as u64 + 1) * own["page_size"].as_u64().unwrap();
    let ends = iterations.iter().filter_map(|iteration| iteration.sglang.as_deref()?.windows_end);
    let mut last = None;
    for end in ends {
        assert!(end.available + end.evictable + end.protected <= capacity, "{end:?} of {capacity}");
        last = Some(end);
    }
    if let Some(last) = last {
        assert_eq!(last.protected, 0, "a window is in use though nobody runs");
    }
}

/// The load, and then, one after the other, the same prompts once more, which hit what is left of them.
fn with_repeats(mut load: Vec<Submission>) -> Vec<Submission> {
    let again = load.iter().enumerate().map(|(index, first)| Submission {
        repeats: first.repeats.or(Some(index as u32)),
        max_tokens: 1,
        gap_us: 10_000_000,
        transfer: None,
        reader: None,
        ..first.clone()
    });
    let again: Vec<Submission> = again.collect();
    load.extend(again);
    load
}

/// Budgets and exclusive batches.
fn check_batches(settings: &Value, iterations: &[Iteration]) {
    let own = &settings["sglang"];
    let number = |key: &str| own[key].as_u64().unwrap();
    let chunk = own["chunked_prefill_size"].as_u64();
    let requests = own["prefill_max_requests"].as_u64().unwrap_or(u64::MAX);
    let capacity = number("page_size") * settings["num_gpu_blocks"].as_u64().unwrap();
    for iteration in iterations {
        let state = iteration.sglang.as_deref().unwrap();
        let (prefills, decodes) = iteration.scheduled.split_at(state.prefills);
        let tokens: u64 = prefills.iter().map(|each| u64::from(each.tokens)).sum();
        assert!(chunk.is_none_or(|chunk| tokens <= chunk), "{tokens} tokens in a chunk");
        // A request that comes first may exceed it, and one without end where nothing is shared.
        let limited = chunk.is_none() && prefills.len() > 1 && settings["enable_prefix_caching"] == true;
        let most = if limited { number("max_prefill_tokens") } else { u64::MAX };
        assert!(tokens <= most, "{tokens} tokens in a prefill batch");
        assert!(prefills.len() as u64 <= requests, "{} requests in a prefill batch", prefills.len());
        let mixed = own["enable_mixed_chunk"] == true;
        assert!(mixed || prefills.is_empty() || decodes.is_empty(), "a mixed batch");
        assert!(decodes.iter().all(|each| each.tokens == 1), "a decode of several tokens");
        assert!(state.available_end + state.evictable_end + state.protected_end <= capacity);
        assert!((0.0..=1.0).contains(&state.new_token_ratio), "a ratio of {}", state.new_token_ratio);
    }
}

/// An admitted request hits exactly the prefix that the events so far tell of.
///
/// An iteration tells at its end of what it changed, so what happened between the last one that had ended when a
/// request was admitted and the admission itself is known only in part.
fn check_hits(settings: &Value, load: &[Submission], iterations: &[Iteration]) {
    let page = settings["sglang"]["page_size"].as_u64().unwrap() as u32;
    let mut emitted = vec![0_u32; load.len()];
    let stubs = iterations.iter().flat_map(|iteration| {
        let is_scheduled = |id: &RequestId| iteration.scheduled.iter().any(|each| each.id == *id);
        iteration.rejected.iter().map(|&(id, _)| id).filter(is_scheduled)
    });
    let stubs: FxHashSet<RequestId> = stubs.collect();
    for (position, iteration) in iterations.iter().enumerate() {
        // What ends while a decision waits for copies is looked at when that is made.
        let waited = iteration.stalled > Duration::ZERO;
        let is_known = |other: &&Iteration| {
            other.end < iteration.scheduled_at || (other.end == iteration.scheduled_at && !waited)
        };
        let known = iterations[..position].iter().take_while(is_known).count();
        let mut told = contents(&iterations[..known]);
        let (mut least, mut most) = (told.clone(), std::mem::take(&mut told));
        for event in iterations[known..=position].iter().flat_map(|iteration| &iteration.kv_events) {
            match event {
                KvEvent::Stored { blocks, .. } => most.extend(blocks.iter()),
                KvEvent::Removed { blocks } => blocks.iter().for_each(|hash| _ = least.remove(&hash)),
                KvEvent::Cleared => least.clear(),
            }
        }
        for &Admitted { id, cached_tokens, host_cached_tokens, resumed } in &iteration.admitted {
            let submission = &load[id.index()];
            if (submission.transfer.is_some() && !resumed) || stubs.contains(&id) {
                continue;
            }
            let mut content = submission.prompt(id.index());
            content.push(Run::output_of(id, emitted[id.index()]));
            let mut hashes = BlockHasher::all(&content, page);
            hashes.truncate(((content.tokens() - 1) / page) as usize);
            let hit = |set: &FxHashSet<SequenceHash>| {
                page * hashes.iter().take_while(|hash| set.contains(*hash)).count() as u32
            };
            let expected = hit(&least)..=hit(&most);
            if host_cached_tokens > 0 {
                // What was only on the host is not among what is known of the device.
                continue;
            }
            assert!(expected.contains(&cached_tokens), "{id} hits {cached_tokens} tokens, not {expected:?}");
        }
        let handed_over = iteration.joined.iter().map(|joined| (joined.id, 1));
        let computed = iteration.emitted.iter().map(|each| (each.id, each.tokens));
        computed.chain(handed_over).for_each(|(id, tokens)| emitted[id.index()] += tokens);
    }
}

/// What can be hit after these iterations.
fn contents(iterations: &[Iteration]) -> FxHashSet<SequenceHash> {
    let mut contents = FxHashSet::default();
    for event in iterations.iter().flat_map(|iteration| &iteration.kv_events) {
        match event {
            KvEvent::Stored { blocks, .. } => contents.extend(blocks.iter()),
            KvEvent::Removed { blocks } => blocks.iter().for_each(|hash| _ = contents.remove(&hash)),
            KvEvent::Cleared => contents.clear(),
        }
    }
    contents
}

/// Memory that is released while an iteration runs is free in the next one.
#[test]
fn a_release_during_a_decode_counts_from_the_next_one_on() {
    let settings = json!({
        "engine_type": "sglang", "num_gpu_blocks": 91, "enable_prefix_caching": false, "latency": "linear:100,10,20",
        "sglang": {"page_size": 10, "disable_overlap_schedule": true},
    });
    let request = |own_len, max_tokens| Submission { own_len, max_tokens, ..Submission::default() };
    run(&settings, &[request(1, 120), Submission { reader: Some((1, 0)), ..request(107, 9) }]);
}
