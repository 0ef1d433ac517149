# Written by python/tools/stubs.py. Do not edit.
"""What replays, searches and loads take as keywords beside those that their functions name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from servecast._config import EngineArgs, KvRouterConfig
from servecast._native import Batch

__all__ = ["LoadSettings", "ReadSettings", "SearchSettings", "SyntheticSettings", "TraceSettings"]

class TraceSettings(TypedDict, total=False):
    arrival_interval_ms: float | None
    """Time between arrivals, the mean if they are random; 0 sends all at once"""
    arrival_process: Literal["constant", "poisson"] | None
    """Spacing of arrivals"""
    async_scheduling: bool | None
    """Schedule an iteration while the one before it runs"""
    attention_backend: str | None
    """Whose kernels attention runs: auto, what the engine takes by itself, or flashinfer, that library's own"""
    block_size: int | None
    """Tokens a KV block"""
    burstiness: float | None
    """Shape of the gaps between arrivals by a rate: 1 is a Poisson process, less has bursts, more is even [default: 1]"""
    check: bool | None
    """Check the invariants of the simulation along the way"""
    chunked_prefill_size: int | None
    """Most prompt tokens of a prefill batch, beyond which a prompt is cut; -1 to cut none"""
    context_length: int | None
    """Longest sequence, prompt and output together, the same as --max-model-len"""
    cooldown: str | None
    """Leave the last requests out of all figures: by time up to the last arrival (60s), or by number (100)"""
    count_rejected: bool | None
    """Count requests that were not served as infinite in latencies, as --slo does in any case"""
    cuda_graph_bs: Sequence[int] | None
    """Batches of decodes that are recorded as CUDA graphs, with a comma between two; others are padded to the next"""
    cuda_graph_max_bs: int | None
    """Largest batch of decodes that is recorded as a CUDA graph; by the GPU's memory without it"""
    cudagraph_capture_sizes: Sequence[int] | None
    """Tokens of passes that vLLM records as CUDA graphs, with a comma between two; others are padded to the next"""
    data_parallel_size: int | None
    """Groups of such GPUs that share experts, each with requests of its own; priced as one engine"""
    decode_workers: int | None
    """Decode workers of a disaggregated deployment, together with --num-prefill-workers"""
    delivery_us: float | None
    """Time from the end of a pass to when clients have its tokens, while the engine goes on"""
    delivery_us_per_request: float | None
    """The same, for each request in the pass"""
    diagnose: bool | None
    """Run what would test the first findings of the diagnosis, up to three runs, and say what changes"""
    diagnosis: bool | None
    """Say what is wrong with the run, if anything is, and what to change [default: if a table is printed]"""
    disable_cuda_graph: bool | None
    """Record no pass as a CUDA graph"""
    disable_cuda_graph_padding: bool | None
    """Run only batches as graphs that are recorded, without padding to them"""
    disable_hybrid_kv_cache_manager: bool | None
    """Keep all tokens in layers with a window, in one group with the others"""
    disable_hybrid_swa_memory: bool | None
    """Keep all tokens in layers with a sliding window, in one pool"""
    disable_overlap_schedule: bool | None
    """Plan an iteration only when the one before it has ended; `=false` overlaps them, as SGLang does by default"""
    disable_radix_cache: bool | None
    """Share nothing between requests, the opposite of --enable-prefix-caching"""
    disaggregation_decode_enable_radix_cache: bool | None
    """Let prompts on decode workers share what is cached"""
    disaggregation_decode_extra_slots: int | None
    """Requests of a decode worker that have memory at a time, beyond those that may run"""
    disaggregation_decode_polling_interval: int | None
    """Passes of a decode worker from one look at memory for newcomers, and at KV that has arrived, to the next [default: 1]"""
    disaggregation_decode_retraction_backup: Literal["cpu_tensor", "host_pool", "none"] | None
    """Where the KV of requests of a decode worker goes that lose their memory [default: `cpu_tensor`]"""
    disaggregation_mode: Literal["null", "prefill", "decode"] | None
    """Which stage workers have, with SGLang's own queues between the two; `null` computes prompts before memory is reserved"""
    dtype: str | None
    """How weights are stored: bf16, fp8, `fp8_block`, int4, mxfp4 or nvfp4; as the model is published without it"""
    enable_chunked_prefill: bool | None
    """Cut prompts to fit the token budget of an iteration"""
    enable_dp_attention: bool | None
    """Spread attention over `data_parallel_size` ranks, which share out the GPUs and compute every pass together, each with queues and a KV pool of its own"""
    enable_hierarchical_cache: bool | None
    """Keep cached KV in the memory of the host, too"""
    enable_lora: bool | None
    """Take requests for LoRA adapters, which rows of a trace name (`lora`)"""
    enable_mixed_chunk: bool | None
    """Let decodes ride along in prefill batches"""
    enable_prefix_caching: bool | None
    """Share KV blocks of equal content between requests"""
    enable_priority_scheduling: bool | None
    """Go by the priorities of requests"""
    enforce_eager: bool | None
    """Record no pass as a graph, as vLLM does then"""
    engine: Literal["vllm", "sglang", "trtllm"] | None
    """Engine that is simulated"""
    engine_args: EngineArgs | Mapping[str, Any] | str | None
    """Engine settings of aggregated workers, a JSON object or @FILE.json"""
    engine_preset: str | None
    """Start from the defaults of a release, such as vllm-0.33 or sglang-0.5"""
    engine_version: str | None
    """Version of the engine, for the choice of measured operators; the newest that was measured without it"""
    expert_parallel_size: int | None
    """GPUs over which whole experts are shared out; without it, each expert is cut over all GPUs"""
    front_end_us: float | None
    """Time from sending a request to when it is at the engine"""
    front_end_us_per_1k_prompt_tokens: float | None
    """The same, for each 1,000 tokens of its prompt"""
    gap_us: float | None
    """Time from the end of a pass to when the next one can begin"""
    gap_us_per_request: float | None
    """The same, for each request in the pass that ended"""
    gpu: str | None
    """GPU that it is served on, such as H100-SXM or B200, or the path of a data sheet"""
    gpu_memory_utilization: float | None
    """Share of a GPU's memory that the engine takes, for working out --num-gpu-blocks"""
    grammar_compile_ms: float | None
    """Time to compile the grammar of a request's structured output, which rows of a trace name (`grammar`)"""
    hicache_ratio: float | None
    """Tokens that the host has room for, over those of the KV pool [default: 2]"""
    hicache_size: float | None
    """Memory of the host for KV instead, of all GPUs of an engine together"""
    hicache_write_policy: Literal["write_through", "write_through_selective", "write_back"] | None
    """When cached KV is copied to the host"""
    host: Mapping[str, Any] | None
    """What hosts take besides iterations, a JSON object or @FILE.json; --gap-us and those below it set one each"""
    input_tokens: int | None
    """Prompt length, the mean if lengths vary"""
    inter_turn_delay_ms: float | None
    """Pause between a turn and the next of its session"""
    kv_bytes_per_token: int | None
    """Bytes of KV cache a token, over all layers"""
    kv_cache_dtype: str | None
    """How the KV cache is stored: auto, bf16 or fp8"""
    kv_event_delay_ms: float | None
    """How long after an iteration its KV events reach the KV router"""
    kv_offloading: Mapping[str, Any] | None
    """How KV is offloaded, a JSON object or @FILE.json, such as `{"eviction_policy": "arc"}`"""
    kv_offloading_backend: Literal["native"] | None
    """Who offloads KV: `native`, vLLM's own connector"""
    kv_offloading_size: float | None
    """Memory of the host to which vLLM offloads KV, of all GPUs of an engine together"""
    kv_transfer_bandwidth: float | None
    """Bandwidth of the hand-off from prefill to decode, in GB/s; without it the hand-off takes no time"""
    kv_transfer_sharing: Literal["dedicated", "shared"] | None
    """Whether transfers share the bandwidth: `dedicated`, each takes as long as if it were alone; `shared`, those out of one worker, or into one, at the same time take equal parts"""
    length_distribution: Literal["constant", "uniform", "lognormal"] | None
    """How lengths vary from request to request"""
    length_spread: float | None
    """How far lengths vary: half the range over the mean (uniform), standard deviation over the mean (lognormal)"""
    load_balance_method: Literal["auto", "round_robin", "total_requests", "total_tokens"] | None
    """Which of these ranks gets a request [default: auto, in turn]"""
    lora_fetch_ms: float | None
    """Time more for an adapter that is not in the memory of the host either"""
    lora_load_ms: float | None
    """Time by which an iteration takes longer for each adapter that is not on the GPU"""
    max_cpu_loras: int | None
    """LoRA adapters in the memory of the host, those on the GPU among them; as many as may run without it"""
    max_cudagraph_capture_size: int | None
    """Largest pass that vLLM records as a CUDA graph"""
    max_loras: int | None
    """LoRA adapters of the requests that run at a time [default: 1]"""
    max_model_len: int | None
    """Longest sequence, prompt and output together; without it there is no limit"""
    max_num_batched_tokens: int | None
    """Most tokens that one iteration computes"""
    max_num_seqs: int | None
    """Most requests that run at a time"""
    max_prefill_tokens: int | None
    """Most prompt tokens of a prefill batch; a single prompt may exceed it"""
    max_requests: int | None
    """Replay no more than the first N requests of the load, in the order of its lines"""
    max_running_requests: int | None
    """Most requests that run at a time, the same as --max-num-seqs"""
    max_total_tokens: int | None
    """Tokens of the KV pool; without it there are --num-gpu-blocks pages"""
    merge: Sequence[str] | None
    """Send another trace at the same time (can be repeated)"""
    model: str | None
    """Model that is served: its name on the Hugging Face hub, or the path of its config.json"""
    num_gpu_blocks: int | None
    """KV blocks of a worker; worked out where the latency model knows model and GPU"""
    num_prefix_groups: int | None
    """Number of prefix groups; a session joins one at random"""
    num_reserved_decode_tokens: int | None
    """Tokens of output that every request of a decode worker has in reserve when others get memory [default: 512]"""
    output_tokens: int | None
    """Output length, the mean if lengths vary"""
    page_size: int | None
    """Tokens a page of the KV pool, the same as --block-size"""
    pipeline_parallel_size: int | None
    """Stages of a pipeline over which the layers are spread, of as many GPUs each"""
    plain: bool | None
    """Decide every iteration request by request: slower, with the same results"""
    pool: Sequence[Mapping[str, Any]] | None
    """Pools as tables, in place of the numbers of workers and engine settings above: one aggregated pool, or a prefill and a decode pool, each of workers of one kind or of several"""
    prefill_decode_interval: int | None
    """Decode batches after a prefill batch before the next one is tried"""
    prefill_decode_interval_min_bs: int | None
    """Running requests below which --prefill-decode-interval does not hold"""
    prefill_max_requests: int | None
    """Most requests of a prefill batch; without it there is no limit"""
    prefill_workers: int | None
    """Prefill workers of a disaggregated deployment, together with --num-decode-workers"""
    prefix_cache_retention_interval: Literal["dense"] | int | None
    """Tokens from one prefix to the next for which layers with a window or a state keep what a later request needs: 0 for the longest of each prompt alone, dense for all"""
    prefix_hash_blocks: int | None
    """Blocks of a prompt that the router mode `prefix_hash` goes by"""
    priority_scheduling_preemption_threshold: int | None
    """Difference in priority above which a waiting request displaces a running one"""
    rate_profile: str | None
    """Rate of arrivals over time, in place of their times: a TOML file of segments or states (docs/traces.md)"""
    repeat: int | None
    """Send the load so often, one time after the other, with the same content"""
    request_count: int | None
    """Number of requests; of sessions, if they have several turns"""
    request_rate: float | None
    """Sessions that arrive in a second, in place of their times; a request without a session is one"""
    retraction_policy: Literal["length", "priority"] | None
    """Who goes back to the queue when memory runs out: short outputs, or the least important first"""
    router_session_affinity_ttl_secs: float | None
    """Send each request of a session to the worker that had the one before, for as long as no more than this lies between the two"""
    sample: float | None
    """Keep this share of the sessions, drawn at random"""
    schedule_conservativeness: float | None
    """How much output running requests are expected to produce: more is more careful"""
    schedule_low_priority_values_first: bool | None
    """Take low priority values for important ones"""
    schedule_policy: Literal["fcfs", "lpm", "lof", "dfs-weight", "random", "hrrn", "shortest-prefill-first", "routing-key"] | None
    """Order of the waiting queue"""
    scheduler_recv_interval: int | None
    """Decode batches from one look at new requests to the next"""
    seed: int | None
    """Root of all random numbers"""
    shared_prefix_ratio: float | None
    """Share of the blocks of a prompt that its prefix group has in common, from 0 to 1"""
    sla_e2e_ms: float | None
    """Count requests that complete within this"""
    sla_itl_ms: float | None
    """Count requests whose mean gap between tokens (time per output token) is within this"""
    sla_pooled_itl_ms: float | None
    """Say which share of all gaps between tokens, of all requests together, is within this"""
    sla_tpot_ms: float | None
    """Count requests whose mean gap between tokens (time per output token) is within this"""
    sla_ttft_ms: float | None
    """Count requests whose first token comes within this"""
    sliding_window_size: int | None
    """Tokens that a sliding window of the model spans: layers with one have a KV pool of their own"""
    slo: Sequence[str] | None
    """Say whether the run keeps an objective over all requests that arrived, and by how much (can be repeated)"""
    speculative_algorithm: Literal["EAGLE", "EAGLE3", "STANDALONE", "NGRAM"] | None
    """Who proposes tokens that decodes verify; --speculative-config says how many are accepted"""
    speculative_config: Mapping[str, Any] | None
    """Speculative decoding of vLLM, a JSON object or @FILE.json, such as `{"method": "eagle3", "num_speculative_tokens": 3, "acceptance_rates": [0.67, 0.42, 0.26]}`"""
    speculative_num_draft_tokens: int | None
    """Tokens that a batch verifies for each request, the known one among them"""
    speculative_num_steps: int | None
    """Steps of the drafter for a batch"""
    speed: float | None
    """How many times as fast as the clock of the machine an online replay goes"""
    speedup_ratio: float | None
    """Divide all iteration times by this"""
    swa_full_tokens_ratio: float | None
    """Tokens of that pool, over those of the other [default: 0.8]"""
    tensor_parallel_size: int | None
    """GPUs that share each layer"""
    time_range: str | None
    """Keep sessions that begin in this time, in seconds from the first arrival: `60..90`"""
    tokenizer: str | None
    """Cut the texts of a trace by this tokenizer.json of a model, or the one in this folder; else a token is 4 characters"""
    trace_format: Literal["mooncake", "table", "vllm_bench", "sglang_bench", "aiperf", "guidellm", "weka", "dynamo", "otel", "sharegpt", "text", "sub_requests", "turn_lengths"] | None
    """What the trace is, if its content is not to tell"""
    turns_per_session: int | None
    """Requests per session, each sent after the one before it completes"""
    warm_start: bool | None
    """Begin the sessions that a closed loop starts with at one of their requests, drawn at random"""
    warmup: str | None
    """Leave the first requests out of all figures: by time (60s), by number (100), or up to a steady state (auto)"""
    workers: int | None
    """Workers of an aggregated deployment"""

