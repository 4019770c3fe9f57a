"""Questions that need not be asked: their replies are in memory that the supervisor writes and this process only reads."""

from __future__ import annotations

import mmap
import time
from hashlib import blake2b

from guardpool.contract.inputs import canonical
from guardpool.errors import ContractError
from guardpool.protocol.reply_memory import FAILURE, NEVER, Found, KnownOf, hasher_of, key_with, read
from guardpool_worker.near_replies import NearReplies, Question

# Copies of replies that were found, for all guards of a worker together.
MAX_COPIES_BYTES = 2 * 1024 * 1024
# What a copy takes beyond its question and its reply.
_COPY_BYTES = 400

# Tools whose digests are kept; a guard may make up as many as it likes.
_MAX_TOOLS = 64

_NO_REPLY = Found(FAILURE, b"the table of replies does not hold this question", NEVER)


class Copies:
    """Replies that this process has found and checked before. To find one here takes a tenth of the time.

    That changes nothing: a reply that has not expired is never replaced by another one.
    """

    def __init__(self, max_bytes: int = MAX_COPIES_BYTES) -> None:
        self._max_bytes = self._room = max_bytes
        self._all: list[dict[Question, Found]] = []

    def new(self) -> dict[Question, Found]:
        """The copies of one guard; only `keep` adds to them."""
        self._all.append({})
        return self._all[-1]

    def keep(self, copies: dict[Question, Found], question: Question, found: Found) -> None:
        """Keep a copy. Where there is no room all are forgotten."""
        size = len(question[0]) + len(question[1]) + len(found.reply) + _COPY_BYTES
        if size > self._max_bytes // 16:
            return
        if size > self._room:
            for each in self._all:
                each.clear()
            self._room = self._max_bytes
        self._room -= size
        copies[question] = found


class KnownReplies:
    """The replies of one backend.

    Args:
        memory: mapped for reading.
        known: where they are.
        copies: of the worker.
        outlives: an instance of the guard may go after a job, and what is near it too, so that is copied as well.

    Attributes:
        near: replies near the guard's instance: what they take is kept there, all else as a copy here.
    """

    def __init__(self, memory: mmap.mmap, known: KnownOf, copies: Copies, outlives: bool = False) -> None:
        self._memory = memory
        self._areas = [area for area in (known.table, known.kept) if area is not None]
        self._is_complete = known.is_complete
        self._copies = copies
        self._mine = copies.new()
        self._outlives = outlives
        self._tools: dict[bytes, blake2b] = {}
        self.near: NearReplies | None = None

    def as_spelt(self, question: Question) -> Found | None:
        """The reply, if it was found before, or if the guard spells the question as it is kept. What comes
        from a guard's memory may be asked for unchecked: what is no question is not known. Hot."""
        found = self._mine.get(question) if self._mine else None
        if found is not None:
            if time.monotonic_ns() < found.expires_ns:
                if self._outlives and self.near is not None:
                    self.near.keep(question, found)
                return found
            del self._mine[question]
        try:
            return self._read(question, *question)
        except UnicodeDecodeError:
            return None

    def find(self, question: Question) -> tuple[Found | None, bytes]:
        """The reply to a question that is not known as it is spelt, or None: the backend has to be asked; and the arguments in
        canonical form."""
        tool, args = question
        try:
            text = canonical(args)
        except ContractError:  # a number that is too large for a double: no table holds that
            text = args
        found = None if text == args else self._read(question, tool, text)
        if found is None and self._is_complete:
            found = _NO_REPLY
            self._copies.keep(self._mine, question, found)
        return found, text

    def _read(self, question: Question, tool: bytes, args: bytes) -> Found | None:
        hasher = self._tools.get(tool)
        if hasher is None:
            hasher = self._hasher(tool)
        key, now_ns = key_with(hasher, args), time.monotonic_ns()
        for area in self._areas:
            found = read(self._memory, area, key, now_ns)
            if found is not None:
                is_near = self.near is not None and self.near.keep(question, found)
                if not is_near or self._outlives:
                    self._copies.keep(self._mine, question, found)
                return found
        return None

    def _hasher(self, tool: bytes) -> blake2b:
        made = hasher_of(tool.decode())
        if len(self._tools) >= _MAX_TOOLS:
            self._tools.clear()
        self._tools[tool] = made
        return made
