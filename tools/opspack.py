#!/usr/bin/env python3
"""Distils public operator tables into packs, one a GPU, for the latency model `ops`.

    tools/opspack.py PACKAGE --out data/ops [--gpu H100-SXM ...]    make packs of an unpacked wheel
    tools/opspack.py PACKAGE --out data/ops --check                 say whether they would be the same bytes
    tools/opspack.py --list FILE                                    print what is in a pack
    tools/opspack.py --from-csv FILE --out MINE.ops --gpu NAME      make a pack of measurements of your own

PACKAGE is the folder into which the wheel aisimulate 0.13.0.dev202610270000000085 was unpacked. Needs numpy, pyarrow
and zstandard; docs/ops-packs.md says what a pack holds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

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
    "summed; single outliers of collectives cut; lengths that a batch was not measured at interpolated (DSA decode); "
    "stored as 16-bit logarithmic codes."
)


def file_name(gpu: str) -> str:
    return f"{gpu.lower()}.ops"


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


def build(package: Path, out: Path, gpus: list[str], is_check: bool) -> int:
    """Writes packs, or compares them with those that are there."""
    if package.is_file():
        raise PackError(f"{package} is a file; name the folder that the wheel was unpacked into")
    differing = 0
    for gpu in gpus:
        data, path = pack_of(package, gpu), out / file_name(gpu)
        if not is_check:
            path.write_bytes(data)
            print(f"{path}: {len(data):,} bytes")
        elif not path.exists() or path.read_bytes() != data:
            differing += 1
            print(f"{path}: differs")
    return 1 if differing else 0


def describe(path: Path) -> str:
    """What is in a pack, as text."""
    header, sections = form.read(path)
    lines = [f"{name}: {header[name]}" for name in ("gpu", "package", "licence", "attribution", "changes") if name in header]
    for section in sections:
        lines.append(
            f"{section.op} ({section.engine} {section.version}): {len(section.tables)} tables, {section.points:,} points; "
            f"key {', '.join(section.key)}; axes {', '.join(section.axes)}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", nargs="?", type=Path, help="folder of the unpacked wheel")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--gpu", nargs="+", default=[])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--list", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    try:
        if arguments.list:
            print(describe(arguments.list))
            return 0
        if not (arguments.package and arguments.out):
            parser.error("name the folder of the unpacked wheel and --out, or --list FILE")
        import opspack_tables as tables

        unknown = [gpu for gpu in arguments.gpu if gpu not in tables.SYSTEMS]
        if unknown:
            parser.error(f"no tables of {', '.join(unknown)}; there are those of {', '.join(tables.SYSTEMS)}")
        return build(arguments.package, arguments.out, arguments.gpu or list(tables.SYSTEMS), arguments.check)
    except (PackError, OSError) as error:
        print(f"opspack: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
