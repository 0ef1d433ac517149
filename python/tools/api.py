"""Write ``docs/python-api.md`` from the signatures and docstrings of the package.

With ``--check`` nothing is written, and the exit code says whether the file is up to date.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import servecast

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "docs" / "python-api.md"
STUBS = ROOT / "python" / "servecast"

HEAD = """\
# Python API

Written by `python/tools/api.py` from the package itself. [python.md](python.md) is a tour.

Names of types in signatures:

- `TraceLike`: a path, a `Trace`, or rows: an iterable of dicts with the keys of Mooncake JSON Lines.
- `EngineSettings`, `RouterSettings`, `Overrides`: an `EngineArgs`, a `KvRouterConfig`, a `RouterConfigOverride`; or a
  dict, or JSON text, of the same.
- `LatencyFunction`: a function from a `Batch` to milliseconds. `ProgressCallback`: one that takes a `Progress`.
- `RouterGiven`: a function from a `RoutedRequest` and a tuple of `Candidate` to one of these or its number, or a class
  of such functions. `PriorityGiven`: a function from a `WaitingRequest` to a number, or a class of such functions.
- `RouterMode`: `"round_robin"`, `"random"`, `"least_loaded"`, `"power_of_two"`, `"prefix_hash"` or `"kv_router"`.
- `TimeUnit`: `"s"`, `"ms"`, `"us"` or `"ns"`.
- `Varied`: settings and the values of each, as a dict of lists; or texts as `"num_workers=1..4"`.
- `TraceSettings`, `SyntheticSettings`, `SearchSettings`, `LoadSettings`, `ReadSettings`: the other keys of a
  configuration file, each with its type (`python/servecast/_settings.pyi`).
- `Pin`: the id of a worker, or a pair of that and a data-parallel rank.
- `Phase`: `"aggregated"`, `"prefill"` or `"decode"`. `Role`: `"decode"` or `"prefill"`.
"""

SECTIONS = {
    "Replays": [
        "run_trace_replay",
        "run_synthetic_trace_replay",
        "replay_many",
        "sweep",
        "Trace",
        "Progress",
        "Batch",
        "RoutedRequest",
        "Candidate",
        "WaitingRequest",
    ],
    "Recommendations": ["recommend", "Recommendation", "SearchProgress"],
    "Commands": [
        "compare",
        "validate",
        "calibrate",
        "explain_capacity",
        "explain_kv",
        "trace_stats",
        "trace_check",
    ],
    "Results": ["Report", "Sweep", "Comparison", "Validation", "CommandResult", "Columns"],
    "Settings": ["EngineArgs", "KvRouterConfig", "RouterConfigOverride"],
    "Routing": [
        "Router",
        "Decision",
        "Selection",
        "WorkerLoad",
        "Worker",
        "WorkersChanged",
        "Applied",
        "block_hashes",
        "sequence_hashes",
    ],
    "Exceptions": ["ServecastError", "ConfigError", "TraceError", "ReplayError", "RouterError"],
}
NATIVE = {"Batch", "RoutedRequest", "Candidate", "WaitingRequest"}
"""Classes whose stubs are in ``_native.pyi``."""
OTHERS = {"MockEngineArgs", "__version__"}
"""Names that another one's entry, or none, stands for."""


def main() -> int:
    text = reference()
    if "--check" not in sys.argv:
        TARGET.write_text(text)
        return 0
    if TARGET.read_text() == text:
        return 0
    print(f"{TARGET} is out of date: run python python/tools/api.py")
    return 1


def reference() -> str:
    named = {name for names in SECTIONS.values() for name in names}
    if (left_out := set(servecast.__all__) - named - OTHERS) or (gone := named - set(servecast.__all__)):
        raise SystemExit(f"python/tools/api.py has no section for {left_out}, or too many: {gone}")
    parts = [HEAD]
    for section, names in SECTIONS.items():
        parts.append(f"## {section}\n")
        parts += [entry(name, getattr(servecast, name)) for name in names]
    return "\n".join(parts)


def entry(name: str, made: Any) -> str:
    if not isinstance(made, type):
        return f"### `{name}`\n\n```python\n{signature(name, made)}\n```\n\n{described(made.__doc__)}"
    if name in ("EngineArgs", "KvRouterConfig", "RouterConfigOverride"):
        return settings(name, made)
    bases = [base.__name__ for base in made.__bases__ if base not in (object, tuple) and base.__name__[0] != "_"]
    lines = [f"### `{name}`" + (f" ({', '.join(bases)})" if bases and not bases[0].endswith("Mapping") else ""), ""]
    lines.append(described(made.__doc__))
    fields = properties("_native", name) if name in NATIVE else fields_of(name, made)
    lines += [f"- `{field}`: {kind}{told}" for field, kind, told in fields]
    lines += methods_of_stub(name) if name in NATIVE else []
    lines += [""] * bool(fields)
    for method, function in members(made):
        shown = f"{name}.{signature(method, function)}"
        if method == "__init__":
            shown = f"{name}{signature('', function)}".removesuffix(" -> None")
        lines += [f"```python\n{shown}\n```", "", described(function.__doc__)]
    return "\n".join(lines)


