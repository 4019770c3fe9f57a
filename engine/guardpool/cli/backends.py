"""`--backend NAME=WHO`: who answers a guard's questions, and what came of them at the end of a run."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import msgspec

from guardpool.backends import Recorder, Replies
from guardpool.backends.asking import ask
from guardpool.cli.files import Output, pairs
from guardpool.cli.render import UsageError, complain
from guardpool.guard import Backend
from guardpool.printable import printable

_NOBODY = "none"
_FUNCTION = "python:"
_SERVER = "mcp:"
_QUESTION_CHARS = 120


class Backends:
    """The backends of a run's guards, which count what they are asked.

    Args:
        options: `NAME=WHO` each: a file of replies, `python:MODULE:FUNCTION`, or `none`.
        record: where the answers are kept; None: they are not.

    Attributes:
        by_name: the backend of each guard that is named, or None.

    Raises:
        UsageError: an option does not have that form.
        RepliesError: a table cannot be used; the message names it.
    """

    def __init__(self, options: Sequence[str], record: Output | None) -> None:
        self._counted: dict[str, _Counted] = {}
        self.by_name: dict[str, Backend | None] = {}
        for name, who in pairs("--backend", "WHO", options).items():
            backend = backend_of(name, who)
            if backend is not None:
                backend = self._counted[name] = _Counted(backend)
            self.by_name[name] = backend
        if record is not None:
            if len(self._counted) != 1:
                raise UsageError(
                    "--record-backend keeps the answers of one backend: give exactly one --backend that is not none"
                )
            ((name, counted),) = self._counted.items()
            self.by_name[name] = Recorder(counted, record.fd)

    def tell(self) -> None:
        """One line for each guard that asked its backend."""
        for name, counted in self._counted.items():
            if counted.asked:
                complain(f"guard {name} {counted}")


class _Counted:
    """A backend that counts what it is asked."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self.asked = self.failed = 0
        self._first_failed = ""

    def __call__(self, tool: str, args: Any) -> Any:
        with self._lock:
            self.asked += 1
        try:
            return ask(self._backend, tool, args)
        except BaseException as error:
            with self._lock:
                self.failed += 1
                question = f"{tool} {msgspec.json.encode(args).decode()}"
                self._first_failed = self._first_failed or f"{printable(question, _QUESTION_CHARS)}: {error}"
            raise

    def __str__(self) -> str:
        asked = f"asked its backend {self.asked:,} times"
        if not self.failed:
            return f"{asked}, and was answered each time"
        return f"{asked}, {self.failed:,} without an answer; the first: {self._first_failed}"


def backend_of(name: str, who: str) -> Backend | None:
    """The backend that an option names.

    Raises:
        UsageError: it names none.
        RepliesError: the file cannot be used.
    """
    if who == _NOBODY:
        return None
    if who.startswith(_FUNCTION):
        return _function(name, who)
    if who.startswith(_SERVER):
        raise UsageError(
            f"--backend {name}={who}: this version asks no MCP server; record its answers, or use python:MODULE:FUNCTION"
        )
    replies = Replies.load(who)
    if replies.conflicts:
        more = len(replies.conflicts) - 1
        lines = f"line {replies.conflicts[0]:,} " + (f"and {more:,} more answer" if more else "answers")
        complain(f"{who}: {lines} a question otherwise than an earlier line, which counts")
    return replies


def _function(name: str, who: str) -> Backend:
    module, colon, function = who.removeprefix(_FUNCTION).partition(":")
    if not (module and colon and function):
        raise UsageError(f"--backend {name}={who}: write it as --backend {name}=python:MODULE:FUNCTION")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        backend = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise UsageError(f"--backend {name}={who}: {type(error).__name__}: {error}") from error
    if not callable(backend):
        raise UsageError(f"--backend {name}={who}: {function} is not a function")
    result: Backend = backend
    return result
