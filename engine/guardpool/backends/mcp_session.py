"""One session with an MCP server, on an event loop of its own, in a daemon thread of its own.

The thread lives as long as the session: it connects, shakes hands, lists the tools, and ends when the session does, for
whatever reason. So nothing of a session that failed is used again, and `close` waits for one thread. The other threads of the
process make their calls through it; several at once are fine.

The handshake is `initialize`, as the gateway makes it, so that a guard gets results of the same form as there.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future, TimeoutError as FutureTimeoutError
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Protocol, TypeVar

import anyio
import mcp_types as types
from mcp import ClientSession, MCPError
from pydantic import TypeAdapter, ValidationError

from guardpool.backends.replies import BackendFailed
from guardpool.printable import printable

# How long a session that is closed may take for it in good order: then its tasks are cancelled.
CLOSE_S = 2.0
# How long after that a thread may take; the end of a server's process is in it.
_GONE_S = 6.0
# Whether a server that let a question's time pass still lives is asked with a ping.
_PING_S = 3.0
_MOST_TOOLS = 10_000
_MOST_PAGES = 1_000
_WORDS = 200

_Answer = TypeVar("_Answer")
_ANY_RESULT = TypeAdapter(dict[str, Any])
_CONNECTION_CLOSED = "Connection closed"  # what the SDK says of a call whose connection ended under it

# The SDK logs what it cannot parse, with a traceback; that is in our messages, in one line.
logging.getLogger("mcp").addHandler(logging.NullHandler())


class Channel(Protocol):
    """How one session reaches its server."""

    def open(self, on_end: Callable[[str], None]) -> AbstractAsyncContextManager[Any]:
        """Two streams of messages. `on_end` is called, on the loop, when the channel cannot go on, with the reason."""

    def explained(self, reason: str) -> str:
        """The reason, with what the channel knows about it after it was closed."""

    def in_words(self, error: BaseException) -> str | None:
        """What an error of the channel's own kind means; None: it is not of that kind."""


class _Ended(Exception):
    """The session ended while the call was made; the session has the reason."""


