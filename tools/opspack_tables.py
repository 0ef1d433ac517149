"""What of the public operator tables goes into a pack, and how it is called there.

A recipe turns one file of the package into rows of keys, axes and a time in microseconds. Of several rows of the same
keys and axes (kernels, mostly) the least time is kept. Of several versions of an engine the first that has a table
gives it; later ones add the tables that it lacks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from opspack_csv import grid
from opspack_format import Array, Key, PackError, Section, Table
from opspack_shapes import CONTEXTS, GEMM_M, GEMM_NK, LENGTHS, MOE_RANKS, MOE_TOKENS, PREFIXES, shards

# Names of the package's folders, and of GPUs.
SYSTEMS = {
    "A100-80GB": "a100_sxm",
    "B200": "b200_sxm",
    "B300": "b300_sxm",
    "GB200": "gb200",
    "GB300": "gb300",
    "H100-SXM": "h100_sxm",
    "H200": "h200_sxm",
    "L40S": "l40s",
    "RTX-PRO-6000-Server": "rtx_pro_6000_server",
}
DTYPES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "int4_wo": "int4",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4_mxfp8",
    "fp8_e4m3": "fp8",
}
# The tables are in milliseconds.
MICROSECONDS = 1000.0
# Experts that are loaded unevenly: 1.01 is the exponent of the power law; the other where only it was measured.
DISTRIBUTIONS = ("power_law_1.01", "power_law_1.2")

VLLM = ("0.25.0", "0.24.0", "0.31.0", "0.14.0")
SGLANG = ("0.5.14", "0.5.10", "0.5.17", "0.5.20")
TRTLLM = ("1.3.0rc20", "1.3.0rc23", "1.3.0rc10", "1.0.0")

# Tables that were timed without a CUDA graph: 120 to 280 us for the smallest product, which is Python, not the GPU.
EAGER: set[tuple[str, str, str, Key]] = {("gemm", "vllm", "0.24.0", ("fp8_block",))}

Rows: TypeAlias = pa.Table
Prepare = Callable[[Rows], Rows]


@dataclass(frozen=True)
class Recipe:
    """How a section is made: its operator, where its rows are, which columns are what."""

    op: str
    family: str
    file: str
    versions: Mapping[str, Sequence[str]]
    key: dict[str, str]
    axes: dict[str, str]
    prepare: Prepare = lambda rows: rows
    keep: Mapping[str, Sequence[int]] = field(default_factory=dict)
    finish: Callable[[Table], Table] = lambda table: table


def plus(rows: Rows, column: str, number: int) -> Rows:
    return rows.set_column(rows.schema.get_field_index(column), column, pc.add(rows[column], number))


def only(rows: Rows, column: str, values: Iterable[object]) -> Rows:
    return rows.filter(pc.is_in(rows[column], pa.array(list(values), rows[column].type)))


def constant(rows: Rows, column: str, value: object) -> Rows:
    return rows.append_column(column, pa.array([value] * len(rows)))


def known_heads(rows: Rows) -> Rows:
    """Rows of shards of known models. Old tables have no windows, and no column of them."""
    if "window_size" not in rows.column_names:
        rows = constant(rows, "window_size", 0)
    wanted = shards()
    columns = (rows[name].to_pylist() for name in ("num_heads", "num_key_value_heads", "head_dim", "window_size"))
    return rows.filter(pa.array([shard in wanted for shard in zip(*columns)], pa.bool_()))


def decode_steps(rows: Rows) -> Rows:
    """`step` tokens are in the cache; the new one joins them."""
    return plus(known_heads(rows), "step", 1)


def of_flashinfer(prepare: Prepare) -> Prepare:
    """Rows of FlashInfer's own kernels, where other kernels were timed beside them: these are what is taken else."""

    def own(rows: Rows) -> Rows:
        is_own = pc.equal(rows["kernel_source"], "flashinfer")
        has_others = pc.any(pc.equal(rows["kernel_source"], "trtllm_mha")).as_py()
        return prepare(rows.filter(is_own) if has_others else rows.slice(0, 0))

    return own


