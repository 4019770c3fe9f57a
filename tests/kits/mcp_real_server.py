"""A real MCP server, built with the SDK, with the tools that the tests call. Each call is noted in a file.

    python mcp_real_server.py NOTES stdio
    python mcp_real_server.py NOTES http [TOKEN_VARIABLE]     prints its URL

Its list of tools has two pages. `create_issue`, `add_comment` and what `turn` makes writing are not read-only.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.stdio import stdio_server

from guardpool.samples import backend

NOTES = Path(sys.argv[1])
READING = ("search_repositories", "get_issue", "facts", "ask_back", "die", "hang", "large", "turn", "fail")
WRITING = {"create_issue", "add_comment"}


def note(line: str) -> None:
    with NOTES.open("a", encoding="utf-8") as notes:
        notes.write(f"{line}\n")


def tool(name: str) -> types.Tool:
    hint = types.ToolAnnotations(read_only_hint=name not in WRITING)
    return types.Tool(name=name, input_schema={"type": "object"}, annotations=hint)


def text(value: Any, *, is_error: bool = False) -> types.CallToolResult:
    part = types.TextContent(type="text", text=value if isinstance(value, str) else json.dumps(value))
    return types.CallToolResult(content=[part], is_error=is_error)


async def list_tools(_ctx: Any, params: Any) -> types.ListToolsResult:
    if params is not None and params.cursor == "more":
        return types.ListToolsResult(tools=[*map(tool, READING[3:])])
    tools = [tool("create_issue"), tool("add_comment"), *map(tool, READING[:3])]
    return types.ListToolsResult(tools=tools, next_cursor="more")


async def asked_back(session: Any) -> list[str]:
    """What the client answered to each kind of question."""
    answers = []
    question = types.SamplingMessage(role="user", content=types.TextContent(type="text", text="?"))
    schema = {"type": "object", "properties": {"secret": {"type": "string"}}}
    for ask in (
        lambda: session.send_request(
            types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[question], max_tokens=1)),
            types.CreateMessageResult,
        ),
        lambda: session.send_request(
            types.ElicitRequest(params=types.ElicitRequestFormParams(message="?", requested_schema=schema)),
            types.ElicitResult,
        ),
        lambda: session.send_request(types.ListRootsRequest(), types.ListRootsResult),
    ):
        try:
            answers.append(f"answered: {await ask()}")
        except Exception as error:
            answers.append(str(error))
    return answers


async def call_tool(ctx: Any, params: Any) -> types.CallToolResult:
    name, args = params.name, params.arguments or {}
    note(name)
    if name == "search_repositories":
        return text(backend(name, args))
    if name == "facts":
        facts = {"pid": os.getpid(), "environment": dict(os.environ)}
        return types.CallToolResult(content=[], structured_content=facts, _meta={"cost": 1})
    if name == "ask_back":
        return text(await asked_back(ctx.session))
    if name == "die":
        print("disk is full", file=sys.stderr, flush=True)
        os._exit(3)
    if name == "hang":
        try:
            await anyio.sleep_forever()
        finally:
            note("cancelled")
    if name == "large":
        return text("x" * args["bytes"])
    if name == "turn":
        WRITING.symmetric_difference_update({"get_issue"})
        await ctx.session.send_tool_list_changed()
        return text("turned")
    if name == "fail":
        return text("no such thing", is_error=True)
    return text({"tool": name, "args": args})


def needs_token(app: Any, token: str) -> Any:
    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (b"authorization", f"Bearer {token}".encode()) not in scope["headers"]:
            note("unauthorised")
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await app(scope, receive, send)

    return guarded


async def serve_stdio(server: Server[Any]) -> None:
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options(NotificationOptions(tools_changed=True)))


async def serve_http(server: Server[Any], token_variable: str | None) -> None:
    import uvicorn

    app: Any = server.streamable_http_app(host="127.0.0.1")
    if token_variable is not None:
        app = needs_token(app, os.environ[token_variable])
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    await uvicorn.Server(uvicorn.Config(app, log_level="error")).serve(sockets=[listener])


def main() -> None:
    server: Server[Any] = Server("real", on_list_tools=list_tools, on_call_tool=call_tool)
    note("started")
    if sys.argv[2] == "stdio":
        anyio.run(serve_stdio, server)
    else:
        anyio.run(serve_http, server, sys.argv[3] if len(sys.argv) > 3 else None)


if __name__ == "__main__":
    main()
