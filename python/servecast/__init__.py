"""servecast forecasts how an LLM serving deployment behaves, before anyone rents the GPUs.

>>> import servecast
>>> report = servecast.run_synthetic_trace_replay(4000, 300, 100, num_workers=2, arrival_interval_ms=250)
>>> report.num_requests, round(report.mean_ttft_ms)
(100, 94)
"""

from servecast._columns import Columns
from servecast._commands import (
    CommandResult,
    Comparison,
    Validation,
    calibrate,
    compare,
    explain_capacity,
    explain_kv,
    trace_check,
    trace_stats,
    validate,
)
from servecast._config import EngineArgs, KvRouterConfig, MockEngineArgs, RouterConfigOverride
from servecast._errors import ConfigError, ReplayError, RouterError, ServecastError, TraceError
from servecast._native import Batch, Candidate, RoutedRequest, WaitingRequest, __version__
from servecast._recommend import Recommendation, SearchProgress, recommend
from servecast._replay import Progress, replay_many, run_synthetic_trace_replay, run_trace_replay
from servecast._report import Report
from servecast._router import (
    Applied,
    Decision,
    Router,
    Selection,
    Worker,
    WorkerLoad,
    WorkersChanged,
    block_hashes,
    sequence_hashes,
)
from servecast._sweep import Sweep, sweep
from servecast._trace import Trace

__all__ = [
    "Applied",
    "Batch",
    "Candidate",
    "Columns",
    "CommandResult",
    "Comparison",
    "ConfigError",
    "Decision",
    "EngineArgs",
    "KvRouterConfig",
    "MockEngineArgs",
    "Progress",
    "Recommendation",
    "ReplayError",
    "Report",
    "RoutedRequest",
    "Router",
    "RouterConfigOverride",
    "RouterError",
    "SearchProgress",
    "Selection",
    "ServecastError",
    "Sweep",
    "Trace",
    "TraceError",
    "Validation",
    "WaitingRequest",
    "Worker",
    "WorkerLoad",
    "WorkersChanged",
    "__version__",
    "block_hashes",
    "calibrate",
    "compare",
    "explain_capacity",
    "explain_kv",
    "recommend",
    "replay_many",
    "run_synthetic_trace_replay",
    "run_trace_replay",
    "sequence_hashes",
    "sweep",
    "trace_check",
    "trace_stats",
    "validate",
]
