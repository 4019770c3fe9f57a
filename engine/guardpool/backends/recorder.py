"""Keeps what a backend answered, as a table of replies for later runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from guardpool.backends.replies import question_of
from guardpool.contract.inputs import canonical

_encode = msgspec.json.Encoder().encode


class Recorder:
    """Asks a backend and writes each new question with its answer, or its error, to a file that only its user can read.

    Args:
        backend: who answers.
        path: the file; it must not exist.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, backend: Callable[[str, Any], Any], path: str | os.PathLike[str]) -> None:
        self._backend = backend
        self._known: set[bytes] = set()
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def __call__(self, tool: str, args: Any) -> Any:
        """What the backend answers, or raises."""
        try:
            answer = self._backend(tool, args)
        except Exception as error:
            self._keep(tool, args, b'"error":' + _encode(str(error) or type(error).__name__))
            raise
        self._keep(tool, args, b'"result":' + _encode(answer))
        return answer

    def _keep(self, tool: str, args: Any, answer: bytes) -> None:
        raw = _encode(args)
        question = question_of(tool, raw)
        with self._lock:
            if question in self._known or self._fd < 0:
                return
            self._known.add(question)
            line = b'{"tool":%b,"args":%b,%b}\n' % (_encode(tool), canonical(raw), answer)
            while line:
                line = line[os.write(self._fd, line) :]

    def close(self) -> None:
        """Close the file. What is asked later is answered and not kept."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
