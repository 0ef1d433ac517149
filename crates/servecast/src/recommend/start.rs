//! The command lines that start a deployment for real.

use std::fmt::Write as _;

use serde_json::{Value, json};
use servecast_engine::EngineType;
use servecast_recommend::Candidate;

use super::output::best;
use super::space::engine;
use super::{Growth, Question};

/// Flags of vLLM's server, by the settings that they stand for.
const OF_VLLM: [(&str, &str); 10] = [
    ("tensor_parallel_size", "--tensor-parallel-size"),
    ("pipeline_parallel_size", "--pipeline-parallel-size"),
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
const OF_SGLANG: [(&str, &str); 6] = [
    ("expert_parallel_size", "--ep"),
    ("max_running_requests", "--max-running-requests"),
    ("chunked_prefill_size", "--chunked-prefill-size"),
    ("context_length", "--context-length"),
    ("kv_cache_dtype", "--kv-cache-dtype"),
    ("page_size", "--page-size"),
];

/// Flags of TensorRT-LLM's server, likewise.
const OF_TRTLLM: [(&str, &str); 6] = [
    ("tensor_parallel_size", "--tp_size"),
    ("pipeline_parallel_size", "--pp_size"),
    ("expert_parallel_size", "--ep_size"),
    ("max_num_seqs", "--max_batch_size"),
    ("max_num_batched_tokens", "--max_num_tokens"),
    ("max_model_len", "--max_seq_len"),
];

/// What is in a command otherwise, or says how a server is simulated and nothing of the server.
const NO_FLAGS: [&str; 10] = [
    "model",
    "gpu",
    "engine",
    "engine_type",
    "engine_preset",
    "engine_version",
    "vllm_version",
    "latency",
    "kv_bytes_per_token",
    "kv_transfer_bandwidth",
];

/// Sizes that [`Settings::sglang_sizes`] has in the command.
const SIZES_OF_SGLANG: [&str; 4] =
    ["tensor_parallel_size", "data_parallel_size", "dp_size", "enable_dp_attention"];

/// The port at which decode workers of SGLang find a prefill worker: its own default.
const BOOTSTRAP_PORT: u32 = 8998;

/// Lines of a shell: a server for each worker, then what stands in front of them.
pub fn script(question: &Question, candidate: &Candidate) -> String {
    let settings = Settings { question, candidate };
    let number = |key: &str| settings.get("", key).and_then(|value| value.as_u64());
    let pools = match (number("num_prefill_workers"), number("num_decode_workers")) {
        (Some(prefill), Some(decode)) => vec![("prefill", prefill), ("decode", decode)],
        _ => vec![("", number("num_workers").unwrap_or(1))],
    };
    let engine = engine(&question.config);
    let is_sglang = engine == EngineType::Sglang;
    let mut text = String::new();
    let mut urls: Vec<(&str, String)> = Vec::new();
    let mut port = 8000;
    for (role, workers) in pools {
        for worker in 0..workers + u64::from(question.limits.spare) {
            let server = match engine {
                EngineType::Vllm => settings.vllm(role, port),
                EngineType::Sglang => settings.sglang(role, port),
                EngineType::Trtllm => settings.trtllm(role, port),
            };
            let _ = writeln!(text, "{server}");
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
    /// A setting of the workers of a role: their own one before that of all.
    fn get(&self, role: &str, key: &str) -> Option<Value> {
        let config = json!(self.question.config);
        let pool = if role.is_empty() { "engine_args".to_owned() } else { format!("{role}_engine_args") };
        let of_candidate = |path: &str| {
            let settings = self.candidate.settings.iter();
            settings.clone().find(|(known, _)| known == path).map(|(_, value)| value.clone())
        };
        let own = of_candidate(&format!("{pool}.{key}")).or_else(|| config.get(&pool)?.get(key).cloned());
        let found = own.or_else(|| of_candidate(key)).or_else(|| config.get(key).cloned());
        found.filter(|value| !value.is_null())
    }

    fn flags(&self, role: &str, flags: &[(&str, &str)]) -> String {
        let shown = flags.iter().filter_map(|(key, flag)| {
            let value = self.get(role, key)?;
            let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            // The type that a model is published in needs no flag.
            (!(*key == "dtype" && value == "bf16") && value != "auto").then(|| format!(" {flag} {value}"))
        });
        shown.collect()
    }

    fn model(&self) -> String {
        self.get("", "model")
            .and_then(|model| model.as_str().map(str::to_owned))
            .unwrap_or_else(|| "MODEL".to_owned())
    }

    fn vllm(&self, role: &str, port: u32) -> String {
        let flags = self.flags(role, &OF_VLLM);
        let ep =
            if self.get(role, "expert_parallel_size").is_some() { " --enable-expert-parallel" } else { "" };
        let transfer = match role {
            "prefill" => {
                " --kv-transfer-config '{\"kv_connector\":\"NixlConnector\",\"kv_role\":\"kv_producer\"}'"
            }
            "decode" => {
                " --kv-transfer-config '{\"kv_connector\":\"NixlConnector\",\"kv_role\":\"kv_consumer\"}'"
            }
            _ => "",
        };
        let left_out = self.left_out(role, &OF_VLLM, &["expert_parallel_size"]);
        format!("vllm serve {} --port {port}{flags}{ep}{transfer}{left_out}", self.model())
    }

    /// How a server of SGLang shares layers out: it counts all of its GPUs, over which ranks of the attention are spread.
    fn sglang_sizes(&self, role: &str) -> String {
        let size = |key| self.get(role, key).and_then(|size| size.as_u64());
        let tensor = size("tensor_parallel_size");
        let ranks = size("dp_size").or_else(|| size("data_parallel_size")).filter(|&ranks| ranks > 1);
        match ranks {
            Some(ranks) => {
                let shares_out = size("dp_size").is_none() && self.shares_out(role);
                let gpus = tensor.unwrap_or(1) * if shares_out { 1 } else { ranks };
                format!(" --tp {gpus} --dp {ranks} --enable-dp-attention")
            }
            None => tensor.map(|tensor| format!(" --tp {tensor}")).unwrap_or_default(),
        }
    }

    /// Whether ranks share out the GPUs that `tensor_parallel_size` counts.
    fn shares_out(&self, role: &str) -> bool {
        let key = "enable_dp_attention";
        let own = self.get(role, "sglang").and_then(|own| own.get(key).cloned());
        own.or_else(|| self.get(role, key)) == Some(Value::Bool(true))
    }

    /// TensorRT-LLM's takes its stage, and how the other one is reached, from a file.
    fn trtllm(&self, role: &str, port: u32) -> String {
        let flags = self.flags(role, &OF_TRTLLM) + &self.left_out(role, &OF_TRTLLM, &[]);
        let stage = if role.is_empty() { String::new() } else { format!("  # {role} worker") };
        format!("trtllm-serve {} --port {port}{flags}{stage}", self.model())
    }

    /// What was given for the servers of a role and is not in their command, as a remark behind it; `others` are there beside
    /// these flags.
    fn left_out(&self, role: &str, flags: &[(&str, &str)], others: &[&str]) -> String {
        let config = &self.question.config;
        let pool = if role.is_empty() { "engine_args".to_owned() } else { format!("{role}_engine_args") };
        let pool = json!(config.deployment).get(&pool).cloned().unwrap_or_default();
        let own = pool.get("sglang").cloned().unwrap_or_default();
        let given = [json!(config.engine), json!(config.sglang), pool, own];
        let given = given.iter().filter_map(Value::as_object).flatten().filter(|(_, value)| !value.is_null());
        let mut keys: Vec<&str> = given.map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        let is_there = |key: &str| {
            let is_flag = others.contains(&key) || flags.iter().any(|(known, _)| *known == key);
            key == "sglang" || NO_FLAGS.contains(&key) || is_flag
        };
        let missing: Vec<String> =
            keys.into_iter().filter(|key| !is_there(key)).map(|key| format!("`{key}`")).collect();
        if missing.is_empty() { String::new() } else { format!("  # without {}", missing.join(", ")) }
    }

    fn sglang(&self, role: &str, port: u32) -> String {
        let flags = self.sglang_sizes(role) + &self.flags(role, &OF_SGLANG);
        let left_out = self.left_out(role, &OF_SGLANG, &SIZES_OF_SGLANG);
        let role = match role {
            "" => String::new(),
            "prefill" => {
                format!(" --disaggregation-mode prefill --disaggregation-bootstrap-port {BOOTSTRAP_PORT}")
            }
            role => format!(" --disaggregation-mode {role}"),
        };
        let model = self.model();
        format!("python -m sglang.launch_server --model-path {model} --port {port}{flags}{role}{left_out}")
    }

    /// Flags of `vllm-router` 0.1.17 and `sglang-router` 0.3.2.
    fn router(&self, is_sglang: bool, urls: &[(&str, String)]) -> String {
        let mode = self.get("", "router_mode");
        let mode = mode.as_ref().and_then(Value::as_str).unwrap_or("round_robin");
        let (policy, is_nearest) = match mode {
            "round_robin" | "random" => (mode, false),
            "least_loaded" | "power_of_two" => ("power_of_two", mode != "power_of_two"),
            _ if is_sglang => ("cache_aware", true),
            "prefix_hash" => ("consistent_hash", true),
            _ => ("kv_aware", true),
        };
        let program = if is_sglang { "python -m sglang_router.launch_router" } else { "vllm-router" };
        let is_staged = urls.iter().any(|(role, _)| !role.is_empty());
        let workers: String = if is_staged {
            let of_worker = |(role, url): &(&str, String)| match *role {
                "prefill" if is_sglang => format!(" --prefill {url} {BOOTSTRAP_PORT}"),
                role => format!(" --{role} {url}"),
            };
            urls.iter().map(of_worker).collect()
        } else {
            let urls: Vec<&str> = urls.iter().map(|(_, url)| url.as_str()).collect();
            format!(" --worker-urls {}", urls.join(" "))
        };
        let staged = match (is_staged, is_sglang) {
            (false, _) => "",
            (true, true) => " --pd-disaggregation",
            (true, false) => " --vllm-pd-disaggregation",
        };
        let remark = if is_nearest {
            format!("  # the nearest that it has to the {mode} that was simulated")
        } else {
            String::new()
        };
        format!("{program}{staged} --policy {policy}{workers}{remark}")
    }
}