def members(made: type) -> list[tuple[str, Any]]:
    """The methods that the class itself defines, in order, its constructor first where it has arguments to tell of."""
    classes = [each for each in made.__mro__ if each is made or each.__name__ == "JsonMapping"]
    found = {name: each for each in reversed(classes) for name, each in vars(each).items()}
    own = [(name, each) for name, each in found.items() if inspect.isfunction(each) and each.__doc__]
    return [(name, each) for name, each in own if name == "__init__" or not name.startswith("_")]


def signature(name: str, function: Any) -> str:
    """The signature, a parameter a line if it is long."""
    made = inspect.signature(function)
    parameters = [each for each in made.parameters.values() if each.name != "self"]
    made = made.replace(parameters=parameters)
    text = re.sub(r"'([^']*)'(?=[,)\s]|$)", r"\1", str(made)) if "from __future__" in source(function) else str(made)
    short = f"{name}{text}"
    if len(short) <= 100:
        return short
    # What is behind `*paths` has to be named anyway.
    starred = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    lines = []
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY and not starred:
            starred = True
            lines.append("    *,")
        lines.append(f"    {parameter(each)},")
    returned = f" -> {made.return_annotation}" if made.return_annotation is not made.empty else ""
    return f"{name}(\n" + "\n".join(lines) + f"\n){returned}"


def parameter(each: inspect.Parameter) -> str:
    stars = "**" if each.kind is each.VAR_KEYWORD else "*" if each.kind is each.VAR_POSITIONAL else ""
    annotation = f": {each.annotation}" if each.annotation is not each.empty else ""
    default = "" if each.default is each.empty else f" = {each.default!r}"
    return f"{stars}{each.name}{annotation}{default}"


def source(function: Any) -> str:
    return Path(inspect.getfile(function)).read_text()


def described(doc: str | None) -> str:
    """A docstring as Markdown: what follows ``Args:`` and the like becomes a list."""
    lines: list[str] = []
    for line in inspect.cleandoc(doc or "").splitlines():
        line = line.replace("``", "`")
        if line in ("Args:", "Raises:", "Attributes:"):
            lines += [f"*{line[:-1]}*", ""]
        elif item := re.match(r" {4}([\w*, ]+): (.*)", line):
            lines.append(f"- `{item[1].strip('*')}`: {item[2]}")
        elif line.startswith("     "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def fields_of(name: str, made: type) -> list[tuple[str, str, str]]:
    """The fields of a named tuple, or the properties of a class: name, type, what it says of them."""
    if name in SECTIONS["Exceptions"]:
        return []
    tree = ast.parse(dedent(inspect.getsource(made))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = []
    for place, node in enumerate(tree.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and hasattr(made, "_fields"):
            after = tree.body[place + 1] if place + 1 < len(tree.body) else None
            found.append((node.target.id, f"`{ast.unparse(node.annotation)}`", told(after)))
        elif isinstance(node, ast.FunctionDef) and is_property(node):
            found.append((node.name, f"`{ast.unparse(node.returns)}`" if node.returns else "", told(node.body[0])))
    return found


def is_property(node: ast.FunctionDef) -> bool:
    names = [ast.unparse(decorator) for decorator in node.decorator_list]
    return "property" in names or "cached_property" in names and not node.name.startswith("_")


def told(node: ast.AST | None) -> str:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    if not is_text:
        return ""
    text = inspect.cleandoc(str(node.value.value)).split("\n\n")[0].replace("``", "`")  # type: ignore[union-attr]
    return ". " + " ".join(text.split())


def properties(module: str, name: str) -> list[tuple[str, str, str]]:
    """The properties of a class in a stub file."""
    tree = ast.parse((STUBS / f"{module}.pyi").read_text())
    [found] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    named = [node for node in found.body if isinstance(node, ast.FunctionDef) and is_property(node)]
    return [(node.name, f"`{ast.unparse(node.returns)}`" if node.returns else "", told(node.body[0])) for node in named]


def methods_of_stub(name: str) -> list[str]:
    """The methods of a class in the stub file of the native half, a line each."""
    tree = ast.parse((STUBS / "_native.pyi").read_text())
    [found] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    methods = [node for node in found.body if isinstance(node, ast.FunctionDef) and not is_property(node)]
    lines = []
    for node in methods:
        arguments = ast.unparse(node.args).removeprefix("self, ")
        lines.append(f"- `{node.name}({arguments})`: `{ast.unparse(node.returns or node)}`{told(node.body[0])}")
    return lines


def settings(name: str, made: type) -> str:
    alias = ", also called `MockEngineArgs`" if name == "EngineArgs" else ""
    lines = [f"### `{name}`{alias}", "", described(made.__doc__)]
    lines += ["Keywords, which are properties too; all have defaults:", ""]
    defaults = made().to_dict(defaults=True)
    for field, kind, text in properties("_config", name):
        lines.append(f"- `{field}`: {kind}, `{defaults[field]!r}` by default{text}")
    base = made.__mro__[1]
    lines += ["", "Methods:", ""]
    for method in ("from_json", "to_json", "to_dict", "copy"):
        function = inspect.unwrap(getattr(base, method))
        first = inspect.cleandoc(function.__doc__ or "").split("\n")[0].replace("``", "`")
        lines.append(f"- `{signature(method, function)}`: {first}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
