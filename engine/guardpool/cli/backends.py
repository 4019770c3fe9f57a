"""`--backend NAME=WHO`: who answers a guard's questions, and what came of them at the end of a run."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from guardpool.backends import McpServer, Recorder, Replies
from guardpool.backends.asking import ask
from guardpool.cli.files import Output, pairs
from guardpool.cli.render import UsageError, complain
from guardpool.errors import CallerError
from guardpool.guard import Backend
from guardpool.printable import printable

_NOBODY = "none"
_FUNCTION = "python:"
_SERVER = "mcp:"
_URLS = ("https:", "http:")
_QUESTION_CHARS = 120


@dataclass(frozen=True)
class ServerOptions:
    """What the command line says about one live server.

    Args:
        allow: tools that may be called although they are not read-only: `TOOL,TOOL`.
        env: environment variables that a command gets: `VAR,VAR`.
        token: the environment variable with the token for a URL.
        max_questions: how many different questions a guard may ask.
        timeout_s: how long one call may take.
    """

    allow: str | None
    env: str | None
    token: str | None
    max_questions: int
    timeout_s: float

    def server(self, who: str) -> McpServer:
        """The server behind `mcp:COMMAND...` or `mcp:URL`; it is not started.

        Raises:
            CallerError: it cannot be used.
        """
        what = who.removeprefix(_SERVER)
        allow = _listed(self.allow)
        if what.startswith(_URLS):
            if self.env is not None:
                raise CallerError("--backend-env is for a command; the token of a URL is named by --backend-token")
            return McpServer.http(
                what,
                token_env=self.token,
                allow_tools=allow,
                max_questions=self.max_questions,
                timeout_s=self.timeout_s,
            )
        if self.token is not None:
            raise CallerError("--backend-token is for a URL; the variables of a command are named by --backend-env")
        try:
            words = shlex.split(what)
        except ValueError as error:
            raise CallerError(f"the command cannot be split into words: {error}") from None
        return McpServer.stdio(
            words,
            env=_listed(self.env),
            allow_tools=allow,
            max_questions=self.max_questions,
            timeout_s=self.timeout_s,
        )

    def refuse(self) -> None:
        """The backend is not a live server. Raises UsageError if something is said about one."""
        said = {"--backend-allow": self.allow, "--backend-env": self.env, "--backend-token": self.token}
        for option, value in said.items():
            if value is not None:
                raise UsageError(f"{option} {value}: the backend is not a live server (mcp:...)")


class Backends:
    """The backends of a run's guards, which count what they are asked.

    Args:
        options: `NAME=WHO` each: a file of replies, `mcp:COMMAND` or `mcp:URL`, `python:MODULE:FUNCTION`, or `none`.
        record: where the answers are kept; None: they are not.
        allow, env, token: `NAME=...` each, for live servers; see `ServerOptions`.
        max_questions: how many different questions a guard may ask a live server.
        timeout_s: how long one call of a live server may take.

    Attributes:
        by_name: the backend of each guard that is named, or None.

    Raises:
        UsageError: an option does not have that form.
        RepliesError: a table cannot be used; the message names it.
    """

    def __init__(
        self,
        options: Sequence[str],
        record: Output | None,
        *,
        allow: Sequence[str],
        env: Sequence[str],
        token: Sequence[str],
        max_questions: int,
        timeout_s: float,
    ) -> None:
        self._counted: dict[str, _Counted] = {}
        self._servers: list[McpServer] = []
        self.by_name: dict[str, Backend | None] = {}
        who_by_name = pairs("--backend", "WHO", options)
        allowed = pairs("--backend-allow", "TOOL,TOOL", allow)
        variables = pairs("--backend-env", "VAR,VAR", env)
        tokens = pairs("--backend-token", "VAR", token)
        said = {"--backend-allow": allowed, "--backend-env": variables, "--backend-token": tokens}
        for option, names in said.items():
            for name in names.keys() - who_by_name.keys():
                raise UsageError(f"{option} {name}={names[name]}: there is no --backend {name}=mcp:...")
        for name, who in who_by_name.items():
            about = ServerOptions(allowed.get(name), variables.get(name), tokens.get(name), max_questions, timeout_s)
            backend = backend_of(f"{name}=", who, about)
            if isinstance(backend, McpServer):
                self._servers.append(backend)
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

    def connect(self) -> None:
        """Start the live servers and wait until they are ready.

        Raises:
            BackendFailed: one cannot be started; the message says which, and why.
        """
        for server in self._servers:
            server.connect()

    def close(self) -> None:
        """End the live servers."""
        for server in self._servers:
            server.close()

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


def backend_of(name: str, who: str, about: ServerOptions) -> Backend | None:
    """The backend that an option names.

    Args:
        name: what stands before WHO in the option: `NAME=` or nothing.
        who: who answers.
        about: what is said about a live server.

    Raises:
        UsageError: it names none, or what is said does not fit.
        RepliesError: the file cannot be used.
    """
    if who.startswith(_SERVER):
        try:
            return about.server(who)
        except CallerError as error:  # WHO is not repeated: there may be a password in it
            raise UsageError(f"--backend {name}{_SERVER}...: {error}") from error
    about.refuse()
    if who == _NOBODY:
        return None
    if who.startswith(_FUNCTION):
        return _function(name, who)
    replies = Replies.load(who)
    if replies.conflicts:
        more = len(replies.conflicts) - 1
        lines = f"line {replies.conflicts[0]:,} " + (f"and {more:,} more answer" if more else "answers")
        complain(f"{who}: {lines} a question otherwise than an earlier line, which counts")
    return replies


def _function(name: str, who: str) -> Backend:
    module, colon, function = who.removeprefix(_FUNCTION).partition(":")
    if not (module and colon and function):
        raise UsageError(f"--backend {name}{who}: write it as --backend {name}python:MODULE:FUNCTION")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        backend = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise UsageError(f"--backend {name}{who}: {type(error).__name__}: {error}") from error
    if not callable(backend):
        raise UsageError(f"--backend {name}{who}: {function} is not a function")
    result: Backend = backend
    return result


def _listed(words: str | None) -> list[str]:
    return [word.strip() for word in (words or "").split(",") if word.strip()]
