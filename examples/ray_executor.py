"""A search on a Ray cluster: Ray as a ``concurrent.futures.Executor``, in a few lines.

    $ pip install ray
    $ python examples/ray_executor.py

Workers need servecast, of the same release. A trace is named by a path that leads to the same file on all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import ray
import servecast


class RayExecutor(Executor):
    """Calls functions on the workers of a Ray cluster."""

    def __init__(self) -> None:
        ray.init(ignore_reinit_error=True)
        self._call = ray.remote(lambda function, arguments, named: function(*arguments, **named))

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = self._call.remote(function, arguments, named).future()
        return future


if __name__ == "__main__":
    found = servecast.recommend(
        input_tokens=1000,
        output_tokens=200,
        request_count=500,
        arrival_interval_ms=50,
        arrival_process="poisson",
        model="meta-llama/Llama-3.1-8B",
        gpu="H100-SXM",
        slo=["p95 ttft <= 200ms", "p95 itl <= 20ms"],
        max_gpus=4,
        executor=RayExecutor(),
    )
    print(found)
