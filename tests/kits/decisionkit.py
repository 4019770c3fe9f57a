"""Calls with labels to decide on: short ways to make one, and random ones of every odd shape."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from random import Random
from typing import Any

from guardpool import decide
from guardpool.decide import UNSET, Decision, Verdict
from guardpool.decide.record import DecisionRecord, ResourceRecord, TagPair
from guardpool.labels import LabeledItem, Labels, LabelWarning, Operation, PathLabel, ResourceLabel, ResponseLabel

NONE = frozenset({"none:all"})
UNAPPROVED = NONE | {"unapproved:all"}
APPROVED = UNAPPROVED | {"approved:all"}
MERGED = APPROVED | {"merged:all"}
PRIVATE = frozenset({"private:o/r"})
NO_TAGS: frozenset[str] = frozenset()

GATEWAY = decide.Monitor(rules="gateway")
STRICT = decide.Monitor(rules="strict")
# Demands approved content, and is cleared for one private repository.
AGENT = decide.AgentState(PRIVATE, APPROVED)


def resource(
    integrity: Iterable[str] = APPROVED,
    secrecy: Iterable[str] = (),
    operation: str = "read",
    warnings: Iterable[tuple[str, str]] = (),
) -> ResourceLabel:
    """A resource that `AGENT` may read, unless told otherwise."""
    given = tuple(LabelWarning(code, detail) for code, detail in warnings)
    return ResourceLabel("a resource", frozenset(secrecy), frozenset(integrity), Operation(operation), given)


def labels(integrity: Iterable[str] = APPROVED, secrecy: Iterable[str] = ()) -> Labels:
    return Labels("an item", frozenset(secrecy), frozenset(integrity))


def at(path: str, integrity: Iterable[str] = APPROVED, secrecy: Iterable[str] = ()) -> PathLabel:
    return PathLabel(path, f"the item at {path}", frozenset(secrecy), frozenset(integrity))


def paths(*given: PathLabel, default: Labels | None = None, items_path: str | None = None) -> ResponseLabel:
    return ResponseLabel(given, default, items_path)


def older(*items: tuple[Any, Labels]) -> ResponseLabel:
    """An answer of the older form."""
    return ResponseLabel(items=tuple(LabeledItem(data, its_labels) for data, its_labels in items))


def mcp(*texts: Any, **members: Any) -> dict[str, Any]:
    """An MCP result with a text part for each value: a string as it is, anything else as JSON."""
    parts = [{"type": "text", "text": text if isinstance(text, str) else json.dumps(text)} for text in texts]
    return {"content": parts, **members}


def call(
    given: Any, response: Any = None, result: Any = UNSET, mode: str = "filter", tool: str = "list_issues", **more: Any
) -> decide.CallLabels:
    """A call of `given`: a resource's label, a sink or no guard."""
    return decide.CallLabels(tool, mode, resource=given, response=response, tool_result=result, **more)


def record(verdict: str = "items", **members: Any) -> DecisionRecord:
    """A record of a decision: a read of issues, by the gateway's rules, in filter mode; `members` replace its own."""
    values: dict[str, Any] = {
        "v": 1,
        "call": "a.jsonl#1",
        "session": "s",
        "server": "github",
        "tool": "list_issues",
        "result_is": "raw",
        "guard": "github",
        "guard_sha256": "a" * 64,
        "policy_sha256": "b" * 64,
        "mode": "filter",
        "rules": "gateway",
        "operation": "read",
        "resource": ResourceRecord("issues:o/r", (), ("none:all",)),
        "verdict": verdict,
        "agent_before": TagPair(),
        "agent_after": TagPair(),
        "agrees": "unknown",
    }
    return DecisionRecord(**{**values, **members})


def both(labelled: decide.CallLabels, agent: decide.AgentState = AGENT) -> tuple[Decision, Decision]:
    """The decisions of the gateway's rules and of the strict ones."""
    return GATEWAY.decide(agent, labelled), STRICT.decide(agent, labelled)


def shown_indexes(decision: Decision) -> set[int]:
    """The indexes of the items that the agent gets; of a whole result, or one that is an item itself, 0."""
    if decision.verdict is Verdict.WHOLE:
        return {0}
    if decision.verdict is not Verdict.ITEMS:
        return set()
    return {item.index for item in decision.items or () if item.allowed}


def hides_less(strict: Decision, gateway: Decision) -> bool:
    """Whether `strict` shows something that `gateway` hides."""
    if gateway.verdict is Verdict.WHOLE:
        return False  # all of the raw result
    return strict.verdict is Verdict.WHOLE or not shown_indexes(strict) <= shown_indexes(gateway)


