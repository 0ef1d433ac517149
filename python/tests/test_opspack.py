"""tools/opspack.py: what it makes of tables, and the packs in crates/ops/data/ops."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

np = pytest.importorskip("numpy")
zstandard = pytest.importorskip("zstandard")
pa = pytest.importorskip("pyarrow")

TOOL = ROOT / "tools" / "opspack.py"
PACKS = ROOT / "crates" / "ops" / "data" / "ops"
sys.path.insert(0, str(TOOL.parent))

import opspack  # noqa: E402
import opspack_csv  # noqa: E402
import opspack_format as form  # noqa: E402
import opspack_tables as tables  # noqa: E402

GPUS = [
    "A100-80GB", "B200", "B300", "GB200", "GB300", "H100-SXM", "H200", "L40S", "RTX-PRO-6000-Server",
]  # fmt: skip


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TOOL, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=50, check=False)


def table(system: Path, path: str, columns: str, rows: list[tuple[Any, ...]]) -> None:
    """Writes a table as the package has them."""
    import pyarrow.parquet as pq

    file = system / f"{path}_perf.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    names = columns.split()
    pq.write_table(pa.table({name: [row[index] for row in rows] for index, name in enumerate(names)}), file)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small package of one GPU, whose numbers are ours."""
    root = tmp_path / "wheel"
    system = root / "aisimulate_core" / "systems" / "data" / "h100_sxm"
    gemm = "kernel_source gemm_dtype m n k latency"
    rows = [("a", "bfloat16", m, n, 256, 0.002 + m * n * 1e-6) for m in (1, 2, 64) for n in (128, 256)]
    # A faster kernel, a value of m that packs leave out, and no time at all.
    rows += [("b", "bfloat16", 64, 256, 256, 0.0015), ("a", "bfloat16", 3, 128, 256, 0.003)]
    table(system, "gemm/vllm/0.25.0/gemm", gemm, [*rows, ("a", "fp8", 1, 128, 256, 0.0)])
    # Only what 0.25.0 lacks is taken of an older version, and not what it timed without a CUDA graph.
    old = [("a", dtype, 1, 128, 256, time) for dtype, time in (("bfloat16", 9.0), ("nvfp4", 0.004), ("fp8_block", 0.2))]
    table(system, "gemm/vllm/0.24.0/gemm", gemm, old)
    heads = "batch_size isl num_heads num_key_value_heads head_dim kv_cache_dtype step latency"
    decode = [(b, 1, 32, 8, 128, "bfloat16", s, 0.01 + b * s * 1e-6) for b in (1, 2) for s in (1, 1023)]
    # A head count of no model, and a table of the time before windows.
    table(system, "attention/vllm/0.25.0/generation_attention", heads, [*decode, (1, 1, 31, 31, 128, "fp8", 1, 0.1)])
    moe = "moe_dtype num_tokens hidden_size inter_size topk num_experts moe_tp_size moe_ep_size distribution latency"
    experts = [
        ("w4a16_mxfp4", tokens, 2880, 2880, 4, 128, tp, ep, name, time)
        for tokens, tp, ep, name, time in (
            (1, 1, 1, "balanced", 0.9),
            (1, 1, 1, "power_law_1.01", 0.05),
            (1, 1, 1, "power_law_1.2", 0.04),
            (1, 2, 1, "power_law_1.2", 0.03),
            (1, 1, 128, "power_law_1.01", 0.01),
        )
    ]
    table(system, "moe/vllm/0.25.0/moe", moe, experts)
    times = {128: 0.004, 256: 0.040, 512: 0.0045, 1024: 0.005}
    custom = [
        (f"vLLM_custom_{how}", "bfloat16", 4, size, time) for how in ("graph", "eager") for size, time in times.items()
    ]
    table(
        system,
        "comm/vllm/0.24.0/custom_allreduce",
        "kernel_source allreduce_dtype num_gpus message_size latency",
        custom,
    )
    nccl = [("all_gather", kind, 4, 1024, 0.01) for kind in ("half", "int8")]
    table(system, "comm/nccl/2.29.2/nccl", "op_name nccl_dtype num_gpus message_size latency", nccl)
    gdn = "phase kernel_source batch_size seq_len num_k_heads head_k_dim num_v_heads head_v_dim d_conv latency"
    linear = [
        ("generation", kernel, batch, 1, 4, 128, 16, 128, 4, time)
        for kernel, batch, time in (
            ("causal_conv1d_update", 1, 0.002),
            ("fused_recurrent", 1, 0.005),
            ("causal_conv1d_update", 2, 0.002),
        )
    ]
    table(system, "linear_attention/vllm/0.25.0/gdn", gdn, linear)
    dsa = "op_name model kv_cache_dtype gemm_type num_heads batch_size isl step latency"
    steps = {1: (1, 1000, 4096), 8: (1, 1024, 4096)}
    sparse = [
        (f"dsa_generation_module{suffix}", "zai-org/GLM-5", "fp8", "fp8_block", 16, batch, 1, step, 0.1 + step * 1e-5)
        for suffix in ("", "_skip_indexer")
        for batch, lengths in steps.items()
        for step in lengths
    ]
    table(system, "sparse_attention/vllm/0.24.0/dsa_generation_module", dsa, sparse)
    return root


