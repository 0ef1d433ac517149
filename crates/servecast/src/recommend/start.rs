//! The command lines that start a deployment for real.

use std::fmt::Write as _;

use serde_json::{Value, json};
use servecast_engine::EngineType;
use servecast_recommend::Candidate;

use super::output::best;
use super::space::engine;
use super::{Growth, Question};

/// Flags of vLLM's server, by the settings that they stand for.
const OF_VLLM: [(&str, &str); 9] = [
    ("tensor_parallel_size", "--tensor-parallel-size"),
    ("data_parallel_size", "--data-parallel-size"),
    ("max_num_seqs", "--max-num-seqs"),
    ("max_num_batched_tokens", "--max-num-batched-tokens"),
    ("max_model_len", "--max-model-len"),
    ("gpu_memory_utilization", "--gpu-memory-utilization"),
    ("dtype", "--quantization"),
    ("kv_cache_dtype", "--kv-cache-dtype"),
    ("block_size", "--block-size"),
];

/// Flags of SGLang's server, likewise.
const OF_SGLANG: [(&str, &str); 7] = [
    ("tensor_parallel_size", "--tp"),
    ("data_parallel_size", "--dp"),
    ("max_running_requests", "--max-running-requests"),
    ("chunked_prefill_size", "--chunked-prefill-size"),
    ("context_length", "--context-length"),
    ("kv_cache_dtype", "--kv-cache-dtype"),
    ("page_size", "--page-size"),
];

/// Lines of a shell: a server for each worker, then what stands in front of them.
pub fn script(question: &Question, candidate: &Candidate) -> String {
    let settings = Settings { question, candidate };
    let number = |key: &str| settings.get(key).and_then(|value| value.as_u64());
    let pools = match (number("num_prefill_workers"), number("num_decode_workers")) {
        (Some(prefill), Some(decode)) => vec![("prefill", prefill), ("decode", decode)],
        _ => vec![("", number("num_workers").unwrap_or(1))],
    };
    let is_sglang = engine(&question.config) == EngineType::Sglang;
    let mut text = String::new();
    let mut urls: Vec<(&str, String)> = Vec::new();
    let mut port = 8000;
    for (role, workers) in pools {
        for worker in 0..workers + u64::from(question.limits.spare) {
            let _ = writeln!(
                text,
                "{}",
                if is_sglang { settings.sglang(role, port) } else { settings.vllm(role, port) }
            );
            urls.push((role, format!("http://HOST{}:{port}", urls.len())));
            let _ = worker;
            port += 1;
        }
    }
    if urls.len() > 1 {
        let _ = writeln!(text, "{}", settings.router(is_sglang, &urls));
    }
    text
}

/// The same for the best deployment of the first load.
pub fn start_of_best(question: &Question, growths: &[Growth]) -> Option<String> {
    let (growth, index) = best(growths)?;
    Some(script(question, &growth.search.candidates[index]))
}

struct Settings<'a> {
    question: &'a Question,
    candidate: &'a Candidate,
}

impl Settings<'_> {
    fn get(&self, key: &str) -> Option<Value> {
        let own =
            self.candidate.settings.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone());
        own.or_else(|| json!(self.question.config).get(key).cloned()).filter(|value| !value.is_null())
    }

    fn flags(&self, flags: &[(&str, &str)]) -> String {
        let shown = flags.iter().filter_map(|(key, flag)| {
            let value = self.get(key)?;
            let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            // The type that a model is published in needs no flag.
            (!(*key == "dtype" && value == "bf16") && value != "auto").then(|| format!(" {flag} {value}"))
        });
        shown.collect()
    }

    fn model(&self) -> String {
        self.get("model")
            .and_then(|model| model.as_str().map(str::to_owned))
            .unwrap_or_else(|| "MODEL".to_owned())
    }

    fn vllm(&self, role: &str, port: u32) -> String {
        let role = match role {
            "prefill" => {
                " --kv-transfer-config '{\"kv_connector\":\"NixlConnector\",\"kv_role\":\"kv_producer\"}'"
            }
            "decode" => {
                " --kv-transfer-config '{\"kv_connector\":\"NixlConnector\",\"kv_role\":\"kv_consumer\"}'"
            }
            _ => "",
        };
        let ep = if self.get("expert_parallel_size").is_some() { " --enable-expert-parallel" } else { "" };
        format!("vllm serve {} --port {port}{}{ep}{role}", self.model(), self.flags(&OF_VLLM))
    }

    fn sglang(&self, role: &str, port: u32) -> String {
        let role = if role.is_empty() { String::new() } else { format!(" --disaggregation-mode {role}") };
        format!(
            "python -m sglang.launch_server --model-path {} --port {port}{}{role}",
            self.model(),
            self.flags(&OF_SGLANG)
        )
    }

    fn router(&self, is_sglang: bool, urls: &[(&str, String)]) -> String {
        let mode =
            self.get("router_mode").and_then(|mode| mode.as_str().map(str::to_owned)).unwrap_or_default();
        let policy = match mode.as_str() {
            "random" => "random",
            "least_loaded" | "power_of_two" => "power_of_two",
            "kv_router" | "prefix_hash" => "cache_aware",
            _ => "round_robin",
        };
        let program = if is_sglang { "python -m sglang_router.launch_router" } else { "vllm-router" };
        let staged = urls.iter().any(|(role, _)| !role.is_empty());
        let workers: String = if staged {
            urls.iter().flat_map(|(role, url)| [" --", role, " ", url]).collect()
        } else {
            format!(
                " --worker-urls {}",
                urls.iter().map(|(_, url)| url.as_str()).collect::<Vec<_>>().join(" ")
            )
        };
        let staged = match (staged, is_sglang) {
            (false, _) => "",
            (true, true) => " --pd-disaggregation",
            (true, false) => " --vllm-pd-disaggregation",
        };
        format!("{program}{staged} --policy {policy}{workers}")
    }
}