class SyntheticSettings(TypedDict, total=False):
    arrival_process: Literal["constant", "poisson"] | None
    """Spacing of arrivals"""
    async_scheduling: bool | None
    """Schedule an iteration while the one before it runs"""
    attention_backend: str | None
    """Whose kernels attention runs: auto, what the engine takes by itself, or flashinfer, that library's own"""
    block_size: int | None
    """Tokens a KV block"""
    burstiness: float | None
    """Shape of the gaps between arrivals by a rate: 1 is a Poisson process, less has bursts, more is even [default: 1]"""
    check: bool | None
    """Check the invariants of the simulation along the way"""
    chunked_prefill_size: int | None
    """Most prompt tokens of a prefill batch, beyond which a prompt is cut; -1 to cut none"""
    columns: str | None
    """Columns of a table of requests, as `time=arrived,input=prompt_tokens,output=completion_tokens`"""
    context_length: int | None
    """Longest sequence, prompt and output together, the same as --max-model-len"""
    cooldown: str | None
    """Leave the last requests out of all figures: by time up to the last arrival (60s), or by number (100)"""
    count_rejected: bool | None
    """Count requests that were not served as infinite in latencies, as --slo does in any case"""
    cuda_graph_bs: Sequence[int] | None
    """Batches of decodes that are recorded as CUDA graphs, with a comma between two; others are padded to the next"""
    cuda_graph_max_bs: int | None
    """Largest batch of decodes that is recorded as a CUDA graph; by the GPU's memory without it"""
    cudagraph_capture_sizes: Sequence[int] | None
    """Tokens of passes that vLLM records as CUDA graphs, with a comma between two; others are padded to the next"""
    data_parallel_size: int | None
    """Groups of such GPUs that share experts, each with requests of its own; priced as one engine"""
    decode_workers: int | None
    """Decode workers of a disaggregated deployment, together with --num-prefill-workers"""
    delivery_us: float | None
    """Time from the end of a pass to when clients have its tokens, while the engine goes on"""
    delivery_us_per_request: float | None
    """The same, for each request in the pass"""
    diagnose: bool | None
    """Run what would test the first findings of the diagnosis, up to three runs, and say what changes"""
    diagnosis: bool | None
    """Say what is wrong with the run, if anything is, and what to change [default: if a table is printed]"""
    disable_cuda_graph: bool | None
    """Record no pass as a CUDA graph"""
    disable_cuda_graph_padding: bool | None
    """Run only batches as graphs that are recorded, without padding to them"""
    disable_hybrid_kv_cache_manager: bool | None
    """Keep all tokens in layers with a window, in one group with the others"""
    disable_hybrid_swa_memory: bool | None
    """Keep all tokens in layers with a sliding window, in one pool"""
    disable_overlap_schedule: bool | None
    """Plan an iteration only when the one before it has ended; `=false` overlaps them, as SGLang does by default"""
    disable_radix_cache: bool | None
    """Share nothing between requests, the opposite of --enable-prefix-caching"""
    disaggregation_decode_enable_radix_cache: bool | None
    """Let prompts on decode workers share what is cached"""
    disaggregation_decode_extra_slots: int | None
    """Requests of a decode worker that have memory at a time, beyond those that may run"""
    disaggregation_decode_polling_interval: int | None
    """Passes of a decode worker from one look at memory for newcomers, and at KV that has arrived, to the next [default: 1]"""
    disaggregation_decode_retraction_backup: Literal["cpu_tensor", "host_pool", "none"] | None
    """Where the KV of requests of a decode worker goes that lose their memory [default: `cpu_tensor`]"""
    disaggregation_mode: Literal["null", "prefill", "decode"] | None
    """Which stage workers have, with SGLang's own queues between the two; `null` computes prompts before memory is reserved"""
    dtype: str | None
    """How weights are stored: bf16, fp8, `fp8_block`, int4, mxfp4 or nvfp4; as the model is published without it"""
    enable_chunked_prefill: bool | None
    """Cut prompts to fit the token budget of an iteration"""
    enable_dp_attention: bool | None
    """Spread attention over `data_parallel_size` ranks, which share out the GPUs and compute every pass together, each with queues and a KV pool of its own"""
    enable_hierarchical_cache: bool | None
    """Keep cached KV in the memory of the host, too"""
    enable_lora: bool | None
    """Take requests for LoRA adapters, which rows of a trace name (`lora`)"""
    enable_mixed_chunk: bool | None
    """Let decodes ride along in prefill batches"""
    enable_prefix_caching: bool | None
    """Share KV blocks of equal content between requests"""
    enable_priority_scheduling: bool | None
    """Go by the priorities of requests"""
    enforce_eager: bool | None
    """Record no pass as a graph, as vLLM does then"""
    engine: Literal["vllm", "sglang", "trtllm"] | None
    """Engine that is simulated"""
    engine_args: EngineArgs | Mapping[str, Any] | str | None
    """Engine settings of aggregated workers, a JSON object or @FILE.json"""
    engine_preset: str | None
    """Start from the defaults of a release, such as vllm-0.33 or sglang-0.5"""
    engine_version: str | None
    """Version of the engine, for the choice of measured operators; the newest that was measured without it"""
    expert_parallel_size: int | None
    """GPUs over which whole experts are shared out; without it, each expert is cut over all GPUs"""
    front_end_us: float | None
    """Time from sending a request to when it is at the engine"""
    front_end_us_per_1k_prompt_tokens: float | None
    """The same, for each 1,000 tokens of its prompt"""
    gap_us: float | None
    """Time from the end of a pass to when the next one can begin"""
    gap_us_per_request: float | None
    """The same, for each request in the pass that ended"""
    gpu: str | None
    """GPU that it is served on, such as H100-SXM or B200, or the path of a data sheet"""
    gpu_memory_utilization: float | None
    """Share of a GPU's memory that the engine takes, for working out --num-gpu-blocks"""
    grammar_compile_ms: float | None
    """Time to compile the grammar of a request's structured output, which rows of a trace name (`grammar`)"""
    hicache_ratio: float | None
    """Tokens that the host has room for, over those of the KV pool [default: 2]"""
    hicache_size: float | None
    """Memory of the host for KV instead, of all GPUs of an engine together"""
    hicache_write_policy: Literal["write_through", "write_through_selective", "write_back"] | None
    """When cached KV is copied to the host"""
    host: Mapping[str, Any] | None
    """What hosts take besides iterations, a JSON object or @FILE.json; --gap-us and those below it set one each"""
    kv_bytes_per_token: int | None
    """Bytes of KV cache a token, over all layers"""
    kv_cache_dtype: str | None
    """How the KV cache is stored: auto, bf16 or fp8"""
    kv_event_delay_ms: float | None
    """How long after an iteration its KV events reach the KV router"""
    kv_offloading: Mapping[str, Any] | None
    """How KV is offloaded, a JSON object or @FILE.json, such as `{"eviction_policy": "arc"}`"""
    kv_offloading_backend: Literal["native"] | None
    """Who offloads KV: `native`, vLLM's own connector"""
    kv_offloading_size: float | None
    """Memory of the host to which vLLM offloads KV, of all GPUs of an engine together"""
    kv_transfer_bandwidth: float | None
    """Bandwidth of the hand-off from prefill to decode, in GB/s; without it the hand-off takes no time"""
    kv_transfer_sharing: Literal["dedicated", "shared"] | None
    """Whether transfers share the bandwidth: `dedicated`, each takes as long as if it were alone; `shared`, those out of one worker, or into one, at the same time take equal parts"""
    length_distribution: Literal["constant", "uniform", "lognormal"] | None
    """How lengths vary from request to request"""
    length_spread: float | None
    """How far lengths vary: half the range over the mean (uniform), standard deviation over the mean (lognormal)"""
    load_balance_method: Literal["auto", "round_robin", "total_requests", "total_tokens"] | None
    """Which of these ranks gets a request [default: auto, in turn]"""
    lora_fetch_ms: float | None
    """Time more for an adapter that is not in the memory of the host either"""
    lora_load_ms: float | None
    """Time by which an iteration takes longer for each adapter that is not on the GPU"""
    max_cpu_loras: int | None
    """LoRA adapters in the memory of the host, those on the GPU among them; as many as may run without it"""
    max_cudagraph_capture_size: int | None
    """Largest pass that vLLM records as a CUDA graph"""
    max_loras: int | None
    """LoRA adapters of the requests that run at a time [default: 1]"""
    max_model_len: int | None
    """Longest sequence, prompt and output together; without it there is no limit"""
    max_num_batched_tokens: int | None
    """Most tokens that one iteration computes"""
    max_num_seqs: int | None
    """Most requests that run at a time"""
    max_prefill_tokens: int | None
    """Most prompt tokens of a prefill batch; a single prompt may exceed it"""
    max_requests: int | None
    """Replay no more than the first N requests of the load, in the order of its lines"""
    max_running_requests: int | None
    """Most requests that run at a time, the same as --max-num-seqs"""
    max_total_tokens: int | None
    """Tokens of the KV pool; without it there are --num-gpu-blocks pages"""
    merge: Sequence[str] | None
    """Send another trace at the same time (can be repeated)"""
    model: str | None
    """Model that is served: its name on the Hugging Face hub, or the path of its config.json"""
    num_gpu_blocks: int | None
    """KV blocks of a worker; worked out where the latency model knows model and GPU"""
    num_reserved_decode_tokens: int | None
    """Tokens of output that every request of a decode worker has in reserve when others get memory [default: 512]"""
    page_size: int | None
    """Tokens a page of the KV pool, the same as --block-size"""
    pipeline_parallel_size: int | None
    """Stages of a pipeline over which the layers are spread, of as many GPUs each"""
    plain: bool | None
    """Decide every iteration request by request: slower, with the same results"""
    pool: Sequence[Mapping[str, Any]] | None
    """Pools as tables, in place of the numbers of workers and engine settings above: one aggregated pool, or a prefill and a decode pool, each of workers of one kind or of several"""
    prefill_decode_interval: int | None
    """Decode batches after a prefill batch before the next one is tried"""
    prefill_decode_interval_min_bs: int | None
    """Running requests below which --prefill-decode-interval does not hold"""
    prefill_max_requests: int | None
    """Most requests of a prefill batch; without it there is no limit"""
    prefill_workers: int | None
    """Prefill workers of a disaggregated deployment, together with --num-decode-workers"""
    prefix_cache_retention_interval: Literal["dense"] | int | None
    """Tokens from one prefix to the next for which layers with a window or a state keep what a later request needs: 0 for the longest of each prompt alone, dense for all"""
    prefix_hash_blocks: int | None
    """Blocks of a prompt that the router mode `prefix_hash` goes by"""
    priority_scheduling_preemption_threshold: int | None
    """Difference in priority above which a waiting request displaces a running one"""
    rate_profile: str | None
    """Rate of arrivals over time, in place of their times: a TOML file of segments or states (docs/traces.md)"""
    repeat: int | None
    """Send the load so often, one time after the other, with the same content"""
    request_rate: float | None
    """Sessions that arrive in a second, in place of their times; a request without a session is one"""
    retraction_policy: Literal["length", "priority"] | None
    """Who goes back to the queue when memory runs out: short outputs, or the least important first"""
    router_session_affinity_ttl_secs: float | None
    """Send each request of a session to the worker that had the one before, for as long as no more than this lies between the two"""
    sample: float | None
    """Keep this share of the sessions, drawn at random"""
    schedule_conservativeness: float | None
    """How much output running requests are expected to produce: more is more careful"""
    schedule_low_priority_values_first: bool | None
    """Take low priority values for important ones"""
    schedule_policy: Literal["fcfs", "lpm", "lof", "dfs-weight", "random", "hrrn", "shortest-prefill-first", "routing-key"] | None
    """Order of the waiting queue"""
    scheduler_recv_interval: int | None
    """Decode batches from one look at new requests to the next"""
    seed: int | None
    """Root of all random numbers"""
    sla_e2e_ms: float | None
    """Count requests that complete within this"""
    sla_itl_ms: float | None
    """Count requests whose mean gap between tokens (time per output token) is within this"""
    sla_pooled_itl_ms: float | None
    """Say which share of all gaps between tokens, of all requests together, is within this"""
    sla_tpot_ms: float | None
    """Count requests whose mean gap between tokens (time per output token) is within this"""
    sla_ttft_ms: float | None
    """Count requests whose first token comes within this"""
    sliding_window_size: int | None
    """Tokens that a sliding window of the model spans: layers with one have a KV pool of their own"""
    slo: Sequence[str] | None
    """Say whether the run keeps an objective over all requests that arrived, and by how much (can be repeated)"""
    speculative_algorithm: Literal["EAGLE", "EAGLE3", "STANDALONE", "NGRAM"] | None
    """Who proposes tokens that decodes verify; --speculative-config says how many are accepted"""
    speculative_config: Mapping[str, Any] | None
    """Speculative decoding of vLLM, a JSON object or @FILE.json, such as `{"method": "eagle3", "num_speculative_tokens": 3, "acceptance_rates": [0.67, 0.42, 0.26]}`"""
    speculative_num_draft_tokens: int | None
    """Tokens that a batch verifies for each request, the known one among them"""
    speculative_num_steps: int | None
    """Steps of the drafter for a batch"""
    speed: float | None
    """How many times as fast as the clock of the machine an online replay goes"""
    speedup_ratio: float | None
    """Divide all iteration times by this"""
    swa_full_tokens_ratio: float | None
    """Tokens of that pool, over those of the other [default: 0.8]"""
    tensor_parallel_size: int | None
    """GPUs that share each layer"""
    time_range: str | None
    """Keep sessions that begin in this time, in seconds from the first arrival: `60..90`"""
    time_unit: Literal["s", "ms", "us", "ns"] | None
    """Unit of timestamps and delays; without it that of the format, or what they are beyond doubt"""
    tokenizer: str | None
    """Cut the texts of a trace by this tokenizer.json of a model, or the one in this folder; else a token is 4 characters"""
    trace_block_size: int | None
    """Tokens that one hash id stands for; in a synthetic workload the block size of the engine by default"""
    trace_file: str | None
    """Trace of any form, as docs/traces.md lists them; plain, gzip or Zstandard; `-` for standard input"""
    trace_format: Literal["mooncake", "table", "vllm_bench", "sglang_bench", "aiperf", "guidellm", "weka", "dynamo", "otel", "sharegpt", "text", "sub_requests", "turn_lengths"] | None
    """What the trace is, if its content is not to tell"""
    turns: Literal["whole", "delta"] | None
    """What the rows of a session hold: the whole prompt of a turn, or what is new in it (delta)"""
    warm_start: bool | None
    """Begin the sessions that a closed loop starts with at one of their requests, drawn at random"""
    warmup: str | None
    """Leave the first requests out of all figures: by time (60s), by number (100), or up to a steady state (auto)"""
    workers: int | None
    """Workers of an aggregated deployment"""

