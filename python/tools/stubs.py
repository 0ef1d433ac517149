"""Write ``python/servecast/_config.pyi`` from the JSON Schema of settings.

With ``--check`` nothing is written, and the exit code says whether the file is up to date.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import indent
from typing import Any

TARGET = Path(__file__).parents[1] / "servecast" / "_config.pyi"

HEAD = '''\
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
'''

OVERRIDE = {
    "overlap_score_weight": ("float | None", "Replaces `overlap_score_weight`; at least 0."),
    "router_temperature": ("float | None", "Replaces `router_temperature`; at least 0."),
    "assume_kv_reuse": ("bool | None", "Replaces `router_assume_kv_reuse`."),
    "track_prefill_tokens": ("bool | None", "Replaces `router_track_prefill_tokens`."),
}

# What Python takes beside the types of the schema.
BESIDE = {("EngineArgs", "latency"): "Callable[[Batch], float]"}

SIMPLE = {"integer": "int", "number": "float", "boolean": "bool", "string": "str", "null": "None"}


def main() -> int:
    text = stub()
    if "--check" not in sys.argv:
        TARGET.write_text(text)
        return 0
    if TARGET.read_text() == text:
        return 0
    print(f"{TARGET} is out of date: run python python/tools/stubs.py")
    return 1


def stub() -> str:
    command = [sys.executable, "-m", "servecast", "schema", "config"]
    schema = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)
    parts = [HEAD]
    for name in ("EngineArgs", "KvRouterConfig"):
        properties = schema["$defs"][name]["properties"]
        settings = {
            key: (with_function(name, key, type_of(value, schema["$defs"])), value.get("description", ""))
            for key, value in properties.items()
        }
        parts.append(class_of(name, settings))
    parts.append(class_of("RouterConfigOverride", OVERRIDE))
    parts.append("MockEngineArgs = EngineArgs\n")
    return "\n".join(parts)


def with_function(name: str, key: str, kind: str) -> str:
    return " | ".join(part for part in (BESIDE.get((name, key)), kind) if part)


def type_of(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the Python type of a JSON Schema."""
    if "$ref" in schema:
        return type_of(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return union([type_of(one, definitions) for one in schema[key]])
    if "const" in schema:
        return f"Literal[{json.dumps(schema['const'])}]"
    if "enum" in schema:
        return union([f"Literal[{json.dumps(one)}]" for one in schema["enum"]])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    named = {**SIMPLE, "array": f"Sequence[{type_of(schema['items'], definitions)}]"} if "items" in schema else SIMPLE
    return union([named.get(kind, "Mapping[str, Any]") for kind in kinds])


def union(types: list[str]) -> str:
    """Return a union, its literals in one."""
    # The literals of one that is a union itself stand first in it.
    types = [part for one in types for part in re.sub(r"^(Literal\[[^]]*\]) \| ", r"\1\n", one).split("\n")]
    literals = [one[len("Literal[") : -1] for one in types if one.startswith("Literal[")]
    others = [one for one in types if not one.startswith("Literal[")]
    return " | ".join([f"Literal[{', '.join(literals)}]"] * bool(literals) + others)


def class_of(name: str, settings: dict[str, tuple[str, str]]) -> str:
    arguments = "".join(f"{key}: {kind} = ...,\n" for key, (kind, _) in settings.items())
    lines = [f"class {name}(_Settings):", "    def __init__(", "        self,", "        *,"]
    lines += [indent(arguments, " " * 8).rstrip("\n"), "    ) -> None: ..."]
    for key, (kind, description) in settings.items():
        first = " ".join(description.split("\n\n")[0].split())
        lines += ["    @property", f"    def {key}(self) -> {kind}:", f'        """{first}"""']
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
