"""Questions that need not be asked: their replies are in memory that the supervisor writes and this process only reads."""

from __future__ import annotations

import mmap
import time

import msgspec

from guardpool.contract.inputs import canonical
from guardpool.errors import ContractError
from guardpool.protocol.reply_memory import FAILURE, KnownOf, key_of, read

# Questions as guards spell them, with their keys: each takes some 400 bytes, and those that are longer are not kept.
_MAX_KEPT = 16_384
_MAX_KEPT_BYTES = 1024
_NO_REPLY = FAILURE, b"the table of replies does not hold this question"

_encode = msgspec.json.Encoder().encode


class KnownReplies:
    """The replies of one backend.

    Args:
        memory: mapped for reading.
        known: where they are.
    """

    def __init__(self, memory: mmap.mmap, known: KnownOf) -> None:
        self._memory = memory
        self._areas = [area for area in (known.table, known.kept) if area is not None]
        self._is_complete = known.is_complete
        self._questions: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}

    def question(self, question: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        """The question's key, and its arguments in canonical form.

        Args:
            question: a tool, known to be UTF-8, and its arguments, known to be JSON.
        """
        return self._questions.get(question) or self._canonical(*question)

    def reply(self, key: bytes) -> tuple[int, bytes] | None:
        """The reply and its kind, `RESULT` or `FAILURE`; None: the backend has to be asked."""
        now_ns = time.monotonic_ns()
        for area in self._areas:
            found = read(self._memory, area, key, now_ns)
            if found is not None:
                return found
        return _NO_REPLY if self._is_complete else None

    def _canonical(self, tool: bytes, args: bytes) -> tuple[bytes, bytes]:
        try:
            text = canonical(args)
        except ContractError:  # a number that is too large for a double: no table holds that
            text = args
        if text == args:
            text = args
        question = key_of(_encode(tool.decode()) + text), text
        if len(args) <= _MAX_KEPT_BYTES:
            if len(self._questions) >= _MAX_KEPT:
                self._questions.clear()
            self._questions[tool, args] = question
        return question