class Session:
    """A session with a server.

    Args:
        name: what messages call the server.
        channel: to the server, for this one session.
        timeout_s: the most that one call may take.
        start_timeout_s: the most that may pass until the tools are known.

    Attributes:
        reason: why it ended, as a part of a message; empty while it has not.
        was_ready: whether it ever was ready for calls.
        started_at, ended_at: when, by the monotonic clock; while it has not ended, `ended_at` is meaningless.
    """

    def __init__(self, name: str, channel: Channel, timeout_s: float, start_timeout_s: float) -> None:
        self.name = name
        self.reason = ""
        self.was_ready = False
        self.started_at = self.ended_at = time.monotonic()
        self._channel = channel
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        # Guards the next four. One thread may take it twice: collecting garbage may close sessions.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_over = self._is_unwanted = False
        self._calls: dict[Future[Any], Coroutine[Any, Any, Any]] = {}
        self._started: Future[None] = Future()
        # What follows is of the loop's thread alone.
        self._why = ""
        self._over = asyncio.Event()
        self._starting: anyio.CancelScope | None = None
        self._client: ClientSession | None = None
        self._read_only: frozenset[str] | None = None
        self._changes = 0
        self._ping: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="guardpool-mcp", daemon=True)
        self._thread.start()

    # --- on any thread

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and nothing of it is left."""
        return self._is_over

    def wait(self) -> None:
        """Wait until it is ready. Raises BackendFailed if it does not become so; the message has the reason."""
        try:
            self._started.result(self._start_timeout_s + CLOSE_S + _GONE_S)
        except (FutureTimeoutError, CancelledError):
            raise BackendFailed(f"{self.name} did not start") from None

    def read_only_tools(self) -> frozenset[str]:
        """The tools that the server declares to be read-only, listed again if it said that they changed.

        Raises:
            BackendFailed: they cannot be listed.
        """
        known = self._read_only
        return self._on_loop(self._list_again) if known is None else known

    def call(self, tool: str, args: dict[str, Any] | None) -> dict[str, Any]:
        """The whole result of a tool, as it came.

        Raises:
            BackendFailed: there is none; the message is one line.
        """
        return self._on_loop(lambda: self._call(tool, args))

    def close(self) -> None:
        """End the session and wait, for about ten seconds at most, until nothing of it is left."""
        with self._lock:
            self._is_unwanted = True
            loop = self._loop
            if loop is not None and not self._is_over:
                with suppress(RuntimeError):  # the loop was closed at this very moment
                    loop.call_soon_threadsafe(self._end, "was closed")
        if threading.current_thread() is not self._thread:  # which collects garbage, too
            self._thread.join(CLOSE_S + _GONE_S)

    def _on_loop(self, make: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
        with self._lock:
            if self._is_over or self._loop is None:
                raise BackendFailed(f"{self.name} {self.reason}")
            call = make()
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
            self._calls[future] = call
        try:
            # The coroutine has its own limit; this one is for a loop that does not run.
            return future.result(self._timeout_s + CLOSE_S + _GONE_S)
        except (_Ended, CancelledError):
            self._thread.join(CLOSE_S + _GONE_S)
            raise BackendFailed(f"{self.name} {self.reason or 'ended'}") from None
        except FutureTimeoutError:
            future.cancel()
            raise BackendFailed(f"{self.name} {self._late}") from None
        finally:
            with self._lock:
                self._calls.pop(future, None)

    # --- the thread

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            asyncio.run(self._main())
        except BaseException as error:
            failure = error
        reason = self._why or ("closed the connection" if failure is None else self._cause(failure))
        reason = self._channel.explained(reason)
        with self._lock:
            self.reason = reason
            self.ended_at = time.monotonic()
            self._is_over = True
            calls = [*self._calls.items()]
        for future, call in calls:
            future.cancel()
            call.close()  # the loop may have ended before it began
        if not self._started.done():
            self._started.set_exception(BackendFailed(f"{self.name} {reason}"))

    async def _main(self) -> None:
        with anyio.CancelScope() as scope:
            self._starting = scope
            with self._lock:
                self._loop = asyncio.get_running_loop()
                if self._is_unwanted:
                    self._why = "was closed"
                    return
            async with (
                self._channel.open(self._end) as (read, write),
                ClientSession(read, write, message_handler=self._on_message) as client,
            ):
                self._client = client
                with anyio.fail_after(self._start_timeout_s):
                    await client.initialize()
                    await self._list()
                self._starting = None
                self.was_ready = True
                self._started.set_result(None)
                await self._over.wait()
                scope.deadline = anyio.current_time() + CLOSE_S

    def _end(self, reason: str) -> None:
        """End the session; the first reason given counts."""
        self._why = self._why or reason
        self._over.set()
        if self._starting is not None:
            self._starting.cancel()

    async def _on_message(self, message: object) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._changes += 1
            self._read_only = None

    async def _list(self) -> frozenset[str]:
        client, changes = self._client, self._changes
        assert client is not None
        tools: list[types.Tool] = []
        params = None
        for _ in range(_MOST_PAGES):
            page = await client.list_tools(params=params)
            tools += page.tools
            if not page.next_cursor or len(tools) > _MOST_TOOLS:
                break
            params = types.PaginatedRequestParams(cursor=page.next_cursor)
        if len(tools) > _MOST_TOOLS or page.next_cursor:
            raise BackendFailed(f"names more than {_MOST_TOOLS:,} tools, or does not come to an end with them")
        names = frozenset(tool.name for tool in tools if tool.annotations and tool.annotations.read_only_hint is True)
        if changes == self._changes:
            self._read_only = names
        return names

    async def _list_again(self) -> frozenset[str]:
        try:
            return await self._in_time(self._list())
        except BackendFailed as error:
            raise BackendFailed(f"{self.name} {error}") from None

    async def _call(self, tool: str, args: dict[str, Any] | None) -> dict[str, Any]:
        assert self._client is not None
        params = types.CallToolRequestParams(name=tool, arguments=args)
        request = types.CallToolRequest(params=params)
        try:
            return await self._in_time(self._client.send_request(request, _ANY_RESULT))
        except BackendFailed as error:
            raise BackendFailed(f"{self.name} {error}") from None

    async def _in_time(self, call: Coroutine[Any, Any, _Answer]) -> _Answer:
        try:
            with anyio.fail_after(self._timeout_s):  # the SDK tells the server when a call is cancelled
                return await call
        except TimeoutError:
            if self._ping is None or self._ping.done():
                self._ping = asyncio.create_task(self._end_if_dead())
            raise BackendFailed(self._late) from None
        except (MCPError, ValidationError) as error:
            if isinstance(error, MCPError) and (error.message == _CONNECTION_CLOSED or self._over.is_set()):
                self._over.set()  # why, the channel or its failure says
                raise _Ended from None
            raise BackendFailed(self._in_words(error)) from None

    async def _end_if_dead(self) -> None:
        assert self._client is not None
        try:
            with anyio.fail_after(_PING_S):
                await self._client.send_ping()
        except TimeoutError:
            self._end("hangs: it answers neither a question nor a ping")
        except MCPError:
            pass  # it lives: that is all we ask

    @property
    def _late(self) -> str:
        return f"gave no answer within {self._timeout_s:g} s"

    def _cause(self, failure: BaseException) -> str:
        """What made the session fail: what the channel knows of, rather than that a call had no connection any more."""
        errors = [*_leaves(failure)]
        said = [words for words in map(self._channel.in_words, errors) if words is not None]
        return said[0] if said else self._in_words(errors[0])

    def _in_words(self, error: BaseException) -> str:
        """A failure as what follows the server's name in a message."""
        if isinstance(error, BackendFailed):
            return str(error)
        if isinstance(error, TimeoutError):
            return f"was not ready within {self._start_timeout_s:g} s"
        if isinstance(error, MCPError) and error.code == types.PARSE_ERROR and "validation error" in error.message:
            return "answered something that is not a message of MCP"
        if isinstance(error, MCPError):
            return f"answered with an error: {printable(error.message, _WORDS)}"
        if isinstance(error, ValidationError):
            return "answered something that does not fit the protocol"
        return f"failed: {type(error).__name__}: {printable(str(error), _WORDS)}"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in groups of groups."""
    inner = getattr(error, "exceptions", None)
    if inner is None:
        yield error
    else:
        for each in inner:
            yield from _leaves(each)
