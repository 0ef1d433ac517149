"""The KV-aware router on its own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Union

from servecast import _native
from servecast._config import KvRouterConfig, RouterConfigOverride, plain
from servecast._errors import ConfigError

__all__ = [
    "Applied",
    "Decision",
    "Router",
    "Selection",
    "Worker",
    "WorkerLoad",
    "WorkersChanged",
    "block_hashes",
    "sequence_hashes",
]

Phase = Literal["aggregated", "prefill", "decode"]
Role = Literal["decode", "prefill"]


class Worker(NamedTuple):
    """A worker that is registered."""

    worker: int
    """Its id."""
    role: Role
    """``"decode"`` workers serve whole requests as well."""
    dp_rank_start: int
    """The first of its data-parallel ranks."""
    dp_size: int
    """How many there are."""
    max_num_batched_tokens: int | None
    """Tokens of an iteration at most."""


class Selection(NamedTuple):
    """Where a request goes, and on which terms."""

    request_id: str
    phase: Phase
    worker: int
    dp_rank: int
    overlap_blocks: int
    """Blocks of the prompt that the worker has cached, as far as the router knows."""
    required_blocks: int
    """Blocks that the prompt needs, the partial one included."""
    prefill_tokens: int
    """Prompt tokens that count as outstanding prefill; 0 where they are not tracked."""
    tracked_blocks: int
    """Prompt blocks that count as active; 0 where they are not tracked."""
    queue_wait_ms: float
    """How long it waited."""


class Decision(NamedTuple):
    """What came of a request."""

    selection: Selection | None
    """Where it is booked, or None: it waits, and some later call returns its selection."""
    admitted: list[Selection]
    """Other requests that left the queue in the same call."""
    waiting: int
    """Requests that wait for the same workers, itself among them unless it has a selection."""


class WorkerLoad(NamedTuple):
    """The load that a worker would have with a request on it, and what that would cost."""

    worker: int
    dp_rank: int
    overlap_blocks: int
    """Blocks of the prompt that it has cached."""
    prefill_tokens: int
    """Outstanding prefill tokens."""
    decode_blocks: int
    """Active blocks."""
    cost: float
    """The lowest is chosen; docs/routing.md has the formula."""


class WorkersChanged(NamedTuple):
    """What a change of the workers did to requests."""

    forgotten: list[tuple[str, Phase]]
    """Those that were booked on what is gone, with their phases. Route them again."""
    refused: list[tuple[str, Phase]]
    """Those that waited, and that no worker can serve any more."""
    admitted: list[Selection]
    """Those that waited, and are booked now."""


class Applied(NamedTuple):
    """How KV events fared."""

    applied: int
    ignored: int
    """Those about other memory than the device's, and all of them without ``use_kv_events``."""
    problems: list[str]
    """What could not be applied, and why. The index stays consistent."""


Pin = Union[int, tuple[int, int]]
Overrides = Union[RouterConfigOverride, Mapping[str, Any], str]


