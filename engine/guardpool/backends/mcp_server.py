"""A live MCP server as a backend, which does not become the deputy of a guard.

Guards are strangers' code and choose tool and arguments. So only tools that cannot change anything are called, as far as the
server says so, or that the caller named; and each guard has a number of different questions. Both are held here, whatever way
leads to the server.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from guardpool.backends.asking import GUARD_THAT_ASKS
from guardpool.backends.replies import BackendFailed, question_of
from guardpool.errors import CallerError, ContractError
from guardpool.printable import printable

if TYPE_CHECKING:
    from guardpool.backends.mcp_session import Channel, Session

# Far more than the pages of any run that was measured, far less than a leak needs.
MAX_QUESTIONS = 10_000
# As long as the pool waits for a backend by default.
TIMEOUT_S = 10.0
# `npx` and `docker run` may have to fetch the server first.
START_TIMEOUT_S = 30.0
# What a server's process gets besides what was named: to be found, to find its files, and to speak the user's language.
ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR")

_INSTALL = 'run: pip install "guardpool[mcp]"'
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.25, 30.0
# A session that lived so long says nothing bad about the next one.
_GOOD_LIFE_S = 60.0
# So many different reasons why a question has no answer are logged.
_MOST_TOLD = 20
_AGAIN = " s from now"
_SHORTEST_SECRET = 6  # a shorter value is no secret, and may be a part of any word
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("guardpool.backend")


class McpServer:
    """Asks a live MCP server, through the MCP SDK (`pip install "guardpool[mcp]"`). Make it with `stdio` or `http`.

    Called as `server(tool, args)`, on any thread, several at once; it returns the whole result of the tool as JSON, also one
    with `isError`, and raises BackendFailed with one line otherwise. One session is kept for all calls. It starts with the
    first question, or by `connect`. When it fails, the next question starts another one: at once after the first failure,
    then after 0.5, 1, 2 ... 30 s, and until then questions fail at once. What the server asks back (sampling, elicitation,
    roots) is declined.

    It is closed with a pool that has it. After `close` a question starts it again. A fork of the process starts a
    server of its own. When the process is killed, a server that is a process of ours reads the end of its standard input.

    Attributes:
        name: what messages call it.
        refused: how many calls were refused: a tool that is not read-only, or one question too many.
    """

    def __init__(
        self,
        name: str,
        make_channel: Callable[[], Channel],
        *,
        allow_tools: Iterable[str],
        max_questions: int,
        timeout_s: float,
        start_timeout_s: float,
        secrets: Iterable[str],
    ) -> None:
        if isinstance(allow_tools, (str, bytes)):
            raise CallerError(f"allow_tools must be a list of names, not one name: [{allow_tools!r}]")
        for option, value in (("timeout_s", timeout_s), ("start_timeout_s", start_timeout_s)):
            if not isinstance(value, (int, float)) or not 0 < value <= 86_400:
                raise CallerError(f"{option} must be a number of seconds, more than 0 and a day at most; not {value!r}")
        if isinstance(max_questions, bool) or not isinstance(max_questions, int) or max_questions < 0:
            raise CallerError(f"max_questions must be a whole number from 0, not {max_questions!r}")
        if importlib.util.find_spec("mcp") is None:
            raise CallerError(f"McpServer needs the MCP SDK, which is not installed: {_INSTALL}")
        self.name = name
        self.refused = 0
        self._make_channel = make_channel
        self._allowed = frozenset(allow_tools)
        self._max_questions = max_questions
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._secrets = [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET]
        self._restarts = Restarts()
        self._lock = threading.Lock()  # guards what follows, and `refused`
        self._session: Session | None = None
        self._finalizer: weakref.finalize[..., McpServer] | None = None
        self._questions: dict[str | None, set[bytes]] = {}
        self._told: set[str] = set()
        _servers.add(self)

    @classmethod
    def stdio(
        cls,
        command: Sequence[str],
        *,
        env: Sequence[str] | Mapping[str, str] = (),
        allow_tools: Iterable[str] = (),
        max_questions: int = MAX_QUESTIONS,
        timeout_s: float = TIMEOUT_S,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> McpServer:
        """A server that is started as a process and speaks on its standard streams.

        Args:
            command: its words, e.g. `["github-mcp-server", "stdio"]`; no shell reads them. Anyone on the machine can see them,
                so a token does not belong there.
            env: the environment variables that it gets, by name, or with other values as a mapping. Besides these it gets
                PATH, HOME, LANG and TMPDIR, if they are set, and nothing else.
            allow_tools: tools that guards may call although the server does not declare them read-only.
            max_questions: how many different questions each guard may ask it.
            timeout_s: how long one call may take. Then the server is told that it is cancelled, and if it does not answer a
                ping either, it is ended.
            start_timeout_s: how long it may take until it is ready.

        Raises:
            CallerError: an argument cannot be used, a variable is not set, or the SDK is not installed.
        """
        if isinstance(command, (str, bytes)) or not command or not all(isinstance(word, str) for word in command):
            raise CallerError("McpServer.stdio takes a command as a list of words, e.g. ['github-mcp-server', 'stdio']")
        words = list(command)
        given = _variables(env)
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}

        def channel() -> Channel:
            from guardpool.backends.mcp_process import ServerProcess

            return ServerProcess(words, {**environment, **given})

        return cls(
            f"the MCP server {printable(os.path.basename(words[0]), 60)}",
            channel,
            allow_tools=allow_tools,
            max_questions=max_questions,
            timeout_s=timeout_s,
            start_timeout_s=start_timeout_s,
            secrets=given.values(),
        )

    @classmethod
    def http(
        cls,
        url: str,
        *,
        token_env: str | None = None,
        header_env: Mapping[str, str] | None = None,
        allow_tools: Iterable[str] = (),
        max_questions: int = MAX_QUESTIONS,
        timeout_s: float = TIMEOUT_S,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> McpServer:
        """A server that is reached by streamable HTTP. No proxy is used, and no redirect to another origin is followed.

        Args:
            url: its endpoint: https, or http on this machine (localhost, 127.0.0.1, ::1). No user and no password in it.
            token_env: the name of the environment variable with the token that is sent as `Authorization: Bearer`.
            header_env: other headers, each with the name of the variable that has its value.
            allow_tools: as for `stdio`, and so the rest.

        Raises:
            CallerError: an argument cannot be used, a variable is not set, or the SDK is not installed.
        """
        _check_url(url)
        headers = {name: _header_value(variable) for name, variable in (header_env or {}).items()}
        secrets = [*headers.values()]
        if token_env is not None:
            token = _header_value(token_env)
            secrets.append(token)
            headers["Authorization"] = f"Bearer {token}"

        def channel() -> Channel:
            from guardpool.backends.mcp_http import HttpServer

            return HttpServer(url, headers, _help_with_tokens(token_env), timeout_s)

        parts = urlsplit(url)
        return cls(
            f"the MCP server {printable(f'{parts.scheme}://{parts.netloc}{parts.path}', 100)}",
            channel,
            allow_tools=allow_tools,
            max_questions=max_questions,
            timeout_s=timeout_s,
            start_timeout_s=start_timeout_s,
            secrets=secrets,
        )

    def __call__(self, tool: str, args: Any) -> Any:
        """The tool's result, whole.

        Raises:
            BackendFailed: there is none, or the tool must not be called; the message is one line.
        """
        try:
            return self._ask(tool, args)
        except BackendFailed as error:
            message = self._without_secrets(str(error))
        if not message.endswith(_AGAIN):  # why, was told when it happened
            self._tell_once(message)
        raise BackendFailed(message)

    def connect(self) -> None:
        """Start it now and wait until it is ready. Raises BackendFailed if it cannot be started."""
        try:
            self._live()
        except BackendFailed as error:
            raise BackendFailed(self._without_secrets(str(error))) from None

    def close(self) -> None:
        """End the session, and the server if it is a process of ours, by force after some seconds. Waits until nothing of it
        is left. Calls that are being made fail. Closing twice is fine."""
        with self._lock:
            session, self._session = self._session, None
            finalizer, self._finalizer = self._finalizer, None
        if finalizer is not None:
            finalizer.detach()
        if session is not None:
            session.close()

    def __enter__(self) -> McpServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<McpServer: {self.name}>"

    def _ask(self, tool: str, args: Any) -> Any:
        if args is not None and not isinstance(args, dict):
            raise BackendFailed(f"the arguments of {printable(tool, 80)} are not an object")
        try:
            question = blake2b(question_of(tool, _encode(args)), digest_size=16).digest()
        except (ContractError, TypeError, ValueError) as error:
            raise BackendFailed(f"the arguments of {printable(tool, 80)} are not JSON: {error}") from None
        session = self._live()
        if tool not in self._allowed and tool not in session.read_only_tools():
            self._refuse(
                f"the tool {printable(tool, 80)} was not called: the server does not declare it read-only, and it is not in "
                "allow_tools (--backend-allow)"
            )
        self._count(question)
        return session.call(tool, args)

    def _count(self, question: bytes) -> None:
        guard = GUARD_THAT_ASKS.get()
        with self._lock:
            known = self._questions.setdefault(guard, set())
            if question in known:
                return
            if len(known) < self._max_questions:
                known.add(question)
                return
        self._refuse(
            f"the guard asked {self._max_questions:,} different questions before, and has no more (--max-questions)"
        )

    def _refuse(self, why: str) -> None:
        with self._lock:
            self.refused += 1
        raise BackendFailed(why)

    def _live(self) -> Session:
        """The session, started if there is none, ready."""
        with self._lock:
            session = self._session
            if session is not None and session.is_over:
                self._note_end(session)
                session = None
            if session is None:
                session = self._session = self._start()
        session.wait()
        return session

    def _note_end(self, session: Session) -> None:
        lived_s = session.ended_at - session.started_at if session.was_ready else 0.0
        self._restarts.failed(session.reason, session.ended_at, lived_s)
        self._session = None
        if self._finalizer is not None:
            self._finalizer.detach()

    def _start(self) -> Session:
        wait_s = self._restarts.due - time.monotonic()
        if wait_s > 0:
            raise BackendFailed(f"{self.name} {self._restarts.reason}; it is started again {wait_s:.1f}{_AGAIN}")
        try:
            from guardpool.backends.mcp_session import Session

            channel = self._make_channel()
        except ImportError as error:
            raise BackendFailed(f"the MCP SDK that is installed cannot be used: {error}: {_INSTALL}") from error
        session = Session(self.name, channel, self._timeout_s, self._start_timeout_s)
        self._finalizer = weakref.finalize(self, _close_in, os.getpid(), session)
        return session

    def _tell_once(self, message: str) -> None:
        """Log why a question has no answer. What is wrong with one question is mostly wrong with thousands."""
        guard = GUARD_THAT_ASKS.get()
        with self._lock:
            if len(self._told) >= _MOST_TOLD or message in self._told:
                return
            self._told.add(message)
        _log.warning("%s%s", "" if guard is None else f"guard {guard}: ", message)

    def _without_secrets(self, message: str) -> str:
        """A server may repeat what it was given."""
        for secret in self._secrets:
            message = message.replace(secret, "***")
        return message

    def _forget_parent(self) -> None:
        """In a fork: the session is the parent's, and its thread is not here."""
        _of_the_parent.append((self._session, self._finalizer))
        self._session = self._finalizer = None
        self._lock = threading.Lock()


