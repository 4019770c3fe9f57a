"""`--backend NAME=WHO`: who answers a guard's questions, and what came of them at the end of a run."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from guardpool.backends import McpServer, Recorder, Replies
from guardpool.backends.mcp_server import MAX_QUESTIONS
from guardpool.batch.files import Output
from guardpool.cli.files import pairs
from guardpool.cli.render import UsageError, complain
from guardpool.errors import CallerError
from guardpool.guard import Backend
from guardpool.outcomes import Outcome
from guardpool.printable import printable
from guardpool.stats import ToolStats

_NOBODY = "none"
_FUNCTION = "python:"
_SERVER = "mcp:"
_URL = re.compile(r"https?:|[a-z][a-z0-9+.-]*://", re.IGNORECASE | re.ASCII)
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
        if not what.strip():
            raise CallerError("neither a command nor a URL is named: write it as mcp:COMMAND or mcp:URL")
        if _URL.match(what):
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
    """The backends of a run's guards.

    Args:
        options: `NAME=WHO` each: a file of replies, `mcp:COMMAND` or `mcp:URL`, `python:MODULE:FUNCTION`, or `none`.
        record: where the answers are kept; None: they are not.
        allow, env, token: `NAME=...` each, for live servers; see `ServerOptions`.
        max_questions: how many different questions a guard may ask a live server; None: as many as it may as a rule.
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
        record: Output | None = None,
        *,
        allow: Sequence[str] = (),
        env: Sequence[str] = (),
        token: Sequence[str] = (),
        max_questions: int | None = None,
        timeout_s: float,
    ) -> None:
        self._servers: list[McpServer] = []
        self._recorder: Recorder | None = None
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
            about = ServerOptions(
                allowed.get(name), variables.get(name), tokens.get(name), max_questions or MAX_QUESTIONS, timeout_s
            )
            backend = backend_of(f"{name}=", who, about)
            if isinstance(backend, McpServer):
                self._servers.append(backend)
            self.by_name[name] = backend
        if max_questions is not None and not self._servers:
            raise UsageError(f"--max-questions {max_questions}: no backend is a live server (mcp:...)")
        if record is not None:
            asked = [(name, backend) for name, backend in self.by_name.items() if backend is not None]
            if len(asked) != 1:
                raise UsageError(
                    "--record-backend keeps the answers of one backend: give exactly one --backend that is not none"
                )
            ((name, backend),) = asked
            self.by_name[name] = self._recorder = Recorder(backend, record.fd)

    @property
    def record_failure(self) -> OSError | None:
        """Why answers are not recorded any more; None: they all are, or none are to be."""
        return None if self._recorder is None else self._recorder.failure

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

    def tell(
        self, asked: Mapping[str, Mapping[str, ToolStats]], unanswered: Mapping[str | None, Outcome], on_failure: str
    ) -> None:
        """One line for each guard that asked its backend, or would have if it had one.

        Args:
            asked: what the guards asked (`PoolStats.backend`).
            unanswered: the first outcome of each guard some of whose questions had no answer.
            on_failure: what became of those outcomes.
        """
        for name, tools in asked.items():
            if not any(tool.asked for tool in tools.values()):
                continue
            what = answers_in_words(tools.values(), has_backend=self.by_name.get(name) is not None)
            if any(tool.failed for tool in tools.values()):
                what += f": {self._consequences(name, unanswered.get(name), on_failure)}"
            complain(f"guard {name} asked its backend {what}")

    def _consequences(self, name: str, example: Outcome | None, on_failure: str) -> str:
        """What became of the jobs whose guard asked in vain, what to do, and the first such question."""
        words = "those jobs have no label" if on_failure == "withhold" else "it labelled without knowing"
        if self.by_name.get(name) is None:
            words += "; add --backend (see guardpool label --help)"
        if example is not None and example.backend.missing:
            question = example.backend.missing[0]
            asked = f"{question.tool} {msgspec.json.encode(question.args).decode()}"
            words += f"; the first: {printable(asked, _QUESTION_CHARS)}"
        return words


def answers_in_words(tools: Collection[ToolStats], *, has_backend: bool = True) -> str:
    """How often a guard asked, and was answered, as what follows `asked its backend`."""
    total = sum(tool.asked for tool in tools)
    failed = sum(tool.failed for tool in tools)
    times = "once" if total == 1 else f"{total:,} times"
    if not has_backend:
        return f"{times}, and has none"
    if failed:
        return f"{times}, {failed:,} without an answer"
    return f"{times}, and was answered {'' if total == 1 else 'each time'}".rstrip()


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