class Router:
    """Chooses a worker for each request by what workers have cached and how loaded they are.

    It is the router of replays, for programs of your own: it makes no threads and no connections. Several threads may
    share one. Times are milliseconds from any beginning, given with each call (``time="explicit"``) or taken from the
    system's monotonic clock; they never run back.

    The phase of a request says which workers may serve it and under which settings it is selected and booked:
    ``"aggregated"`` is all of it, by decode workers; ``"prefill"`` goes to prefill workers; ``"decode"`` to decode
    workers, and then neither what they have cached nor prompt tokens count, since the prompt is computed elsewhere.

    The prompt is given as ``tokens``, or as ``block_hashes`` (of ``servecast.block_hashes``) and ``num_tokens``.
    """

    def __init__(
        self,
        config: KvRouterConfig | Mapping[str, Any] | str | None = None,
        *,
        block_size: int,
        seed: int = 42,
        eagle: bool = False,
        time: Literal["monotonic", "explicit"] = "monotonic",
    ) -> None:
        """Make a router without workers.

        Args:
            config: Its settings.
            block_size: Tokens a block, as in the engines.
            seed: Of ties and of draws by ``router_temperature``.
            eagle: Blocks look one token ahead, as in engines with EAGLE drafting.
            time: Where the time of calls comes from.

        Raises:
            ConfigError: A setting cannot be used.
        """
        if time not in ("monotonic", "explicit"):
            raise ConfigError(f"`time` is {time!r}, but must be monotonic or explicit")
        self._config = _config(config)
        self._block_size = _whole("block_size", block_size, 1, 2**32 - 1)
        self._eagle = eagle
        self._began_ns = _monotonic_ns() if time == "monotonic" else None
        self._native = _native.Router(self._config.to_json(), self._block_size, _whole("seed", seed, 0, 2**64 - 1))

    @property
    def config(self) -> KvRouterConfig:
        """Its settings."""
        return self._config

    @property
    def block_size(self) -> int:
        """Tokens a block."""
        return self._block_size

    @property
    def workers(self) -> list[Worker]:
        """The registered workers, by id."""
        return [Worker(*worker) for worker in self._native.workers()]

    @property
    def queued_requests(self) -> int:
        """Requests that wait."""
        return self._native.queued_requests()

    def register_worker(
        self,
        worker: int,
        *,
        role: Role = "decode",
        dp_rank_start: int = 0,
        dp_size: int = 1,
        max_num_batched_tokens: int | None = None,
        now_ms: float | None = None,
    ) -> WorkersChanged:
        """Register a worker, or change what is known about it: its ranks and its limit, not its role.

        Args:
            worker: Its id.
            role: ``"decode"`` for one that serves whole requests or decodes, ``"prefill"`` for one that prefills for
                others.
            dp_rank_start: The first of its data-parallel ranks.
            dp_size: How many it has.
            max_num_batched_tokens: Tokens of an iteration at most, the unit of ``router_queue_threshold``. Without it,
                the worker never counts as busy.
            now_ms: The time, if it is explicit.

        Raises:
            ConfigError: An argument cannot be used.
            RouterError: It is registered with another role, or cannot have those ranks.
        """
        if max_num_batched_tokens is not None:
            _whole("max_num_batched_tokens", max_num_batched_tokens, 1, 2**32 - 1)
        ranks = (_whole("dp_rank_start", dp_rank_start, 0, 2**32 - 1), _whole("dp_size", dp_size, 1, 2**32 - 1))
        told = (_whole("worker", worker, 0, 2**64 - 1), role, *ranks, max_num_batched_tokens)
        return _changed(self._native.register_worker(told, self._now(now_ms)))

    def remove_worker(self, worker: int, *, now_ms: float | None = None) -> WorkersChanged:
        """Forget a worker with everything that is known about it.

        Raises:
            RouterError: It is not registered.
        """
        return _changed(self._native.remove_worker(_whole("worker", worker, 0, 2**64 - 1), self._now(now_ms)))

    def route(
        self,
        request_id: str,
        tokens: Sequence[int] | None = None,
        *,
        block_hashes: Sequence[int] | None = None,
        num_tokens: int | None = None,
        lora_name: str | None = None,
        namespace: str | None = None,
        phase: Phase = "aggregated",
        overrides: Overrides | None = None,
        pinned: Pin | None = None,
        allowed_workers: Iterable[int] | None = None,
        expected_output_tokens: int | None = None,
        priority_jump: float = 0.0,
        now_ms: float | None = None,
    ) -> Decision:
        """Choose a worker for a request and book it there, or let it wait until one has room.

        Args:
            request_id: Its name, unique within a phase among requests that are not freed yet.
            tokens: Its prompt.
            block_hashes: In place of ``tokens``, hashes of the content of its full blocks.
            num_tokens: With ``block_hashes``, the length of the prompt.
            lora_name: The LoRA adapter of ``tokens``.
            namespace: The cache namespace of ``tokens``.
            phase: Which part of the request is routed.
            overrides: Settings of this request in front of the router's; those of the decode phase win.
            pinned: The worker, or worker and data-parallel rank, that must serve it.
            allowed_workers: Those that may serve it.
            expected_output_tokens: Under ``router_track_output_blocks``, blocks weigh less towards this length.
            priority_jump: Seconds by which it counts as earlier in the queue.
            now_ms: The time, if it is explicit.

        Raises:
            ConfigError: An argument cannot be used.
            RouterError: No worker can serve it, or its name is in use.
        """
        asked = {
            **self._prompt(tokens, block_hashes, num_tokens, lora_name, namespace),
            **_wishes(phase, overrides, pinned, allowed_workers),
            "expected_output_tokens": expected_output_tokens,
            "priority_jump": priority_jump,
        }
        own, admitted, waiting = self._native.route(request_id, asked, self._now(now_ms))
        return Decision(None if own is None else Selection(*own), _selections(admitted), waiting)

    def book(
        self,
        request_id: str,
        worker: Pin,
        tokens: Sequence[int] | None = None,
        *,
        block_hashes: Sequence[int] | None = None,
        num_tokens: int | None = None,
        lora_name: str | None = None,
        namespace: str | None = None,
        phase: Phase = "aggregated",
        overrides: Overrides | None = None,
        expected_output_tokens: int | None = None,
        now_ms: float | None = None,
    ) -> Selection:
        """Book a request on a worker that was chosen elsewhere, past the queue; arguments are as in ``route``."""
        asked = {
            **self._prompt(tokens, block_hashes, num_tokens, lora_name, namespace),
            **_wishes(phase, overrides),
            "expected_output_tokens": expected_output_tokens,
        }
        return Selection(*self._native.book(request_id, _rank("worker", worker), asked, self._now(now_ms)))

    def select(
        self,
        tokens: Sequence[int] | None = None,
        *,
        block_hashes: Sequence[int] | None = None,
        num_tokens: int | None = None,
        lora_name: str | None = None,
        namespace: str | None = None,
        phase: Phase = "aggregated",
        overrides: Overrides | None = None,
        pinned: Pin | None = None,
        allowed_workers: Iterable[int] | None = None,
        now_ms: float | None = None,
    ) -> Selection:
        """Return what ``route`` would decide if nobody waited; nothing is booked."""
        asked = {
            **self._prompt(tokens, block_hashes, num_tokens, lora_name, namespace),
            **_wishes(phase, overrides, pinned, allowed_workers),
        }
        return Selection(*self._native.select(asked, self._now(now_ms)))

    def potential_loads(
        self,
        tokens: Sequence[int] | None = None,
        *,
        block_hashes: Sequence[int] | None = None,
        num_tokens: int | None = None,
        lora_name: str | None = None,
        namespace: str | None = None,
        phase: Phase = "aggregated",
        overrides: Overrides | None = None,
        allowed_workers: Iterable[int] | None = None,
        now_ms: float | None = None,
    ) -> list[WorkerLoad]:
        """Return the load that every worker of the phase would have with a request on it, by worker and rank."""
        asked = {
            **self._prompt(tokens, block_hashes, num_tokens, lora_name, namespace),
            **_wishes(phase, overrides, None, allowed_workers),
        }
        return [WorkerLoad(*load) for load in self._native.potential_loads(asked, self._now(now_ms))]

    def mark_prefill_complete(self, request_id: str, *, now_ms: float | None = None) -> list[Selection]:
        """Note that the prompt of a request is computed; return the requests that this lets in.

        Raises:
            RouterError: The request is not booked.
        """
        return _selections(self._native.mark_prefill_complete(request_id, self._now(now_ms)))

    def record_output(self, request_id: str, generated_tokens: int, *, now_ms: float | None = None) -> None:
        """Note how many tokens a request has generated; they count under ``router_track_output_blocks``.

        Raises:
            RouterError: The request is not booked.
        """
        generated = _whole("generated_tokens", generated_tokens, 0, 2**32 - 1)
        self._native.record_output(request_id, generated, self._now(now_ms))

    def free(self, request_id: str, *, phase: Phase | None = None, now_ms: float | None = None) -> list[Selection]:
        """End a request in one phase or in all, be it complete or given up; return the requests that this lets in.

        Requests that are unknown are passed over, so it may be called twice.
        """
        return _selections(self._native.free(request_id, phase, self._now(now_ms)))

    def apply_events(
        self,
        events: Mapping[str, Any] | Iterable[Mapping[str, Any]] | str | bytes,
        *,
        now_ms: float | None = None,
    ) -> Applied:
        """Apply changes of workers' caches.

        Args:
            events: One event or several, as dicts or as JSON:
                ``{"worker_id": 0, "event": {"event_id": 1, "dp_rank": 0, "data": DATA}}``, where ``DATA`` is
                ``{"stored": {"parent_hash": None, "blocks": [{"block_hash": H, "tokens_hash": T}]}}``,
                ``{"removed": {"block_hashes": [H]}}`` or ``"cleared"``. ``T`` is a hash of ``block_hashes``, ``H`` any
                name that stands for the block and all before it, such as one of ``sequence_hashes``.
            now_ms: The time, if it is explicit.

        Raises:
            ConfigError: An event cannot be read. None is applied then.
        """
        if isinstance(events, (str, bytes)):
            try:
                events = json.loads(events)
            except ValueError as error:
                raise ConfigError(f"`events`: {error}") from None
        several = [events] if isinstance(events, Mapping) else events
        try:
            text = json.dumps(list(several), default=plain, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"`events`: {error}") from None
        return Applied(*self._native.apply_events(text, self._now(now_ms)))

    def apply_message(
        self,
        frames: Sequence[bytes],
        *,
        worker: int,
        dp_rank: int = 0,
        now_ms: float | None = None,
    ) -> Applied:
        """Apply the message of a worker's engine, as vLLM and SGLang publish it: topic, sequence number, payload.

        Args:
            frames: The three frames of the message.
            worker: Whose message it is.
            dp_rank: Which rank it is about, unless it says so itself.
            now_ms: The time, if it is explicit.

        Raises:
            ConfigError: It is no such message. Single events that cannot be read are problems of the result.
        """
        rank = _rank("worker", (worker, dp_rank))
        return Applied(*self._native.apply_message(rank, list(frames), self._now(now_ms)))

    def dump(self, *, now_ms: float | None = None) -> dict[str, Any]:
        """Return everything that the router knows, as plain data.

        ``ranks`` are the workers with their loads, ``booked`` and ``queued`` the requests, and ``events`` what workers
        have cached, as the events that say so: ``apply_events`` gives them to another router.
        """
        return json.loads(self._native.dump(self._now(now_ms)))  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        workers, waiting = len(self.workers), self.queued_requests
        return f"<Router of {workers} workers, block_size={self._block_size}, {waiting} requests waiting>"

    def _now(self, now_ms: float | None) -> float:
        if self._began_ns is None:
            if now_ms is None:
                raise ConfigError("`now_ms` is missing: this router was made with time='explicit'")
            return now_ms
        if now_ms is not None:
            raise ConfigError("`now_ms` is given, but this router takes the time from the system's clock")
        return (_monotonic_ns() - self._began_ns) / 1e6

    def _prompt(
        self,
        tokens: Sequence[int] | None,
        block_hashes: Sequence[int] | None,
        num_tokens: int | None,
        lora_name: str | None,
        namespace: str | None,
    ) -> dict[str, Any]:
        if tokens is not None and (block_hashes is not None or num_tokens is not None):
            raise ConfigError("`tokens` cannot be combined with `block_hashes` and `num_tokens`")
        if tokens is None and (lora_name is not None or namespace is not None):
            raise ConfigError("`lora_name` and `namespace` are for `tokens`; pass them to servecast.block_hashes")
        return {
            "tokens": tokens,
            "block_hashes": block_hashes,
            "num_tokens": num_tokens,
            "lora_name": lora_name,
            "namespace": namespace,
            "eagle": self._eagle,
        }


