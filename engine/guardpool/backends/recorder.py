"""Keeps what a backend answered, as a table of replies for later runs."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from hashlib import blake2b
from typing import Any

import msgspec

from guardpool.backends.asking import ask, check_backend, close, in_json
from guardpool.backends.replies import GuardRefused, line_of
from guardpool.contract.inputs import canonical
from guardpool.guard import Backend

_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("guardpool.backend")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Recorder:
    """Asks a backend and writes each new question with its answer, or its error, to a file.

    If the file cannot be written any more, e.g. because the disk is full, questions are answered as before and no longer kept:
    `failure` has the reason, it is logged, and what was kept until then is there in whole lines.

    Args:
        backend: who answers.
        file: a path, where nothing may be yet, of a file that only its user will be able to read; or a descriptor that is
            open for writing, which stays the caller's to close.

    Attributes:
        failure: why what is asked is not kept any more; None: all of it is.

    Raises:
        CallerError: the backend cannot be called.
        OSError: the file cannot be made.
    """

    def __init__(self, backend: Backend, file: str | os.PathLike[str] | int) -> None:
        check_backend(backend)
        self._backend = backend
        self._known: set[bytes] = set()  # digests of the questions that are in the file
        self._lock = threading.Lock()
        self._is_open = True
        self.failure: OSError | None = None
        self._is_ours = not isinstance(file, int)
        self._fd = file if isinstance(file, int) else os.open(file, _NEW_FILE, 0o600)

    def __call__(self, tool: str, args: Any) -> Any:
        """What the backend answers, or raises."""
        try:
            answer = ask(self._backend, tool, args)
            result = in_json(answer)
        except GuardRefused:
            raise  # that says nothing about the question
        except Exception as error:
            said = str(error).encode("utf-8", "replace").decode()
            self._keep(tool, args, None, said or type(error).__name__)
            raise
        self._keep(tool, args, result, None)
        return answer

    def _keep(self, tool: str, args: Any, result: bytes | None, error: str | None) -> None:
        text = canonical(_encode(args))
        # A guard may ask for a million things that are long.
        question = blake2b(_encode(tool) + text, digest_size=16).digest()
        with self._lock:
            if question in self._known or not self._is_open or self.failure is not None:
                return
            try:
                self._write(line_of(tool, text, result=result, error=error))
                self._known.add(question)
                return
            except OSError as failure:
                self.failure = failure
                why = failure.strerror or failure
        _log.warning("answers of a backend are not recorded any more: %s", why)

    def _write(self, line: bytes) -> None:
        """Write a line, or nothing of it: a part of one would spoil the table."""
        written = 0
        try:
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except BaseException:
            if written:
                with contextlib.suppress(OSError):  # it is no file
                    os.ftruncate(self._fd, os.lseek(self._fd, -written, os.SEEK_CUR))
            raise

    def close(self) -> None:
        """Write no more: what is asked later is answered and not kept. Closes the backend, too."""
        try:
            with self._lock:
                is_open, self._is_open = self._is_open, False
                if is_open and self._is_ours:
                    os.close(self._fd)
        finally:
            close(self._backend)
