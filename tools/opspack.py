#!/usr/bin/env python3
"""Distils public operator tables into packs, one a GPU, for the latency model `ops`.

    tools/opspack.py PACKAGE --out DIR [--gpu H100-SXM ...]      make packs of an unpacked wheel
    tools/opspack.py PACKAGE --out DIR --check                   say whether they would be the same
    tools/opspack.py --list FILE                                 print what is in a pack
    tools/opspack.py --contents DIR                              the same of all packs, for the README beside them
    tools/opspack.py --from-csv FILE --gpu NAME --out MINE.ops   make a pack of measurements of one's own

The packs that come with servecast are in crates/ops/data/ops. PACKAGE is the folder into which the wheel aisimulate
0.13.0.dev202610270000000085 was unpacked. Needs numpy and zstandard, and pyarrow for PACKAGE. docs/ops-packs.md says
what a pack holds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import opspack_format as form  # noqa: E402
from opspack_format import PackError  # noqa: E402

CONVERTER = 1
PACKAGE = "aisimulate==0.13.0.dev202610270000000085"
LICENCE = "Apache-2.0"
ATTRIBUTION = (
    "Operator times from the Python package aisimulate of NVIDIA, whose tables say: Copyright (c) 2025-2026 NVIDIA "
    "CORPORATION & AFFILIATES. All rights reserved. Licensed under the Apache License, Version 2.0; a copy is in "
    "data/ops/LICENSE of servecast."
)
CHANGES = (
    "Changed from the original tables: distilled to operators, shapes and engine versions that servecast uses; least "
    "latency over kernels; points thinned; sizes of collectives converted from elements to bytes; kernels of one layer "
    "summed; single times of more than twice both neighbours replaced; times of collectives and of DSA decode made to "
    "rise with size; contexts that a batch was not measured at interpolated (DSA decode); "
    "stored as 16-bit logarithmic codes."
)
# Whole runs of servers: the latency model is judged by them, so nothing of them may get into what it is made of.
JUDGE = "silicon_sample.csv"


def file_name(gpu: str) -> str:
    return f"{gpu.lower()}.ops"


def refuse_judge(path: Path) -> None:
    if path.name == JUDGE:
        raise PackError(f"{path} holds measured runs of servers, which judge the latency model; no pack is made of it")


def pack_of(package: Path, gpu: str) -> bytes:
    """The pack of a GPU."""
    import opspack_tables as tables

    sections, sources = tables.sections_of_gpu(package, gpu)
    header = {
        "gpu": gpu,
        "licence": LICENCE,
        "attribution": ATTRIBUTION,
        "changes": CHANGES,
        "converter": CONVERTER,
        "package": PACKAGE,
        "sources": sources,
    }
    return form.write(header, sections)


def pack_of_csv(path: Path, gpu: str) -> bytes:
    """The pack of a file of measurements."""
    from opspack_csv import sections_of_csv

    header = {
        "gpu": gpu,
        "licence": "none stated",
        "attribution": f"measurements of {path.name}",
        "changes": "least latency of measurements of the same point; stored as 16-bit logarithmic codes",
        "converter": CONVERTER,
        "package": path.name,
        "sources": [],
    }
    return form.write(header, sections_of_csv(path))


def build(package: Path, out: Path, gpus: list[str]) -> int:
    """Writes packs."""
    for gpu in gpus:
        data, path = pack_of(package, gpu), out / file_name(gpu)
        path.write_bytes(data)
        print(f"{path}: {len(data):,} bytes")
    return 0


def check(package: Path, out: Path, gpus: list[str]) -> int:
    """Compares packs with those that are there."""
    differing = 0
    for gpu in gpus:
        data, path = pack_of(package, gpu), out / file_name(gpu)
        old = path.read_bytes()
        if old == data:
            print(f"{path}: the same bytes")
        elif form.content(old) == form.content(data):
            print(f"{path}: the same content; this zstd packs it into other bytes")
        else:
            differing += 1
            print(f"{path}: differs")
    return 1 if differing else 0


def describe(path: Path) -> str:
    """What is in a pack, as text."""
    header, sections = form.read(path)
    lines = [f"{name}: {header[name]}" for name in ("gpu", "package", "licence", "attribution", "changes")]
    for section in sections:
        lines.append(
            f"{section.op} ({section.engine} {section.version}): {len(section.tables)} tables, "
            f"{section.points:,} points; key {', '.join(section.key)}; axes {', '.join(section.axes)}"
        )
    return "\n".join(lines)


def contents(folder: Path) -> str:
    """What is in the packs of a folder, as tables of Markdown: points by version of an engine."""
    parts = []
    for path in sorted(folder.glob("*.ops")):
        header, sections = form.read(path)
        rows: dict[str, list[str]] = {}
        for section in sections:
            rows.setdefault(section.op, []).append(f"{section.engine} {section.version}: {section.points:,}")
        lines = [f"| {op} | {'; '.join(points)} |" for op, points in rows.items()]
        parts.append("\n".join([f"### {header['gpu']}", "", "| operator | points |", "|---|---|", *lines]))
    return "\n\n".join(parts)


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if arguments.list:
        print(describe(arguments.list))
        return 0
    if arguments.contents:
        print(contents(arguments.contents))
        return 0
    source = arguments.from_csv or arguments.package
    if not (source and arguments.out):
        parser.error("name the folder of the unpacked wheel or --from-csv FILE, and --out; or --list FILE")
    refuse_judge(source)
    if arguments.from_csv:
        if len(arguments.gpu) != 1:
            parser.error("--from-csv needs --gpu NAME, the GPU that was measured")
        arguments.out.write_bytes(pack_of_csv(source, arguments.gpu[0]))
        return 0
    import opspack_tables as tables

    unknown = [gpu for gpu in arguments.gpu if gpu not in tables.SYSTEMS]
    if unknown:
        parser.error(f"no tables of {', '.join(unknown)}; there are those of {', '.join(tables.SYSTEMS)}")
    gpus = arguments.gpu or list(tables.SYSTEMS)
    return (check if arguments.check else build)(source, arguments.out, gpus)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", nargs="?", type=Path, help="folder of the unpacked wheel")
    parser.add_argument("--from-csv", type=Path, metavar="FILE", help="measurements of one's own")
    parser.add_argument("--out", type=Path, help="folder of the packs, or with --from-csv the file")
    parser.add_argument("--gpu", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--check", action="store_true", help="compare with the packs in --out, write nothing")
    parser.add_argument("--list", type=Path, metavar="FILE", help="print what is in a pack")
    parser.add_argument("--contents", type=Path, metavar="FOLDER", help="print what is in all packs of a folder")
    arguments = parser.parse_args()
    try:
        return run(arguments, parser)
    except ImportError as error:
        print(f"opspack: {error}; install numpy, pyarrow and zstandard", file=sys.stderr)
        return 2
    except (PackError, OSError) as error:
        print(f"opspack: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
