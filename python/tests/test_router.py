"""The KV-aware router on its own."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import servecast
from hypothesis import given, settings
from hypothesis import strategies as st
from servecast import ConfigError, KvRouterConfig, Router, RouterConfigOverride, RouterError, Selection

PROMPT = list(range(40))


def router(workers: int = 2, *, config: Any = None, block_size: int = 16, **arguments: Any) -> Router:
    """A router whose time is given."""
    made = Router(config, block_size=block_size, time="explicit", **arguments)
    for worker in range(workers):
        made.register_worker(worker, max_num_batched_tokens=16, now_ms=0)
    return made


def stored(worker: int, tokens: list[int], block_size: int = 16, dp_rank: int = 0) -> dict[str, Any]:
    """The event of a worker that has cached the full blocks of a prompt."""
    contents = servecast.block_hashes(tokens, block_size)
    names = servecast.sequence_hashes(contents)
    blocks = [{"block_hash": name, "tokens_hash": content} for name, content in zip(names, contents)]
    data = {"stored": {"parent_hash": None, "blocks": blocks}}
    return {"worker_id": worker, "event": {"event_id": 1, "dp_rank": dp_rank, "data": data}}


def selected(decision: servecast.Decision) -> Selection:
    assert decision.selection is not None
    return decision.selection


def loads(ours: Router) -> list[tuple[int, int, int, int, int]]:
    """Worker, requests, outstanding prefill tokens, active and cached blocks of each."""
    names = ("worker_id", "active_requests", "prefill_tokens", "active_blocks", "cached_blocks")
    return [tuple(rank[name] for name in names) for rank in ours.dump(now_ms=0)["ranks"]]


def test_hashes_are_those_of_dynamo() -> None:
    contents = servecast.block_hashes(range(1, 13), 4)
    assert contents == [14643705804678351452, 16777012769546811212, 483935686894639516]
    chained = [14643705804678351452, 4945711292740353085, 12583592247330656132]
    assert servecast.sequence_hashes(contents) == chained
    lora = servecast.block_hashes([1, 2, 3, 4, 5, 6, 7, 8, 9], 4, lora_name="adapter-a")
    assert lora == [11381080598872079209, 5698110331184095209]
    assert servecast.block_hashes([0, 1, 2, 3, 4], 2, eagle=True) == [11646242937812223497, 9948816348502404300]
    assert servecast.block_hashes([1, 2, 3, 4], 4, namespace="tenant-1") == [12236259103925738072]


def test_a_request_goes_where_its_prefix_is() -> None:
    ours = router()
    assert ours.apply_events(stored(1, PROMPT), now_ms=0) == (1, 0, [])
    assert selected(ours.route("chat", PROMPT, now_ms=1)) == ("chat", "aggregated", 1, 0, 2, 3, 8, 2, 0.0)
    assert loads(ours) == [(0, 0, 0, 0, 0), (1, 1, 8, 2, 2)]
    assert ours.mark_prefill_complete("chat", now_ms=2) == []
    assert loads(ours)[1] == (1, 1, 0, 2, 2)
    assert ours.free("chat", now_ms=3) == ours.free("chat", now_ms=3) == []
    assert loads(ours)[1] == (1, 0, 0, 0, 2)


def test_a_prompt_may_be_given_by_its_hashes() -> None:
    ours = router()
    ours.apply_events([stored(0, PROMPT), stored(1, PROMPT[:16])], now_ms=0)
    hashes = servecast.block_hashes(PROMPT, 16)
    assert ours.select(PROMPT, now_ms=0) == ours.select(block_hashes=hashes, num_tokens=40, now_ms=0)
    candidates = ours.potential_loads(block_hashes=hashes, num_tokens=40, now_ms=0)
    assert candidates == ours.potential_loads(PROMPT, now_ms=0)
    assert candidates == [(0, 0, 2, 8, 2, 8 / 16 + 2), (1, 0, 1, 24, 2, 24 / 16 + 2)]
    assert ours.select(PROMPT, now_ms=0).worker == min(candidates, key=lambda each: each.cost).worker


@pytest.mark.parametrize(("policy", "order"), [("fcfs", ["c", "d"]), ("lcfs", ["d", "c"]), ("wspt", ["d", "c"])])
def test_requests_wait_for_room_and_leave_in_order(policy: str, order: list[str]) -> None:
    # More than 4 · 16 tokens outstanding is busy.
    ours = router(1, config={"router_queue_policy": policy})
    for place, (name, length) in enumerate([("a", 40), ("b", 40), ("c", 40), ("d", 39)]):
        decision = ours.route(name, [place] * length, now_ms=place)
        assert (decision.selection is None) == (name in "cd")
        assert decision.waiting == max(0, place - 1) and decision.admitted == []
    assert ours.queued_requests == len(ours.dump(now_ms=3)["queued"]) == 2
    assert "2 requests waiting" in repr(ours)
    left = [*ours.mark_prefill_complete("a", now_ms=10), *ours.free("b", now_ms=20)]
    assert [(one.request_id, one.worker) for one in left] == [(name, 0) for name in order]
    assert left[0].queue_wait_ms == 10 - (2 if order[0] == "c" else 3)


def test_who_gives_up_leaves_the_queue() -> None:
    ours = router(1)
    for name in "abc":
        ours.route(name, PROMPT, now_ms=0)
    assert ours.queued_requests == 1
    ours.free("c", now_ms=1)
    assert ours.queued_requests == 0
    assert ours.free("a", now_ms=2) == []


def test_the_decode_phase_looks_at_blocks_only() -> None:
    ours = router()
    ours.apply_events(stored(1, PROMPT), now_ms=0)
    ours.route("busy", [7] * 64, pinned=0, now_ms=0)
    terms = [
        (each.prefill_tokens, each.decode_blocks, each.cost)
        for each in ours.potential_loads(PROMPT, phase="decode", now_ms=0)
    ]
    assert terms == [(64, 6, 6), (0, 2, 2)]
    # Booked as it was selected: its prompt is no prefill load.
    assert selected(ours.route("split", PROMPT, phase="decode", now_ms=0))[2:8] == (1, 0, 2, 3, 0, 2)
    assert loads(ours)[1] == (1, 1, 0, 2, 2)
    # The same request as a whole is.
    assert ours.book("whole", 1, PROMPT, now_ms=0).prefill_tokens == 8
    assert loads(ours)[1][:3] == (1, 2, 8)


def test_each_phase_has_its_workers() -> None:
    ours = router()
    ours.register_worker(2**63, role="prefill", now_ms=0)
    assert ours.workers == [
        (0, "decode", 0, 1, 16),
        (1, "decode", 0, 1, 16),
        (2**63, "prefill", 0, 1, None),
    ]
    assert selected(ours.route("a", PROMPT, phase="prefill", now_ms=0))[:3] == ("a", "prefill", 2**63)
    assert selected(ours.route("a", PROMPT, phase="decode", now_ms=0)).worker in (0, 1)
    assert [(each["id"], each["phase"]) for each in ours.dump(now_ms=0)["booked"]] == [
        ("a", "prefill"),
        ("a", "decode"),
    ]
    ours.free("a", phase="prefill", now_ms=1)
    assert [each["phase"] for each in ours.dump(now_ms=1)["booked"]] == ["decode"]
    ours.free("a", now_ms=2)
    assert ours.dump(now_ms=2)["booked"] == []
    with pytest.raises(RouterError, match="prefill worker"):
        ours.route("b", PROMPT, pinned=2**63, now_ms=3)
    with pytest.raises(RouterError, match="remove it before it becomes another"):
        ours.register_worker(2**63, now_ms=3)


def test_overrides_hold_for_one_request() -> None:
    ours = router()
    ours.apply_events(stored(1, PROMPT), now_ms=0)
    for overrides in (RouterConfigOverride(track_prefill_tokens=False), {"track_prefill_tokens": False}):
        assert ours.select(PROMPT, overrides=overrides, now_ms=0).prefill_tokens == 0
    assert ours.select(PROMPT, overrides='{"track_prefill_tokens": false}', now_ms=0).prefill_tokens == 0
    assert ours.select(PROMPT, now_ms=0).prefill_tokens == 8


def test_potential_loads_change_nothing() -> None:
    ours = router()
    ours.apply_events(stored(1, PROMPT), now_ms=0)
    ours.route("a", PROMPT, pinned=(1, 0), now_ms=0)
    before = ours.dump(now_ms=0)
    # Worker 1 holds the blocks already, so only the rest of the prompt comes on top.
    assert [each[3:5] for each in ours.potential_loads(PROMPT, now_ms=0)] == [(40, 2), (8 + 8, 2)]
    assert [each[3:5] for each in ours.potential_loads(PROMPT, phase="decode", now_ms=0)] == [(0, 2), (8, 4)]
    assert [each.worker for each in ours.potential_loads(PROMPT, allowed_workers=[1], now_ms=0)] == [1]
    ours.select(PROMPT, now_ms=0)
    assert ours.dump(now_ms=0) == before


def test_pins_and_allowed_workers_hold() -> None:
    ours = router(3)
    ours.register_worker(2, dp_rank_start=4, dp_size=2, now_ms=0)
    assert ours.workers[2] == (2, "decode", 4, 2, None)
    assert selected(ours.route("a", PROMPT, pinned=(2, 5), now_ms=0))[2:4] == (2, 5)
    assert selected(ours.route("b", PROMPT, allowed_workers=[1], now_ms=0)).worker == 1
    assert selected(ours.route("c", PROMPT, allowed_workers={2, 1}, now_ms=0)).worker == 2


def test_a_worker_that_goes_takes_its_requests_along() -> None:
    ours = router()
    ours.route("a", PROMPT, pinned=0, now_ms=0)
    ours.route("b", [1] * 80, pinned=1, now_ms=0)
    assert ours.route("c", [2] * 80, pinned=1, now_ms=0).selection is None
    assert ours.remove_worker(1, now_ms=1) == ([("b", "aggregated")], [("c", "aggregated")], [])
    with pytest.raises(RouterError, match="worker 1 is not registered"):
        ours.remove_worker(1, now_ms=1)
    assert [each.worker for each in ours.workers] == [0]
    # Their names are free again.
    assert selected(ours.route("b", PROMPT, now_ms=2)).worker == 0


def test_output_counts_if_it_is_tracked() -> None:
    ours = router(1, config=KvRouterConfig(router_track_output_blocks=True))
    ours.route("a", PROMPT, now_ms=0)
    for generated, blocks in ((8, 2), (9, 3), (24, 3), (41, 5)):
        ours.record_output("a", generated, now_ms=1)
        assert loads(ours)[0][3] == blocks


def test_a_dump_says_what_is_cached_in_events() -> None:
    ours = router()
    ours.apply_events([stored(0, PROMPT), stored(1, PROMPT[:16])], now_ms=0)
    dump = json.loads(json.dumps(ours.dump(now_ms=0)))
    other = router()
    assert other.apply_events(dump["events"], now_ms=0) == (3, 0, [])
    assert other.dump(now_ms=0) == dump
    assert other.potential_loads(PROMPT, now_ms=0) == ours.potential_loads(PROMPT, now_ms=0)


def overlap(ours: Router, worker: int, now_ms: float = 0) -> int:
    return ours.select(PROMPT, pinned=worker, now_ms=now_ms).overlap_blocks


def test_events_remove_and_clear() -> None:
    ours = router()
    second = servecast.sequence_hashes(servecast.block_hashes(PROMPT, 16))[1]
    removed = {"worker_id": 0, "event": {"event_id": 2, "data": {"removed": {"block_hashes": [second]}}}}
    cleared = {"worker_id": 0, "event": {"event_id": 3, "data": "cleared"}}
    assert ours.apply_events(json.dumps([stored(0, PROMPT), removed]), now_ms=0) == (2, 0, [])
    assert overlap(ours, 0) == 1
    assert ours.apply_events(iter([cleared]), now_ms=0) == (1, 0, [])
    assert overlap(ours, 0) == 0


def test_events_that_do_not_fit_are_told_and_others_are_applied() -> None:
    ours = router()
    host = {**stored(0, PROMPT), "storage_tier": "host_pinned"}
    events = [stored(9, PROMPT), host, stored(0, PROMPT), stored(0, PROMPT, dp_rank=1)]
    applied, ignored, problems = ours.apply_events(events, now_ms=0)
    assert (applied, ignored) == (1, 1)
    assert problems == [
        "event 0: worker 9 is not registered",
        "event 3: worker 0 has the ranks 0 to 0, not 1",
    ]
    blind = router(config={"use_kv_events": False})
    assert blind.apply_events(stored(0, PROMPT), now_ms=0) == (0, 1, [])


def packed(value: Any) -> bytes:
    """A value in msgpack, as far as the test needs it."""
    if value is None:
        return b"\xc0"
    if isinstance(value, float):
        import struct

        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, int):
        return b"\xcf" + value.to_bytes(8, "big")
    if isinstance(value, str):
        return bytes([0xA0 + len(value)]) + value.encode()
    if isinstance(value, dict):
        return bytes([0x80 + len(value)]) + b"".join(packed(key) + packed(each) for key, each in value.items())
    return b"\xdc" + len(value).to_bytes(2, "big") + b"".join(map(packed, value))


def test_messages_of_engines_are_applied() -> None:
    ours = router()
    event = {
        "type": "BlockStored",
        "block_hashes": [11, 12],
        "parent_block_hash": None,
        "token_ids": PROMPT[:32],
        "block_size": 16,
        "medium": "GPU",
    }
    odd = {**event, "block_size": 8}
    frames = [b"kv", (5).to_bytes(8, "big"), packed([1.5, [odd, event], None])]
    applied, ignored, problems = ours.apply_message(frames, worker=1, now_ms=0)
    assert (applied, ignored, len(problems)) == (1, 0, 1)
    assert problems[0].startswith("event 0: ") and "8" in problems[0]
    assert ours.select(PROMPT, now_ms=0)[2:5] == (1, 0, 2)
    removed = packed([2.5, [{"type": "BlockRemoved", "block_hashes": [12], "medium": "GPU"}], None])
    assert ours.apply_message([b"", (6).to_bytes(8, "big"), removed], worker=1, now_ms=0) == (1, 0, [])
    assert ours.select(PROMPT, now_ms=0)[2:5] == (1, 0, 1)
    with pytest.raises(ConfigError, match="`frames`"):
        ours.apply_message([b"", b"x", b""], worker=1, now_ms=0)
    with pytest.raises(ConfigError, match="`frames`"):
        ours.apply_message([], worker=1, now_ms=0)


def test_predictions_live_as_long_as_they_should() -> None:
    ours = router(config={"use_kv_events": False, "router_ttl_secs": 1.0})
    first = selected(ours.route("a", PROMPT, now_ms=0))
    assert overlap(ours, first.worker, now_ms=999) == 2
    assert overlap(ours, first.worker, now_ms=1001) == 0


def test_time_may_be_the_systems() -> None:
    ours = Router(block_size=16)
    ours.register_worker(0, max_num_batched_tokens=16)
    for name in "abc":
        ours.route(name, PROMPT)
    [admitted] = [*ours.free("a"), *ours.free("b")]
    assert admitted.request_id == "c" and 0 < admitted.queue_wait_ms < 10_000
    with pytest.raises(ConfigError, match="`now_ms` is given"):
        ours.free("a", now_ms=3)
    with pytest.raises(ConfigError, match="`now_ms` is missing"):
        router().free("a")


def test_the_same_calls_give_the_same_answers() -> None:
    def choices(seed: int) -> list[int]:
        ours = router(4, config={"router_temperature": 1.0}, seed=seed)
        return [selected(ours.route(f"{n}", [n] * 3, now_ms=n)).worker for n in range(40)]

    assert choices(7) == choices(7)
    assert len({tuple(choices(seed)) for seed in range(4)}) > 1


def test_threads_may_share_a_router() -> None:
    ours = Router({"router_queue_threshold": None}, block_size=16)
    for worker in range(3):
        ours.register_worker(worker)
    failed: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for n in range(200):
                ours.route(f"{thread}-{n}", [n] * 40)
                ours.mark_prefill_complete(f"{thread}-{n}")
                if n % 2:
                    ours.free(f"{thread}-{n}")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    ranks = ours.dump()["ranks"]
    assert sum(rank["active_requests"] for rank in ranks) == len(ours.dump()["booked"]) == 4 * 100
    assert sum(rank["prefill_tokens"] for rank in ranks) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Router(block_size=0), "`block_size` is 0, but must be a whole number from 1"),
        (lambda: Router(block_size=1.5), "`block_size` is 1.5"),  # type: ignore[arg-type]
        (lambda: Router(block_size=16, seed=-1), "`seed` is -1"),
        (lambda: Router(block_size=16, time="wall"), "`time` is 'wall'"),  # type: ignore[arg-type]
        (lambda: Router({"router_temperatur": 1}, block_size=16), "did you mean `router_temperature`?"),
        (lambda: Router("[]", block_size=16), "expected a JSON object"),
        (lambda: Router({"router_prefill_load_model": "aic"}, block_size=16), "`router_prefill_load_model` is"),
        (lambda: router().register_worker(-1, now_ms=0), "`worker` is -1, but must be a whole number from 0"),
        (lambda: router().register_worker(0, dp_rank_start=2**32, now_ms=0), "`dp_rank_start` is 4294967296"),
        (lambda: router().register_worker(0, dp_size=0, now_ms=0), "`dp_size` is 0"),
        (lambda: router().register_worker(0, max_num_batched_tokens=0, now_ms=0), "`max_num_batched_tokens` is 0"),
        (lambda: router().register_worker(7, role="encode", now_ms=0), '`role` is "encode"'),  # type: ignore[arg-type]
        (lambda: router().remove_worker(True, now_ms=0), "`worker` is True"),
        (lambda: router().dump(now_ms=-1), "`now_ms`: -1 ms is not a time"),
        (lambda: router().dump(now_ms=float("nan")), "`now_ms`: NaN ms is not a time"),
        (lambda: router().route("a", now_ms=0), "give either `tokens` or `block_hashes`"),
        (lambda: router().route("a", [1], block_hashes=[1], now_ms=0), "`tokens` cannot be combined"),
        (lambda: router().route("a", [1], num_tokens=1, now_ms=0), "`tokens` cannot be combined"),
        (lambda: router().route("a", num_tokens=1, now_ms=0), "give either `tokens` or `block_hashes`"),
        (lambda: router().route("a", block_hashes=[1], now_ms=0), "`block_hashes` need `num_tokens`"),
        (lambda: router().route("a", block_hashes=[1], num_tokens=16, lora_name="x", now_ms=0), "`lora_name`"),
        (lambda: router().route("a", block_hashes=[2**64], num_tokens=16, now_ms=0), "`block_hashes`: "),
        (lambda: router().route("a", [-1], now_ms=0), "`tokens`: "),
        (lambda: router().route("a", ["x"], now_ms=0), "`tokens`: "),  # type: ignore[list-item]
        (lambda: router().route("a", 3, now_ms=0), "`tokens`: "),  # type: ignore[arg-type]
        (lambda: router().route("a", [1], phase="encode", now_ms=0), '`phase` is "encode"'),  # type: ignore[arg-type]
        (lambda: router().route("a", [1], pinned=(1, 2, 3), now_ms=0), "`pinned` is (1, 2, 3)"),  # type: ignore[arg-type]
        (lambda: router().route("a", [1], pinned=-1, now_ms=0), "`pinned` is -1"),
        (lambda: router().free("a", phase="encode", now_ms=0), '`phase` is "encode"'),  # type: ignore[arg-type]
        (lambda: router().route("a", [1], allowed_workers=[-1], now_ms=0), "`allowed_workers`: "),
        (lambda: router().route("a", [1], priority_jump=float("inf"), now_ms=0), "`priority_jump` is inf"),
        (lambda: router().route("a", [1], expected_output_tokens=-1, now_ms=0), "`expected_output_tokens`: "),
        (lambda: router().route("a", [1], overrides={"router_temperature": -1}, now_ms=0), "is -1"),
        (lambda: router().route("a", [1], overrides="{", now_ms=0), "`overrides`: "),
        (lambda: router().apply_events("[", now_ms=0), "`events`: "),
        (lambda: router().apply_events([3], now_ms=0), "event 0: "),  # type: ignore[list-item]
        (lambda: router().apply_events([object()], now_ms=0), "`events`: "),  # type: ignore[list-item]
        (lambda: router().apply_events([stored(0, PROMPT), {"worker_id": 1}], now_ms=0), "event 1: missing field"),
        (lambda: router().record_output("a", -1, now_ms=0), "`generated_tokens` is -1"),
        (lambda: servecast.block_hashes([1], 0), "`block_size` is 0"),
        (lambda: servecast.block_hashes([-1], 4), "`tokens`: "),
        (lambda: servecast.sequence_hashes([2**64]), "`block_hashes`: "),
    ],
)
def test_arguments_that_cannot_be_used(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ours: ours.route("a", PROMPT, now_ms=0), "request `a` is routed already in the aggregated phase"),
        (lambda ours: ours.book("a", 0, PROMPT, now_ms=0), "request `a` is routed already in the aggregated phase"),
        (lambda ours: ours.mark_prefill_complete("b", now_ms=0), "request `b` is not booked on any worker"),
        (lambda ours: ours.record_output("b", 1, now_ms=0), "request `b` is not booked on any worker"),
        (lambda ours: ours.route("b", [1], pinned=7, now_ms=0), "worker 7 is not registered"),
        (lambda ours: ours.route("b", [1], pinned=(0, 1), now_ms=0), "worker 0 has the ranks 0 to 0, not 1"),
        (lambda ours: ours.book("b", 7, PROMPT, now_ms=0), "worker 7 is not registered"),
        (lambda ours: ours.route("b", [1], pinned=0, allowed_workers=[1], now_ms=0), "pinned to a worker that it does"),
        (lambda ours: ours.route("b", [1], allowed_workers=[7], now_ms=0), "no decode worker among those"),
        (lambda ours: ours.route("b", [1], phase="prefill", now_ms=0), "no prefill worker is registered"),
        (lambda ours: ours.route("b", block_hashes=[1, 2], num_tokens=31, now_ms=0), "2 block hashes, but 31 tokens"),
        (lambda ours: ours.select([1], allowed_workers=[], now_ms=0), "no decode worker among those"),
        (lambda ours: ours.potential_loads(block_hashes=[1], num_tokens=1, now_ms=0), "1 block hashes, but 1 tokens"),
        (lambda ours: ours.remove_worker(7, now_ms=0), "worker 7 is not registered"),
        (lambda ours: ours.register_worker(7, dp_size=5000, now_ms=0), "worker 7 has 5000 ranks"),
        (lambda ours: ours.register_worker(0, role="prefill", now_ms=0), "worker 0 is a decode worker"),
    ],
)
def test_what_is_refused_changes_nothing(call: Callable[[Router], object], message: str) -> None:
    ours = router()
    ours.route("a", PROMPT, now_ms=0)
    before = ours.dump(now_ms=0)
    with pytest.raises(RouterError) as caught:
        call(ours)
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert ours.dump(now_ms=0) == before
    # The name of a refused request is free.
    ours.route("b", PROMPT, now_ms=0)


def test_nobody_serves_without_workers() -> None:
    with pytest.raises(RouterError, match="request `a`: no decode worker is registered"):
        Router(block_size=16).route("a", PROMPT)


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["route", "prefill", "free", "store", "remove", "register"]),
        st.integers(0, 9),
        st.integers(0, 3),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(CALLS, st.sampled_from(["fcfs", "lcfs", "wspt"]))
def test_every_request_is_in_one_place(calls: list[tuple[str, int, int]], policy: Any) -> None:
    ours = router(2, config={"router_queue_policy": policy})
    booked: dict[str, int] = {}
    waiting: set[str] = set()

    def admit(selections: list[Selection]) -> None:
        for one in selections:
            waiting.remove(one.request_id)
            booked[one.request_id] = one.worker

    for now, (call, number, worker) in enumerate(calls):
        name, prompt = str(number), [number] * (10 * number + 8)
        present = worker in {each.worker for each in ours.workers}
        if call == "route" and name not in booked and name not in waiting and ours.workers:
            decision = ours.route(name, prompt, now_ms=now)
            waiting.add(name)
            admit([decision.selection] if decision.selection else [])
            admit(decision.admitted)
        elif call == "prefill" and name in booked:
            admit(ours.mark_prefill_complete(name, now_ms=now))
        elif call == "free":
            booked.pop(name, None)
            waiting.discard(name)
            admit(ours.free(name, now_ms=now))
        elif call == "store":
            assert ours.apply_events(stored(worker, prompt), now_ms=now).applied == present
        elif call == "register":
            changed = ours.register_worker(worker, max_num_batched_tokens=16, now_ms=now)
            assert changed.forgotten == changed.refused == []
            admit(changed.admitted)
        elif call == "remove" and present:
            changed = ours.remove_worker(worker, now_ms=now)
            gone = sorted(one for one, where in booked.items() if where == worker)
            assert sorted(name for name, _ in changed.forgotten) == gone
            booked = {one: where for one, where in booked.items() if where != worker}
            waiting.difference_update(name for name, _ in changed.refused)
            admit(changed.admitted)
        assert ours.queued_requests == len(waiting)
        counts = Counter(booked.values())
        assert {load[0]: load[1] for load in loads(ours)} == {each.worker: counts[each.worker] for each in ours.workers}
