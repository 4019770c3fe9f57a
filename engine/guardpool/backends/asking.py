"""Asking a backend, which may be a function or an async function, and saying whose question it is."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any

import msgspec

from guardpool.contract.values import Look, look, to_json
from guardpool.errors import CallerError
from guardpool.guard import Backend

_encode = msgspec.json.Encoder().encode

# The name of the guard whose question a backend is being asked; None outside a pool. It reaches backends that other backends
# wrap, and async ones, whatever their arguments are.
GUARD_THAT_ASKS: ContextVar[str | None] = ContextVar("guard_that_asks", default=None)

# The id of the job that the guard labels meanwhile; None while the guard starts.
JOB_THAT_ASKS: ContextVar[Any] = ContextVar("job_that_asks", default=None)


def check_backend(backend: object) -> None:
    """Make sure that something may be a backend.

    Raises:
        CallerError: it cannot be called.
    """
    if not callable(backend):
        raise CallerError(f"a backend must be callable, as backend(tool, args), not {type(backend).__name__}")


def ask(backend: Backend, tool: str, args: Any) -> Any:
    """What the backend answers; what an async function gives is waited for. Raises what the backend raises.

    It is called on a thread of ours, so that no event loop of the caller's is disturbed.
    """
    answer = backend(tool, args)
    return _awaited(answer) if hasattr(answer, "__await__") else answer


def in_json(answer: Any) -> bytes:
    """What a backend answered, as JSON, as a guard gets it.

    What JSON does not have (NaN, a date, bytes, a set) is refused with its place, as in a job: a null or a string in its place
    would be another fact.

    Raises:
        NotJson: some part of it is not JSON.
    """
    try:
        text = _encode(answer)
        if look(answer) is not Look.ODD:
            return text
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass  # the copy says which part it is
    return _encode(to_json(answer, "the answer"))


def _awaited(answer: Awaitable[Any]) -> Any:
    import asyncio  # here: it takes as long to import as all the rest

    async def wait() -> Any:
        return await answer

    return asyncio.run(wait())


def close(*backends: Backend) -> None:
    """Tell backends that they are not asked any more, those that want to know: that have a `close`. Whatever one raises, the
    others are told; what the first one raised is raised then."""
    with contextlib.ExitStack() as steps:  # last first
        for backend in reversed(backends):
            steps.callback(_close, backend)


def _close(backend: Backend) -> None:
    close_it = getattr(backend, "close", None)
    if callable(close_it):
        close_it()
