//! The runs that would test a finding.

use serde_json::{Value, json};
use servecast_types::Role;

use super::finding::WhatIf;
use crate::report::Settings;

/// GB/s of a link that costs nothing worth mentioning.
const INFINITE_GB_S: f64 = 1e6;

/// Tokens of the smallest chunk that is tried.
const LEAST_CHUNK: f64 = 64.0;

/// Names of settings, and what SGLang calls them.
const OF_SGLANG: [(&str, &str); 5] = [
    ("max_num_seqs", "max_running_requests"),
    ("max_num_batched_tokens", "chunked_prefill_size"),
    ("max_model_len", "context_length"),
    ("disable_radix_cache", "disable_radix_cache"),
    ("enable_mixed_chunk", "enable_mixed_chunk"),
];

/// What was set, and what may be set otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a> {
    settings: Option<&'a Settings>,
}

impl<'a> Given<'a> {
    pub(super) fn new(settings: Option<&'a Settings>) -> Self {
        Self { settings }
    }

    fn get(self, key: &str) -> Option<&'a Value> {
        self.settings?.get(key)
    }

    /// A setting of the engines of a pool, with its path; by SGLang's own name where it has one.
    fn of_engine(self, role: Role, key: &str) -> Option<(String, &'a Value)> {
        let table = match role {
            Role::Aggregated => "engine_args",
            Role::Prefill => "prefill_engine_args",
            Role::Decode => "decode_engine_args",
        };
        let args = self.get(table)?;
        let own = args.get("sglang").filter(|own| own.is_object());
        if let Some((own, (_, name))) = own.zip(OF_SGLANG.iter().find(|(known, _)| *known == key)) {
            return Some((format!("{table}.sglang.{name}"), own.get(name)?));
        }
        Some((format!("{table}.{key}"), args.get(key)?))
    }

    /// Whether requests come when others have gone.
    pub(super) fn is_closed_loop(self) -> bool {
        self.get("replay_concurrency").is_some_and(Value::is_u64)
    }

    fn workers(role: Role) -> &'static str {
        match role {
            Role::Aggregated => "num_workers",
            Role::Prefill => "num_prefill_workers",
            Role::Decode => "num_decode_workers",
        }
    }

    /// So many workers more in a pool.
    pub(super) fn more_workers(self, role: Role, more: u64) -> Option<WhatIf> {
        let key = Self::workers(role);
        let before = self.get(key)?;
        let change = if more == 1 { "one more worker".to_owned() } else { format!("{more} more workers") };
        Some(WhatIf::one(&change, key, Some(before), json!(before.as_u64()? + more)))
    }

    /// A worker moved from one pool to the other.
    pub(super) fn moved_worker(self, from: Role, to: Role) -> Option<WhatIf> {
        let count = |role| self.get(Self::workers(role)).and_then(Value::as_u64);
        let values = [(from, count(from)?.checked_sub(1)?), (to, count(to)? + 1)];
        let values = values.map(|(role, count)| (Self::workers(role).to_owned(), json!(count)));
        Some(WhatIf::several(&format!("one {from} worker as a {to} worker"), &values))
    }

    fn scaled(self, role: Role, key: &str, change: &str, scale: fn(u64) -> u64) -> Option<WhatIf> {
        let (path, before) = self.of_engine(role, key)?;
        Some(WhatIf::one(change, &path, Some(before), json!(scale(before.as_u64()?))))
    }

    pub(super) fn twice_the_seats(self, role: Role) -> Option<WhatIf> {
        self.scaled(role, "max_num_seqs", "twice the requests in a batch", |seats| 2 * seats)
    }

    pub(super) fn twice_the_kv(self, role: Role) -> Option<WhatIf> {
        self.scaled(role, "num_gpu_blocks", "twice the KV", |blocks| 2 * blocks)
    }

    pub(super) fn half_the_chunk(self, role: Role) -> Option<WhatIf> {
        let chunks = self.of_engine(role, "enable_chunked_prefill");
        if let Some((path, before @ Value::Bool(false))) = chunks {
            return Some(WhatIf::one("prompts in chunks", &path, Some(before), json!(true)));
        }
        let half = |tokens: u64| (tokens / 2).max(1);
        self.scaled(role, "max_num_batched_tokens", "half the chunk", half)
    }

    /// Less of prompts in a pass, in the longest of which `prompt_tokens` of them are computed: half the chunk if that is used
    /// up, otherwise half of what is; nothing if passes of so many tokens do not keep up.
    pub(super) fn smaller_chunks(
        self,
        role: Role,
        prompt_tokens: f64,
        keeps_up: impl Fn(u64) -> bool,
    ) -> Option<WhatIf> {
        if let Some((path, before @ Value::Bool(false))) = self.of_engine(role, "enable_mixed_chunk") {
            return Some(WhatIf::one("decodes beside prompts", &path, Some(before), json!(true)));
        }
        let (path, before) = self.of_engine(role, "max_num_batched_tokens")?;
        let chunk = before.as_u64().filter(|&chunk| chunk > 0)?;
        if 2.0 * prompt_tokens >= chunk as f64 {
            return self.half_the_chunk(role).filter(|_| keeps_up(chunk / 2));
        }
        let tokens = 1_u64 << (prompt_tokens / 2.0).max(LEAST_CHUNK).log2().floor() as u32;
        if !keeps_up(tokens) || tokens >= chunk {
            return None;
        }
        let change = format!("at most {tokens} tokens in a pass");
        let seats = self.of_engine(role, "max_num_seqs");
        match seats.filter(|(_, seats)| seats.as_u64().is_some_and(|seats| seats > tokens)) {
            // Engines want room for a token of each request in a pass.
            Some((seats, _)) => {
                Some(WhatIf::varied(&change, &[(path, json!(tokens)), (seats, json!(tokens))]))
            }
            None => Some(WhatIf::one(&change, &path, Some(before), json!(tokens))),
        }
    }

    /// The cache on, a router that goes by it, or more of it.
    pub(super) fn more_reuse(self, role: Role, workers: usize) -> Option<WhatIf> {
        if let Some((path, before @ Value::Bool(false))) = self.of_engine(role, "enable_prefix_caching") {
            return Some(WhatIf::one("prefix caching", &path, Some(before), json!(true)));
        }
        if let Some((path, before @ Value::Bool(true))) = self.of_engine(role, "disable_radix_cache") {
            return Some(WhatIf::one("prefix caching", &path, Some(before), json!(false)));
        }
        let router = self.get("router_mode");
        if workers > 1 && router.is_some_and(|mode| mode != "kv_router") {
            return Some(WhatIf::one(
                "a router that knows what is cached",
                "router_mode",
                router,
                json!("kv_router"),
            ));
        }
        self.twice_the_kv(role)
    }

    /// A router that goes by load.
    pub(super) fn other_router(self) -> Option<WhatIf> {
        let before = self.get("router_mode")?;
        let mode = if before == "least_loaded" { "kv_router" } else { "least_loaded" };
        Some(WhatIf::one("a router that goes by load", "router_mode", Some(before), json!(mode)))
    }

    pub(super) fn twice_as_fast(self, role: Role) -> Option<WhatIf> {
        let (path, before) = self.of_engine(role, "speedup_ratio")?;
        Some(WhatIf::one("iterations twice as fast", &path, Some(before), json!(2.0 * before.as_f64()?)))
    }

    pub(super) fn infinite_link(self) -> Option<WhatIf> {
        let roles = [Role::Prefill, Role::Decode];
        let given: Vec<(String, &Value)> = roles
            .into_iter()
            .filter_map(|role| self.of_engine(role, "kv_transfer_bandwidth"))
            .filter(|(_, value)| value.is_number())
            .collect();
        let values: Vec<(String, Value)> =
            given.iter().map(|(path, _)| (path.clone(), json!(INFINITE_GB_S))).collect();
        (!values.is_empty()).then(|| WhatIf::varied("a link that takes no time", &values))
    }

    /// The longest sequence that would have to fit.
    pub(super) fn longer_context(self, role: Role, tokens: u64) -> Option<WhatIf> {
        let (path, before) = self.of_engine(role, "max_model_len")?;
        Some(WhatIf::one("a longer context", &path, Some(before), json!(tokens)))
    }
}