def block_hashes(
    tokens: Sequence[int],
    block_size: int,
    *,
    lora_name: str = "",
    namespace: str = "",
    eagle: bool = False,
) -> list[int]:
    """Return a hash of the content of each full block of a prompt (XXH3-64 with seed 1337, as Dynamo's).

    Args:
        tokens: The prompt.
        block_size: Tokens a block.
        lora_name: Its LoRA adapter; equal tokens of different adapters are different blocks.
        namespace: Its cache namespace, likewise.
        eagle: Blocks look one token ahead, as in engines with EAGLE drafting.

    Raises:
        ConfigError: A token that is no number from 0 to 4294967295, or a block without tokens.
    """
    size = _whole("block_size", block_size, 1, 2**32 - 1)
    try:
        return _native.block_hashes(tokens, size, lora_name, namespace, eagle)
    except OverflowError as error:
        raise ConfigError(f"`tokens`: {error}") from None


def sequence_hashes(block_hashes: Sequence[int]) -> list[int]:
    """Chain hashes of content into hashes that stand for a block and all before it."""
    try:
        return _native.sequence_hashes(block_hashes)
    except OverflowError as error:
        raise ConfigError(f"`block_hashes`: {error}") from None


_monotonic_ns = time.monotonic_ns


def _config(config: KvRouterConfig | Mapping[str, Any] | str | None) -> KvRouterConfig:
    if isinstance(config, KvRouterConfig):
        return config
    return KvRouterConfig.from_json(config) if isinstance(config, str) else KvRouterConfig(**(config or {}))


