"""What the agent gets of a response whose items were judged.

Source: github/gh-aw-mcpg, internal/difc/pipeline_decisions.go, internal/mcp/helpers.go (names of tools).
"""

from __future__ import annotations

from guardpool.decide.words import ITEMS, STRICT_MODE, Verdict
from guardpool.labels import DifcMode

# Tools that list: an empty list from them is an answer, and not an item that was withheld.
_LISTING = ("list_", "search_")


def verdict_on_items(tool_name: str, mode: DifcMode, allowed: int, denied: int) -> Verdict:
    """The verdict by how many items the rules allow and deny; the first that fits.

    | condition | verdict |
    | --- | --- |
    | strict, and an item is denied | `strict-block` |
    | the only item is denied, and the tool does not list or search | `single-item-error` |
    | else | `items` |
    """
    if denied:
        if mode is STRICT_MODE:
            return Verdict.STRICT_BLOCK
        if denied == 1 and not allowed and not tool_name.startswith(_LISTING):
            return Verdict.SINGLE_ITEM_ERROR
    return ITEMS
