"""What the command line does besides replays and searches, as functions.

Each runs ``python -m servecast`` in a process of its own, with the interpreter that runs now, so that it refuses and
computes what the command does, and Ctrl-C ends it as it ends the command.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Union, overload

from servecast._errors import ConfigError, ReplayError
from servecast._report import JsonMapping, Report
from servecast._results import DifferencesKeys

__all__ = [
    "CommandResult",
    "Comparison",
    "Validation",
    "calibrate",
    "compare",
    "explain_capacity",
    "explain_kv",
    "trace_check",
    "trace_stats",
    "validate",
]

StrPath = Union[str, "os.PathLike[str]"]
Run = Union[Report, StrPath]

CONDITION_HOLDS = 3


class _Printed(JsonMapping):
    failed: bool
    """Whether a condition of ``fail_if`` holds, the exit status 3 of the command."""
    stderr: str
    """What the command says beside its result."""

    def __init__(self, text: str, failed: bool, stderr: str) -> None:
        self._text = text
        self.failed = failed
        self.stderr = stderr

    def to_json(self) -> str:
        """Return the result as the command prints it."""
        return self._text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self)})"


class CommandResult(_Printed):
    """What a command prints with ``--format json``: a mapping by its keys, which are attributes too.

    ``failed`` says whether a condition of ``fail_if`` holds, and ``stderr`` is what the command says beside its result.
    """

    if TYPE_CHECKING:
        # Each command has keys of its own.
        def __getattr__(self, name: str) -> Any: ...


class Validation(Sequence[CommandResult]):
    """How far off the simulation is: a result for each recording, or one of a table.

    ``failed`` says whether a condition of ``fail_if`` holds, and ``stderr`` is what the command says beside its result.
    """

    def __init__(self, text: str, failed: bool, stderr: str) -> None:
        printed = json.loads(text)
        results = printed if isinstance(printed, list) else [printed]
        self._results = [CommandResult(json.dumps(one), failed, stderr) for one in results]
        self._text = text
        self.failed = failed
        self.stderr = stderr

    def to_json(self) -> str:
        """Return the result as the command prints it."""
        return self._text

    @overload
    def __getitem__(self, place: int) -> CommandResult: ...
    @overload
    def __getitem__(self, place: slice) -> list[CommandResult]: ...
    def __getitem__(self, place: int | slice) -> CommandResult | list[CommandResult]:
        return self._results[place]

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        return f"Validation({self._results})"


class Comparison(_Printed, DifferencesKeys):
    """How runs differ from the first of them: a mapping by the keys of ``servecast schema differences``.

    ``failed`` says whether a condition of ``fail_if`` holds, and ``stderr`` is what the command says beside its result.
    """


def compare(
    *runs: Run,
    fail_if: str | Iterable[str] = (),
    allow_fewer: bool = False,
    different_workloads: bool = False,
    seed: int | None = None,
    html: StrPath | None = None,
) -> Comparison:
    """Compare runs, simulated or measured, with the first of them.

    Args:
        *runs: Reports of this process, which are compared request by request; files of ``--report-json``, folders of
            ``--output-dir``, or results of ``vllm bench serve``, ``sglang.bench_serving``, AIPerf and GuideLLM.
        fail_if: Conditions such as ``"p99_ttft_ms>+5%"``; ``failed`` of the result says whether one holds.
        allow_fewer: Let a run pass that completed fewer requests than the first.
        different_workloads: Let conditions judge runs of different workloads.
        seed: Root of the random numbers of confidence intervals.
        html: Where to write a page with charts.

    Raises:
        ConfigError: What is given cannot be read or compared.
    """
    options = _options(
        fail_if=fail_if,
        allow_fewer=allow_fewer,
        different_workloads=different_workloads,
        seed=seed,
        html=None if html is None else os.path.abspath(html),
    )
    paths = [os.fspath(run) for run in runs if not isinstance(run, Report)]
    if len(paths) == len(runs):
        return Comparison(*_answer(["compare", *options], paths))
    with TemporaryDirectory(prefix="servecast-") as folder:
        # Within the folder, so that the runs are called by their places and not by where they are for a moment.
        named = [_path(run, Path(folder), f"run-{place}") for place, run in enumerate(runs, 1)]
        return Comparison(*_answer(["compare", *options], named, folder))


def validate(
    *recordings: StrPath,
    config: StrPath | Iterable[StrPath] = (),
    silicon: StrPath | None = None,
    sample: int | None = None,
    latency: str | None = None,
    fail_if: str | Iterable[str] = (),
    html: StrPath | None = None,
    **options: Any,
) -> Validation:
    """Replay what real engines served, and say how far off the simulation is.

    Args:
        *recordings: Folders of recorded runs; with ``config``, files of runs of a server.
        config: The deployment that these are of, TOML files as for ``servecast replay --config``.
        silicon: A table of measured runs in place of recordings.
        sample: So many rows of the table, always the same ones.
        latency: A latency model by its name, in place of the profile of a recorded run.
        fail_if: Conditions such as ``"mean_e2e_ms>1%"``; ``failed`` of the result says whether one holds.
        html: Where to write a page with the curves of both.
        **options: Other flags of ``servecast validate`` with underscores, as ``attention_ranks=True``.

    Raises:
        ConfigError: What is given cannot be read.
        ReplayError: A replay cannot go on.
    """
    named = dict(config=config, silicon=silicon, sample=sample, latency=latency, fail_if=fail_if, html=html)
    return Validation(*_answer(["validate", *_options(**named, **options)], recordings))


def calibrate(*files: StrPath, output: StrPath | None = None, base: str | None = None, **options: Any) -> CommandResult:
    """Fit a step model to measured iterations or requests.

    Args:
        *files: What was measured, at two levels of load at least.
        output: Where to write the model, for ``latency="step:FILE"``.
        base: Fit only what the host takes besides passes, whose times are those of this latency model.
        **options: Other flags of ``servecast calibrate`` with underscores, as ``phases="two"``.

    Raises:
        ConfigError: What is given cannot be read, or says too little.
    """
    given = _options(output=output, base=base, **options)
    return CommandResult(*_answer(["calibrate", "--quiet", *given], files))


def explain_capacity(model: StrPath, gpu: StrPath, **options: Any) -> CommandResult:
    """Say how many KV blocks fit the GPUs beside a model, and why.

    Args:
        model: A name on the Hugging Face hub, or a ``config.json``.
        gpu: A name, or a file that describes it.
        **options: Other flags of ``servecast explain capacity`` with underscores, as ``tensor_parallel_size=8``.

    Raises:
        ConfigError: The model or the GPU is not known, or nothing fits.
    """
    return CommandResult(*_answer(["explain", "capacity", *_options(model=model, gpu=gpu, **options)]))


def explain_kv(model: StrPath, gpu: StrPath, **options: Any) -> CommandResult:
    """Say how the layers of a model share the KV cache of vLLM, and how many requests of a length it holds.

    Args:
        model: A name on the Hugging Face hub, or a ``config.json``.
        gpu: A name, or a file that describes it.
        **options: Other flags of ``servecast explain kv`` with underscores, as ``tokens=[1024, 8192]``.

    Raises:
        ConfigError: The model or the GPU is not known, or nothing fits.
    """
    return CommandResult(*_answer(["explain", "kv", *_options(model=model, gpu=gpu, **options)]))


def trace_stats(trace_file: StrPath, **options: Any) -> CommandResult:
    """Describe a trace: requests, lengths, rate over time and ideal prefix reuse.

    Args:
        trace_file: A trace of any form (``docs/traces.md``).
        **options: Flags of ``servecast trace stats`` with underscores, as ``time_unit="s"``.

    Raises:
        ConfigError: The trace cannot be read.
    """
    return CommandResult(*_answer(["trace", "stats", *_options(**options)], [trace_file]))


def trace_check(trace_file: StrPath, **options: Any) -> CommandResult:
    """Say what a trace is, what was inferred and what is odd, with line numbers.

    Args:
        trace_file: A trace of any form (``docs/traces.md``).
        **options: Flags of ``servecast trace check`` with underscores, as ``time_unit="s"``.

    Raises:
        ConfigError: The trace cannot be read.
    """
    return CommandResult(*_answer(["trace", "check", *_options(**options)], [trace_file]))


def _path(run: Run, folder: Path, name: str) -> str:
    """Return the path of a run, which is written into a folder under a name if it is of this process."""
    if not isinstance(run, Report):
        return os.path.abspath(run)
    run.save(folder / name)
    return name


def _options(**given: Any) -> list[str]:
    """Return keyword arguments as flags; what is None or False is not given."""
    flags: list[str] = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif value is not None and value is not False:
            several = isinstance(value, Iterable) and not isinstance(value, (str, bytes, os.PathLike, Mapping))
            flags += [f"{flag}={_text(one)}" for one in (value if several else [value])]
    return flags


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(dict(value))
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def _answer(arguments: list[str], paths: Iterable[StrPath] = (), folder: str | None = None) -> tuple[str, bool, str]:
    """Run a command, in a folder, and return what it prints, whether a condition holds, and what it says besides."""
    command = [
        sys.executable,
        "-m",
        "servecast",
        *arguments,
        "--format",
        "json",
        "--",
        *(os.fspath(path) for path in paths),
    ]
    # The child finds what this process has found, wherever it stands.
    search = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    run = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search},
    )
    if run.returncode in (0, CONDITION_HOLDS):
        return run.stdout, run.returncode == CONDITION_HOLDS, run.stderr
    told = re.split(r"^error: ", run.stderr, maxsplit=1, flags=re.MULTILINE)[-1]
    message, _, hint = told.strip().partition("\n\nhint: ")
    kind = ConfigError if run.returncode == 2 else ReplayError
    raise kind(message or f"`servecast {arguments[0]}` ended with status {run.returncode}", hint or None)