def made(package: Path) -> tuple[dict[str, Any], dict[tuple[str, str, str], form.Section]]:
    path = package.parent / "h100-sxm.ops"
    path.write_bytes(opspack.pack_of(package, "H100-SXM"))
    header, sections = form.read(path)
    return header, {(one.op, one.engine, one.version): one for one in sections}


def close(actual: Any, expected: Any) -> None:
    """Equal to what a code can say, half of 2^(1/2048)."""
    np.testing.assert_allclose(actual, expected, rtol=1.8e-4, equal_nan=True)


def test_a_table_becomes_a_dense_grid_of_the_least_times(package: Path) -> None:
    header, sections = made(package)
    gemm = sections["gemm", "vllm", "0.25.0"]
    assert (gemm.key, gemm.axes) == (["dtype"], ["n", "k", "m"])
    (bf16,) = gemm.tables
    assert (bf16.key, bf16.axes) == (("bf16",), [[128, 256], [256], [1, 2, 64]])
    close(bf16.times, [[[2.128, 2.256, 10.192]], [[2.256, 2.512, 1.5]]])
    older = sections["gemm", "vllm", "0.24.0"]
    assert [one.key for one in older.tables] == [("nvfp4",)]
    assert header["gpu"] == "H100-SXM"
    assert header["licence"] == "Apache-2.0"
    (source,) = [one for one in header["sources"] if "gemm/vllm/0.25.0" in one["path"]]
    file = package / "aisimulate_core" / "systems" / "data" / source["path"]
    assert source["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_decode_counts_its_new_token_and_only_known_heads_stay(package: Path) -> None:
    (decode,) = made(package)[1]["decode_attention", "vllm", "0.25.0"].tables
    assert (decode.key, decode.axes) == ((32, 8, 128, 0, "bf16"), [[1, 2], [2, 1024]])
    close(decode.times, [[10.001, 11.023], [10.002, 12.046]])


def test_experts_are_loaded_unevenly(package: Path) -> None:
    experts = made(package)[1]["moe", "vllm", "0.25.0"].tables
    assert {one.key[-2:]: float(one.times[0]) for one in experts} == {
        (1, 1): pytest.approx(50, 2e-4),
        (2, 1): pytest.approx(30, 2e-4),
    }


def test_sizes_of_collectives_are_bytes_and_outliers_are_cut(package: Path) -> None:
    sections = made(package)[1]
    eager, graph = sections["all_reduce", "vllm", "0.24.0"].tables
    assert (eager.key, graph.key) == (("custom_eager", "bf16", 4), ("custom_graph", "bf16", 4))
    assert graph.axes == [[256, 512, 1024, 2048]]
    close(graph.times, [4, math.sqrt(4 * 4.5), 4.5, 5])
    (gather,) = sections["all_gather", "nccl", "2.29.2"].tables
    assert (gather.key, gather.axes) == (("nccl", "bf16", 4), [[2048]])


def test_kernels_of_a_layer_are_summed(package: Path) -> None:
    (linear,) = made(package)[1]["gdn_decode", "vllm", "0.25.0"].tables
    assert (linear.key, linear.axes) == ((4, 16, 128, 128), [[1]])
    close(linear.times, [7])


def test_sparse_decodes_have_the_same_contexts_at_every_batch(package: Path) -> None:
    full, skip = made(package)[1]["dsa_decode", "vllm", "0.24.0"].tables
    assert full.key == ("GLM-5", "full", 16, "fp8", "fp8_block")
    assert skip.key == ("GLM-5", "skip", 16, "fp8", "fp8_block")
    assert full.axes == [[1, 8], [1, 1024, 4096]]
    share = math.log(1024 / 1000) / math.log(4096 / 1000)
    between = math.exp((1 - share) * math.log(110) + share * math.log(140.96))
    close(full.times, [[100.01, between, 140.96], [100.01, 110.24, 140.96]])


def test_a_time_of_twice_its_neighbours_is_replaced_and_a_step_is_not() -> None:
    def cleaned(*times: float) -> list[float]:
        one = form.Table((), [[1, 2, 4, 8]], np.array(times, float))
        return list(tables.without_glitches(one).times)

    assert cleaned(1, 9, 4, 8) == pytest.approx([1, 2, 4, 8])
    assert cleaned(1, 7.9, 4, 8) == pytest.approx([1, 7.9, 4, 8])
    assert cleaned(1, 9, 9, 9) == pytest.approx([1, 9, 9, 9])
    assert cleaned(9, 1, 1, 9) == pytest.approx([9, 1, 1, 9])


def test_the_bytes_are_these(package: Path) -> None:
    """A change of the format, of the rules or of their order shows here."""
    data = opspack.pack_of(package, "H100-SXM")
    assert data == opspack.pack_of(package, "H100-SXM")
    header, blocks = form.content(data)
    # Parquet files differ with the library that wrote them.
    header["sources"] = [source["path"] for source in header["sources"]]
    gemm = next(entry for entry in header["sections"] if entry["op"] == "gemm")
    assert gemm == {
        "op": "gemm",
        "engine": "vllm",
        "version": "0.25.0",
        "unit": "us",
        "key": ["dtype"],
        "axes": ["n", "k", "m"],
        "values": [[128, 256], [256], [1, 2, 64]],
        "tables": [[["bf16"], [0, 1, 2]]],
        "points": 6,
    }
    assert blocks[0].hex() == GEMM_BLOCK
    text = json.dumps(header).encode() + b"".join(blocks)
    assert hashlib.sha256(text).hexdigest() == CONTENT
    assert data[:8] == b"SVOP" + struct.pack("<I", 1)


GEMM_BLOCK = "4bac68f73e0c2300112301fa"
CONTENT = "909d9b8c7d845ddafb6ff3f46bea5d33a76a369263670e08ca6e5a6107c77d6b"


def test_codes_go_there_and_back() -> None:
    times = np.array([[0.1, 0.35, 17.3, np.nan], [np.nan, 4e8, 1e-3, 250.0]])
    codes = form.encode(times)
    assert codes.tolist()[0][0] == 0 and codes.tolist()[0][3] == 0xFFFF
    (again,) = form.unshuffle(form.shuffle([codes]), [codes.shape])
    assert (again == codes).all()
    close(form.decode(codes), [[0.1, 0.35, 17.3, np.nan], [np.nan, 4e8, 0.1, 250.0]])
    with pytest.raises(form.PackError, match="not above 0"):
        form.encode(np.array([0.0]))


def test_operators_have_the_keys_and_axes_of_the_recipes() -> None:
    assert {one.op: (tuple(one.key), tuple(one.axes)) for one in tables.RECIPES} == opspack_csv.OPERATORS


def test_measured_runs_are_refused_by_name(tmp_path: Path) -> None:
    judge = tmp_path / "silicon_sample.csv"
    judge.write_text("op,engine,version,us\n")
    for arguments in ((judge, "--out", tmp_path), ("--from-csv", judge, "--gpu", "H200", "--out", tmp_path / "a.ops")):
        refused = run(*arguments)
        assert refused.returncode == 2
        assert "silicon_sample.csv holds measured runs of servers" in refused.stderr
    assert list(tmp_path.iterdir()) == [judge]


CSV = """op,engine,version,dtype,kind,gpus,n,k,m,bytes,us
gemm,vllm,mine,bf16,,,4096,4096,1,,11.5
gemm,vllm,mine,bf16,,,4096,4096,8,,12
gemm,vllm,mine,bf16,,,8192,4096,8,,20.25
gemm,vllm,mine,bf16,,,8192,4096,8,,20
all_reduce,vllm,mine,bf16,custom_graph,2,,,,8192,4.25
"""


def test_a_csv_of_ones_own_becomes_a_pack(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(CSV)
    pack = tmp_path / "mine.ops"
    result = run("--from-csv", tmp_path / "mine.csv", "--gpu", "RTX-4090", "--out", pack)
    assert (result.returncode, result.stderr) == (0, "")
    header, (link, gemm) = form.read(pack)
    assert (header["gpu"], header["attribution"]) == ("RTX-4090", "measurements of mine.csv")
    assert (link.op, link.tables[0].key, link.tables[0].axes) == ("all_reduce", ("custom_graph", "bf16", 2), [[8192]])
    assert gemm.tables[0].axes == [[4096, 8192], [4096], [1, 8]]
    close(gemm.tables[0].times, [[[11.5, 12]], [[np.nan, 20]]])
    listed = run("--list", pack).stdout
    assert "gpu: RTX-4090\n" in listed
    assert "gemm (vllm mine): 1 tables, 3 points; key dtype; axes n, k, m\n" in listed


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gem,vllm,mine,bf16,,,1,1,1,,1", "line 2: `op` is `gem`, but must be one of gemm, context_attention"),
        ("gemm,vllm,mine,,,,1,1,1,,1", "line 2: `dtype` is missing"),
        ("gemm,,mine,bf16,,,1,1,1,,1", "line 2: `engine` is missing"),
        ("gemm,vllm,mine,bf16,,,1,1,1.5,,1", "line 2: `m` is `1.5`, but must be a whole number"),
        ("gemm,vllm,mine,bf16,,,1,1,1,,0", "line 2: `us` is `0`, but must be microseconds above 0"),
        ("gemm,vllm,mine,bf16,,,1,1,1,,nan", "line 2: `us` is `nan`"),
        ("gemm,vllm,mine,bf16", "line 2: `n` is missing"),
        ("", "has no measurement"),
    ],
)
def test_a_wrong_line_of_a_csv_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "mine.csv").write_text(f"{CSV.splitlines()[0]}\n{line}\n")
    result = run("--from-csv", tmp_path / "mine.csv", "--gpu", "H200", "--out", tmp_path / "mine.ops")
    assert result.returncode == 2
    assert result.stderr.startswith("opspack: ") and message in result.stderr
    assert not (tmp_path / "mine.ops").exists()


