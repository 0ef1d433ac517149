//! Names of settings that people know from other tools, and what there is for them here.
//!
//! One table for flags, keys of files, JSON settings of engines and routers, and arguments in Python: whoever meets a
//! name that it does not know asks here before it goes by the spelling, since names that look alike often mean other
//! things (`num_g2_blocks` are no `num_gpu_blocks`).

/// What there is for a setting of another tool.
///
/// Settings that the sentence mentions stand in braces, since they are flags in one place and keys in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    sentence: &'static str,
}

impl Foreign {
    /// The sentence with `name` of each setting that it mentions.
    pub fn sentence(self, name: impl Fn(&str) -> String) -> String {
        let mut text = String::new();
        for (place, part) in self.sentence.split(['{', '}']).enumerate() {
            if place % 2 == 0 { text.push_str(part) } else { text.push_str(&name(part)) }
        }
        text
    }

    /// The settings that the sentence mentions.
    pub fn settings(self) -> impl Iterator<Item = &'static str> {
        self.sentence.split(['{', '}']).skip(1).step_by(2)
    }
}

/// What there is for a name of another tool, however it is written: `--tensor-parallel-size`, `TENSOR_PARALLEL_SIZE`.
pub fn foreign(name: &str) -> Option<Foreign> {
    let name = name.trim_start_matches('-').to_ascii_lowercase().replace(['-', ' '], "_");
    let name = name.rsplit('.').next().unwrap_or_default();
    let (_, sentence) = TABLE.iter().find(|(names, _)| names.split(' ').any(|known| known == name))?;
    Some(Foreign { sentence })
}

/// The name among `known` that `name` is most likely a slip of, if any is near: one letter in three, and one more.
pub fn similar<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |other: &&str| strsim::damerau_levenshtein(name, other);
    known.into_iter().min_by_key(distance).filter(|other| distance(other) <= 1 + name.chars().count() / 3)
}

const GPU: &str =
    "{model} says what is served, {gpu} on what, and {tensor_parallel_size} how many GPUs share each layer";
const TYPES: &str = "{dtype} says how weights are stored, and {kv_cache_dtype} how the KV cache is";
const EXPERTS: &str = "{expert_parallel_size} is the number of GPUs over which whole experts are shared out";
const OFFLOADED: &str = "KV cache outside the GPU is {kv_offloading_size} and {kv_offloading} for vLLM, and \
                         {enable_hierarchical_cache} for SGLang; disks and stores of several workers are not simulated";
const DRAFTS: &str = "speculative decoding is described by {speculative_config}, for SGLang by {speculative_algorithm} and \
                      {speculative_num_draft_tokens}, too";
const ATTENTION: &str = "{attention_backend} flashinfer stands for FlashInfer's own kernels, which is FLASHINFER without \
                         TensorRT-LLM's attention on Blackwell";
const AIC: &str = "not there yet, {latency} chooses among the latency models that there are";
const OUTPUTS: &str = "{report_json} FILE writes the report, {requests_jsonl} FILE a row a request, {output_dir} DIR \
                       both and a page, {export} FORMAT=FILE what other tools write";
const LIMITS: &str = "limits of goodput are {sla_ttft_ms}, {sla_tpot_ms} and {sla_e2e_ms}";
const SUBSET: &str = "{max_requests} replays no more than the first requests of a load; {request_count} is for synthetic \
                      workloads";
const RATE: &str = "{arrival_speedup_ratio} changes the rate of a trace; in a synthetic workload {arrival_interval_ms} is \
                    the time between two requests, 1000 / rate";
const PIPELINE: &str = "the stages of a pipeline are {pipeline_parallel_size}";
const POLICIES: &str = "the router has one policy, whose settings are {router_config}";

