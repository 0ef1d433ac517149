"""Runs on the workers of an executor: what goes there is text and bytes, and so is what comes back.

Any ``concurrent.futures.Executor`` will do. A worker needs servecast, of the same release, and the files that settings
name, by the same paths.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import TYPE_CHECKING, Any, TypeVar

from servecast import _native
from servecast._errors import ConfigError, ReplayError, ServecastError

if TYPE_CHECKING:
    from servecast._replay import Prepared

__all__ = ["Evaluate", "checked", "evaluator", "results", "run", "simulate", "wants_no_function"]

Evaluate = Callable[[str, "bytes | None", "list[str]"], Iterator["tuple[int, str]"]]
"""From a question, a trace that is no file, and trials to the outcome of each trial, with its place, as they end."""

MOST_IN_FLIGHT = 4096
"""Tasks that an executor has at a time: more than it has workers, and few enough to keep in memory."""

_Result = TypeVar("_Result")


def simulate(question: str, trace: bytes | None, trial: str) -> str:
    """Simulate a deployment of a search; called on workers, which keep the load of a question for the next trial."""
    return _native.simulate(question, trace, trial)


def run(settings: str, trace: bytes | None, difference: str) -> tuple[str, list[str]]:
    """Run one replay of a sweep; called on workers."""
    outcome = _native.run((settings, trace, False, [], difference, (None, None)))
    return outcome.report_json(), outcome.notes()


def checked(executor: object, threads: int | None) -> Executor | None:
    """Return the executor, if it is one."""
    if executor is None:
        return None
    if not isinstance(executor, Executor):
        raise ConfigError(
            f"`executor` is a {type(executor).__name__}, but must be a concurrent.futures.Executor",
            "of Dask, client.get_executor() is one; examples/ray_executor.py makes one of Ray",
        )
    if threads is not None:
        raise ConfigError("`threads` is for runs in this process, but `executor` has workers of its own")
    return executor


def wants_no_function(given: Prepared) -> None:
    """Refuse functions, which have no text."""
    # A function may be an object that is false.
    named = {"latency": given[3] or None, "router": given[5][0], "priority": given[5][1]}
    for name, function in named.items():
        if function is not None:
            other = "leave out executor" + (", or name a latency model" if name == "latency" else "")
            raise ConfigError(f"`{name}` is a function, which cannot go to the workers of an executor", other)


def evaluator(executor: Executor) -> Evaluate:
    """Return what has the trials of a search simulated on an executor."""

    def evaluate(question: str, trace: bytes | None, trials: list[str]) -> Iterator[tuple[int, str]]:
        tasks = [(question, trace, trial) for trial in trials]
        return results(executor, simulate, tasks, lambda place: json.dumps(json.loads(trials[place])["settings"]))

    return evaluate


def results(
    executor: Executor,
    function: Callable[..., _Result],
    tasks: Sequence[tuple[Any, ...]],
    settings: Callable[[int], str],
) -> Iterator[tuple[int, _Result]]:
    """Yield what a function returns for each task, with the place of the task, as they end.

    Args:
        settings: What tells the deployment of a task from the others, as a JSON array of pairs, for messages.
    """
    rest = iter(enumerate(tasks))
    running: dict[Future[_Result], int] = {}
    try:
        while True:
            while len(running) < MOST_IN_FLIGHT and (following := next(rest, None)):
                place, task = following
                running[executor.submit(function, *task)] = place
            if not running:
                return
            # In the order of their tasks, so that of several failures the first is told.
            for future in sorted(wait(running, return_when=FIRST_COMPLETED).done, key=running.__getitem__):
                place = running.pop(future)
                yield place, _result(future, lambda place=place: settings(place))  # type: ignore[misc]
    finally:
        # Nobody waits for those that are left if the caller goes away.
        for future in running:
            future.cancel()


def _result(future: Future[_Result], settings: Callable[[], str]) -> _Result:
    try:
        return future.result()
    except ServecastError as error:
        raise type(error)(f"{_named(settings())}: {error.message}", error.hint) from error
    except Exception as error:
        # A worker that died, say: what it was about is what the caller has to know.
        message = f"{_named(settings())}: the executor failed: {type(error).__name__}: {error}"
        raise ReplayError(message) from error


def _named(settings: str) -> str:
    return " ".join(f"{key}={value}" for key, value in json.loads(settings)) or "the deployment"
