# Written by python/tools/stubs.py. Do not edit.
"""Settings of engines and routers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from servecast._native import Batch

__all__ = ["EngineArgs", "KvRouterConfig", "MockEngineArgs", "RouterConfigOverride"]

_Self = TypeVar("_Self", bound="_Settings")

class _Settings:
    def __init__(self, **settings: Any) -> None: ...
    @classmethod
    def from_json(cls: type[_Self], text: str) -> _Self: ...
    def to_json(self) -> str: ...
    def to_dict(self, *, defaults: bool = False) -> dict[str, Any]: ...
    def copy(self: _Self, **changes: Any) -> _Self: ...
    def __iter__(self) -> Iterator[str]: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

FUNCTION: str

def plain(value: Any) -> Any: ...

class EngineArgs(_Settings):
    def __init__(
        self,
        *,
        aic_attention_dp_size: int | None = ...,
        aic_backend: str | None = ...,
        aic_backend_version: str | None = ...,
        aic_model_path: str | None = ...,
        aic_moe_ep_size: int | None = ...,
        aic_moe_tp_size: int | None = ...,
        aic_system: str | None = ...,
        aic_tp_size: int | None = ...,
        async_scheduling: bool = ...,
        attention_backend: str | None = ...,
        block_size: int = ...,
        bootstrap_port: int | None = ...,
        cudagraph_capture_sizes: Sequence[int] | None = ...,
        data_parallel_size: int | None = ...,
        decode_speedup_ratio: float = ...,
        disable_hybrid_kv_cache_manager: bool | None = ...,
        dp_dummy_us: float | None = ...,
        dp_size: int = ...,
        dp_sync_interval: int | None = ...,
        dp_wave_delay_us: float | None = ...,
        dtype: str | None = ...,
        enable_chunked_prefill: bool = ...,
        enable_local_indexer: bool = ...,
        enable_lora: bool = ...,
        enable_prefix_caching: bool = ...,
        enforce_eager: bool = ...,
        engine_type: Literal["vllm", "sglang", "trtllm"] = ...,
        engine_version: str | None = ...,
        expert_parallel_size: int | None = ...,
        gpu: str | None = ...,
        gpu_memory_utilization: float = ...,
        grammar_compile_ms: float | None = ...,
        has_perf_model: bool | None = ...,
        host: Mapping[str, Any] | None = ...,
        is_decode: bool | None = ...,
        is_prefill: bool | None = ...,
        kv_bytes_per_token: int | None = ...,
        kv_cache_dtype: str | None = ...,
        kv_groups: Sequence[Mapping[str, Any]] | None = ...,
        kv_offloading: Mapping[str, Any] | None = ...,
        kv_offloading_size: float | None = ...,
        kv_role: Literal["kv_producer", "kv_consumer"] | None = ...,
        kv_transfer_bandwidth: float | None = ...,
        kv_transfer_sharing: Literal["dedicated", "shared"] | None = ...,
        kv_transfer_timing_mode: Literal["full_prompt", "destination_missing"] = ...,
        latency: Callable[[Batch], float] | str | None = ...,
        long_prefill_token_threshold: int = ...,
        long_prefill_token_threshold_adaptive: bool = ...,
        lora_fetch_ms: float | None = ...,
        lora_load_ms: float | None = ...,
        mamba_cache_mode: Literal["none", "align"] | None = ...,
        max_cpu_loras: int | None = ...,
        max_cudagraph_capture_size: int | None = ...,
        max_loras: int | None = ...,
        max_model_len: int | None = ...,
        max_num_batched_tokens: int | None = ...,
        max_num_seqs: int | None = ...,
        model: str | None = ...,
        num_gpu_blocks: int = ...,
        num_speculative_tokens: int = ...,
        pipeline_idle_sleep_us: float | None = ...,
        pipeline_parallel_size: int = ...,
        planner_profile_data: str | None = ...,
        preemption_mode: Literal["lifo", "fifo"] = ...,
        prefill_schedule_interval: int = ...,
        prefix_cache_retention_interval: Literal["dense"] | int | None = ...,
        reasoning: Mapping[str, Any] | None = ...,
        reserve_null_block: bool = ...,
        router_queue_policy: str | None = ...,
        scheduler_reserve_full_isl: bool = ...,
        scheduling_policy: Literal["fcfs", "priority"] = ...,
        sglang: Mapping[str, Any] | None = ...,
        speculative_config: Mapping[str, Any] | None = ...,
        speedup_ratio: float = ...,
        startup_time: float | None = ...,
        tensor_parallel_size: int | None = ...,
        trtllm: Mapping[str, Any] | None = ...,
        vllm_version: Literal["0.14", "0.19", "0.24", "0.28", "0.32", "0.33"] = ...,
        watermark: float = ...,
        worker_type: Literal["aggregated", "prefill", "decode"] | None = ...,
        zmq_kv_events_port: int | None = ...,
        zmq_replay_port: int | None = ...,
    ) -> None: ...
    @property
    def aic_attention_dp_size(self) -> int | None:
        """External latency model; refused."""
    @property
    def aic_backend(self) -> str | None:
        """External latency model; refused."""
    @property
    def aic_backend_version(self) -> str | None:
        """External latency model; refused."""
    @property
    def aic_model_path(self) -> str | None:
        """External latency model; refused."""
    @property
    def aic_moe_ep_size(self) -> int | None:
        """External latency model; refused."""
    @property
    def aic_moe_tp_size(self) -> int | None:
        """External latency model; refused."""
    @property
    def aic_system(self) -> str | None:
        """External latency model; refused."""
    @property
    def aic_tp_size(self) -> int | None:
        """External latency model; refused."""
    @property
    def async_scheduling(self) -> bool:
        """Whether an iteration is scheduled while the one before it runs."""
    @property
    def attention_backend(self) -> str | None:
        """Whose kernels attention runs: `auto`, what the engine takes by itself, or `flashinfer`, that library's own."""
    @property
    def block_size(self) -> int:
        """Tokens a KV block; 0 is the default of the engine (vLLM 64, TensorRT-LLM 32, SGLang 1)."""
    @property
    def bootstrap_port(self) -> int | None:
        """Setting of live workers, without effect on a replay."""
    @property
    def cudagraph_capture_sizes(self) -> Sequence[int] | None:
        """vLLM: tokens of passes that are recorded as CUDA graphs; a pass between two of them is padded to the next. Absent, they are 1, 2, 4, multiples of 8 to 256 and of 16 beyond, to `max_cudagraph_capture_size`."""
    @property
    def data_parallel_size(self) -> int | None:
        """Groups of such GPUs that share experts, each with requests of its own; priced as one engine."""
    @property
    def decode_speedup_ratio(self) -> float:
        """Divides decode times further."""
    @property
    def disable_hybrid_kv_cache_manager(self) -> bool | None:
        """vLLM: layers with a window keep all tokens, in one group with those that do."""
    @property
    def dp_dummy_us(self) -> float | None:
        """Microseconds that the pass of a rank without work takes, before any speedup; absent: as long as one of a single token."""
    @property
    def dp_size(self) -> int:
        """Data-parallel ranks of a worker, which compute every pass in lock step, as vLLM serves mixture-of-experts models; each has the KV blocks and the limits of these settings for itself. Ranks of a dense model have nothing to do with each other: they are workers."""
    @property
    def dp_sync_interval(self) -> int | None:
        """Passes after which ranks find out together whether any of them has work left, and until which they go on without; absent, as of the version: 16, up to vLLM 0.28 32."""
    @property
    def dp_wave_delay_us(self) -> float | None:
        """Microseconds until the other ranks begin when one of them has got a request; absent: 0."""
    @property
    def dtype(self) -> str | None:
        """How weights are stored: `bf16`, `fp8`, `fp8_block`, `int4`, `mxfp4` or `nvfp4`."""
    @property
    def enable_chunked_prefill(self) -> bool:
        """Whether a prompt may be cut to fit the token budget of an iteration."""
    @property
    def enable_local_indexer(self) -> bool:
        """Setting of live workers, without effect on a replay."""
    @property
    def enable_lora(self) -> bool:
        """vLLM: whether requests may have LoRA adapters."""
    @property
    def enable_prefix_caching(self) -> bool:
        """Whether requests share KV blocks of equal content."""
    @property
    def enforce_eager(self) -> bool:
        """Whether no pass is a recorded graph."""
    @property
    def engine_type(self) -> Literal["vllm", "sglang", "trtllm"]:
        """The engine that is simulated."""
    @property
    def engine_version(self) -> str | None:
        """The engine's version, for the choice of measured operators."""
    @property
    def expert_parallel_size(self) -> int | None:
        """GPUs over which whole experts are shared out."""
    @property
    def gpu(self) -> str | None:
        """The GPU that it is served on: the name of a data sheet, or the path of one."""
    @property
    def gpu_memory_utilization(self) -> float:
        """Share of the memory of a GPU that the engine takes, from which `num_gpu_blocks` is worked out where it is not given and the latency model knows model and GPU."""
    @property
    def grammar_compile_ms(self) -> float | None:
        """vLLM: milliseconds that it takes to compile the grammar of a request's structured output, which waits for that; equal grammars are compiled once. Absent, 0."""
    @property
    def has_perf_model(self) -> bool | None:
        """Accepted and ignored, as elsewhere."""
    @property
    def host(self) -> Mapping[str, Any] | None:
        """What the host takes besides passes, over what the latency model says of it."""
    @property
    def is_decode(self) -> bool | None:
        """Old form of `worker_type: decode`."""
    @property
    def is_prefill(self) -> bool | None:
        """Old form of `worker_type: prefill`."""
    @property
    def kv_bytes_per_token(self) -> int | None:
        """Bytes of KV cache a token, over all layers."""
    @property
    def kv_cache_dtype(self) -> str | None:
        """How the KV cache is stored: `auto`, `bf16` or `fp8`."""
    @property
    def kv_groups(self) -> Sequence[Mapping[str, Any]] | None:
        """vLLM: groups of layers that keep different things of a sequence, each with blocks of its own from one pool. Absent, they follow from the model where `num_gpu_blocks` is worked out, and are one group that keeps everything otherwise."""
    @property
    def kv_offloading(self) -> Mapping[str, Any] | None:
        """vLLM: how KV is offloaded, as an object such as `{"eviction_policy": "arc"}`."""
    @property
    def kv_offloading_size(self) -> float | None:
        """vLLM: memory of the host to which KV is offloaded, in GiB, of all GPUs of the engine together; absent, there is none."""
    @property
    def kv_role(self) -> Literal["kv_producer", "kv_consumer"] | None:
        """vLLM's role in KV transfer: with one, transfers are noticed when the real connector would notice them."""
    @property
    def kv_transfer_bandwidth(self) -> float | None:
        """Bandwidth of the hand-off from prefill to decode, in 10⁹ bytes a second; absent or 0 for no delay."""
    @property
    def kv_transfer_sharing(self) -> Literal["dedicated", "shared"] | None:
        """Whether transfers share the bandwidth: `dedicated`, the default, moves each as if it were alone; `shared` divides the network port of a worker, out of it and into it, among the transfers there at the same time."""
    @property
    def kv_transfer_timing_mode(self) -> Literal["full_prompt", "destination_missing"]:
        """Whether a hand-off moves the whole prompt or only what the decode worker lacks."""
    @property
    def latency(self) -> Callable[[Batch], float] | str | None:
        """How long an iteration takes: `polynomial`, `linear:BASE_US,PER_TOKEN_US,PER_SEQ_US`, `grid:FILE`, `profile:DIR`, `step:FILE.toml`, `roofline:OPTIONS`, `ops:OPTIONS` or `auto`, which is `ops` of `model` and `gpu`. Absent, it is `auto` where they are given, and `polynomial` otherwise."""
    @property
    def long_prefill_token_threshold(self) -> int:
        """Most tokens of one request in an iteration while others are there; 0 for no limit."""
    @property
    def long_prefill_token_threshold_adaptive(self) -> bool:
        """Raises that limit to an equal share of `max_num_batched_tokens`."""
    @property
    def lora_fetch_ms(self) -> float | None:
        """vLLM: milliseconds more for an adapter that is not in the memory of the host either; absent, 0."""
    @property
    def lora_load_ms(self) -> float | None:
        """vLLM: milliseconds by which an iteration takes longer for each adapter that is not on the GPU; absent, 0. No speedup divides them."""
    @property
    def mamba_cache_mode(self) -> Literal["none", "align"] | None:
        """vLLM: whether states of prefixes are kept for other requests: `align` with prefix caching, `none` without it."""
    @property
    def max_cpu_loras(self) -> int | None:
        """vLLM: most adapters in the memory of the host, those on the GPU among them; absent, `max_loras`."""
    @property
    def max_cudagraph_capture_size(self) -> int | None:
        """vLLM: the largest of them; absent, twice `max_num_seqs`, 512 at most."""
    @property
    def max_loras(self) -> int | None:
        """vLLM: most adapters of the requests that run at a time; absent, 1. A waiting request with another one is passed over."""
    @property
    def max_model_len(self) -> int | None:
        """Longest sequence, prompt and output together; null for no limit."""
    @property
    def max_num_batched_tokens(self) -> int | None:
        """Most tokens that one iteration computes; null for no limit."""
    @property
    def max_num_seqs(self) -> int | None:
        """Most requests that run at a time; null for no limit."""
    @property
    def model(self) -> str | None:
        """The model that is served: its name on the Hugging Face hub, or the path of its `config.json`."""
    @property
    def num_gpu_blocks(self) -> int:
        """KV cache blocks of a worker, with the null block."""
    @property
    def num_speculative_tokens(self) -> int:
        """Old name of a part of `speculative_config`; only 0."""
    @property
    def pipeline_idle_sleep_us(self) -> float | None:
        """Microseconds that an engine with a pipeline sleeps when all its requests are under way; absent: 1,000, as vLLM does."""
    @property
    def pipeline_parallel_size(self) -> int:
        """vLLM: stages of a pipeline over which the layers of the model are spread. A stage takes an even share of the time that the latency model gives for all layers; what a batch takes from one to the next is not counted."""
    @property
    def planner_profile_data(self) -> str | None:
        """Measured iteration times, an `.npz` file or a profiler's folder: old form of `latency: "grid:FILE"`."""
    @property
    def preemption_mode(self) -> Literal["lifo", "fifo"]:
        """Whom a preemption hits under the `fcfs` policy."""
    @property
    def prefill_schedule_interval(self) -> int:
        """Iterations from one that computes prompts to the next, while requests decode; 1 for no pause."""
    @property
    def prefix_cache_retention_interval(self) -> Literal["dense"] | int | None:
        """vLLM: in layers that forget, for which prefixes of a prompt what a later request needs is kept: one for each so many tokens, or `dense` for all, besides the longest that the same prompt can hit. 0 by default, before 0.29 `dense`."""
    @property
    def reasoning(self) -> Mapping[str, Any] | None:
        """Thinking tokens of a reasoning model: token ids only, no effect on times."""
    @property
    def reserve_null_block(self) -> bool:
        """vLLM keeps one block that it never hands out; `false` makes all of `num_gpu_blocks` usable."""
    @property
    def router_queue_policy(self) -> str | None:
        """Router queue policy that goes with this engine."""
    @property
    def scheduler_reserve_full_isl(self) -> bool:
        """Whether a request is admitted only when blocks for all its known tokens are free."""
    @property
    def scheduling_policy(self) -> Literal["fcfs", "priority"]:
        """Order of the waiting queue, and whom a preemption hits."""
    @property
    def sglang(self) -> Mapping[str, Any] | None:
        """Settings of SGLang."""
    @property
    def speculative_config(self) -> Mapping[str, Any] | None:
        """vLLM: speculative decoding, as an object such as `{"method": "eagle3", "num_speculative_tokens": 3, "acceptance_rates": [0.67, 0.42, 0.26]}`; absent, every step of a request gives one token."""
    @property
    def speedup_ratio(self) -> float:
        """Divides all iteration times."""
    @property
    def startup_time(self) -> float | None:
        """Seconds until a worker that is started serves; no worker is started during a replay."""
    @property
    def tensor_parallel_size(self) -> int | None:
        """GPUs that share each layer."""
    @property
    def trtllm(self) -> Mapping[str, Any] | None:
        """Settings of TensorRT-LLM."""
    @property
    def vllm_version(self) -> Literal["0.14", "0.19", "0.24", "0.28", "0.32", "0.33"]:
        """The release of vLLM whose scheduling decisions are made."""
    @property
    def watermark(self) -> float:
        """Share of the blocks that an admission leaves free while others run."""
    @property
    def worker_type(self) -> Literal["aggregated", "prefill", "decode"] | None:
        """What the worker is for; inferred from its pool when absent."""
    @property
    def zmq_kv_events_port(self) -> int | None:
        """Setting of live workers, without effect on a replay."""
    @property
    def zmq_replay_port(self) -> int | None:
        """Setting of live workers, without effect on a replay."""