def uneven(rows: Rows) -> Rows:
    """Rows of experts with uneven loads, on as many ranks as a deployment may have."""
    rows = rows.filter(pc.less_equal(pc.multiply(rows["moe_tp_size"], rows["moe_ep_size"]), MOE_RANKS))
    first, second = (only(rows, "distribution", [name]) for name in DISTRIBUTIONS)
    shape = ["moe_dtype", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"]
    rest = second.join(first.select(shape).group_by(shape).aggregate([]), shape, join_type="left anti")
    return pa.concat_tables([first, rest.select(first.column_names)])


def sum_of_kernels(phase: str) -> Prepare:
    """The convolution and the recurrence of a layer, one after the other."""

    def prepare(rows: Rows) -> Rows:
        rows = only(rows, "phase", [phase])
        shape = ["num_k_heads", "num_v_heads", "head_k_dim", "head_v_dim", "d_conv", "batch_size", "seq_len"]
        is_conv = pc.starts_with(rows["kernel_source"], "causal_conv1d")
        parts = []
        for part in (rows.filter(is_conv), rows.filter(pc.invert(is_conv))):
            parts.append(part.group_by(shape).aggregate([("latency", "min")]))
        both = parts[0].join(parts[1], shape, join_type="inner", right_suffix="_recurrence")
        return both.append_column("latency", pc.add(both["latency_min"], both["latency_min_recurrence"]))

    return prepare


def launch(rows: Rows) -> Rows:
    """Sizes are elements of two bytes. TensorRT-LLM's table does not say how it was launched; its times are graphs'."""
    eager = pc.match_substring(rows["kernel_source"], "eager")
    rows = rows.append_column("kind", pc.if_else(eager, "custom_eager", "custom_graph"))
    return rows.append_column("bytes", pc.multiply(rows["message_size"], 2))


def collective(name: str) -> Prepare:
    """Sizes are elements as well, of the whole buffer."""

    def prepare(rows: Rows) -> Rows:
        rows = only(only(rows, "op_name", [name]), "nccl_dtype", ["half"])
        # Two bytes are two bytes: a reader that looks for bf16 finds them.
        rows = constant(constant(rows, "kind", "nccl"), "dtype", "bf16")
        return rows.append_column("bytes", pc.multiply(rows["message_size"], 2))

    return prepare


def without_glitches(table: Table) -> Table:
    """Replaces times of more than twice those of both neighbours along every axis: something else ran meanwhile."""
    is_glitch = np.isfinite(table.times)
    has_neighbours = np.zeros(table.times.shape, bool)
    for axis in range(table.times.ndim):
        ends = [(0, 0)] * table.times.ndim
        ends[axis] = (1, 1)
        padded = np.moveaxis(np.pad(table.times, ends, constant_values=np.nan), axis, 0)
        larger = np.moveaxis(np.maximum(padded[:-2], padded[2:]), 0, axis)
        is_glitch &= ~(table.times <= 2 * larger)
        has_neighbours |= np.isfinite(larger)
    is_glitch &= has_neighbours
    without = filled(np.where(is_glitch, np.nan, table.times), table.axes[-1])
    is_replaced = is_glitch & np.isfinite(without)
    return Table(table.key, table.axes, np.where(is_replaced, without, table.times))


def rising(table: Table) -> Table:
    """Nothing takes longer than more of it: times fall to the least of those that follow along the last axis."""
    times = np.where(np.isfinite(table.times), table.times, np.inf)
    least = np.minimum.accumulate(times[..., ::-1], axis=-1)[..., ::-1]
    return Table(table.key, table.axes, np.where(np.isfinite(table.times), least, np.nan))


def sparse(rows: Rows) -> Rows:
    """DSA: which model, and whether a layer chooses tokens by itself or takes those of the layer before."""
    names = {"deepseek-ai/DeepSeek-V3.2": "DeepSeek-V3.2"}
    model = [names.get(name, "GLM-5") for name in rows["model"].to_pylist()]
    skip = pc.match_substring(rows["op_name"], "skip_indexer")
    return rows.append_column("shape", pa.array(model)).append_column("indexer", pc.if_else(skip, "skip", "full"))


def filled(times: Array, values: Sequence[int]) -> Array:
    """Holes between two times of a row are interpolated, log-log along the last axis."""
    log_axis = np.log(np.maximum(values, 1))
    times = times.copy()
    for row in times.reshape(-1, times.shape[-1]):
        there = np.flatnonzero(np.isfinite(row))
        if len(there) > 1:
            first, end = int(there[0]), int(there[-1]) + 1
            row[first:end] = np.exp(np.interp(log_axis[first:end], log_axis[there], np.log(row[there])))
    return times


def same_contexts(table: Table) -> Table:
    """DSA: batches were measured at other contexts each, and TensorRT-LLM has a peak at exactly 2,048 tokens."""
    kept = [index for index, length in enumerate(table.axes[-1]) if length in CONTEXTS]
    axes = [*table.axes[:-1], [table.axes[-1][index] for index in kept]]
    return rising(Table(table.key, axes, filled(table.times, table.axes[-1])[..., kept]))


ENGINES = {"vllm": VLLM, "sglang": SGLANG, "trtllm": TRTLLM}
HEAD_KEY = {
    "heads": "num_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "window": "window_size",
    "kv_dtype": "kv_cache_dtype",
}
MLA_KEY = {"heads": "num_heads", "kv_dtype": "kv_cache_dtype"}
MODULE_KEY = MLA_KEY | {"dtype": "gemm_type"}
DSA_KEY = {"model": "shape", "indexer": "indexer"} | MODULE_KEY
GDN_KEY = {"k_heads": "num_k_heads", "v_heads": "num_v_heads", "k_dim": "head_k_dim", "v_dim": "head_v_dim"}
NCCL = {"nccl": ("2.29.2", "2.27.3", "2.27", "2.23")}

RECIPES = (
    Recipe(
        "gemm",
        "gemm",
        "gemm",
        ENGINES,
        {"dtype": "gemm_dtype"},
        {"n": "n", "k": "k", "m": "m"},
        keep={"m": GEMM_M, "n": GEMM_NK, "k": GEMM_NK},
    ),
    Recipe(
        "context_attention",
        "attention",
        "context_attention",
        ENGINES,
        HEAD_KEY,
        {"batch": "batch_size", "length": "isl"},
        known_heads,
        {"length": LENGTHS},
    ),
    Recipe(
        "decode_attention",
        "attention",
        "generation_attention",
        ENGINES,
        HEAD_KEY,
        {"batch": "batch_size", "context": "step"},
        decode_steps,
    ),
    # What SGLang runs with `--attention-backend flashinfer`, and vLLM without TensorRT-LLM's attention.
    Recipe(
        "context_attention_flashinfer",
        "attention",
        "context_attention",
        {"sglang": SGLANG},
        HEAD_KEY,
        {"batch": "batch_size", "length": "isl"},
        of_flashinfer(known_heads),
        {"length": LENGTHS},
    ),
    Recipe(
        "decode_attention_flashinfer",
        "attention",
        "generation_attention",
        {"sglang": SGLANG},
        HEAD_KEY,
        {"batch": "batch_size", "context": "step"},
        of_flashinfer(decode_steps),
    ),
    Recipe(
        "moe",
        "moe",
        "moe",
        ENGINES,
        {
            "dtype": "moe_dtype",
            "hidden": "hidden_size",
            "inner": "inter_size",
            "topk": "topk",
            "experts": "num_experts",
            "tp": "moe_tp_size",
            "ep": "moe_ep_size",
        },
        {"tokens": "num_tokens"},
        uneven,
        {"tokens": MOE_TOKENS},
    ),
    Recipe(
        "context_mla",
        "mla",
        "context_mla",
        ENGINES,
        MLA_KEY,
        {"batch": "batch_size", "length": "isl"},
        keep={"length": LENGTHS},
    ),
    Recipe(
        "decode_mla",
        "mla",
        "generation_mla",
        ENGINES,
        MLA_KEY,
        {"batch": "batch_size", "context": "step"},
        lambda rows: plus(rows, "step", 1),
    ),
    Recipe(
        "context_mla_module",
        "mla",
        "mla_context_module",
        ENGINES,
        MODULE_KEY,
        {"batch": "batch_size", "length": "isl"},
        keep={"length": LENGTHS},
    ),
    # The steps of modules are powers of two: they count the new token.
    Recipe(
        "decode_mla_module",
        "mla",
        "mla_generation_module",
        ENGINES,
        MODULE_KEY,
        {"batch": "batch_size", "context": "step"},
    ),
    Recipe(
        "mla_bmm",
        "mla_bmm",
        "mla_bmm",
        ENGINES,
        {"part": "op_name", "heads": "num_heads", "dtype": "bmm_dtype"},
        {"tokens": "num_tokens"},
    ),
    Recipe(
        "gdn_context",
        "linear_attention",
        "gdn",
        ENGINES,
        GDN_KEY,
        {"batch": "batch_size", "length": "seq_len"},
        sum_of_kernels("context"),
    ),
    Recipe(
        "gdn_decode", "linear_attention", "gdn", ENGINES, GDN_KEY, {"batch": "batch_size"}, sum_of_kernels("generation")
    ),
    Recipe(
        "dsa_context",
        "sparse_attention",
        "dsa_context_module",
        ENGINES,
        DSA_KEY,
        {"batch": "batch_size", "prefix": "step", "length": "isl"},
        sparse,
        {"length": LENGTHS + (4, 8), "prefix": PREFIXES},
    ),
    Recipe(
        "dsa_decode",
        "sparse_attention",
        "dsa_generation_module",
        ENGINES,
        DSA_KEY,
        {"batch": "batch_size", "context": "step"},
        sparse,
        finish=same_contexts,
    ),
    Recipe(
        "all_reduce",
        "comm",
        "custom_allreduce",
        {
            "vllm": ("0.24.0", "0.19.0", "0.22.0", "0.14.0"),
            "sglang": ("0.5.14", "0.5.10"),
            "trtllm": ("1.3.0rc20", "1.3.0rc10", "1.0.0"),
        },
        {"kind": "kind", "dtype": "allreduce_dtype", "gpus": "num_gpus"},
        {"bytes": "bytes"},
        launch,
        finish=rising,
    ),
    *(
        Recipe(
            name,
            "comm",
            "nccl",
            NCCL,
            {"kind": "kind", "dtype": "dtype", "gpus": "num_gpus"},
            {"bytes": "bytes"},
            collective(source),
            finish=rising,
        )
        for name, source in (
            ("all_reduce", "all_reduce"),
            ("all_gather", "all_gather"),
            ("reduce_scatter", "reduce_scatter"),
            ("all_to_all", "alltoall"),
        )
    ),
)


def tables_of(recipe: Recipe, rows: Rows) -> list[Table]:
    """The tables of a file, in the order of their keys."""
    rows = recipe.prepare(rows)
    for axis, values in recipe.keep.items():
        rows = only(rows, recipe.axes[axis], values)
    columns = [*recipe.key.values(), *recipe.axes.values()]
    rows = rows.filter(pc.greater(rows["latency"], 0)).group_by(columns).aggregate([("latency", "min")])
    keys = zip(*(rows[column].to_pylist() for column in recipe.key.values()))
    renamed = [tuple(DTYPES.get(part, part) if isinstance(part, str) else part for part in key) for key in keys]
    places = zip(*(rows[column].to_pylist() for column in recipe.axes.values()))
    times = [time * MICROSECONDS for time in rows["latency_min"].to_pylist()]
    by_key: dict[Key, list[tuple[tuple[int, ...], float]]] = {}
    for key, place, time in zip(renamed, places, times):
        by_key.setdefault(key, []).append((place, time))
    return [recipe.finish(without_glitches(grid(key, by_key[key]))) for key in sorted(by_key)]


def sections_of(recipe: Recipe, system: Path, used: dict[str, str]) -> list[Section]:
    """The sections of an operator, one a version that has something to add; notes the files that they are from."""
    sections = []
    for engine, versions in recipe.versions.items():
        known: set[Key] = set()
        for version in versions:
            folder = "nccl" if engine == "nccl" else engine
            path = system / recipe.family / folder / version / f"{recipe.file}_perf.parquet"
            if not path.exists():
                continue
            skipped = known | {key for *place, key in EAGER if place == [recipe.op, engine, version]}
            tables = [table for table in tables_of(recipe, pq.read_table(path)) if table.key not in skipped]
            known |= {table.key for table in tables}
            if tables:
                used[str(path.relative_to(system.parent))] = hashlib.sha256(path.read_bytes()).hexdigest()
                sections.append(Section(recipe.op, engine, version, list(recipe.key), list(recipe.axes), tables))
    return sections


def sections_of_gpu(package: Path, gpu: str) -> tuple[list[Section], list[dict[str, str]]]:
    """All sections of a GPU, and the files that they are from with their SHA-256."""
    system = package / "aisimulate_core" / "systems" / "data" / SYSTEMS[gpu]
    if not system.is_dir():
        raise PackError(f"{system} is not there: {package} is to be the folder that the wheel was unpacked into")
    used: dict[str, str] = {}
    sections = [section for recipe in RECIPES for section in sections_of(recipe, system, used)]
    return sections, [{"path": path, "sha256": digest} for path, digest in sorted(used.items())]
