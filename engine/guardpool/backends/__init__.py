"""Who answers what guards ask (`call_backend`): tables of replies, live MCP servers, any callable, one after the other.

A backend is called as `backend(tool, args)` on a thread of the caller's process and returns a JSON value, or raises: then the
guard gets -1. One backend may be shared by several guards.
"""

from guardpool.backends.first import First
from guardpool.backends.mcp_server import McpServer
from guardpool.backends.recorder import Recorder
from guardpool.backends.replies import BackendFailed, NoReply, Replies, RepliesError

__all__ = ["BackendFailed", "First", "McpServer", "NoReply", "Recorder", "Replies", "RepliesError"]