def test_a_column_of_no_operator_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("op,engine,version,tokens_,us\n")
    result = run("--from-csv", tmp_path / "mine.csv", "--gpu", "H200", "--out", tmp_path / "mine.ops")
    assert (result.returncode, "no operator has a column `tokens_`" in result.stderr) == (2, True)


def test_a_damaged_pack_is_refused(package: Path, tmp_path: Path) -> None:
    good = opspack.pack_of(package, "H100-SXM")
    for data, message in (
        (b"PK" + good[2:], "no pack of operator times"),
        (good[:4] + struct.pack("<I", 2) + good[8:], "it has schema 2, but this reads 1"),
        (good[:10], "it ends within its header"),
        (good[:100], "it ends within its header"),
        (good[:-1], "it ends within its section"),
        (good[:20] + bytes([good[20] ^ 255]) + good[21:], "bad.ops: "),
    ):
        (tmp_path / "bad.ops").write_bytes(data)
        result = run("--list", tmp_path / "bad.ops")
        assert result.returncode == 2, message
        assert message in result.stderr and "Traceback" not in result.stderr


def test_check_says_whether_packs_are_what_would_be_made(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    gpu = ("--out", out, "--gpu", "H100-SXM")
    assert run(package, *gpu).returncode == 0
    same = run(package, *gpu, "--check")
    assert (same.returncode, same.stdout) == (0, f"{out}/h100-sxm.ops: the same bytes\n")
    pack = out / "h100-sxm.ops"
    header, sections = form.read(pack)
    sections[0].tables[0].times *= 1.01
    pack.write_bytes(form.write(header | {"sections": []}, sections))
    differs = run(package, *gpu, "--check")
    assert (differs.returncode, differs.stdout) == (1, f"{out}/h100-sxm.ops: differs\n")
    for arguments in ((tmp_path / "nowhere", "--out", out, "--gpu", "H200"), (package, "--out", out, "--gpu", "H20")):
        assert run(*arguments).returncode == 2


def test_the_packs_are_small_and_say_whose_they_are() -> None:
    files = sorted(PACKS.glob("*.ops"))
    assert [path.name for path in files] == sorted(opspack.file_name(gpu) for gpu in GPUS)
    assert sum(path.stat().st_size for path in files) <= 6_000_000
    licence = (PACKS / "LICENSE").read_text()
    assert "Apache License\n" in licence and "Version 2.0, January 2004" in licence
    readme = (PACKS / "README.md").read_text()
    assert opspack.CHANGES in " ".join(readme.replace(">", "").split())
    for text in (licence, readme):
        assert "Copyright (c) 2025-2026 NVIDIA CORPORATION & AFFILIATES" in text
    for path in files:
        header, _ = form.unpack(path.read_bytes())
        assert opspack.file_name(header["gpu"]) == path.name
        assert header["licence"] == "Apache-2.0"
        assert header["attribution"] == opspack.ATTRIBUTION
        assert header["changes"] == opspack.CHANGES
        assert header["package"] in readme
        assert all(len(source["sha256"]) == 64 for source in header["sources"])
        assert not any("silicon" in source["path"] for source in header["sources"])
        names = {op for op in ("gemm", "context_attention", "decode_attention", "moe", "all_reduce")}
        assert {(entry["op"], entry["engine"]) for entry in header["sections"]} >= {
            (op, engine) for op in names for engine in ("vllm", "sglang", "trtllm")
        }


def test_the_readme_lists_what_is_in_the_packs() -> None:
    assert opspack.contents(PACKS) in (PACKS / "README.md").read_text()


# A time of every pack, in microseconds as the tables have it.
PUBLISHED: list[tuple[str, str, str, str, form.Key, tuple[int, ...], float]] = [
    ("H100-SXM", "gemm", "vllm", "0.25.0", ("fp8",), (4096, 4096, 16), 12.666667),
    ("B200", "gemm", "trtllm", "1.3.0rc20", ("nvfp4",), (8192, 8192, 8192), 284.55599),
    ("A100-80GB", "gemm", "vllm", "0.14.0", ("bf16",), (4096, 4096, 1024), 203.88622),
    ("H200", "context_attention", "sglang", "0.5.14", (8, 1, 128, 0, "bf16"), (4, 2048), 81.971198),
    ("B200", "decode_attention_flashinfer", "sglang", "0.5.14", (64, 8, 128, 0, "fp8"), (64, 4096), 205.55),
    ("GB200", "decode_attention", "trtllm", "1.3.0rc20", (64, 8, 64, 128, "fp8"), (64, 1024), 15.413333),
    ("B300", "moe", "vllm", "0.25.0", ("nvfp4", 7168, 2048, 8, 256, 1, 8), (256,), 141.9584),
    ("GB300", "decode_mla_module", "vllm", "0.25.0", (16, "fp8", "fp8_block"), (32, 4096), 75.5),
    ("L40S", "all_gather", "nccl", "2.27.3", ("nccl", "bf16", 4), (2 << 20,), 329.1),
    ("H100-SXM", "all_reduce", "vllm", "0.24.0", ("custom_graph", "bf16", 8), (2 << 16,), 7.864),
    ("RTX-PRO-6000-Server", "moe", "sglang", "0.5.14", ("bf16", 2048, 768, 8, 128, 1, 1), (64,), 740.97023),
    ("H200", "gdn_decode", "vllm", "0.25.0", (4, 16, 128, 128), (64,), 2.53728 + 38.83872),
    ("B200", "dsa_context", "vllm", "0.24.0", ("DeepSeek-V3.2", "full", 16, "fp8", "fp8_block"), (1, 0, 4096), 1516.9),
]  # fmt: skip


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda one: f"{one[0]}-{one[1]}")
def test_packs_hold_the_published_times(
    published: tuple[str, str, str, str, form.Key, tuple[int, ...], float],
) -> None:
    gpu, op, engine, version, key, place, time = published
    _, sections = form.read(PACKS / opspack.file_name(gpu))
    (section,) = [one for one in sections if (one.op, one.engine, one.version) == (op, engine, version)]
    (found,) = [one for one in section.tables if one.key == key]
    index = tuple(values.index(value) for values, value in zip(found.axes, place))
    assert found.times[index] == pytest.approx(time, rel=5e-4)