class Restarts:
    """When a server that failed is started again. Time goes in as a number of seconds.

    Attributes:
        reason: why it failed last.
        due: it is not started before that time.
    """

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self.reason = ""
        self.due = 0.0
        self._chance = chance
        self._failures = 0

    def failed(self, reason: str, now: float, lived_s: float) -> None:
        """It failed. The first time after a good start it is started again at once: the failure may have been an accident.

        Args:
            reason: why.
            now: the time.
            lived_s: since when it was started; 0: it never became ready.
        """
        if lived_s > _GOOD_LIFE_S:
            self._failures = 0
        self.reason = reason
        self._failures += 1
        delay_s = min(_FIRST_DELAY_S * 2 ** min(self._failures - 1, 16), _LONGEST_DELAY_S)
        # Up to half of it is left to chance, so that those who wait for one server do not come together.
        self.due = now + (0.0 if lived_s and self._failures == 1 else delay_s * (1 - self._chance() / 2))


def _variables(env: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    if isinstance(env, (str, bytes)):
        raise CallerError(f"env must be a list of names of environment variables, not one name: [{env!r}]")
    if isinstance(env, Mapping):
        return {str(name): str(value) for name, value in env.items()}
    return {name: _variable(name) for name in env}


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise CallerError(f"the environment variable {printable(str(name), 80)} is not set")
    return value


def _header_value(variable: str) -> str:
    value = _variable(variable).strip()
    if not value or not value.isascii() or not value.isprintable():
        raise CallerError(f"the environment variable {variable} is empty or holds characters that no header may have")
    return value


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise CallerError(f"the URL of an MCP server cannot be used: {error}") from None
    if "@" in parts.netloc:  # not shown: there is a password in it
        raise CallerError(
            "the URL of an MCP server has a user in it: name the environment variable of its token instead"
        )
    shown = printable(url, 100)
    if not host or not url.isascii() or not url.isprintable() or parts.fragment:
        raise CallerError(f"the URL of an MCP server must be like https://host/mcp, not {shown}")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise CallerError(f"the URL of an MCP server must be https, or http on this machine; not {shown}")


def _help_with_tokens(token_env: str | None) -> str:
    if token_env is None:
        return "name the environment variable of its token: token_env, on the command line --backend-token"
    return f"the token in {token_env} is not the right one"


def _close_in(pid: int, session: Session) -> None:
    if os.getpid() == pid:
        session.close()


_servers: weakref.WeakSet[McpServer] = weakref.WeakSet()
# In a fork what was the parent's is kept: to collect it would touch the loop and the descriptors that both have.
_of_the_parent: list[object] = []


def _forget_parent() -> None:
    for server in [*_servers]:
        server._forget_parent()


os.register_at_fork(after_in_child=_forget_parent)