# --- random calls

TAGS = ("none:all", "unapproved:all", "approved:all", "merged:all", "approved:o/r", "blocked:o/r")
SECRETS = ("private:o/r", "private:o", "private", "secret")
_POINTERS = ("", "/items", "items", "/deep/a~1b", "/none", "/total_count", "/0")
_ENDS = ("/0", "/1", "/2", "/00", "/+1", "/-1", "/x", "/", "/7", "/0/title", "/1/user/login", "//title", "/0/")


def item(number: int) -> dict[str, Any]:
    """An item that can be found again in any text."""
    return {"n": number, "text": f"this-is-item-{number}"}


def items_in(decision: Decision) -> set[str]:
    """The items of `RandomCalls` that stand anywhere in what the agent gets."""
    return set(re.findall(r"this-is-item-\d", json.dumps(decision.result)))


class RandomCalls:
    """Random agents, resources, answers and results, from one seed."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def tags(self, names: tuple[str, ...], odd: bool = True) -> frozenset[str]:
        found = {name for name in names if self._random.random() < 0.55}
        if odd and self._random.random() < 0.08:
            found.add(self._random.choice(("*", "", "*")))
        return frozenset(found)

    def agent(self) -> decide.AgentState:
        size = self._random.choice((0, 1, 2, 3, len(TAGS)))
        return decide.AgentState(self.tags(SECRETS), self.tags(TAGS[:size]))

    def labels(self) -> Labels:
        many = self._random.random() < 0.5
        integrity = self.tags(TAGS) | (frozenset(TAGS) if many else frozenset())
        return Labels("item", self.tags(SECRETS) if self._random.random() < 0.6 else frozenset(), integrity)

    def resource(self, operation: str) -> ResourceLabel:
        made = self.labels()
        warnings: tuple[LabelWarning, ...] = ()
        if self._random.random() < 0.05:
            code = self._random.choice(("operation_unknown", "tags_dropped", "not_an_array", "star_from_guard"))
            warnings = (LabelWarning(code, "x"),)
        return ResourceLabel("resource", made.secrecy, made.integrity, Operation(operation), warnings)

    def result(self) -> Any:
        items = [item(number) for number in range(self._random.choice((0, 1, 1, 2, 3)))]
        root: Any = self._random.choice(
            (
                items,
                items,
                {"items": items, "total_count": len(items), "deep": {"a/b": items}},
                item(0),
                "words",
                5,
                None,
            )
        )
        if self._random.random() < 0.3:
            return root
        result = mcp(root)
        if self._random.random() < 0.1:
            result["content"].append({"type": "text", "text": self._random.choice(("more", "", "[]"))})
        if self._random.random() < 0.1:
            result["content"].insert(0, {"type": "image", "data": "", "mimeType": "image/png"})
        if self._random.random() < 0.15:
            result["isError"] = self._random.choice((True, False))
        if self._random.random() < 0.15:
            result["structuredContent"] = self._random.choice((root, {"other": 1}))
        return result

    def response(self) -> ResponseLabel | None:
        chosen = self._random.random()
        if chosen < 0.15:
            return None
        if chosen < 0.3:
            count = self._random.choice((0, 1, 1, 2, 3))
            return older(*((item(number), self.labels()) for number in range(count)))
        items_path = self._random.choice((None, *_POINTERS, "", ""))
        prefix = items_path if self._random.random() < 0.9 else "/items"
        count = self._random.choice((0, 1, 2, 3, 4))
        given = [(f"{prefix or ''}{self._random.choice(_ENDS)}", self.labels()) for _ in range(count)]
        return ResponseLabel(
            tuple(PathLabel(path, "item", made.secrecy, made.integrity) for path, made in given),
            self.labels() if self._random.random() < 0.7 else None,
            items_path,
        )

    def call(self, operation: str | None = None, mode: str | None = None) -> decide.CallLabels:
        operation = operation or self._random.choice(("read", "read", "write", "read-write"))
        return decide.CallLabels(
            self._random.choice(("list_issues", "search_issues", "get_commit", "issue_read")),
            mode or self._random.choice(("strict", "filter", "propagate")),
            resource=self.resource(operation),
            operation=operation if self._random.random() < 0.8 else None,
            response=self.response(),
            tool_result=self.result() if self._random.random() < 0.95 else UNSET,
            tool_known=self._random.choice((None, None, True, False)),
            read_only_hint=self._random.choice((None, True, False)),
            item_limit=self._random.choice((None, None, None, 1, 100)),
        )
