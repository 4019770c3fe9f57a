"""The record of one decision."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import cached_property
from typing import Any, NamedTuple

from msgspec import UNSET

from guardpool.decide import results, wording
from guardpool.decide.call import AgentState
from guardpool.decide.decided_item import DecidedItem
from guardpool.decide.item_facts import ItemFacts, facts_in
from guardpool.decide.items import Found
from guardpool.decide.words import ITEMS, Coarse, Failure, Rules, Verdict
from guardpool.labels import DifcMode, Operation, Printed


class ItemCounts(NamedTuple):
    """How many items a result has, how many the agent gets, and how many the rules do not let through."""

    total: int
    shown: int
    filtered: int


class Decision(Printed, frozen=True, dict=True):
    """What becomes of a call, and why.

    Attributes:
        rules: who judged.
        mode: the mode that the call was judged in.
        operation: what the call was taken to do.
        coarse: what became of it before the backend was asked.
        verdict: what the agent gets.
        failed: every rule that the call itself failed, apart from those that items failed; of each pair the gateway tells the
            first. In propagate failed read rules are among them although they deny nothing.
        agent_before: the agent's labels before the call.
        agent_after: its labels after it; only propagate changes them.
        unsafe: ids of the places where the gateway failed open or contradicted itself in this call, see `PLACES`. Under the
            strict rules those that they leave open.
        lost: what the result lost on the way to the agent, apart from items: members of the MCP result by name, its parts as
            `content[N]`, members beside the items by JSON pointer.
        response_labelled: whether the answer of `label_response` was asked for.
        items: the items with their labels, None if the response was not labelled item by item.
        shown: the list of the items that the agent gets where the verdict is `items`, the raw result where it is `whole`, else
            None.
        error: why a labelling failed or nothing can be decided, else None.
        tool_result: the tool's result that was decided on; UNSET if there was none.
        found: the items of the result as the guard's answer finds them; None if there were none.
    """

    rules: Rules
    mode: DifcMode
    operation: Operation
    coarse: Coarse
    verdict: Verdict
    failed: tuple[Failure, ...]
    agent_before: AgentState
    agent_after: AgentState
    unsafe: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    response_labelled: bool = False
    items: Sequence[DecidedItem] | None = None
    shown: Any = None
    error: str | None = None
    tool_result: Any = UNSET
    found: Found | None = None

    @cached_property
    def filtered(self) -> tuple[DecidedItem, ...]:
        """The items that the rules do not let through."""
        return tuple([item for item in self.items or () if not item.allowed])

    @cached_property
    def facts(self) -> Sequence[ItemFacts]:
        """What each item says of itself."""
        return [facts_in(item.data) for item in self.items or ()] if self.found is None else self.found.facts

    @property
    def allowed(self) -> list[int]:
        """The indexes of the items that the rules let through."""
        return [item.index for item in self.items or () if item.allowed]

    @property
    def may_read_resource(self) -> bool:
        """Whether the agent may read what the call touches, and not only some items of it."""
        return self.coarse is Coarse.ALLOWED and self.operation is not Operation.WRITE

    @property
    def counts(self) -> ItemCounts | None:
        """Total, shown and filtered items; None if the response was not labelled item by item."""
        return None if self.items is None else ItemCounts(*self.counted)

    @property
    def counted(self) -> tuple[int, int, int]:
        """As `counts`, zeros if the response was not labelled; a plain tuple, which is made in no time."""
        if self.items is None:
            return 0, 0, 0
        total, filtered = len(self.items), len(self.filtered)
        return total, total - filtered if self.verdict is ITEMS else 0, filtered

    @property
    def result(self) -> dict[str, Any] | None:
        """What the agent gets as an MCP result; None where nothing can be decided. Made anew each time.

        Under gateway rules items are a bare JSON array in one text; under strict rules the result keeps its envelope, with
        the allowed items in their place. The words of errors and notices are guardpool's, not the gateway's.
        """
        strict = self.rules is Rules.STRICT
        if self.verdict is Verdict.UNDECIDED:
            return None
        if self.verdict is Verdict.WHOLE:
            return results.strict_whole(self.tool_result) if strict else results.gateway_whole(self.tool_result)
        filtered = self.filtered
        failed = [failure for item in filtered for failure in item.failed] or self.failed
        if self.verdict is not ITEMS:
            return results.error_result(wording.refusal(self.verdict, failed, self.error))
        items = self.items or ()
        notice = wording.notice(len(filtered), len(items), failed) if filtered else None
        if not strict:
            return results.gateway_items(self.shown, notice)
        if self.found is None:  # the guard gave no items, and the one item that stands for them was denied
            return {"content": [{"type": "text", "text": notice}]}
        return results.strict_items(self.found, self.allowed, self.may_read_resource, notice)

    def __repr__(self) -> str:
        """Everything but the tool's result and what was found in it."""
        names = (name for name in self.__struct_fields__ if name not in ("tool_result", "found"))
        return f"Decision({', '.join(f'{name}={_shown(getattr(self, name))}' for name in names)})"


def _shown(value: object) -> str:
    return repr(value.value) if isinstance(value, Enum) else repr(value)
