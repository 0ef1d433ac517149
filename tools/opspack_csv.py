"""A pack of measurements of one's own, from a table in a CSV file.

A line is a measurement: `op`, `engine`, `version`, the columns that the operator's keys and axes are called by, and
`us`, its time in microseconds. Columns of other operators stay empty.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
from opspack_format import Key, PackError, Section, Table

HEADS = ("heads", "kv_heads", "head_dim", "window", "kv_dtype")
MODULE = ("heads", "kv_dtype", "dtype")
GDN = ("k_heads", "v_heads", "k_dim", "v_dim")
DSA = ("model", "indexer", "heads", "kv_dtype", "dtype")
LINK = ("kind", "dtype", "gpus")
# Keys and axes of every operator.
OPERATORS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gemm": (("dtype",), ("n", "k", "m")),
    "context_attention": (HEADS, ("batch", "length")),
    "decode_attention": (HEADS, ("batch", "context")),
    "context_attention_flashinfer": (HEADS, ("batch", "length")),
    "decode_attention_flashinfer": (HEADS, ("batch", "context")),
    "moe": (("dtype", "hidden", "inner", "topk", "experts", "tp", "ep"), ("tokens",)),
    "context_mla": (("heads", "kv_dtype"), ("batch", "length")),
    "decode_mla": (("heads", "kv_dtype"), ("batch", "context")),
    "context_mla_module": (MODULE, ("batch", "length")),
    "decode_mla_module": (MODULE, ("batch", "context")),
    "mla_bmm": (("part", "heads", "dtype"), ("tokens",)),
    "gdn_context": (GDN, ("batch", "length")),
    "gdn_decode": (GDN, ("batch",)),
    "dsa_context": (DSA, ("batch", "prefix", "length")),
    "dsa_decode": (DSA, ("batch", "context")),
    "all_reduce": (LINK, ("bytes",)),
    "all_gather": (LINK, ("bytes",)),
    "reduce_scatter": (LINK, ("bytes",)),
    "all_to_all": (LINK, ("bytes",)),
}
WORDS = ("dtype", "kv_dtype", "part", "model", "indexer", "kind")

Point = tuple[tuple[int, ...], float]
Place = tuple[str, str, str]


def grid(key: Key, points: list[Point]) -> Table:
    """Times on the smallest dense grid that holds them; of the same coordinates the least."""
    coordinates = np.array([place for place, _ in points]).T
    values, places = zip(*(np.unique(axis, return_inverse=True) for axis in coordinates))
    dense = np.full(tuple(len(axis) for axis in values), np.inf)
    np.minimum.at(dense, tuple(places), np.array([time for _, time in points]))
    return Table(key, [axis.tolist() for axis in values], np.where(np.isfinite(dense), dense, np.nan))


class Line:
    """A line of the file, and what is wrong with it."""

    def __init__(self, path: Path, number: int, fields: dict[str, str]) -> None:
        self.where = f"{path}, line {number}"
        self.fields = fields

    def text(self, name: str) -> str:
        value = (self.fields.get(name) or "").strip()
        if not value:
            raise PackError(f"{self.where}: `{name}` is missing")
        return value

    def integer(self, name: str) -> int:
        value = self.text(name)
        if not (value.isascii() and value.isdigit()) or len(value) > 15:
            raise PackError(f"{self.where}: `{name}` is `{value}`, but must be a whole number")
        return int(value)

    def time(self) -> float:
        value = self.text("us")
        try:
            time = float(value)
        except ValueError:
            time = math.nan
        if not 0 < time < 4e8:
            raise PackError(f"{self.where}: `us` is `{value}`, but must be microseconds above 0 and below 4e8")
        return time

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        op = self.text("op")
        if op not in OPERATORS:
            raise PackError(f"{self.where}: `op` is `{op}`, but must be one of {', '.join(OPERATORS)}")
        return OPERATORS[op]


def sections_of_csv(path: Path) -> list[Section]:
    """The sections of a file of measurements, in the order of operator, engine and version."""
    tables: dict[Place, dict[Key, list[Point]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        known = {"op", "engine", "version", "us"} | {
            name for names in OPERATORS.values() for part in names for name in part
        }
        unknown = [name for name in reader.fieldnames or [] if name not in known]
        if unknown:
            raise PackError(f"{path}, line 1: no operator has a column `{unknown[0]}`; remove it")
        for fields in reader:
            line = Line(path, reader.line_num, fields)
            keys, axes = line.names()
            place = line.text("op"), line.text("engine"), line.text("version")
            key = tuple(line.text(name) if name in WORDS else line.integer(name) for name in keys)
            point = tuple(line.integer(name) for name in axes), line.time()
            tables.setdefault(place, {}).setdefault(key, []).append(point)
    if not tables:
        raise PackError(f"{path} has no measurement; a line needs op, engine, version, us, and the operator's columns")
    sections = []
    for (op, engine, version), by_key in sorted(tables.items()):
        keys, axes = OPERATORS[op]
        grids = [grid(key, by_key[key]) for key in sorted(by_key)]
        sections.append(Section(op, engine, version, list(keys), list(axes), grids))
    return sections
