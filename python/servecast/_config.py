"""Settings of engines and routers, checked as the command line checks them.

``_config.pyi`` has every setting with its type; ``python/tools/stubs.py`` writes it from the JSON Schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from servecast import _native
from servecast._errors import ConfigError

FUNCTION = "callable:function"
"""What stands for a function where settings are checked."""

__all__ = ["EngineArgs", "KvRouterConfig", "MockEngineArgs", "RouterConfigOverride"]

_Self = TypeVar("_Self", bound="_Settings")


class _Settings:
    """Settings that were given, in front of the defaults of all others; immutable."""

    _KIND: ClassVar[str]
    _DEFAULTS: ClassVar[dict[str, Any]]
    _FUNCTIONS: ClassVar[frozenset[str]] = frozenset()
    """Settings that may also be functions, which have no JSON value."""
    __slots__ = ("_all", "_given")

    _given: dict[str, Any]
    _all: dict[str, Any]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._DEFAULTS = json.loads(_native.default_settings(cls._KIND))
        for key in cls._DEFAULTS:
            setattr(cls, key, property(lambda self, key=key: self._all[key]))

    def __init__(self, **settings: Any) -> None:
        functions = {key: value for key, value in settings.items() if key in self._FUNCTIONS and callable(value)}
        try:
            given = json.dumps({**settings, **dict.fromkeys(functions, FUNCTION)}, default=plain, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{type(self).__name__}: {error}") from None
        self._all = {**json.loads(_native.check_settings(self._KIND, given)), **functions}
        self._given = {**json.loads(given), **functions}

    @classmethod
    def from_json(cls: type[_Self], text: str) -> _Self:
        """Read settings from a JSON object; those that are absent have their defaults."""
        try:
            settings = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{cls.__name__}: no JSON object: {error}") from None
        if not isinstance(settings, dict):
            _native.check_settings(cls._KIND, text)
        return cls(**settings)

    def to_json(self) -> str:
        """Return what was given as a JSON object, from which ``from_json`` makes an equal one.

        Raises:
            ConfigError: A function was given, which has no JSON value.
        """
        for key in self._FUNCTIONS & self._given.keys():
            if callable(self._given[key]):
                raise ConfigError(f"{type(self).__name__}: `{key}` is a function, which has no JSON value")
        return json.dumps(self._given)

    def to_dict(self, *, defaults: bool = False) -> dict[str, Any]:
        """Return what was given; with ``defaults``, all settings."""
        settings = self._all if defaults else self._given
        return {key: value if callable(value) else _copied(value) for key, value in settings.items()}

    def copy(self: _Self, **changes: Any) -> _Self:
        """Return a copy, with some settings changed."""
        return type(self)(**{**self._given, **changes})

    def __iter__(self) -> Iterator[str]:
        return iter(self._DEFAULTS)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        assert isinstance(other, _Settings)
        return self._meant() == other._meant()

    def __hash__(self) -> int:
        return hash((self._KIND, json.dumps(self._meant(), sort_keys=True, default=hash)))

    def _meant(self) -> dict[str, Any]:
        """Return what was given, without nothing for settings that are nothing by default.

        A default that is given is more than one that is not: presets and models lie under what was given.
        """
        return {
            key: self._all.get(key, value)
            for key, value in self._given.items()
            if value is not None or self._DEFAULTS.get(key) is not None
        }

    def __repr__(self) -> str:
        given = ", ".join(f"{key}={value!r}" for key, value in self._given.items())
        return f"{type(self).__name__}({given})"

    def __reduce__(self: _Self) -> tuple[Any, ...]:
        return (_made, (type(self), self._given))


def _copied(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _made(cls: type[_Self], given: dict[str, Any]) -> _Self:
    return cls(**given)


def plain(value: Any) -> Any:
    """Return the JSON value of what ``json`` does not know: settings, mappings, paths, NumPy's scalars and arrays."""
    if isinstance(value, _Settings):
        return value.to_dict()
    if isinstance(value, Mapping):
        return dict(value)
    for method in ("__fspath__", "tolist"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"{value!r} is a {type(value).__name__}, which has no JSON value")


class EngineArgs(_Settings):
    """Settings of an engine, by the names of vLLM and of Dynamo's ``MockEngineArgs``.

    ``latency`` may also be a function from a ``Batch`` to milliseconds.
    """

    __slots__ = ()
    _KIND = "engine"
    _FUNCTIONS = frozenset(["latency"])


class KvRouterConfig(_Settings):
    """Settings of the KV-aware router, by Dynamo's names."""

    __slots__ = ()
    _KIND = "router"


class RouterConfigOverride(_Settings):
    """Settings of the router for one request; those that are absent stay as they are."""

    __slots__ = ()
    _KIND = "override"


MockEngineArgs = EngineArgs
