"""Tool names as clients of MCP servers write them, taken apart into server and tool.

A transcript has the name that the model saw, with its client's prefix. Names of a client's own tools (`Bash`, `shell`) are not
guarded calls, and no name is guessed at: what resembles no MCP tool is left out and counted.

| client | `list_issues` of server `github` |
| --- | --- |
| the gateway's unified endpoint | `github___list_issues` |
| Claude Code, Claude Agent SDK | `mcp__github__list_issues` |
| Codex | `mcp__github__list_issues`, `github__list_issues` |
| Copilot CLI | `github-list_issues`, and server and tool in members of their own |
| a program's own loop | `list_issues` |
"""

from __future__ import annotations

import re
from typing import NamedTuple


class ToolName(NamedTuple):
    """A server's id, None where the name does not tell, and the tool's own name."""

    server: str | None
    tool: str


_PREFIX = "mcp__"
# A word of MCP servers: lower case, at least two parts. `Bash`, `Read` and `shell` are none of these.
_BARE = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+\Z")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@/-]*\Z")
# Tools that clients bring themselves and that look like a server's.
_CLIENTS_OWN = frozenset(
    (
        *("apply_patch", "update_plan", "write_stdin", "exec_command", "view_image", "web_search", "web_fetch"),
        *("str_replace_editor", "str_replace_based_edit_tool", "text_editor", "file_search", "code_interpreter"),
        *("read_bash", "write_bash", "stop_bash", "list_bash", "report_intent", "read_file", "write_file", "edit_file"),
        *("run_command", "list_dir", "grep_search", "run_in_terminal", "semantic_search", "codebase_search"),
        *("multi_tool_use", "request_user_input", "spawn_agent", "send_input", "wait_agent", "close_agent"),
    )
)


def prefixed(name: str) -> ToolName | None:
    """Server and tool of a name with a client's prefix; None if it has none."""
    if name.startswith(_PREFIX):
        server, mark, tool = name[len(_PREFIX) :].partition("__")
        behind = tool.partition("___")
        if behind[1]:  # a client of the gateway's unified endpoint: the server is behind the gateway
            server, mark, tool = behind
    else:
        server, mark, tool = name.partition("___")
        if not mark:
            server, mark, tool = name.partition("__")
    if not mark or not _PART.match(server) or not _PART.match(tool):
        return None
    return ToolName(server, tool)


def any_of(name: str) -> ToolName | None:
    """Server and tool of a name that may have no prefix; None if it resembles no MCP tool."""
    found = prefixed(name)
    if found is None and _BARE.match(name) and name not in _CLIENTS_OWN:
        return ToolName(None, name)
    return found
