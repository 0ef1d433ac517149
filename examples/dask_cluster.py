"""A search on a Dask cluster: the executor of its client is all that it takes.

    $ pip install distributed
    $ python examples/dask_cluster.py                       # a cluster of two processes on this machine
    $ python examples/dask_cluster.py tcp://scheduler:8786  # one that is there

Workers need servecast, of the same release. A trace is named by a path that leads to the same file on all of them.
"""

from __future__ import annotations

import sys

import servecast
from distributed import Client, LocalCluster


def main(address: str | None) -> None:
    cluster = address or LocalCluster(n_workers=2, processes=True, threads_per_worker=1, dashboard_address=None)
    with Client(cluster) as client:
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
            executor=client.get_executor(),
        )
    print(found)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