def _overrides(overrides: Overrides | None) -> str | None:
    if overrides is None or isinstance(overrides, str):
        return overrides
    made = overrides if isinstance(overrides, RouterConfigOverride) else RouterConfigOverride(**overrides)
    return made.to_json()


def _whole(name: str, value: int, least: int, most: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or not least <= value <= most:
        raise ConfigError(f"`{name}` is {value!r}, but must be a whole number from {least} to {most}")
    return int(value)


def _wishes(
    phase: Phase,
    overrides: Overrides | None,
    pinned: Pin | None = None,
    allowed_workers: Iterable[int] | None = None,
) -> dict[str, Any]:
    return {
        "phase": phase,
        "overrides": _overrides(overrides),
        "pinned": None if pinned is None else _rank("pinned", pinned),
        "allowed_workers": None if allowed_workers is None else list(allowed_workers),
    }


def _rank(name: str, worker: Pin) -> tuple[int, int]:
    both = worker if isinstance(worker, tuple) else (worker, 0)
    if len(both) != 2:
        raise ConfigError(f"`{name}` is {worker!r}, but must be a worker, or a worker and its rank")
    number, dp_rank = both
    return _whole(name, number, 0, 2**64 - 1), _whole("dp_rank", dp_rank, 0, 2**32 - 1)


def _selections(told: list[Any]) -> list[Selection]:
    return [Selection(*one) for one in told]


def _changed(told: tuple[Any, Any, list[Any]]) -> WorkersChanged:
    forgotten, refused, admitted = told
    return WorkersChanged(forgotten, refused, _selections(admitted))
