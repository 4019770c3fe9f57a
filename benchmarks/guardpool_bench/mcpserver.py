"""A small MCP server on its standard streams, which answers the questions of `guardpool_bench.asking`.

It is made with the `mcp` SDK (`pip install 'guardpool[mcp]'`) and has one tool, which only reads.
"""

from __future__ import annotations

import sys

from guardpool_bench import asking

COMMAND = [sys.executable, "-m", "guardpool_bench.mcpserver"]


def main() -> None:
    """Answer until standard input ends."""
    from mcp.server.mcpserver import MCPServer
    from mcp.types import ToolAnnotations

    def answer(query: str) -> str:
        """The repositories that the query finds: one."""
        return asking.text_of(asking.number_of({"query": query}))

    server = MCPServer("guardpool-bench", log_level="ERROR")
    server.tool(asking.TOOL, annotations=ToolAnnotations(read_only_hint=True), structured_output=False)(answer)
    server.run("stdio")


if __name__ == "__main__":
    main()
