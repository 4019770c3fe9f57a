"""Keeps what a backend answered, as a table of replies for later runs."""

from __future__ import annotations

import os
import threading
from typing import Any

import msgspec

from guardpool.backends.asking import ask, close
from guardpool.backends.replies import GuardRefused, line_of
from guardpool.contract.inputs import canonical
from guardpool.guard import Backend

_encode = msgspec.json.Encoder().encode
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Recorder:
    """Asks a backend and writes each new question with its answer, or its error, to a file.

    Args:
        backend: who answers.
        file: a path, where nothing may be yet, of a file that only its user will be able to read; or a descriptor that is
            open for writing, which stays the caller's to close.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, backend: Backend, file: str | os.PathLike[str] | int) -> None:
        self._backend = backend
        self._known: set[tuple[str, bytes]] = set()
        self._lock = threading.Lock()
        self._is_open = True
        self._is_ours = not isinstance(file, int)
        self._fd = file if isinstance(file, int) else os.open(file, _NEW_FILE, 0o600)

    def __call__(self, tool: str, args: Any) -> Any:
        """What the backend answers, or raises."""
        try:
            answer = ask(self._backend, tool, args)
        except GuardRefused:
            raise  # that says nothing about the question
        except Exception as error:
            self._keep(tool, args, None, str(error) or type(error).__name__)
            raise
        self._keep(tool, args, _encode(answer), None)
        return answer

    def _keep(self, tool: str, args: Any, result: bytes | None, error: str | None) -> None:
        question = tool, canonical(_encode(args))
        with self._lock:
            if question in self._known or not self._is_open:
                return
            self._known.add(question)
            line = line_of(*question, result=result, error=error)
            while line:
                line = line[os.write(self._fd, line) :]

    def close(self) -> None:
        """Write no more: what is asked later is answered and not kept. Closes the backend, too."""
        with self._lock:
            if self._is_open and self._is_ours:
                os.close(self._fd)
            self._is_open = False
        close(self._backend)