/// Names, separated by spaces, and what there is for them.
const TABLE: &[(&str, &str)] = &[
    // Model, GPUs, times of iterations.
    ("model_name model_path served_model_name gpu_type gpu_name hardware accelerator", GPU),
    ("tp tp_size tensor_parallel tensor_model_parallel_size num_gpus gpus", GPU),
    ("pp_size pipeline_parallel", PIPELINE),
    ("ep ep_size enable_expert_parallel", EXPERTS),
    (
        "dp data_parallel",
        "a data-parallel rank is a worker of its own: {num_workers}; with shared experts, {data_parallel_size}",
    ),
    ("quantization weight_dtype kv_dtype", TYPES),
    ("aic_backend aic_system aic_backend_version aic_model_path aic_tp_size aic_perf_config", AIC),
    ("aic_moe_tp_size aic_moe_ep_size aic_attention_dp_size", AIC),
    ("planner_config", "not there yet, the number of workers is fixed during a replay"),
    ("use_trtllm_attention attention_config vllm_attention_backend", ATTENTION),
    (
        "cuda_graph_sizes compilation_config cudagraph_sizes max_seq_len_to_capture",
        "{cudagraph_capture_sizes} are the tokens of passes that vLLM records as CUDA graphs, {max_cudagraph_capture_size} is \
         the largest; {enforce_eager} records none",
    ),
    (
        "cuda_graph_config cuda_graph_batch_sizes cuda_graph_max_batch_size cuda_graph_padding_enabled use_cuda_graph",
        "what TensorRT-LLM records as CUDA graphs is `cuda_graph_config` within the object `trtllm` of {engine_args}; \
         {enforce_eager} records none",
    ),
    ("latency_model perf_model", "{latency} chooses the latency model"),
    (
        "ops ops_file ops_pack",
        "measurements of one's own operators are an option of {latency}: ops:pack=FILE",
    ),
    // Load.
    ("trace trace_path input_file dataset_path", "the trace is {trace_file}"),
    (
        "trace_type input_format dataset_name custom_dataset_type",
        "the form of a trace is recognised by its content: leave it out",
    ),
    ("num_requests num_prompts limit request_limit num_conversations", SUBSET),
    ("request_rate rate qps arrival_rate", RATE),
    ("burstiness", "{arrival_process} spaces the arrivals of a synthetic workload"),
    ("concurrency max_concurrency", "{replay_concurrency} keeps so many sessions under way at a time"),
    (
        "isl input_len random_input_len synthetic_input_tokens_mean prompt_len",
        "{input_tokens} is the prompt length of a synthetic workload",
    ),
    (
        "osl output_len random_output_len output_tokens_mean max_output_tokens",
        "{output_tokens} is the output length of a synthetic workload",
    ),
    (
        "warmup num_warmups warmup_requests warmup_request_count",
        "a simulation needs no warm-up, and every request counts: leave it out",
    ),
    ("random_seed", "{seed} is the root of all random numbers"),
    (
        "tokenizer tokenizer_path",
        "prompts have no text here, so that there is nothing to tokenize: leave it out",
    ),
    // Workers and pools.
    (
        "replicas num_replicas num_instances num_engines worker_count",
        "{num_workers} is the number of aggregated workers",
    ),
    (
        "num_prefill_instances num_decode_instances prefill_replicas decode_replicas",
        "{num_prefill_workers} and {num_decode_workers} are the numbers of workers",
    ),
    (
        "bandwidth kv_bandwidth transfer_bandwidth kv_transfer_bandwidth_gbps network_bandwidth",
        "{kv_transfer_bandwidth} is the bandwidth of the hand-off in GB/s, beside {kv_bytes_per_token}",
    ),
    (
        "kv_transfer_config kv_connector",
        "{num_prefill_workers} and {num_decode_workers} split prefill and decode, and `kv_role` of {engine_args} is the side of \
         vLLM's connector; {kv_offloading_size} keeps KV in the memory of the host",
    ),
    // Engine.
    ("num_g2_blocks num_g3_blocks num_g4_blocks cpu_offload_gb swap_space kv_offloading_size", OFFLOADED),
    ("bandwidth_g1_to_g2_gbps bandwidth_g2_to_g1_gbps offload_batch_size kv_offloading_backend", OFFLOADED),
    ("enable_hierarchical_cache hicache_ratio hicache_size hicache_write_policy host_cache_size", OFFLOADED),
    ("num_draft_tokens nextn", DRAFTS),
    ("max_lora_rank lora_paths", "adapters have no rank and no path here: leave it out"),
    (
        "num_blocks num_kv_blocks kv_blocks total_kv_blocks num_gpu_blocks_override",
        "{num_gpu_blocks} is the number of KV blocks of a worker",
    ),
    (
        "mem_fraction_static free_gpu_memory_fraction kv_cache_free_gpu_memory_fraction kv_cache_free_gpu_mem_fraction",
        "{gpu_memory_utilization} is the share of a GPU's memory that the engine takes",
    ),
    (
        "max_batch_size batch_size max_num_requests max_concurrent_requests",
        "{max_num_seqs} is how many requests run at a time",
    ),
    (
        "max_num_tokens max_batched_tokens token_budget chunk_size max_tokens_per_batch",
        "{max_num_batched_tokens} is how many tokens an iteration computes",
    ),
    (
        "max_seq_len max_context_len max_position_embeddings",
        "{max_model_len} is the longest sequence, prompt and output together",
    ),
    ("disable_chunked_prefill", "{enable_chunked_prefill}=false schedules prompts as a whole"),
    ("disable_prefix_caching", "{enable_prefix_caching}=false starts every prompt from nothing"),
    ("no_async_scheduling disable_async_scheduling", "{async_scheduling}=false switches it off"),
    // Router, among them what Dynamo's router has had since 1.2.
    (
        "router router_policy routing_policy routing load_balancer",
        "{router_mode} chooses how requests are spread over the workers of a pool",
    ),
    (
        "overlap_score_credit overlap_score_credit_decay",
        "a cached block counts in full here, as in Dynamo 1.1; {overlap_score_weight} weighs what is left to compute, and 0 \
         takes no notice of the cache",
    ),
    (
        "prefill_load_scale kv_overlap_score_weight router_kv_overlap_score_weight",
        "{overlap_score_weight} weighs what is left to compute of a prompt",
    ),
    ("host_cache_hit_weight disk_cache_hit_weight shared_cache_type shared_cache_multiplier", OFFLOADED),
    ("decode_active_request_weight", "a request counts by its blocks here: leave it out"),
    ("predicted_ttl_secs", "{router_ttl_secs} is how long a prediction holds without KV events"),
    ("router_policy_config router_prefill_policy router_decode_policy worker_selection", POLICIES),
    // Results.
    (
        "goodput slo_ttft ttft_slo slo_tpot tpot_slo slo_itl itl_slo slo_e2e sla_e2el_ms sla_latency_ms",
        LIMITS,
    ),
    ("sla_ttft sla_itl sla_tpot sla_e2e ttft_ms tpot_ms itl_ms e2e_ms", LIMITS),
    ("output output_file result_filename result_dir save_result output_json", OUTPUTS),
    ("html report", "{report_html} FILE writes a page with charts"),
    ("json output_format", "{format} json prints the report as JSON"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn plain(name: &str) -> Option<String> {
        foreign(name).map(|known| known.sentence(|setting| format!("`{setting}`")))
    }

    #[test]
    fn a_name_is_found_however_it_is_written() {
        for name in ["tensor_parallel", "--tensor-parallel", "TENSOR_PARALLEL", "sglang.tp_size"] {
            assert!(plain(name).unwrap().contains("`tensor_parallel_size` how many"), "{name}");
        }
        assert_eq!(foreign("max_lora_rank").unwrap().settings().count(), 0);
        assert_eq!(foreign("num_g2_blocks").unwrap().settings().count(), 3);
        assert_eq!(foreign("request_rate").unwrap().settings().count(), 2);
        assert_eq!(foreign("no such name"), None);
        assert_eq!(foreign(""), None);
    }

    #[test]
    fn every_name_has_one_sentence() {
        let mut seen = BTreeSet::new();
        for (names, sentence) in TABLE {
            for name in names.split(' ') {
                assert!(!name.is_empty() && seen.insert(name), "{name}");
                let braces = |brace| sentence.matches(brace).count();
                assert_eq!(braces('{'), braces('}'), "{name}");
            }
        }
    }

    #[test]
    fn a_slip_is_no_other_word() {
        let known = ["block_size", "num_gpu_blocks", "max_num_seqs"];
        assert_eq!(similar("blok_size", known), Some("block_size"));
        assert_eq!(similar("watermark", known), None);
    }
}
