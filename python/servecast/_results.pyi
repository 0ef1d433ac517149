# Written by python/tools/stubs.py. Do not edit.
"""The keys of results, as attributes."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

__all__ = ["ComparisonKeys", "DifferencesKeys", "RecommendationKeys", "ReportKeys"]

class Alternative(TypedDict, total=False):
    """The first place under other iteration times."""
    deployment: str
    gpus: int
    settings: Mapping[str, Any]

class ClientRun(TypedDict, total=False):
    """What is known of a run that a client measured."""
    notes: list[str]
    source: str

class ComparedRun(TypedDict, total=False):
    """One run of several."""
    report: Report
    settings: Mapping[str, Any]

class Cost(TypedDict, total=False):
    """What a deployment costs, in the currency of the prices."""
    per_hour: float
    per_million_output_tokens: float | None
    per_million_tokens: float | None
    per_month: float
    per_request: float | None
    total: float

class CutOffEntry(TypedDict, total=False):
    """A deployment whose run was ended, since a target was lost."""
    arrived: int
    cost_per_hour: float | None
    deployment: str
    gpus: int
    reason: str
    settings: Mapping[str, Any]

class Difference(TypedDict, total=False):
    """A figure beside that of the baseline; null where a run has no sample of it."""
    baseline: float | None
    change: float | None
    relative_change: float | None
    value: float | None

class Entry(TypedDict, total=False):
    """A deployment and what it came to."""
    cost: Cost | None
    deployment: str
    figures: RecommendationFigures
    gpus: int
    headroom: Headroom | None
    over_seeds: OverSeeds | None
    same: list[Mapping[str, Any]]
    settings: Mapping[str, Any]

class ErrorBar(TypedDict, total=False):
    """How far off TPOT and TTFT are on real servers whose runs were measured, as shares of what was measured: 0.13 is 13 %."""
    basis: str
    n: int | None
    tpot_mape: float | None
    tpot_p90: float | None
    ttft_mape: float | None
    ttft_p90: float | None

class Evidence(TypedDict, total=False):
    """A figure behind a finding."""
    name: str
    unit: str
    value: float

class Figures(TypedDict, total=False):
    """The main figures of some requests of a run, as the keys of the report of these names."""
    completed_requests: int
    e2e_latency_ms: Percentiles | None
    goodput_completed_requests: int | None
    itl_ms: Percentiles | None
    num_requests: int
    prefix_cache_reused_ratio: float | None
    rejected_requests: int
    slo: list[SloOutcome] | None
    total_input_tokens: int
    total_output_tokens: int
    tpot_ms: Percentiles | None
    ttft_ms: Percentiles | None

class Finding(TypedDict, total=False):
    """What is wrong with a run, and what would show it."""
    evidence: list[Evidence]
    kind: str
    sentence: str
    what_if: WhatIf | None

FoundBy = Literal["given", "mser5", "no_steady_state"]

Goal = Literal["gpus", "cost", "goodput_per_gpu", "latency", "headroom"]

class Headroom(TypedDict, total=False):
    """The largest factor of the load at which the targets hold."""
    factor: float
    is_monotone: bool
    missed_at: float | None
    tried: list[Probe]

class Interval(TypedDict, total=False):
    """A mean, and where it lies with a probability of 95 % (Student's t)."""
    high: float
    low: float
    mean: float

class LoadAnswer(TypedDict, total=False):
    """The answer under one load."""
    cut_off: list[CutOffEntry]
    factor: float
    nearest: list[Entry]
    others: list[Entry]
    ranking: list[Entry]
    refused: Mapping[str, int]
    sure: Sure | None
    tally: Tally

class MeasuredPart(TypedDict, total=False):
    """Which requests of a run its figures are of."""
    found_by: FoundBy
    from_ms: float | None
    left_out_after: int
    left_out_before: int
    requests: int
    to_ms: float | None
    whole_run: Figures

class NamedFigures(TypedDict, total=False):
    """The figures of a run."""
    figures: Mapping[str, float | None]
    measured: ClientRun | None
    name: str
    workload: WorkloadId | None

class OverSeeds(TypedDict, total=False):
    """The targets over loads that differ in their seed alone."""
    met: int
    seeds: list[int]
    targets: list[Interval | None]

class Overload(TypedDict, total=False):
    """That a run took more than it could serve. Of more than 65,536 requests, one in so many is looked at."""
    arrival_rps: float
    backlog: int
    from_ms: float
    growth_rps: float

class PairedChange(TypedDict, total=False):
    """How one latency of the same requests differs between two runs, in ms; changes are the other run minus the baseline."""
    faster: float
    mean_change_interval_ms: list[float]
    mean_change_ms: float
    median_change_ms: float
    metric: str
    p99_change_interval_ms: list[float]
    p99_change_ms: float
    pairs: int
    slower: float

class Percentiles(TypedDict, total=False):
    """Statistics of a latency; null where they are infinite, since requests that were not served count (`count_rejected`)."""
    max: float | None
    mean: float | None
    median: float | None
    p90: float | None
    p95: float | None
    p99: float | None

class PoolReport(TypedDict, total=False):
    """Totals of one pool of workers."""
    batch_occupancy: float | None
    computed_tokens: int
    iterations: int
    kv_usage: float | None
    kv_usage_per_worker: Spread | None
    max_num_seqs: int | None
    mean_batch_size: float | None
    mean_batch_size_per_worker: Spread | None
    peak_kv_usage: float | None
    pool: str
    preemptions: int
    requests_per_worker: Spread
    reused_tokens_per_worker: Spread
    utilization: float | None
    utilization_per_worker: Spread | None
    workers: int

class Price(TypedDict, total=False):
    """What one GPU costs an hour."""
    gpu: str
    per_hour: float

class Probe(TypedDict, total=False):
    """A factor, and what came of the targets."""
    factor: float
    met: bool
    values: list[float | None]

class RecommendationFigures(TypedDict, total=False):
    """What a run came to."""
    duration_ms: float
    good_requests: int
    headroom: float | None
    input_tokens: int
    output_tokens: int
    overload: Overload | None
    requests: int
    slo: list[SloOutcome]

class Report(TypedDict, total=False):
    classes: Mapping[str, Figures]
    completed_requests: int
    counted_as_infinite: int
    diagnosis: list[Finding]
    duration_ms: float | None
    goodput_completed_requests: int
    goodput_output_throughput_tok_s: float | None
    goodput_request_throughput_rps: float | None
    gpu_cache_reused_ratio: float
    host_cache_reused_ratio: float
    input_throughput_tok_s: float | None
    itl_relative_error: float
    latency_error: ErrorBar
    latency_estimate: str
    latency_extrapolated_ratio: float
    latency_source: str
    max_e2e_latency_ms: float | None
    max_itl_ms: float | None
    max_output_token_throughput_per_user: float | None
    max_queue_time_ms: float | None
    max_tpot_ms: float | None
    max_ttft_ms: float | None
    max_ttst_ms: float | None
    mean_e2e_latency_ms: float | None
    mean_itl_ms: float | None
    mean_output_token_throughput_per_user: float | None
    mean_queue_time_ms: float | None
    mean_tpot_ms: float | None
    mean_ttft_ms: float | None
    mean_ttst_ms: float | None
    measured: MeasuredPart
    median_e2e_latency_ms: float | None
    median_itl_ms: float | None
    median_output_token_throughput_per_user: float | None
    median_queue_time_ms: float | None
    median_tpot_ms: float | None
    median_ttft_ms: float | None
    median_ttst_ms: float | None
    min_e2e_latency_ms: float | None
    min_itl_ms: float | None
    min_output_token_throughput_per_user: float | None
    min_queue_time_ms: float | None
    min_tpot_ms: float | None
    min_ttft_ms: float | None
    min_ttst_ms: float | None
    notes: list[str]
    num_requests: int
    output_throughput_tok_s: float | None
    overload: Overload
    p75_e2e_latency_ms: float | None
    p75_itl_ms: float | None
    p75_output_token_throughput_per_user: float | None
    p75_queue_time_ms: float | None
    p75_tpot_ms: float | None
    p75_ttft_ms: float | None
    p75_ttst_ms: float | None
    p90_e2e_latency_ms: float | None
    p90_itl_ms: float | None
    p90_output_token_throughput_per_user: float | None
    p90_queue_time_ms: float | None
    p90_tpot_ms: float | None
    p90_ttft_ms: float | None
    p90_ttst_ms: float | None
    p95_e2e_latency_ms: float | None
    p95_itl_ms: float | None
    p95_output_token_throughput_per_user: float | None
    p95_queue_time_ms: float | None
    p95_tpot_ms: float | None
    p95_ttft_ms: float | None
    p95_ttst_ms: float | None
    p99_e2e_latency_ms: float | None
    p99_itl_ms: float | None
    p99_output_token_throughput_per_user: float | None
    p99_queue_time_ms: float | None
    p99_tpot_ms: float | None
    p99_ttft_ms: float | None
    p99_ttst_ms: float | None
    percentile_relative_error: float
    pooled_itl_within_sla_ratio: float | None
    pools: list[PoolReport]
    prefix_cache_reused_ratio: float | None
    rejected_by_reason: Mapping[str, int]
    rejected_input_tokens: int
    rejected_output_tokens: int
    rejected_requests: int
    request_throughput_rps: float | None
    schema_version: SchemaVersion
    seed: int
    servecast_version: str
    sessions: SessionFigures
    settings: Mapping[str, Any]
    sla: Sla
    slo: list[SloOutcome]
    spec_decode_acceptance_rate: float
    spec_decode_mean_acceptance_length: float
    spec_decode_num_accepted_tokens: int
    spec_decode_num_draft_tokens: int
    spec_decode_num_drafts: int
    std_e2e_latency_ms: float | None
    std_itl_ms: float | None
    std_output_token_throughput_per_user: float | None
    std_queue_time_ms: float | None
    std_tpot_ms: float | None
    std_ttft_ms: float | None
    std_ttst_ms: float | None
    total_input_tokens: int
    total_iterations: int
    total_output_tokens: int
    total_preemptions: int
    total_throughput_tok_s: float | None
    trace_notes: Mapping[str, int]
    wall_lateness_max_ms: float
    wall_lateness_p50_ms: float
    wall_lateness_p99_ms: float
    wall_speed: float
    wall_time_ms: float
    withdrawn_requests: int
    workload_hash: str
    workload_name: str

class RunDifference(TypedDict, total=False):
    """A run beside the baseline."""
    figures: Mapping[str, Difference]
    measured: ClientRun | None
    name: str
    paired: list[PairedChange] | None
    requests: str | None
    settings: Mapping[str, SettingChange] | None
    workload: WorkloadId | None

SchemaVersion = Literal["1"]

class SessionFigures(TypedDict, total=False):
    """Figures of the sessions of a run that have two requests or more."""
    completed_sessions: int
    first_turn_ttft_ms: Percentiles | None
    idle_ratio: float | None
    later_turn_ttft_ms: Percentiles | None
    num_sessions: int
    session_duration_ms: Percentiles | None

class SettingChange(TypedDict, total=False):
    """A setting beside that of the baseline; null is not given."""
    baseline: Any
    value: Any

class Sla(TypedDict, total=False):
    """Limits that a request must keep to count towards goodput, and one for single gaps; a limit not given is always kept."""
    e2e_ms: float | None
    pooled_itl_ms: float | None
    tpot_ms: float | None
    ttft_ms: float | None

class SloOutcome(TypedDict, total=False):
    """What became of an objective."""
    limit: float
    margin: float | None
    met: bool
    misses: int
    objective: str
    samples: int
    unserved: int
    value: float | None

class Spread(TypedDict, total=False):
    """How unevenly something is spread over the workers of a pool."""
    max: float
    mean: float
    min: float

class Sure(TypedDict, total=False):
    """Whether the first place stays if iterations take more or less."""
    first_keeps_if_slower: bool
    first_stays: bool
    if_faster: Alternative | None
    if_slower: Alternative | None
    iteration_time_error: float

class Tally(TypedDict, total=False):
    """How many candidates had which fate."""
    candidates: int
    cut_off: int
    met: int
    not_reached: int
    proved_worse: int
    refused: int
    simulated: int

class Tested(TypedDict, total=False):
    """What came of the run that tests a finding."""
    figures: list[TestedFigure]
    refused: str | None

class TestedFigure(TypedDict, total=False):
    """A figure of the run that is diagnosed, and of the one that tests a finding."""
    after: float | None
    before: float | None
    name: str
    unit: str

class WhatIf(TypedDict, total=False):
    """Another run that tests a finding."""
    change: str
    command: str
    settings: Mapping[str, Any]
    tested: Tested | None

class WorkloadFigures(TypedDict, total=False):
    """What was replayed, in a few figures."""
    mean_input_tokens: float
    mean_output_tokens: float
    requests: int
    span_ms: float | None

class WorkloadId(TypedDict, total=False):
    """What was replayed."""
    hash: str
    name: str

class ReportKeys:
    @property
    def classes(self) -> Mapping[str, Figures]:
        """The main figures of each class of requests that the trace names, by its name; absent if it names none, and in searches, which keep no times of tokens. Requests without a class are in none of them."""
    @property
    def completed_requests(self) -> int:
        """Requests served to the end."""
    @property
    def counted_as_infinite(self) -> int:
        """Requests that were not served and count as infinite in `ttft_ms`, `e2e_latency_ms`, `queue_time_ms`, and, if they asked for two tokens or more, in `ttst_ms` and `tpot_ms` (`count_rejected`): statistics that are infinite for it are null. Absent without that."""
    @property
    def diagnosis(self) -> list[Finding]:
        """What is wrong with the run, the first thing to change first; empty when nothing is alarming, absent where it was not looked at: in runs that keep no requests (`stream`)."""
    @property
    def duration_ms(self) -> float | None:
        """From the first arrival to the last token of any request, in ms; null without a token."""
    @property
    def goodput_completed_requests(self) -> int:
        """Completed requests that kept all limits of `sla`; absent without limits."""
    @property
    def goodput_output_throughput_tok_s(self) -> float | None:
        """Tokens a second of the requests that kept all limits of `sla`; absent without limits."""
    @property
    def goodput_request_throughput_rps(self) -> float | None:
        """Goodput, in requests a second: `goodput_completed_requests` / duration; absent without limits."""
    @property
    def gpu_cache_reused_ratio(self) -> float:
        """Of `prefix_cache_reused_ratio`, the share that was in the memory of the GPUs; absent, as the one below, without KV offload."""
    @property
    def host_cache_reused_ratio(self) -> float:
        """Of `prefix_cache_reused_ratio`, the share that was loaded from the memory of the host."""
    @property
    def input_throughput_tok_s(self) -> float | None:
        """Prompt tokens of completed requests a second: `total_input_tokens` / duration."""
    @property
    def itl_relative_error(self) -> float:
        """Largest relative error of the percentiles of `itl_ms` and `output_token_throughput_per_user`: 0 while every distinct gap is counted by itself, up to 65,536 of them. Mean, minimum and maximum of `itl_ms` are exact in any case."""
    @property
    def latency_error(self) -> ErrorBar:
        """How far off the times are, by runs of real servers; null in all of its figures where that is not known."""
    @property
    def latency_estimate(self) -> str:
        """What iteration times are estimated from, where nothing was measured, such as `roofline of meta-llama/Llama-3.1-8B on 1 H100-SXM`; absent where all were measured or given."""
    @property
    def latency_extrapolated_ratio(self) -> float:
        """Share of the iterations whose time lies outside what the latency model was measured on; absent when there were none."""
    @property
    def latency_source(self) -> str:
        """Where iteration times come from: the latency model, what of it was measured, and on which GPU, if it is of one; of each pool, if they differ."""
    @property
    def max_e2e_latency_ms(self) -> float | None:
        """Maximum. Request latency, in ms: from arrival to the last token, one sample a completed request."""
    @property
    def max_itl_ms(self) -> float | None:
        """Maximum. Inter-token latency, in ms: every gap between consecutive tokens of a request, pooled over all requests."""
    @property
    def max_output_token_throughput_per_user(self) -> float | None:
        """Maximum. Token rate that a user sees, in tokens a second: 1000 / gap in ms for every positive gap of `itl_ms`."""
    @property
    def max_queue_time_ms(self) -> float | None:
        """Maximum. Queue time, in ms: from arrival to the start of the first iteration that computed something for the request, one sample a completed request."""
    @property
    def max_tpot_ms(self) -> float | None:
        """Maximum. Time per output token, in ms: (last token - first token) / (tokens - 1), one sample a completed request with two tokens or more."""
    @property
    def max_ttft_ms(self) -> float | None:
        """Maximum. Time to first token, in ms: from arrival to the first token, one sample a completed request."""
    @property
    def max_ttst_ms(self) -> float | None:
        """Maximum. Time to second token, in ms: from the first to the second token, one sample a completed request with two tokens or more."""
    @property
    def mean_e2e_latency_ms(self) -> float | None:
        """Mean. Request latency, in ms: from arrival to the last token, one sample a completed request."""
    @property
    def mean_itl_ms(self) -> float | None:
        """Mean. Inter-token latency, in ms: every gap between consecutive tokens of a request, pooled over all requests."""
    @property
    def mean_output_token_throughput_per_user(self) -> float | None:
        """Mean. Token rate that a user sees, in tokens a second: 1000 / gap in ms for every positive gap of `itl_ms`."""
    @property
    def mean_queue_time_ms(self) -> float | None:
        """Mean. Queue time, in ms: from arrival to the start of the first iteration that computed something for the request, one sample a completed request."""
    @property
    def mean_tpot_ms(self) -> float | None:
        """Mean. Time per output token, in ms: (last token - first token) / (tokens - 1), one sample a completed request with two tokens or more."""
    @property
    def mean_ttft_ms(self) -> float | None:
        """Mean. Time to first token, in ms: from arrival to the first token, one sample a completed request."""
    @property
    def mean_ttst_ms(self) -> float | None:
        """Mean. Time to second token, in ms: from the first to the second token, one sample a completed request with two tokens or more."""
    @property
    def measured(self) -> MeasuredPart:
        """Which requests the figures are of (`warmup`, `cooldown`); absent where they are of all."""
    @property
    def median_e2e_latency_ms(self) -> float | None:
        """Median. Request latency, in ms: from arrival to the last token, one sample a completed request."""
    @property
    def p50_e2e_latency_ms(self) -> float | None:
        """Median. Request latency, in ms: from arrival to the last token, one sample a completed request."""
    @property
    def median_itl_ms(self) -> float | None:
        """Median. Inter-token latency, in ms: every gap between consecutive tokens of a request, pooled over all requests."""
    @property
    def p50_itl_ms(self) -> float | None:
        """Median. Inter-token latency, in ms: every gap between consecutive tokens of a request, pooled over all requests."""
    @property
    def median_output_token_throughput_per_user(self) -> float | None:
        """Median. Token rate that a user sees, in tokens a second: 1000 / gap in ms for every positive gap of `itl_ms`."""
    @property
    def p50_output_token_throughput_per_user(self) -> float | None:
        """Median. Token rate that a user sees, in tokens a second: 1000 / gap in ms for every positive gap of `itl_ms`."""
    @property
    def median_queue_time_ms(self) -> float | None:
        """Median. Queue time, in ms: from arrival to the start of the first iteration that computed something for the request, one sample a completed request."""
    @property
    def p50_queue_time_ms(self) -> float | None:
        """Median. Queue time, in ms: from arrival to the start of the first iteration that computed something for the request, one sample a completed request."""
    @property
    def median_tpot_ms(self) -> float | None:
        """Median. Time per output token, in ms: (last token - first token) / (tokens - 1), one sample a completed request with two tokens or more."""
    @property
    def p50_tpot_ms(self) -> float | None:
        """Median. Time per output token, in ms: (last token - first token) / (tokens - 1), one sample a completed request with two tokens or more."""
    @property
    def median_ttft_ms(self) -> float | None:
        """Median. Time to first token, in ms: from arrival to the first token, one sample a completed request."""
    @property
    def p50_ttft_ms(self) -> float | None:
        """Median. Time to first token, in ms: from arrival to the first token, one sample a completed request."""
    @property
    def median_ttst_ms(self) -> float | None:
        """Median. Time to second token, in ms: from the first to the second token, one sample a completed request with two tokens or more."""
    @property
    def p50_ttst_ms(self) -> float | None:
        """Median. Time to second token, in ms: from the first to the second token, one sample a completed request with two tokens or more."""
    @property
    def min_e2e_latency_ms(self) -> float | None:
        """Minimum. Request latency, in ms: from arrival to the last token, one sample a completed request."""
    @property
    def min_itl_ms(self) -> float | None:
        """Minimum. Inter-token latency, in ms: every gap between consecutive tokens of a request, pooled over all requests."""
    @property
    def min_output_token_throughput_per_user(self) -> float | None:
        """Minimum. Token rate that a user sees, in tokens a second: 1000 / gap in ms for every positive gap of `itl_ms`."""
    @property
    def min_queue_time_ms(self) -> float | None:
        """Minimum. Queue time, in ms: from arrival to the start of the first iteration that computed something for the request, one sample a completed request."""
    @property
    def min_tpot_ms(self) -> float | None:
        """Minimum. Time per output token, in ms: (last token - first token) / (tokens - 1), one sample a completed request with two tokens or more."""
    @property
    def min_ttft_ms(self) -> float | None:
        """Minimum. Time to first token, in ms: from arrival to the first token, one sample a completed request."""
    @property
    def min_ttst_ms(self) -> float | None:
        """Minimum. Time to second token, in ms: from the first to the second token, one sample a completed request with two tokens or more."""
    @property
    def num_requests(self) -> int:
        """Requests that arrived."""
    @property
    def output_throughput_tok_s(self) -> float | None:
        """Tokens produced for completed requests a second: `total_output_tokens` / duration."""
    @property
    def overload(self) -> Overload:
        """That requests came faster than they were served until the last of them, so that the longer the trace the longer the latencies; absent when they did not, or the run is too short to say."""
    @property
    def p75_e2e_latency_ms(self) -> float | None:
        """75th percentile. Request latency, in ms: from arrival to the last token, one sample a completed request."""
    @property
    def p75_itl_ms(self) -> float | None:
        """75th percentile. Inter-token latency, in ms: every gap between consecutive tokens of a request, pooled over all requests."""
    @property
    def p75_output_token_throughput_per_user(self) -> float | None:
        """75th percentile. Token rate that a user sees, in tokens a second: 1000 / gap in ms for every positive gap of `itl_ms`."""
    @property
    def p75_queue_time_ms(self) -> float | None:
        """75th percentile. Queue time, in ms: from arrival to the start of the first iteration that computed something for the request, one sample a completed request."""
    @property
    def p75_tpot_ms(self) -> float | None:
        """75th percentile. Time per output token, in ms: (last token - first token) / (tokens - 1), one sample a completed request with two tokens or more."""
    @property
    def p75_ttft_ms(self) -> float | None:
        """75th percentile. Time to first token, in ms: from arrival to the first token, one sample a completed request."""
    @property
    def p75_ttst_ms(self) -> float | None:
        """75th percentile. Time to second token, in ms: from the first to the second token, one sample a completed request with two tokens or more."""
    @property
    def p90_e2e_latency_ms(self) -> float | None:
        """90th percentile. Request latency, in ms: from arrival to the last token, one sample a completed request."""
    @property
    def p90_itl_ms(self) -> float | None:
        """90th percentile. Inter-token latency, in ms: every gap between consecutive tokens of a request, pooled over all requests."""
    @property
    def p90_output_token_throughput_per_user(self) -> float | None:
        """90th percentile. Token rate that a user sees, in tokens a second: 1000 / gap in ms for every positive gap of `itl_ms`."""
    @property
    def p90_queue_time_ms(self) -> float | None:
        """90th percentile. Queue time, in ms: from arrival to the start of the first iteration that computed something for the request, one sample a completed request."""
    @property
    def p90_tpot_ms(self) -> float | None:
        """90th percentile. Time per output token, in ms: (last token - first token) / (tokens - 1), one sample a completed request with two tokens or more."""
    @property
    def p90_ttft_ms(self) -> float | None:
        """90th percentile. Time to first token, in ms: from arrival to the first token, one sample a completed request."""
    @property
    def p90_ttst_ms(self) -> float | None:
        """90th percentile. Time to second token, in ms: from the first to the second token, one sample a completed request with two tokens or more."""
    @property
    def p95_e2e_latency_ms(self) -> float | None:
        """95th percentile. Request latency, in ms: from arrival to the last token, one sample a completed request."""
    @property
    def p95_itl_ms(self) -> float | None:
        """95th percentile. Inter-token latency, in ms: every gap between consecutive tokens of a request, pooled over all requests."""
    @property
    def p95_output_token_throughput_per_user(self) -> float | None:
        """95th percentile. Token rate that a user sees, in tokens a second: 1000 / gap in ms for every positive gap of `itl_ms`."""
    @property
    def p95_queue_time_ms(self) -> float | None:
        """95th percentile. Queue time, in ms: from arrival to the start of the first iteration that computed something for the request, one sample a completed request."""
    @property
    def p95_tpot_ms(self) -> float | None:
        """95th percentile. Time per output token, in ms: (last token - first token) / (tokens - 1), one sample a completed request with two tokens or more."""
    @property
    def p95_ttft_ms(self) -> float | None:
        """95th percentile. Time to first token, in ms: from arrival to the first token, one sample a completed request."""
    @property
    def p95_ttst_ms(self) -> float | None:
        """95th percentile. Time to second token, in ms: from the first to the second token, one sample a completed request with two tokens or more."""
    @property
    def p99_e2e_latency_ms(self) -> float | None:
        """99th percentile. Request latency, in ms: from arrival to the last token, one sample a completed request."""
    @property
    def p99_itl_ms(self) -> float | None:
        """99th percentile. Inter-token latency, in ms: every gap between consecutive tokens of a request, pooled over all requests."""
    @property
    def p99_output_token_throughput_per_user(self) -> float | None:
        """99th percentile. Token rate that a user sees, in tokens a second: 1000 / gap in ms for every positive gap of `itl_ms`."""
    @property
    def p99_queue_time_ms(self) -> float | None:
        """99th percentile. Queue time, in ms: from arrival to the start of the first iteration that computed something for the request, one sample a completed request."""
    @property
    def p99_tpot_ms(self) -> float | None:
        """99th percentile. Time per output token, in ms: (last token - first token) / (tokens - 1), one sample a completed request with two tokens or more."""
    @property
    def p99_ttft_ms(self) -> float | None:
        """99th percentile. Time to first token, in ms: from arrival to the first token, one sample a completed request."""
    @property
    def p99_ttst_ms(self) -> float | None:
        """99th percentile. Time to second token, in ms: from the first to the second token, one sample a completed request with two tokens or more."""
    @property
    def percentile_relative_error(self) -> float:
        """Largest relative error of the percentiles, medians among them, of `ttft_ms`, `ttst_ms`, `tpot_ms`, `e2e_latency_ms` and `queue_time_ms`, where samples are counted by length (`stream`); means, minima and maxima are exact in any case. Absent where percentiles are exact, too."""
    @property
    def pooled_itl_within_sla_ratio(self) -> float | None:
        """Share of all gaps between tokens, pooled over all requests, within `sla.pooled_itl_ms`; absent without that limit, null without gaps."""
    @property
    def pools(self) -> list[PoolReport]:
        """Totals of each pool of workers, in the order in which a request meets them."""
    @property
    def prefix_cache_reused_ratio(self) -> float | None:
        """Share of the prompt tokens of completed requests, from 0 to 1, that their first admission in the first stage found in the prefix cache; null without completed requests."""
    @property
    def rejected_by_reason(self) -> Mapping[str, int]:
        """Rejected requests by reason; reasons that did not occur have no entry."""
    @property
    def rejected_input_tokens(self) -> int:
        """Prompt tokens of rejected requests."""
    @property
    def rejected_output_tokens(self) -> int:
        """Tokens produced for rejected requests before they were given up."""
    @property
    def rejected_requests(self) -> int:
        """Requests turned away or given up."""
    @property
    def request_throughput_rps(self) -> float | None:
        """Completed requests a second: `completed_requests` / duration."""
    @property
    def schema_version(self) -> SchemaVersion:
        """Version of the keys of this object."""
    @property
    def seed(self) -> int:
        """Root of all random numbers."""
    @property
    def servecast_version(self) -> str:
        """The release of servecast that made the report."""
    @property
    def sessions(self) -> SessionFigures:
        """What sessions of two requests or more came to; absent if there are none, and where no requests are kept (`stream`)."""
    @property
    def settings(self) -> Mapping[str, Any]:
        """Every setting that the run depends on, defaults included, by the keys of a configuration file; files by their names without folders, and without `trace_file`."""
    @property
    def sla(self) -> Sla:
        """The limits of the goodput; absent when none were given."""
    @property
    def slo(self) -> list[SloOutcome]:
        """What became of each objective (`--slo`), over the requests that arrived; absent without any."""
    @property
    def spec_decode_acceptance_rate(self) -> float:
        """Share of the proposed tokens that was accepted, from 0 to 1."""
    @property
    def spec_decode_mean_acceptance_length(self) -> float:
        """Tokens that a verification gave in the mean, the model's own among them: 1 + accepted tokens / verifications. What a request has no room for at its end counts, too."""
    @property
    def spec_decode_num_accepted_tokens(self) -> int:
        """How many of them were accepted."""
    @property
    def spec_decode_num_draft_tokens(self) -> int:
        """Tokens that were proposed and verified."""
    @property
    def spec_decode_num_drafts(self) -> int:
        """Times that drafts of a request were verified, over all pools; absent, as those below, without speculative decoding."""
    @property
    def std_e2e_latency_ms(self) -> float | None:
        """Population standard deviation. Request latency, in ms: from arrival to the last token, one sample a completed request."""
    @property
    def std_itl_ms(self) -> float | None:
        """Population standard deviation. Inter-token latency, in ms: every gap between consecutive tokens of a request, pooled over all requests."""
    @property
    def std_output_token_throughput_per_user(self) -> float | None:
        """Population standard deviation. Token rate that a user sees, in tokens a second: 1000 / gap in ms for every positive gap of `itl_ms`."""
    @property
    def std_queue_time_ms(self) -> float | None:
        """Population standard deviation. Queue time, in ms: from arrival to the start of the first iteration that computed something for the request, one sample a completed request."""
    @property
    def std_tpot_ms(self) -> float | None:
        """Population standard deviation. Time per output token, in ms: (last token - first token) / (tokens - 1), one sample a completed request with two tokens or more."""
    @property
    def std_ttft_ms(self) -> float | None:
        """Population standard deviation. Time to first token, in ms: from arrival to the first token, one sample a completed request."""
    @property
    def std_ttst_ms(self) -> float | None:
        """Population standard deviation. Time to second token, in ms: from the first to the second token, one sample a completed request with two tokens or more."""
    @property
    def total_input_tokens(self) -> int:
        """Prompt tokens of completed requests."""
    @property
    def total_iterations(self) -> int:
        """Engine iterations over all pools."""
    @property
    def total_output_tokens(self) -> int:
        """Tokens produced for completed requests."""
    @property
    def total_preemptions(self) -> int:
        """How often a request lost its KV blocks to others, over all pools."""
    @property
    def total_throughput_tok_s(self) -> float | None:
        """Sum of input and output throughput, in tokens a second."""
    @property
    def trace_notes(self) -> Mapping[str, int]:
        """What was odd about the trace, as counts by kind; absent when nothing was."""
    @property
    def wall_lateness_max_ms(self) -> float:
        """The same, the largest."""
    @property
    def wall_lateness_p50_ms(self) -> float:
        """How late instants at which something happened were handled, in ms of real time, the median; absent but for online replays."""
    @property
    def wall_lateness_p99_ms(self) -> float:
        """The same, 99th percentile."""
    @property
    def wall_speed(self) -> float:
        """How many times as fast as the clock of the machine the run went; absent but for online replays."""
    @property
    def wall_time_ms(self) -> float:
        """What the simulation itself took, in ms of real time."""
    @property
    def withdrawn_requests(self) -> int:
        """Requests that their clients took back, as those under way when an online replay is ended; absent when there were none."""
    @property
    def workload_hash(self) -> str:
        """Hash of what was replayed, 16 hexadecimal digits: XXH3-64 of the parsed sessions as they were sent, with their times (after `arrival_speedup_ratio`), prompts, output lengths and priorities. Equal for equal workloads on any machine, whatever the file is called and however it is packed."""
    @property
    def workload_name(self) -> str:
        """What was replayed: the name of the trace's file, or that it was made."""

class ComparisonKeys:
    @property
    def runs(self) -> list[ComparedRun]:
        """The runs, one for each combination of values."""
    @property
    def schema_version(self) -> SchemaVersion:
        """Version of the keys of this object and of the reports in it."""
    @property
    def varied(self) -> list[str]:
        """The settings in which runs differ; the last of them changes fastest from run to run."""

class DifferencesKeys:
    @property
    def baseline(self) -> NamedFigures:
        """The first run, which the others are held against."""
    @property
    def runs(self) -> list[RunDifference]:
        """The others."""
    @property
    def schema_version(self) -> SchemaVersion:
        """Version of the keys of this object and of the figures in it."""

class RecommendationKeys:
    @property
    def given(self) -> Mapping[str, Any]:
        """The settings that all deployments have in common, as they were given, by the keys of a configuration file."""
    @property
    def latency_error(self) -> ErrorBar:
        """How far off these are."""
    @property
    def latency_source(self) -> str:
        """Where the iteration times of the first place come from; of the first deployment that could be built if none keeps the targets."""
    @property
    def loads(self) -> list[LoadAnswer]:
        """The answer under each load."""
    @property
    def max_gpus(self) -> int:
        """GPUs up to which deployments were looked at."""
    @property
    def objective(self) -> list[Goal]:
        """What was asked for; two of them for the deployments that no other one beats in both."""
    @property
    def prices(self) -> list[Price]:
        """Prices of GPUs."""
    @property
    def schema_version(self) -> SchemaVersion:
        """Version of the keys of this object."""
    @property
    def servecast_version(self) -> str:
        """The release of servecast that made it."""
    @property
    def slo(self) -> list[str]:
        """The targets."""
    @property
    def workload(self) -> WorkloadFigures:
        """What that is, before any factor."""
    @property
    def workload_hash(self) -> str:
        """Hash of what was replayed, as in a report."""
    @property
    def workload_name(self) -> str:
        """What was replayed: the name of the trace's file, or that it was made."""
