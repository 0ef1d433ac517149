//! Requests and settings for unit tests.

use serde_json::{Value, json};
use servecast_types::{Prompt, RequestId, Run, Time};

use super::cache::KvCache;
use super::queue::WaitingQueue;
use super::request::Request;
use super::settings::SglangConfig;
use crate::table::{RequestTable, Slot};
use crate::{EngineArgs, EngineConfig, EngineRequest};

/// An engine with these settings of SGLang's.
pub(super) fn config(pages: u32, own: &Value) -> EngineConfig {
    let settings = json!({
        "engine_type": "sglang", "num_gpu_blocks": pages, "kv_bytes_per_token": 1_000, "sglang": own,
    });
    EngineArgs::from_json(settings).unwrap().validate(None).unwrap()
}

/// Waiting requests with a cache.
pub(super) struct Fixture {
    pub(super) config: EngineConfig,
    pub(super) cache: KvCache,
    pub(super) requests: RequestTable<Request>,
    pub(super) waiting: WaitingQueue,
}

impl Fixture {
    pub(super) fn new(pages: u32, own: &Value) -> Self {
        let config = config(pages, own);
        let cache = KvCache::new(&config, false);
        Self { cache, config, requests: RequestTable::default(), waiting: WaitingQueue::default() }
    }

    pub(super) fn sglang(&self) -> SglangConfig {
        self.config.sglang.clone().unwrap()
    }

    /// A request whose prompt consists of the given tokens, as first one and number.
    pub(super) fn add(&mut self, prompt: &[(u32, u32)], max_new_tokens: u32) -> Slot {
        let slot = self.insert(prompt, max_new_tokens);
        self.waiting.push_back(slot);
        slot
    }

    fn insert(&mut self, prompt: &[(u32, u32)], max_new_tokens: u32) -> Slot {
        let number = self.waiting.len() as u32;
        let prompt = Prompt::new(prompt.iter().map(|&(first, len)| Run::tokens(first, len)));
        let request = EngineRequest::new(RequestId(number), prompt, max_new_tokens, Time::ZERO);
        let request = Request::new(request, max_new_tokens, number.into(), &self.config);
        self.requests.insert(request)
    }

    /// Computes a prompt and leaves it in the cache.
    pub(super) fn cache_prompt(&mut self, prompt: &[(u32, u32)]) {
        let slot = self.insert(prompt, 1);
        let mut request = self.requests.remove(slot);
        let tokens = request.prompt_tokens;
        self.cache.allocate(&mut request, tokens);
        self.cache.share_and_release(&mut request, tokens);
    }
}
