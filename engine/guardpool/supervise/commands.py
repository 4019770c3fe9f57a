"""What the supervisor's thread can be told by other threads. It carries commands out in the order in which they came."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Union

from guardpool.supervise.owner import Owner
from guardpool.supervise.scheduler import Task
from guardpool.supervise.sources import Flight


class Queue(NamedTuple):
    """Jobs of one owner, to stand behind those that it queued before. `taken` is called when they are queued, before they are
    sent; the supervisor's thread calls it, so it may not block."""

    owner: Owner
    tasks: list[Task]
    taken: Callable[[], None] | None = None


class Resume(NamedTuple):
    """The owner's consumer keeps up again; or, with an index, only jobs from that index on still wait."""

    owner: Owner
    from_index: int | None


class Cancel(NamedTuple):
    """Every queued job of the owner gets a `cancelled` outcome."""

    owner: Owner


class Drop(NamedTuple):
    """These jobs of the owner, by their indexes, get a `cancelled` outcome if they are queued."""

    owner: Owner
    indexes: frozenset[int]


class Forget(NamedTuple):
    """The owner is gone: it is not told of the pool's end."""

    owner: Owner


class BackendAnswered(NamedTuple):
    """A backend call came to its end: `result` is JSON, or `error` says why the call failed. `is_for_all`: every guard that
    asks the same would be told the same."""

    flight: Flight
    result: bytes | None
    error: str | None
    is_for_all: bool = True


class Ask(NamedTuple):
    """Ask a guard's backend, as if the guard had asked: `tool` with canonical `args`. `told` gets the reply as JSON, or None if
    there is none; the supervisor's thread calls it, so it may not block."""

    guard: int
    tool: str
    args: bytes
    told: Callable[[bytes | None], None]


class Close(NamedTuple):
    """Finish what was handed in, then end; past `at` (monotonic seconds) end all the same. The earliest `at` counts."""

    at: float


class Kill(NamedTuple):
    """End now."""


class TurnAway(NamedTuple):
    """The pool is over: every owner is told so, and its queued jobs are cancelled."""


Command = Union[Queue, Resume, Cancel, Drop, Forget, BackendAnswered, Ask, Close, Kill, TurnAway]
