"""Where guards' questions are answered: their backends, with what is known of each one's answers."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from guardpool.backends.asking import close
from guardpool.backends.known import known_replies
from guardpool.backends.replies import BackendFailed
from guardpool.guard import Backend, Guard
from guardpool.printable import printable
from guardpool.protocol.reply_memory import FAILURE, RESULT, Area, KnownOf, key_of_question
from guardpool.supervise.reply_memory import Layout, Reply, ReplyMemory

# How long an answer of a backend that is asked live counts, unless the guard says otherwise: what was private yesterday may be
# public today, and the other way round.
DEFAULT_REMEMBER_S = 300.0

_log = logging.getLogger("guardpool.backend")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Waiter(msgspec.Struct):
    """A worker that waits for an answer, the number of that wait, and the index of the guard that asks."""

    worker: int
    token: int
    guard: int


class Listener(NamedTuple):
    """One who is not a worker and wants an answer: the index of the guard for which it asks, and what is called with the reply
    as JSON, or with None if there is none."""

    guard: int
    told: Callable[[bytes | None], None]


class Flight(msgspec.Struct, eq=False):
    """A question that is being asked.

    Attributes:
        guard: the index of the guard for which it is asked.
        tool, args: the question.
        waiters: the workers that wait for the answer.
        listeners: others that want to know it.
        is_given_up: nobody joins it any more: who asks the same question has it asked anew.
    """

    source: Source
    key: bytes
    guard: int
    tool: str
    args: bytes
    waiters: list[Waiter]
    is_given_up: bool = False
    listeners: list[Listener] = []


@dataclass(eq=False)
class Source:
    """A backend, and how long its answers count. Guards that have both in common share it.

    Attributes:
        backend: who is asked.
        remember_s: how long answers count, in seconds; `inf`: as long as the pool; 0: they are not kept.
        known: where workers look before they ask.
        flights: the questions that are being asked, by their keys.
        running: how many calls of the backend have not come to an end, those that were given up included.
    """

    backend: Backend
    remember_s: float
    known: KnownOf | None = None
    flights: dict[bytes, Flight] = field(default_factory=dict)
    running: int = 0

    @property
    def kept(self) -> Area | None:
        """Where answers are kept."""
        return None if self.known is None else self.known.kept


class Sources:
    """The sources of a pool's guards.

    Args:
        guards: the pool's.
        max_reply_bytes: what all answers that are kept may take, tables not counted.

    Attributes:
        by_guard: each guard's source, or None.
        memory: what is known; None: nothing, and nothing can be kept.
        fd: its descriptor; -1 without it.

    Raises:
        OSError: the machine lacks something.
    """

    def __init__(self, guards: Sequence[Guard], max_reply_bytes: int) -> None:
        sources: dict[tuple[int, float], Source] = {}
        self.by_guard: list[Source | None] = []
        for guard in guards:
            source = None
            if guard.backend is not None:
                remember_s = _seconds(guard)
                source = sources.setdefault((id(guard.backend), remember_s), Source(guard.backend, remember_s))
            self.by_guard.append(source)
        self._sources = list(sources.values())
        self.memory: ReplyMemory | None = None
        self.fd = -1
        self._remember(max_reply_bytes // max(1, len(self._sources)))

    def _remember(self, kept_bytes: int) -> None:
        """Make the memory, and write into it what tables hold."""
        layout, tables = Layout(), []
        for source in self._sources:
            if source.remember_s:
                replies, is_all = known_replies(source.backend)
                table = [_reply(question, answer) for question, answer in replies.items()]
                area = layout.table(table) if table else None
                source.known = KnownOf(area, None if is_all else layout.kept(kept_bytes), is_all)
                tables.append((source, area, table))
        if not layout.size:
            return
        try:
            self.fd, self.memory = ReplyMemory.shared(layout)
        except OSError as error:
            if error.errno != errno.EINVAL:  # before Linux 5.1 there is no such seal: everything is asked
                raise
            for source in self._sources:
                source.known = None
            return
        for source, area, table in tables:
            if area is not None and not self.memory.fill(area, table):
                source.known = KnownOf(area, None, False)

    def known_reply(self, guard: int, tool: str, args: bytes) -> bytes | None:
        """The reply to a question, if it is known and is one. Safe from any thread: a reader waits for no writer.

        Args:
            guard: the index of the guard that would ask.
            tool, args: the question, its arguments canonical.
        """
        source, memory = self.by_guard[guard], self.memory
        if source is None or source.known is None or memory is None:
            return None
        key, now_ns = key_of_question(tool, args), time.monotonic_ns()
        for area in (source.known.table, source.known.kept):
            found = None if area is None else memory.find(area, key, now_ns)
            if found is not None:
                return found[1] if found[0] == RESULT else None
        return None

    def close(self) -> None:
        """Give the memory back."""
        if self.memory is not None:
            self.memory.close()
            with contextlib.suppress(OSError):  # the caller's program closed it
                os.close(self.fd)

    def close_backends(self) -> None:
        """Tell every backend that it is not asked any more. What one raises is logged."""
        for source in self._sources:
            try:
                close(source.backend)
            except BaseException as error:  # even SystemExit: the others are to be told
                why = printable(f"{type(error).__name__}: {error}", 200)
                _log.warning("a backend could not be closed: %s", why, exc_info=True)


def _seconds(guard: Guard) -> float:
    remember = guard.remember
    if isinstance(remember, str):
        return math.inf if remember == "pool" else 0.0
    return DEFAULT_REMEMBER_S if remember is None else remember


def _reply(question: bytes, answer: bytes | BackendFailed) -> Reply:
    if isinstance(answer, BackendFailed):
        return question, FAILURE, f"{type(answer).__name__}: {answer}".encode("utf-8", "replace")
    try:
        return question, RESULT, _encode(_decode(answer))  # what the guard would get from the backend
    except Exception as error:
        return question, FAILURE, f"{type(error).__name__}: {error}".encode("utf-8", "replace")
