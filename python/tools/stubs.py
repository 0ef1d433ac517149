"""Write ``_config.pyi``, ``_settings.pyi`` and ``_results.pyi`` of ``python/servecast`` from the JSON Schemas of
settings and of results.

With ``--check`` nothing is written, and the exit code says whether the file is up to date.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import indent
from typing import Any

import servecast

PACKAGE = Path(__file__).parents[1] / "servecast"

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


RESULTS_HEAD = '''\
# Written by python/tools/stubs.py. Do not edit.
"""The keys of results, as attributes."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

__all__ = ["ComparisonKeys", "DifferencesKeys", "RecommendationKeys", "ReportKeys"]
'''

# By the name of its JSON Schema: the class that has the keys of a result, and those that its methods stand before.
RESULTS: dict[str, tuple[str, set[str]]] = {
    "report": ("ReportKeys", {"requests", "iterations", "notes"}),
    "comparison": ("ComparisonKeys", {"rows"}),
    "differences": ("DifferencesKeys", set()),
    "recommendation": ("RecommendationKeys", {"best", "start", "ranking"}),
}


SETTINGS_HEAD = '''\
# Written by python/tools/stubs.py. Do not edit.
"""What replays, searches and loads take as keywords beside those that their functions name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from servecast._config import EngineArgs, KvRouterConfig
from servecast._native import Batch

__all__ = ["LoadSettings", "ReadSettings", "SearchSettings", "SyntheticSettings", "TraceSettings"]
'''

# By the class that has the settings: the functions that take them all.
TAKEN: dict[str, list[Any]] = {
    "TraceSettings": [servecast.run_trace_replay],
    "SyntheticSettings": [servecast.run_synthetic_trace_replay],
    "SearchSettings": [servecast.recommend],
    "LoadSettings": [servecast.Trace.poisson, servecast.Trace.gamma, servecast.Trace.sessions],
    "ReadSettings": [servecast.Trace.read],
}

# What a load that is made has otherwise, or not at all: what it reads, and when its requests arrive.
NOT_MADE = {
    *("trace_file", "trace_format", "columns", "time_unit", "turns", "merge"),
    *("request_count", "request_rate", "rate_profile", "arrival_interval_ms", "arrival_process"),
}

# Other names of keys.
SECOND_NAMES = {
    "extra_engine_args": "engine_args",
    "workers": "num_workers",
    "prefill_workers": "num_prefill_workers",
    "decode_workers": "num_decode_workers",
    "sla_itl_ms": "sla_tpot_ms",
}

# What Python takes in place of objects of the schema, and beside its types.
OBJECTS = {
    "EngineArgs": "EngineArgs | Mapping[str, Any] | str",
    "KvRouterConfig": "KvRouterConfig | Mapping[str, Any] | str",
}
FUNCTION_TYPE = "Callable[[Batch], float]"


def main() -> int:
    late = []
    for name, text in (("_config.pyi", stub()), ("_settings.pyi", settings()), ("_results.pyi", results())):
        target = PACKAGE / name
        if "--check" not in sys.argv:
            target.write_text(text)
        elif not target.exists() or target.read_text() != text:
            late.append(target)
    for target in late:
        print(f"{target} is out of date: run python python/tools/stubs.py")
    return 1 if late else 0


def schema_of(what: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "servecast", "schema", what]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)  # type: ignore[no-any-return]


def results() -> str:
    """Return the stub of the results."""
    named: dict[str, dict[str, Any]] = {}
    classes = []
    for what, (name, hidden) in RESULTS.items():
        schema = distinct(what, schema_of(what), named)
        named.update(schema.get("$defs", {}))
        classes.append(keys_of(name, {key: one for key, one in schema["properties"].items() if key not in hidden}))
    mappings = [mapping_of(name, one) for name, one in sorted(named.items())]
    return "\n".join([RESULTS_HEAD, *(part for part in mappings if part), *classes])


def distinct(what: str, schema: dict[str, Any], named: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a schema whose parts have names of their own where another schema has something else under the same."""
    text = json.dumps(schema)
    for key, one in schema.get("$defs", {}).items():
        if named.get(key, one) != one:
            own = what.capitalize() + key
            text = text.replace(f'"#/$defs/{key}"', f'"#/$defs/{own}"').replace(f'"{key}": {{', f'"{own}": {{')
    return json.loads(text)  # type: ignore[no-any-return]


