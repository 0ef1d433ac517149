//! What holds for a standalone router whatever it is told.

use proptest::collection::vec;
use proptest::prelude::*;
use servecast_router::KvRouterConfig;
use servecast_router::standalone::{
    PhaseRequest, PromptBlocks, Routed, Selection, StandaloneRouter, TokenBlocks, WorkerInfo, WorkerRole,
};
use servecast_types::hash::Salt;
use servecast_types::{Role, Time};

use crate::standalone::rank;
use crate::support::cases;

#[derive(Debug, Clone)]
enum Call {
    Register { worker: u64, prefill: bool, dp_size: u32 },
    Remove { worker: u64 },
    Route { id: u8, phase: Role, tokens: u32, allowed: Option<Vec<u64>> },
    Book { id: u8, phase: Role, tokens: u32, worker: u64 },
    Mark { id: u8 },
    Free { id: u8, phase: Option<Role> },
    Stored { worker: u64, tokens: u32 },
    Output { id: u8, generated: u32 },
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let phase = || prop::sample::select(Role::ALL.to_vec());
    let worker = || 0_u64..4;
    let call = prop_oneof![
        (worker(), any::<bool>(), 1_u32..3).prop_map(|(worker, prefill, dp_size)| Call::Register {
            worker,
            prefill,
            dp_size
        }),
        worker().prop_map(|worker| Call::Remove { worker }),
        (0_u8..8, phase(), 0_u32..100, prop::option::of(vec(worker(), 0..3)))
            .prop_map(|(id, phase, tokens, allowed)| Call::Route { id, phase, tokens, allowed }),
        (0_u8..8, phase(), 0_u32..100, worker()).prop_map(|(id, phase, tokens, worker)| Call::Book {
            id,
            phase,
            tokens,
            worker
        }),
        (0_u8..8).prop_map(|id| Call::Mark { id }),
        (0_u8..8, prop::option::of(phase())).prop_map(|(id, phase)| Call::Free { id, phase }),
        (worker(), 0_u32..40).prop_map(|(worker, tokens)| Call::Stored { worker, tokens }),
        (0_u8..8, 0_u32..40).prop_map(|(id, generated)| Call::Output { id, generated }),
    ];
    vec(call, 0..60)
}

/// Makes a call; the requests that it admitted.
fn make(router: &mut StandaloneRouter, call: Call, now: Time) -> Vec<Selection> {
    let tokens = |count: u32| (0..count).collect::<Vec<u32>>();
    let request = |id: u8, phase, count| {
        let prompt = PromptBlocks::from_tokens(&tokens(count), 4, Salt::default());
        PhaseRequest::new(id.to_string(), phase, prompt)
    };
    match call {
        Call::Register { worker, prefill, dp_size } => {
            let role = if prefill { WorkerRole::Prefill } else { WorkerRole::Decode };
            let info = WorkerInfo { dp_size, max_num_batched_tokens: Some(8), ..WorkerInfo::new(role) };
            router.register_worker(worker, info, now).map_or_else(|_| Vec::new(), |changed| changed.admitted)
        }
        Call::Remove { worker } => {
            router.remove_worker(worker, now).map_or_else(|_| Vec::new(), |changed| changed.admitted)
        }
        Call::Route { id, phase, tokens, allowed } => {
            match router.route(&PhaseRequest { allowed, ..request(id, phase, tokens) }, now) {
                Ok(Routed::Admitted(selection)) => vec![selection],
                Ok(Routed::Queued { admitted, .. }) => admitted,
                Err(_) => Vec::new(),
            }
        }
        Call::Book { id, phase, tokens, worker } => {
            router.book(&request(id, phase, tokens), rank(worker), now).into_iter().collect()
        }
        Call::Mark { id } => router.mark_prefill_complete(&id.to_string(), now).unwrap_or_default(),
        Call::Free { id, phase } => router.free(&id.to_string(), phase, now),
        Call::Stored { worker, tokens: count } => {
            let tokens = tokens(count);
            let blocks = TokenBlocks { parent: None, tokens: &tokens, names: None, salt: Salt::default() };
            _ = router.stored_tokens(rank(worker), &blocks, now);
            Vec::new()
        }
        Call::Output { id, generated } => {
            _ = router.record_output(&id.to_string(), generated, now);
            Vec::new()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// A decode phase never counts prompt tokens, a prefill never blocks; who is freed leaves nothing.
    #[test]
    fn names_and_loads_agree_after_any_calls(calls in calls(), output: bool) {
        let config = KvRouterConfig { router_track_output_blocks: output, ..KvRouterConfig::default() };
        let mut router = StandaloneRouter::new(&config, 4, 1).unwrap();
        for (at, call) in calls.into_iter().enumerate() {
            let now = Time::from_ns(at as u64);
            for selection in make(&mut router, call, now) {
                let dump = router.dump(now);
                let name = (selection.request.id.as_ref(), selection.request.phase);
                prop_assert!(dump.booked.iter().any(|each| (each.id.as_str(), each.phase) == name));
                match selection.request.phase {
                    Role::Aggregated => prop_assert!(selection.settings.track_prefill_tokens),
                    Role::Prefill => prop_assert_eq!(selection.tracked_blocks, 0),
                    Role::Decode => prop_assert_eq!(selection.prefill_tokens, 0),
                }
            }
            let dump = router.dump(now);
            prop_assert_eq!(dump.queued.len(), router.queued_requests());
            let booked: u32 = dump.ranks.iter().map(|rank| rank.active_requests).sum();
            prop_assert_eq!(booked as usize, dump.booked.len());
        }
        for id in 0_u8..8 {
            router.free(&id.to_string(), None, Time::from_ns(100));
        }
        let dump = router.dump(Time::from_ns(100));
        prop_assert!(dump.booked.is_empty() && dump.queued.is_empty());
        for rank in dump.ranks {
            prop_assert_eq!((rank.active_requests, rank.active_blocks, rank.prefill_tokens), (0, 0, 0));
        }
    }
}