class SearchSettings(TypedDict, total=False):
    arrival_interval_ms: float | None
    """Time between arrivals, the mean if they are random; 0 sends all at once"""
    arrival_process: Literal["constant", "poisson"] | None
    """Spacing of arrivals"""
    arrival_speedup_ratio: float | None
    """Divide arrival times and delays by this"""
    async_scheduling: bool | None
    """Schedule an iteration while the one before it runs"""
    attention_backend: str | None
    """Whose kernels attention runs: auto, what the engine takes by itself, or flashinfer, that library's own"""
    block_size: int | None
    """Tokens a KV block"""
    burstiness: float | None
    """Shape of the gaps between arrivals by a rate: 1 is a Poisson process, less has bursts, more is even [default: 1]"""
    check: bool | None
    """Check the invariants of the simulation along the way"""
    chunked_prefill_size: int | None
    """Most prompt tokens of a prefill batch, beyond which a prompt is cut; -1 to cut none"""
    columns: str | None
    """Columns of a table of requests, as `time=arrived,input=prompt_tokens,output=completion_tokens`"""
    context_length: int | None
    """Longest sequence, prompt and output together, the same as --max-model-len"""
    cooldown: str | None
    """Leave the last requests out of all figures: by time up to the last arrival (60s), or by number (100)"""
    count_rejected: bool | None
    """Count requests that were not served as infinite in latencies, as --slo does in any case"""
    cuda_graph_bs: Sequence[int] | None
    """Batches of decodes that are recorded as CUDA graphs, with a comma between two; others are padded to the next"""
    cuda_graph_max_bs: int | None
    """Largest batch of decodes that is recorded as a CUDA graph; by the GPU's memory without it"""
    cudagraph_capture_sizes: Sequence[int] | None
    """Tokens of passes that vLLM records as CUDA graphs, with a comma between two; others are padded to the next"""
    data_parallel_size: int | None
    """Groups of such GPUs that share experts, each with requests of its own; priced as one engine"""
    decode_engine_args: EngineArgs | Mapping[str, Any] | str | None
    """Engine settings of decode workers, a JSON object or @FILE.json"""
    decode_workers: int | None
    """Decode workers of a disaggregated deployment, together with --num-prefill-workers"""
    delivery_us: float | None
    """Time from the end of a pass to when clients have its tokens, while the engine goes on"""
    delivery_us_per_request: float | None
    """The same, for each request in the pass"""
    diagnose: bool | None
    """Run what would test the first findings of the diagnosis, up to three runs, and say what changes"""
    diagnosis: bool | None
    """Say what is wrong with the run, if anything is, and what to change [default: if a table is printed]"""
    disable_cuda_graph: bool | None
    """Record no pass as a CUDA graph"""
    disable_cuda_graph_padding: bool | None
    """Run only batches as graphs that are recorded, without padding to them"""
    disable_hybrid_kv_cache_manager: bool | None
    """Keep all tokens in layers with a window, in one group with the others"""
    disable_hybrid_swa_memory: bool | None
    """Keep all tokens in layers with a sliding window, in one pool"""
    disable_overlap_schedule: bool | None
    """Plan an iteration only when the one before it has ended; `=false` overlaps them, as SGLang does by default"""
    disable_radix_cache: bool | None
    """Share nothing between requests, the opposite of --enable-prefix-caching"""
    disaggregation_decode_enable_radix_cache: bool | None
    """Let prompts on decode workers share what is cached"""
    disaggregation_decode_extra_slots: int | None
    """Requests of a decode worker that have memory at a time, beyond those that may run"""
    disaggregation_decode_polling_interval: int | None
    """Passes of a decode worker from one look at memory for newcomers, and at KV that has arrived, to the next [default: 1]"""
    disaggregation_decode_retraction_backup: Literal["cpu_tensor", "host_pool", "none"] | None
    """Where the KV of requests of a decode worker goes that lose their memory [default: `cpu_tensor`]"""
    disaggregation_mode: Literal["null", "prefill", "decode"] | None
    """Which stage workers have, with SGLang's own queues between the two; `null` computes prompts before memory is reserved"""
    dtype: str | None
    """How weights are stored: bf16, fp8, `fp8_block`, int4, mxfp4 or nvfp4; as the model is published without it"""
    enable_chunked_prefill: bool | None
    """Cut prompts to fit the token budget of an iteration"""
    enable_dp_attention: bool | None
    """Spread attention over `data_parallel_size` ranks, which share out the GPUs and compute every pass together, each with queues and a KV pool of its own"""
    enable_hierarchical_cache: bool | None
    """Keep cached KV in the memory of the host, too"""
    enable_lora: bool | None
    """Take requests for LoRA adapters, which rows of a trace name (`lora`)"""
    enable_mixed_chunk: bool | None
    """Let decodes ride along in prefill batches"""
    enable_prefix_caching: bool | None
    """Share KV blocks of equal content between requests"""
    enable_priority_scheduling: bool | None
    """Go by the priorities of requests"""
    enforce_eager: bool | None
    """Record no pass as a graph, as vLLM does then"""
    engine: Literal["vllm", "sglang", "trtllm"] | None
    """Engine that is simulated"""
    engine_args: EngineArgs | Mapping[str, Any] | str | None
    """Engine settings of aggregated workers, a JSON object or @FILE.json"""
    engine_preset: str | None
    """Start from the defaults of a release, such as vllm-0.33 or sglang-0.5"""
    engine_version: str | None
    """Version of the engine, for the choice of measured operators; the newest that was measured without it"""
    expert_parallel_size: int | None
    """GPUs over which whole experts are shared out; without it, each expert is cut over all GPUs"""
    extra_engine_args: EngineArgs | Mapping[str, Any] | str | None
    """Engine settings of aggregated workers, a JSON object or @FILE.json"""
    front_end_us: float | None
    """Time from sending a request to when it is at the engine"""
    front_end_us_per_1k_prompt_tokens: float | None
    """The same, for each 1,000 tokens of its prompt"""
    gap_us: float | None
    """Time from the end of a pass to when the next one can begin"""
    gap_us_per_request: float | None
    """The same, for each request in the pass that ended"""
    gpu: str | None
    """GPU that it is served on, such as H100-SXM or B200, or the path of a data sheet"""
    gpu_memory_utilization: float | None
    """Share of a GPU's memory that the engine takes, for working out --num-gpu-blocks"""
    grammar_compile_ms: float | None
    """Time to compile the grammar of a request's structured output, which rows of a trace name (`grammar`)"""
    hicache_ratio: float | None
    """Tokens that the host has room for, over those of the KV pool [default: 2]"""
    hicache_size: float | None
    """Memory of the host for KV instead, of all GPUs of an engine together"""
    hicache_write_policy: Literal["write_through", "write_through_selective", "write_back"] | None
    """When cached KV is copied to the host"""
    host: Mapping[str, Any] | None
    """What hosts take besides iterations, a JSON object or @FILE.json; --gap-us and those below it set one each"""
    input_tokens: int | None
    """Prompt length, the mean if lengths vary"""
    inter_turn_delay_ms: float | None
    """Pause between a turn and the next of its session"""
    kv_bytes_per_token: int | None
    """Bytes of KV cache a token, over all layers"""
    kv_cache_dtype: str | None
    """How the KV cache is stored: auto, bf16 or fp8"""
    kv_event_delay_ms: float | None
    """How long after an iteration its KV events reach the KV router"""
    kv_offloading: Mapping[str, Any] | None
    """How KV is offloaded, a JSON object or @FILE.json, such as `{"eviction_policy": "arc"}`"""
    kv_offloading_backend: Literal["native"] | None
    """Who offloads KV: `native`, vLLM's own connector"""
    kv_offloading_size: float | None
    """Memory of the host to which vLLM offloads KV, of all GPUs of an engine together"""
    kv_transfer_bandwidth: float | None
    """Bandwidth of the hand-off from prefill to decode, in GB/s; without it the hand-off takes no time"""
    kv_transfer_sharing: Literal["dedicated", "shared"] | None
    """Whether transfers share the bandwidth: `dedicated`, each takes as long as if it were alone; `shared`, those out of one worker, or into one, at the same time take equal parts"""
    latency: Callable[[Batch], float] | str | None
    """How long an iteration takes: `polynomial`, `linear:BASE_US,PER_TOKEN_US,PER_SEQ_US`, `grid:FILE`, `profile:DIR`, `step:FILE.toml`, `roofline:OPTIONS`, `ops:OPTIONS` or `auto`; `auto`, which is `ops` of --model and --gpu, where they are given"""
    length_distribution: Literal["constant", "uniform", "lognormal"] | None
    """How lengths vary from request to request"""
    length_spread: float | None
    """How far lengths vary: half the range over the mean (uniform), standard deviation over the mean (lognormal)"""
    load_balance_method: Literal["auto", "round_robin", "total_requests", "total_tokens"] | None
    """Which of these ranks gets a request [default: auto, in turn]"""
    lora_fetch_ms: float | None
    """Time more for an adapter that is not in the memory of the host either"""
    lora_load_ms: float | None
    """Time by which an iteration takes longer for each adapter that is not on the GPU"""
    max_cpu_loras: int | None
    """LoRA adapters in the memory of the host, those on the GPU among them; as many as may run without it"""
    max_cudagraph_capture_size: int | None
    """Largest pass that vLLM records as a CUDA graph"""
    max_loras: int | None
    """LoRA adapters of the requests that run at a time [default: 1]"""
    max_model_len: int | None
    """Longest sequence, prompt and output together; without it there is no limit"""
    max_num_batched_tokens: int | None
    """Most tokens that one iteration computes"""
    max_num_seqs: int | None
    """Most requests that run at a time"""
    max_prefill_tokens: int | None
    """Most prompt tokens of a prefill batch; a single prompt may exceed it"""
    max_requests: int | None
    """Replay no more than the first N requests of the load, in the order of its lines"""
    max_running_requests: int | None
    """Most requests that run at a time, the same as --max-num-seqs"""
    max_total_tokens: int | None
    """Tokens of the KV pool; without it there are --num-gpu-blocks pages"""
    merge: Sequence[str] | None
    """Send another trace at the same time (can be repeated)"""
    model: str | None
    """Model that is served: its name on the Hugging Face hub, or the path of its config.json"""
    num_decode_workers: int | None
    """Decode workers of a disaggregated deployment, together with --num-prefill-workers"""
    num_gpu_blocks: int | None
    """KV blocks of a worker; worked out where the latency model knows model and GPU"""
    num_prefill_workers: int | None
    """Prefill workers of a disaggregated deployment, together with --num-decode-workers"""
    num_prefix_groups: int | None
    """Number of prefix groups; a session joins one at random"""
    num_reserved_decode_tokens: int | None
    """Tokens of output that every request of a decode worker has in reserve when others get memory [default: 512]"""
    num_workers: int | None
    """Workers of an aggregated deployment"""
    output_tokens: int | None
    """Output length, the mean if lengths vary"""
    page_size: int | None
    """Tokens a page of the KV pool, the same as --block-size"""
    pipeline_parallel_size: int | None
    """Stages of a pipeline over which the layers are spread, of as many GPUs each"""
    plain: bool | None
    """Decide every iteration request by request: slower, with the same results"""
    pool: Sequence[Mapping[str, Any]] | None
    """Pools as tables, in place of the numbers of workers and engine settings above: one aggregated pool, or a prefill and a decode pool, each of workers of one kind or of several"""
    prefill_decode_interval: int | None
    """Decode batches after a prefill batch before the next one is tried"""
    prefill_decode_interval_min_bs: int | None
    """Running requests below which --prefill-decode-interval does not hold"""
    prefill_engine_args: EngineArgs | Mapping[str, Any] | str | None
    """Engine settings of prefill workers, a JSON object or @FILE.json"""
    prefill_max_requests: int | None
    """Most requests of a prefill batch; without it there is no limit"""
    prefill_workers: int | None
    """Prefill workers of a disaggregated deployment, together with --num-decode-workers"""
    prefix_cache_retention_interval: Literal["dense"] | int | None
    """Tokens from one prefix to the next for which layers with a window or a state keep what a later request needs: 0 for the longest of each prompt alone, dense for all"""
    prefix_hash_blocks: int | None
    """Blocks of a prompt that the router mode `prefix_hash` goes by"""
    priority_scheduling_preemption_threshold: int | None
    """Difference in priority above which a waiting request displaces a running one"""
    rate_profile: str | None
    """Rate of arrivals over time, in place of their times: a TOML file of segments or states (docs/traces.md)"""
    repeat: int | None
    """Send the load so often, one time after the other, with the same content"""
    replay_concurrency: int | None
    """Keep this many sessions under way at a time instead of following the arrival times"""
    replay_mode: Literal["offline", "online"] | None
    """Clock of the replay: virtual time (offline), or that of the machine (online), by which it takes as long as it says"""
    request_count: int | None
    """Number of requests; of sessions, if they have several turns"""
    request_rate: float | None
    """Sessions that arrive in a second, in place of their times; a request without a session is one"""
    retraction_policy: Literal["length", "priority"] | None
    """Who goes back to the queue when memory runs out: short outputs, or the least important first"""
    router_config: KvRouterConfig | Mapping[str, Any] | str | None
    """Settings of the KV router, a JSON object or @FILE.json"""
    router_mode: Literal["round_robin", "random", "least_loaded", "power_of_two", "prefix_hash", "kv_router"] | None
    """How requests are spread over the workers of a pool"""
    router_session_affinity_ttl_secs: float | None
    """Send each request of a session to the worker that had the one before, for as long as no more than this lies between the two"""
    sample: float | None
    """Keep this share of the sessions, drawn at random"""
    schedule_conservativeness: float | None
    """How much output running requests are expected to produce: more is more careful"""
    schedule_low_priority_values_first: bool | None
    """Take low priority values for important ones"""
    schedule_policy: Literal["fcfs", "lpm", "lof", "dfs-weight", "random", "hrrn", "shortest-prefill-first", "routing-key"] | None
    """Order of the waiting queue"""
    scheduler_recv_interval: int | None
    """Decode batches from one look at new requests to the next"""
    seed: int | None
    """Root of all random numbers"""
    shared_prefix_ratio: float | None
    """Share of the blocks of a prompt that its prefix group has in common, from 0 to 1"""
    sla_e2e_ms: float | None
    """Count requests that complete within this"""
    sla_itl_ms: float | None
    """Count requests whose mean gap between tokens (time per output token) is within this"""
    sla_pooled_itl_ms: float | None
    """Say which share of all gaps between tokens, of all requests together, is within this"""
    sla_tpot_ms: float | None
    """Count requests whose mean gap between tokens (time per output token) is within this"""
    sla_ttft_ms: float | None
    """Count requests whose first token comes within this"""
    sliding_window_size: int | None
    """Tokens that a sliding window of the model spans: layers with one have a KV pool of their own"""
    speculative_algorithm: Literal["EAGLE", "EAGLE3", "STANDALONE", "NGRAM"] | None
    """Who proposes tokens that decodes verify; --speculative-config says how many are accepted"""
    speculative_config: Mapping[str, Any] | None
    """Speculative decoding of vLLM, a JSON object or @FILE.json, such as `{"method": "eagle3", "num_speculative_tokens": 3, "acceptance_rates": [0.67, 0.42, 0.26]}`"""
    speculative_num_draft_tokens: int | None
    """Tokens that a batch verifies for each request, the known one among them"""
    speculative_num_steps: int | None
    """Steps of the drafter for a batch"""
    speed: float | None
    """How many times as fast as the clock of the machine an online replay goes"""
    speedup_ratio: float | None
    """Divide all iteration times by this"""
    swa_full_tokens_ratio: float | None
    """Tokens of that pool, over those of the other [default: 0.8]"""
    tensor_parallel_size: int | None
    """GPUs that share each layer"""
    time_range: str | None
    """Keep sessions that begin in this time, in seconds from the first arrival: `60..90`"""
    time_unit: Literal["s", "ms", "us", "ns"] | None
    """Unit of timestamps and delays; without it that of the format, or what they are beyond doubt"""
    tokenizer: str | None
    """Cut the texts of a trace by this tokenizer.json of a model, or the one in this folder; else a token is 4 characters"""
    trace_block_size: int | None
    """Tokens that one hash id stands for; in a synthetic workload the block size of the engine by default"""
    trace_format: Literal["mooncake", "table", "vllm_bench", "sglang_bench", "aiperf", "guidellm", "weka", "dynamo", "otel", "sharegpt", "text", "sub_requests", "turn_lengths"] | None
    """What the trace is, if its content is not to tell"""
    turns: Literal["whole", "delta"] | None
    """What the rows of a session hold: the whole prompt of a turn, or what is new in it (delta)"""
    turns_per_session: int | None
    """Requests per session, each sent after the one before it completes"""
    warm_start: bool | None
    """Begin the sessions that a closed loop starts with at one of their requests, drawn at random"""
    warmup: str | None
    """Leave the first requests out of all figures: by time (60s), by number (100), or up to a steady state (auto)"""
    workers: int | None
    """Workers of an aggregated deployment"""