class KvRouterConfig(_Settings):
    def __init__(
        self,
        *,
        durable_kv_events: bool = ...,
        overlap_score_weight: float = ...,
        router_assume_kv_reuse: bool = ...,
        router_event_threads: int = ...,
        router_max_tree_size: int = ...,
        router_prefill_load_model: Literal["none", "aic"] = ...,
        router_prune_target_ratio: float = ...,
        router_queue_policy: Literal["fcfs", "lcfs", "wspt"] = ...,
        router_queue_threshold: float | None = ...,
        router_replica_sync: bool = ...,
        router_reset_states: bool = ...,
        router_snapshot_threshold: int | None = ...,
        router_temperature: float = ...,
        router_track_active_blocks: bool = ...,
        router_track_output_blocks: bool = ...,
        router_track_prefill_tokens: bool = ...,
        router_ttl_secs: float = ...,
        serve_indexer: bool = ...,
        skip_initial_worker_wait: bool = ...,
        use_kv_events: bool = ...,
        use_remote_indexer: bool = ...,
    ) -> None: ...
    @property
    def durable_kv_events(self) -> bool:
        """Receive KV events over a durable transport; no effect on the router itself"""
    @property
    def overlap_score_weight(self) -> float:
        """Weight of the prefill term of the cost, and of cached blocks where prompt tokens are not tracked; 0 ignores both"""
    @property
    def router_assume_kv_reuse(self) -> bool:
        """Count blocks that running requests share once; without, every request has blocks of its own"""
    @property
    def router_event_threads(self) -> int:
        """Threads that apply KV events in a live router; no effect on decisions"""
    @property
    def router_max_tree_size(self) -> int:
        """Without KV events: predicted blocks, over all ranks, above which the oldest are dropped"""
    @property
    def router_prefill_load_model(self) -> Literal["none", "aic"]:
        """Let outstanding prefill work shrink over its predicted duration"""
    @property
    def router_prune_target_ratio(self) -> float:
        """Without KV events: share of the maximum that is left after dropping, from 0 to 1"""
    @property
    def router_queue_policy(self) -> Literal["fcfs", "lcfs", "wspt"]:
        """Order in which parked requests are admitted"""
    @property
    def router_queue_threshold(self) -> float | None:
        """Park requests while every rank has more prefill tokens outstanding than this many of its largest batches; none never parks"""
    @property
    def router_replica_sync(self) -> bool:
        """Tell other replicas of the router what was routed; no effect on the router itself"""
    @property
    def router_reset_states(self) -> bool:
        """Forget the state of a durable transport at start; no effect on the router itself"""
    @property
    def router_snapshot_threshold(self) -> int | None:
        """Messages between snapshots of a durable transport; no effect on the router itself"""
    @property
    def router_temperature(self) -> float:
        """Randomness of the choice: 0 takes the lowest cost, more draws from a softmax over the costs"""
    @property
    def router_track_active_blocks(self) -> bool:
        """Count the blocks of running prompts as load"""
    @property
    def router_track_output_blocks(self) -> bool:
        """Count generated blocks as load too, as they are reported"""
    @property
    def router_track_prefill_tokens(self) -> bool:
        """Count uncached prompt tokens as load until their prefill is done"""
    @property
    def router_ttl_secs(self) -> float:
        """Without KV events: seconds for which a routed prompt is taken to be cached"""
    @property
    def serve_indexer(self) -> bool:
        """Answer other processes' questions for overlaps; no effect on the router itself"""
    @property
    def skip_initial_worker_wait(self) -> bool:
        """Route before any worker is known; no effect on the router itself"""
    @property
    def use_kv_events(self) -> bool:
        """Learn what workers have cached from their KV events; without, predict it from own decisions"""
    @property
    def use_remote_indexer(self) -> bool:
        """Ask another process for overlaps; no effect on the router itself"""

class RouterConfigOverride(_Settings):
    def __init__(
        self,
        *,
        overlap_score_weight: float | None = ...,
        router_temperature: float | None = ...,
        assume_kv_reuse: bool | None = ...,
        track_prefill_tokens: bool | None = ...,
    ) -> None: ...
    @property
    def overlap_score_weight(self) -> float | None:
        """Replaces `overlap_score_weight`; at least 0."""
    @property
    def router_temperature(self) -> float | None:
        """Replaces `router_temperature`; at least 0."""
    @property
    def assume_kv_reuse(self) -> bool | None:
        """Replaces `router_assume_kv_reuse`."""
    @property
    def track_prefill_tokens(self) -> bool | None:
        """Replaces `router_track_prefill_tokens`."""

MockEngineArgs = EngineArgs
