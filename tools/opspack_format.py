"""The pack file of operator times: how it is written and read.

    4 bytes  "SVOP"
    u32      schema, little-endian as all that follows
    u32      length of the packed header
    bytes    header: JSON, packed with zstd
    bytes    sections, one after the other, each packed with zstd; their offsets count from the end of the header

A section holds its tables in order, each a dense grid of u16 codes, the last axis fastest. A code stands for
0.1 us * 2^(code/2048); 0xFFFF for no time. Before it is packed each code is replaced by its difference (modulo 2^16)
to the one before it along the last axis, and all low bytes of a section are put before all high bytes.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zstandard

MAGIC = b"SVOP"
SCHEMA = 1
ABSENT = 0xFFFF
LEVEL = 19

Key: TypeAlias = tuple[str | int, ...]
Array: TypeAlias = npt.NDArray[Any]


class PackError(Exception):
    """Why a pack cannot be read or written."""


@dataclass
class Table:
    """Times in microseconds over the axes of its section; NaN where there is none."""

    key: Key
    axes: list[list[int]]
    times: Array


@dataclass
class Section:
    """Tables of one operator of one version of one engine."""

    op: str
    engine: str
    version: str
    key: list[str]
    axes: list[str]
    tables: list[Table] = field(default_factory=list)

    @property
    def points(self) -> int:
        return sum(int(np.isfinite(table.times).sum()) for table in self.tables)


def encode(times: Array) -> Array:
    """Codes of times in microseconds."""
    codes: Array = np.full(times.shape, ABSENT, np.uint16)
    is_there = np.isfinite(times)
    if (times[is_there] <= 0).any():
        raise PackError("a time is not above 0")
    exact = np.rint(2048 * np.log2(times[is_there] / 0.1))
    codes[is_there] = np.clip(exact, 0, ABSENT - 1).astype(np.uint16)
    return codes


def decode(codes: Array) -> Array:
    """Times in microseconds of codes."""
    times: Array = np.where(codes == ABSENT, np.nan, 0.1 * np.exp2(codes / 2048.0))
    return times


def shuffle(grids: list[Array]) -> bytes:
    """The bytes of a section before they are packed."""
    differences = []
    for grid in grids:
        rows = grid.reshape(-1, grid.shape[-1])
        # Differences wrap around.
        differences.append(np.diff(rows, axis=1, prepend=np.zeros((len(rows), 1), np.uint16)).ravel())
    words = np.concatenate(differences).astype("<u2")
    data: bytes = words.view(np.uint8).reshape(-1, 2).T.tobytes()
    return data


def unshuffle(data: bytes, shapes: list[tuple[int, ...]]) -> list[Array]:
    """The grids of codes of a section."""
    total = sum(int(np.prod(shape)) for shape in shapes)
    if len(data) != 2 * total:
        raise PackError(f"a section has {len(data)} bytes, but its tables have {total} codes of 2 bytes")
    words = np.frombuffer(data, np.uint8).reshape(2, -1).T.copy().view("<u2").ravel()
    grids, start = [], 0
    for shape in shapes:
        count = int(np.prod(shape))
        rows = words[start : start + count].reshape(-1, shape[-1])
        grids.append(np.cumsum(rows, axis=1, dtype=np.uint16).reshape(shape))
        start += count
    return grids


def write(header: dict[str, Any], sections: list[Section]) -> bytes:
    """A pack: the header, with what `sections` says added to it, and the sections."""
    packer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
    described, blocks, offset = [], [], 0
    for section in sections:
        pool: list[list[int]] = []
        tables = []
        for table in section.tables:
            for values in table.axes:
                if values not in pool:
                    pool.append(values)
            tables.append([list(table.key), [pool.index(values) for values in table.axes]])
        block = packer.compress(shuffle([encode(table.times) for table in section.tables]))
        described.append(
            {
                "op": section.op,
                "engine": section.engine,
                "version": section.version,
                "unit": "us",
                "key": section.key,
                "axes": section.axes,
                "values": pool,
                "tables": tables,
                "offset": offset,
                "bytes": len(block),
                "points": section.points,
            }
        )
        blocks.append(block)
        offset += len(block)
    text = json.dumps(header | {"sections": described}, separators=(",", ":")).encode()
    packed: bytes = packer.compress(text)
    return MAGIC + struct.pack("<II", SCHEMA, len(packed)) + packed + b"".join(blocks)


def unpack(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The header of a pack, and the bytes of its sections before they were packed."""
    if data[:4] != MAGIC:
        raise PackError(f"no pack of operator times: it starts with {data[:4]!r}, not {MAGIC!r}")
    if len(data) < 12:
        raise PackError("it ends within its header")
    schema, length = struct.unpack_from("<II", data, 4)
    if schema != SCHEMA:
        raise PackError(f"it has schema {schema}, but this reads {SCHEMA}")
    start = 12 + length
    if len(data) < start:
        raise PackError("it ends within its header")
    unpacker = zstandard.ZstdDecompressor()
    header = json.loads(unpacker.decompress(data[12:start]))
    blocks = []
    for entry in header["sections"]:
        begin = start + entry["offset"]
        block = data[begin : begin + entry["bytes"]]
        if len(block) != entry["bytes"]:
            raise PackError(f"it ends within its section {entry['op']} of {entry['engine']}")
        blocks.append(unpacker.decompress(block))
    return header, blocks


def content(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """What a pack says, however well it was packed: another zstd packs the same content into other bytes."""
    header, blocks = unpack(data)
    for entry in header["sections"]:
        del entry["offset"], entry["bytes"]
    return header, blocks


def read(path: Path) -> tuple[dict[str, Any], list[Section]]:
    """The header of a pack, and its sections."""
    try:
        header, blocks = unpack(path.read_bytes())
    except (PackError, ValueError, zstandard.ZstdError) as error:
        raise PackError(f"{path}: {error}") from error
    sections = []
    for entry, block in zip(header["sections"], blocks):
        axes = [[entry["values"][index] for index in indices] for _, indices in entry["tables"]]
        shapes = [tuple(len(values) for values in table) for table in axes]
        grids = unshuffle(block, shapes)
        tables = [Table(tuple(key), table, decode(grid)) for (key, _), table, grid in zip(entry["tables"], axes, grids)]
        named = {name: entry[name] for name in ("op", "engine", "version", "key", "axes")}
        sections.append(Section(**named, tables=tables))
    return header, sections