class LoadSettings(TypedDict, total=False):
    arrival_speedup_ratio: float | None
    """Divide arrival times and delays by this"""
    inter_turn_delay_ms: float | None
    """Pause between a turn and the next of its session"""
    length_distribution: Literal["constant", "uniform", "lognormal"] | None
    """How lengths vary from request to request"""
    length_spread: float | None
    """How far lengths vary: half the range over the mean (uniform), standard deviation over the mean (lognormal)"""
    max_requests: int | None
    """Replay no more than the first N requests of the load, in the order of its lines"""
    num_prefix_groups: int | None
    """Number of prefix groups; a session joins one at random"""
    repeat: int | None
    """Send the load so often, one time after the other, with the same content"""
    replay_concurrency: int | None
    """Keep this many sessions under way at a time instead of following the arrival times"""
    sample: float | None
    """Keep this share of the sessions, drawn at random"""
    seed: int | None
    """Root of all random numbers"""
    shared_prefix_ratio: float | None
    """Share of the blocks of a prompt that its prefix group has in common, from 0 to 1"""
    time_range: str | None
    """Keep sessions that begin in this time, in seconds from the first arrival: `60..90`"""
    tokenizer: str | None
    """Cut the texts of a trace by this tokenizer.json of a model, or the one in this folder; else a token is 4 characters"""
    trace_block_size: int | None
    """Tokens that one hash id stands for; in a synthetic workload the block size of the engine by default"""
    turns_per_session: int | None
    """Requests per session, each sent after the one before it completes"""

