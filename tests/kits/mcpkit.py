"""MCP servers for tests: real ones in processes of their own, ones that misbehave, and HTTP answers of any kind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_KITS = Path(__file__).parent
# A Python with a shared libpython does not start without it; a `McpServer` passes on only what is named.
ENV = [name for name in ("LD_LIBRARY_PATH",) if name in os.environ]
_SILENT_S = 10.0  # a client that keeps a connection and says nothing


def real_command(notes: Path) -> list[str]:
    """The command of a real server on standard streams, which notes its calls in a file."""
    return [sys.executable, str(_KITS / "mcp_real_server.py"), str(notes), "stdio"]


def bad_command(how: str, starts: Path | None = None) -> list[str]:
    """The command of a server that misbehaves in that way; each of its starts is a line in a file."""
    return [sys.executable, "-I", "-S", str(_KITS / "mcp_bad_server.py"), how, *([str(starts)] if starts else [])]


def noted(notes: Path) -> list[str]:
    """What a real server noted: `started`, and the name of each tool that was called."""
    return notes.read_text().split() if notes.exists() else []


@dataclass
class RealHttp:
    """A real server on HTTP in a process of its own."""

    url: str
    process: subprocess.Popen[str]

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def real_http(notes: Path, **token: str) -> Iterator[RealHttp]:
    """Start a real server on HTTP; `NAME=value`: requests need that token."""
    command = [sys.executable, str(_KITS / "mcp_real_server.py"), str(notes), "http", *token]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **token})
    try:
        assert process.stdout is not None
        yield RealHttp(process.stdout.readline().strip(), process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@dataclass
class Reply:
    """What an HTTP stub answers."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    location: str = ""
    session: str = ""


Handler = Callable[[Any, dict[str, str]], Reply]


@contextlib.contextmanager
def http_stub(on_call: Handler, on_start: Handler | None = None) -> Iterator[str]:
    """An HTTP server in this process that shakes hands, names the tool `ask`, and answers its calls with `on_call`.

    Args:
        on_call: gets a message of JSON-RPC and the headers.
        on_start: answers the handshake instead.
    """

    def reply(message: Any, headers: dict[str, str]) -> Reply:
        method = message.get("method")
        if method == "initialize" and on_start is not None:
            return on_start(message, headers)
        if method == "initialize":
            server = {"name": "stub", "version": "1"}
            return result(
                message, {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": server}
            )
        if method == "tools/list":
            tool = {"name": "ask", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
            return result(message, {"tools": [tool]})
        return on_call(message, headers) if method == "tools/call" else Reply(202)

    class Handling(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _SILENT_S

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            self._send(reply(json.loads(body), {name.lower(): value for name, value in self.headers.items()}))

        def do_GET(self) -> None:
            self._send(Reply(405))

        def _send(self, answer: Reply) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            if answer.location:
                self.send_header("Location", answer.location)
            if answer.session:
                self.send_header("Mcp-Session-Id", answer.session)
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has had enough
                self.wfile.write(answer.body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handling) as server:
        server.daemon_threads = False  # the end waits for them: each holds a connection
        server.handle_error = lambda request, client_address: None  # the client has had enough
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/mcp"
        finally:
            server.shutdown()
            thread.join()


def result(message: Any, value: Any) -> Reply:
    """The answer to a message of JSON-RPC."""
    return Reply(body=json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": value}).encode())
