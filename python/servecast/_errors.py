"""What servecast raises."""

from __future__ import annotations

__all__ = ["ConfigError", "ReplayError", "RouterError", "ServecastError", "TraceError"]


class ServecastError(Exception):
    """Something that servecast refuses, or that went wrong in it.

    Attributes:
        message: What, where, what was found, and what would be right.
        hint: What can be done about it, if there is something to say.
    """

    message: str
    hint: str | None

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class ConfigError(ServecastError, ValueError):
    """A setting, or several that do not go together."""


class TraceError(ServecastError, ValueError):
    """A trace that cannot be read or replayed."""


class ReplayError(ServecastError, RuntimeError):
    """A run that cannot go on."""


class RouterError(ServecastError, ValueError):
    """A request that a router cannot serve, or that it does not know."""


# Tracebacks show where users import them from.
for _class in (ServecastError, ConfigError, TraceError, ReplayError, RouterError):
    _class.__module__ = "servecast"
