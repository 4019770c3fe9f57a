"""An MCP server behind a URL: streamable HTTP, with limits on what it may answer.

The SDK speaks the protocol and follows redirects within the server's origin only. Here is what it leaves open: how much a body
may hold, what a refusal means, and that no proxy of the environment sees a token.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp.client.streamable_http import streamable_http_client

from guardpool.printable import printable

MAX_BODY_BYTES = 16 * 1024 * 1024
_CONNECT_S = 10.0
_UNAUTHORISED = (401, 403)
_JSON = {"content-type": "application/json"}


class HttpServer:
    """One session's way to a server behind a URL.

    Args:
        url: the endpoint.
        headers: that every request has, e.g. its token's.
        help_with_tokens: what to say to someone whose request is not authorised.
        read_timeout_s: how long an answer may stop on its way.
    """

    def __init__(self, url: str, headers: Mapping[str, str], help_with_tokens: str, read_timeout_s: float) -> None:
        self._url = url
        self._headers = dict(headers)
        self._help = help_with_tokens
        self._read_timeout_s = read_timeout_s

    def explained(self, reason: str) -> str:
        """The reason as it is."""
        return reason

    def in_words(self, error: BaseException) -> str | None:
        """What an error of the HTTP client means."""
        if isinstance(error, httpx2.ConnectError):
            return f"cannot be reached: {printable(str(error) or type(error).__name__, 160)}"
        if isinstance(error, httpx2.HTTPError):
            return f"broke off: {type(error).__name__} {printable(str(error), 160)}".rstrip()
        return None

    @asynccontextmanager
    async def open(self, on_end: Callable[[str], None]) -> AsyncIterator[tuple[Any, Any]]:
        """Streams to the server; nothing is sent yet."""
        transport = _Limited(on_end, self._help, self._read_timeout_s)
        # The stream of the server's own messages may be silent for hours.
        timeout = httpx2.Timeout(_CONNECT_S, read=None)
        # What is compressed could be a thousand times as much as was counted.
        headers = {**self._headers, "accept-encoding": "identity"}
        async with (
            httpx2.AsyncClient(transport=transport, headers=headers, timeout=timeout, trust_env=False) as client,
            streamable_http_client(self._url, http_client=client, max_sse_event_size=MAX_BODY_BYTES) as streams,
        ):
            yield streams


class _Limited(httpx2.AsyncBaseTransport):
    """Passes requests on, and answers that are not too large. Says what a refusal means."""

    def __init__(self, on_end: Callable[[str], None], help_with_tokens: str, read_timeout_s: float) -> None:
        self._inner = httpx2.AsyncHTTPTransport()
        self._on_end = on_end
        self._help = help_with_tokens
        self._read_timeout_s = read_timeout_s

    async def aclose(self) -> None:
        """Close every connection."""
        await self._inner.aclose()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response, or one that says as an error of JSON-RPC what is wrong with it."""
        if request.method == "POST":
            timeouts = request.extensions.get("timeout", {})
            request.extensions["timeout"] = {**timeouts, "read": self._read_timeout_s}
        try:
            response = await self._inner.handle_async_request(request)
        except httpx2.ReadTimeout:
            return _error(408, "it sent nothing")
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            return _error(400, "the answer is compressed, which was not asked for")
        if not _is(response, "text/event-stream"):  # the SDK counts each event
            response.stream = _LimitedBody(response.stream)
        if request.method != "POST" or response.status_code < 400:
            return response
        body = await response.aread()
        await response.aclose()
        if self._is_the_end(request, response) or not _is_error(body):
            return _error(response.status_code, _words(response))
        return httpx2.Response(response.status_code, headers=_JSON, content=body)

    def _is_the_end(self, request: httpx2.Request, response: httpx2.Response) -> bool:
        """Whether the session cannot go on after that refusal."""
        if response.status_code in _UNAUTHORISED:
            self._on_end(f"refused: {_words(response)}: {self._help}")
        elif response.status_code == 404 and "mcp-session-id" in request.headers:
            self._on_end("does not know the session any more")
        else:
            return False
        return True


class _LimitedBody(httpx2.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for part in self._stream:
                size += len(part)
                if size > MAX_BODY_BYTES:
                    # Of a kind that the SDK takes for a failure of this one answer.
                    raise httpx2.StreamError(f"the answer is over the limit of {MAX_BODY_BYTES:,} bytes")
                yield part
        except httpx2.ReadTimeout:
            raise httpx2.StreamError("the answer stopped on its way") from None

    async def aclose(self) -> None:
        await self._stream.aclose()


def _error(status: int, words: str) -> httpx2.Response:
    """An error of JSON-RPC; the SDK gives it the id of the request."""
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": words}}
    return httpx2.Response(status, headers=_JSON, content=json.dumps(error).encode())


def _is_error(body: bytes) -> bool:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and isinstance(value.get("error"), dict)


def _words(response: httpx2.Response) -> str:
    return f"HTTP {response.status_code} {response.reason_phrase}".strip()


def _is(response: httpx2.Response, content_type: str) -> bool:
    kind: str = response.headers.get("content-type", "")
    return kind.lower().startswith(content_type)