def keys_of(name: str, keys: dict[str, Any]) -> str:
    lines = [f"class {name}:"]
    for key, value in keys.items():
        first = first_of(value.get("description", ""))
        names = [key, f"p50_{key[7:]}"] if name == "ReportKeys" and key.startswith("median_") else [key]
        for one in names:
            lines += ["    @property", f"    def {one}(self) -> {result_type(value)}:"]
            lines += [f'        """{first}"""'] if first else ["        ..."]
    return "\n".join(lines) + "\n"


def mapping_of(name: str, schema: dict[str, Any]) -> str | None:
    """Return an object with named keys as a class; none for any other kind of value."""
    if "properties" not in schema:
        kind = result_type(schema)
        return f"{name} = {kind}\n" if kind != name else None
    lines = [f"class {name}(TypedDict, total=False):"]
    first = first_of(schema.get("description", ""))
    lines += [f'    """{first}"""'] if first else []
    for key, value in schema["properties"].items():
        lines.append(f"    {key}: {result_type(value)}")
    return "\n".join(lines) + "\n"


def first_of(description: str) -> str:
    return " ".join(description.split("\n\n")[0].split())


def result_type(schema: dict[str, Any]) -> str:
    """Return the Python type of a value of a result."""
    if schema is True:  # type: ignore[comparison-overlap]
        return "Any"
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[1]  # type: ignore[no-any-return]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return union([result_type(one) for one in schema[key]])
    if "const" in schema:
        return f"Literal[{json.dumps(schema['const'])}]"
    if "enum" in schema:
        return union([f"Literal[{json.dumps(one)}]" for one in schema["enum"]])
    kinds = schema.get("type")
    if kinds is None:
        return "Any"
    items = result_type(schema["items"]) if "items" in schema else "Any"
    others = schema.get("additionalProperties")
    values = result_type(others) if isinstance(others, dict) else "Any"
    named = {**SIMPLE, "array": f"list[{items}]", "object": f"Mapping[str, {values}]"}
    return union([named[kind] for kind in (kinds if isinstance(kinds, list) else [kinds])])


def settings() -> str:
    """Return the stub of the settings of functions: the keys of a configuration file that each does not name itself."""
    schema = schema_of("config")
    keys = {key: value for key, value in schema["properties"].items() if not is_of_command_line(key)}
    keys |= {other: keys[key] for other, key in SECOND_NAMES.items()}
    parts = [SETTINGS_HEAD]
    for name, functions in TAKEN.items():
        named = {parameter for function in functions for parameter in inspect.signature(function).parameters}
        taken = {key: value for key, value in keys.items() if key not in named}
        if name in ("LoadSettings", "ReadSettings"):
            taken = {key: value for key, value in taken.items() if is_of_load(key, value, schema["$defs"])}
        if name == "LoadSettings":
            taken = {key: value for key, value in taken.items() if key not in NOT_MADE}
        lines = [f"class {name}(TypedDict, total=False):"]
        for key, value in sorted(taken.items()):
            lines += [
                f"    {key}: {setting_type(key, value, schema['$defs'])}",
                f'    """{first_of(value["description"])}"""',
            ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def is_of_command_line(key: str) -> bool:
    return "is for the command line only" in refusal(servecast.run_synthetic_trace_replay, [1, 1, 1], key, None)


def is_of_load(key: str, schema: dict[str, Any], definitions: dict[str, Any]) -> bool:
    value = example_of(schema, definitions)
    return "says nothing of a load" not in refusal(servecast.Trace.read, ["nowhere"], key, value)


def refusal(function: Any, arguments: list[Any], key: str, value: Any) -> str:
    """Return what a function says of a key that it does not name itself."""
    if key in inspect.signature(function).parameters:
        return ""
    try:
        function(*arguments, **{key: value})
    except servecast.ServecastError as error:
        return error.message
    return ""


def example_of(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Return a value of the right type."""
    if "$ref" in schema:
        return example_of(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return example_of(schema[key][0], definitions)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    kinds = schema.get("type", "object")
    kind = kinds if isinstance(kinds, str) else kinds[0]
    return {"integer": 1, "number": 1.0, "boolean": True, "string": "x", "array": [], "object": {}}[kind]


def setting_type(key: str, schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return what Python takes for a key."""
    kinds = [one["$ref"].rsplit("/", 1)[1] for one in schema.get("anyOf", []) if "$ref" in one]
    if kinds and kinds[0] in OBJECTS:
        return f"{OBJECTS[kinds[0]]} | None"
    kind = type_of(schema, definitions)
    return f"{FUNCTION_TYPE} | {kind}" if key == "latency" else kind


def stub() -> str:
    schema = schema_of("config")
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
