"""An MCP server on standard streams that misbehaves, in plain Python so that it starts quickly.

    python mcp_bad_server.py HOW [NOTES]     HOW is a word in the code below; the pid is noted in a file

It shakes hands, names the read-only tools `ask` and `get_issue` and answers them, where HOW says nothing else. A call can have
another HOW in its arguments, also in those of the job that a guard passes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

HOW = sys.argv[1]
MIB = 1024 * 1024


def send(value: Any) -> None:
    sys.stdout.write((value if isinstance(value, str) else json.dumps(value)) + "\n")
    sys.stdout.flush()


def answer(request: Any, result: Any) -> None:
    send({"jsonrpc": "2.0", "id": request["id"], "result": result})


def wait_for_ever() -> None:
    while True:
        time.sleep(3600)


def on_initialize(request: Any) -> None:
    if HOW == "hangs-in-start":
        wait_for_ever()
    if HOW == "dies-in-start":
        print("first line\n\x1b[31mno licence\x1b[0m", file=sys.stderr, flush=True)
        sys.exit(4)
    if HOW == "greets":
        send("Server is running on stdio\n")
    if HOW == "old":
        answer(
            request, {"protocolVersion": "1999-01-01", "capabilities": {}, "serverInfo": {"name": "x", "version": ""}}
        )
        return
    info = {"name": "bad", "version": "1"}
    answer(request, {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info})


def on_list(request: Any) -> None:
    tool = {"inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
    more = {"nextCursor": "again"} if HOW == "lists-for-ever" else {}
    answer(request, {"tools": [{"name": "ask", **tool}, {"name": "get_issue", **tool}], **more})


def on_call(request: Any) -> None:
    args = request["params"].get("arguments", {})
    what = (args.get("tool_args", args) or {}).get("how", HOW)
    if what == "says":
        send("DEBUG: 1 row")
    elif what == "not-a-result":
        answer(request, {"rows": 1})
        return
    elif what == "error":
        send(
            {"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32000, "message": f"no {os.environ.get('KEY')}"}}
        )
        return
    elif what == "endless":
        sys.stdout.write(f'{{"jsonrpc":"2.0","id":{request["id"]},"result":{{"content":[],"x":"')
        for _ in range(100):
            sys.stdout.write("x" * MIB)
        send('"}}')
        return
    elif what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "stuck":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        wait_for_ever()
    elif what == "ignores":
        return
    elif what == "closes":
        os.close(1)
        wait_for_ever()
    elif what == "chatters":
        sys.stderr.write("x" * (2 * MIB))
        sys.stderr.flush()
    answer(request, {"content": [{"type": "text", "text": f"{os.getpid()}"}], "isError": False, "more": None})


def note(line: object) -> None:
    if len(sys.argv) > 2:
        with open(sys.argv[2], "a", encoding="utf-8") as notes:
            notes.write(f"{line}\n")


def main() -> None:
    note(os.getpid())
    if HOW in ("leaves-a-child", "stays"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if HOW == "leaves-a-child":
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(3600)"])
        note(child.pid)
    for line in sys.stdin:
        request = json.loads(line)
        handler = {"initialize": on_initialize, "tools/list": on_list, "tools/call": on_call}.get(request["method"])
        if handler is not None:
            handler(request)
        elif request["method"] == "ping":
            answer(request, {})
        elif request["method"] == "notifications/cancelled":
            note("cancelled")
    if HOW == "stays":
        wait_for_ever()


if __name__ == "__main__":
    main()