class ReadSettings(TypedDict, total=False):
    arrival_interval_ms: float | None
    """Time between arrivals, the mean if they are random; 0 sends all at once"""
    arrival_process: Literal["constant", "poisson"] | None
    """Spacing of arrivals"""
    arrival_speedup_ratio: float | None
    """Divide arrival times and delays by this"""
    burstiness: float | None
    """Shape of the gaps between arrivals by a rate: 1 is a Poisson process, less has bursts, more is even [default: 1]"""
    columns: str | None
    """Columns of a table of requests, as `time=arrived,input=prompt_tokens,output=completion_tokens`"""
    input_tokens: int | None
    """Prompt length, the mean if lengths vary"""
    inter_turn_delay_ms: float | None
    """Pause between a turn and the next of its session"""
    length_distribution: Literal["constant", "uniform", "lognormal"] | None
    """How lengths vary from request to request"""
    length_spread: float | None
    """How far lengths vary: half the range over the mean (uniform), standard deviation over the mean (lognormal)"""
    max_requests: int | None
    """Replay no more than the first N requests of the load, in the order of its lines"""
    merge: Sequence[str] | None
    """Send another trace at the same time (can be repeated)"""
    num_prefix_groups: int | None
    """Number of prefix groups; a session joins one at random"""
    output_tokens: int | None
    """Output length, the mean if lengths vary"""
    rate_profile: str | None
    """Rate of arrivals over time, in place of their times: a TOML file of segments or states (docs/traces.md)"""
    repeat: int | None
    """Send the load so often, one time after the other, with the same content"""
    replay_concurrency: int | None
    """Keep this many sessions under way at a time instead of following the arrival times"""
    request_count: int | None
    """Number of requests; of sessions, if they have several turns"""
    request_rate: float | None
    """Sessions that arrive in a second, in place of their times; a request without a session is one"""
    sample: float | None
    """Keep this share of the sessions, drawn at random"""
    seed: int | None
    """Root of all random numbers"""
    shared_prefix_ratio: float | None
    """Share of the blocks of a prompt that its prefix group has in common, from 0 to 1"""
    time_range: str | None
    """Keep sessions that begin in this time, in seconds from the first arrival: `60..90`"""
    time_unit: Literal["s", "ms", "us", "ns"] | None
    """Unit of timestamps and delays; without it that of the format, or what they are beyond doubt"""
    tokenizer: str | None
    """Cut the texts of a trace by this tokenizer.json of a model, or the one in this folder; else a token is 4 characters"""
    trace_block_size: int | None
    """Tokens that one hash id stands for; in a synthetic workload the block size of the engine by default"""
    trace_format: Literal["mooncake", "table", "vllm_bench", "sglang_bench", "aiperf", "guidellm", "weka", "dynamo", "otel", "sharegpt", "text", "sub_requests", "turn_lengths"] | None
    """What the trace is, if its content is not to tell"""
    turns: Literal["whole", "delta"] | None
    """What the rows of a session hold: the whole prompt of a turn, or what is new in it (delta)"""
    turns_per_session: int | None
    """Requests per session, each sent after the one before it completes"""
