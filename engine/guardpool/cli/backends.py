"""`--backend NAME=WHO`: who answers a guard's questions, and what came of them at the end of a run."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from guardpool.backends import Recorder, Replies
from guardpool.cli.files import FileError, pairs
from guardpool.cli.render import UsageError, complain
from guardpool.guard import Guard
from guardpool.printable import printable

_NOBODY = "none"
_FUNCTION = "python:"
_SERVER = "mcp:"
_QUESTION_CHARS = 120

Backend = Callable[[str, Any], Any]


class Backends:
    """The backends of a run's guards. `close` it.

    Args:
        options: `NAME=WHO` each: a file of replies, `python:MODULE:FUNCTION`, or `none`.
        record: a file to keep the answers in; None: they are not kept.
        guards: what gets them; their `backend` is set.

    Raises:
        UsageError: an option does not have that form, or names no guard.
        RepliesError, FileError: a file cannot be used; the message names it.
    """

    def __init__(self, options: Sequence[str], record: str | None, guards: Sequence[Guard]) -> None:
        self._recorders: list[Recorder] = []
        self._asked: dict[str, _Counted] = {}
        by_name = {guard.name: guard for guard in guards}
        for name, who in pairs("--backend", "WHO", options).items():
            if name not in by_name:
                raise UsageError(f"--backend {name}={who}: no guard is called {name!r}: add --guard {name}=FILE.wasm")
            backend = backend_of(name, who)
            if backend is not None:
                counted = self._asked[name] = _Counted(backend)
                by_name[name].backend = counted
        if record is not None:
            self._record(record, by_name)

    def _record(self, path: str, guards: dict[str, Guard]) -> None:
        if len(self._asked) != 1:
            raise UsageError(
                "--record-backend keeps the answers of one backend: give exactly one --backend that is not none"
            )
        ((name, counted),) = self._asked.items()
        try:
            recorder = Recorder(counted, path)
        except FileExistsError as error:
            raise FileError(
                f"{path}: it exists already: remove it, or name another file after --record-backend"
            ) from error
        except OSError as error:
            raise FileError.of(path, "the answers cannot be kept", error) from error
        guards[name].backend = recorder
        self._recorders.append(recorder)

    def tell(self) -> None:
        """One line for each guard that asked its backend."""
        for name, counted in self._asked.items():
            if counted.asked:
                complain(f"guard {name} {counted}")

    def close(self) -> None:
        """Close the files."""
        for recorder in self._recorders:
            recorder.close()


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
            return self._backend(tool, args)
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
