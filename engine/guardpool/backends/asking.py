"""Asking a backend, which may be a function or an async function, saying whose question it is, and letting it go."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Awaitable, Iterable
from contextvars import ContextVar
from typing import Any

from guardpool.guard import Backend

# The name of the guard whose question a backend is being asked; None outside a pool. It reaches backends that other backends
# wrap, and async ones, whatever their arguments are.
GUARD_THAT_ASKS: ContextVar[str | None] = ContextVar("guard_that_asks", default=None)


def ask(backend: Backend, tool: str, args: Any) -> Any:
    """What the backend answers; what an async function gives is waited for. Raises what the backend raises.

    It is called on a thread of ours, so that no event loop of the caller's is disturbed.
    """
    answer = backend(tool, args)
    return _awaited(answer) if hasattr(answer, "__await__") else answer


def _awaited(answer: Awaitable[Any]) -> Any:
    import asyncio  # here: it takes as long to import as all the rest

    async def wait() -> Any:
        return await answer

    return asyncio.run(wait())


def hold(backends: Iterable[Backend]) -> None:
    """A pool that is about to start has these backends, each named once."""
    with _lock:
        _pools_by_backend.update(map(id, backends))


def let_go(backends: Iterable[Backend]) -> None:
    """The pool that held these backends is closed. One that no other pool has ends what it runs, e.g. a server; it starts that
    again when it is asked again. A backend takes part in that by a method `let_go`."""
    for backend in backends:
        with _lock:
            _pools_by_backend[id(backend)] -= 1
            is_last = _pools_by_backend[id(backend)] <= 0
            if is_last:
                del _pools_by_backend[id(backend)]
        if is_last:
            pass_on(backend)


def pass_on(backend: Backend) -> None:
    """Let the backend go that another one stands around."""
    end = getattr(backend, "let_go", None)
    if callable(end):
        end()


_lock = threading.Lock()
_pools_by_backend: Counter[int] = Counter()
