"""Settings as objects."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servecast import EngineArgs, KvRouterConfig, MockEngineArgs, RouterConfigOverride

MADE: list[Any] = [
    EngineArgs(block_size=16, max_num_seqs=None, latency="polynomial"),
    EngineArgs(engine_type="sglang", sglang={"page_size": 4}),
    KvRouterConfig(router_queue_threshold=None, router_queue_policy="wspt"),
    RouterConfigOverride(assume_kv_reuse=False),
]


@pytest.mark.parametrize("made", MADE)
def test_settings_survive_json_copy_and_pickle(made: Any) -> None:
    for same in (type(made).from_json(made.to_json()), made.copy(), copy.copy(made), pickle.loads(pickle.dumps(made))):
        assert same == made and hash(same) == hash(made) and repr(same) == repr(made)
    assert eval(repr(made)) == made
    assert made != type(made)() and made != 3


def test_settings_have_all_values_as_attributes() -> None:
    args = EngineArgs(block_size=16)
    assert (args.block_size, args.num_gpu_blocks, args.engine_type) == (16, 16384, "vllm")
    assert args.to_dict() == {"block_size": 16}
    assert set(args.to_dict(defaults=True)) == set(args)
    assert args.copy(num_gpu_blocks=9).to_dict() == {"block_size": 16, "num_gpu_blocks": 9}
    assert MockEngineArgs is EngineArgs


def test_a_default_that_is_given_is_more_than_none() -> None:
    # A preset lies under what was given, and so does what a latency model says of the KV cache.
    assert EngineArgs(num_gpu_blocks=16384) != EngineArgs()
    assert EngineArgs(latency=None) == EngineArgs() and EngineArgs(max_num_seqs=None) != EngineArgs()
    assert EngineArgs(speedup_ratio=2) == EngineArgs(speedup_ratio=2.0)
    assert EngineArgs() == EngineArgs() != KvRouterConfig()


def test_settings_do_not_change() -> None:
    args = EngineArgs(sglang={"page_size": 4}, engine_type="sglang")
    with pytest.raises(AttributeError):
        args.block_size = 3  # type: ignore[misc]
    args.to_dict()["sglang"]["page_size"] = 9
    assert json.loads(args.to_json())["sglang"]["page_size"] == 4


@given(st.text())
def test_any_text_is_settings_or_a_value_error(text: str) -> None:
    for kind in (EngineArgs, KvRouterConfig, RouterConfigOverride):
        try:
            kind.from_json(text)
        except ValueError:
            continue
        assert isinstance(json.loads(text), dict)
