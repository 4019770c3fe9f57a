"""Replays for tests: calls made by hand, and small pools."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import guardkit
from guardpool import DecisionRecord, Guard, Limits, ReplaySummary, replay
from guardpool.recordings import Call, Pairing, ResultIs

POLICY = {"allow-only": {"repos": "all", "min-integrity": "approved"}}


def call(number: int, tool: str = "get_issue", **members: Any) -> Call:
    """A call of server `g` with arguments and a raw result, unless told otherwise."""
    usual: dict[str, Any] = {
        "call": f"log.jsonl#{number}",
        "source": "json-rpc",
        "session": "s",
        "server": "g",
        "tool": tool,
        "args_json": b'{"n":%d}' % number,
        "result_json": b'{"content":[{"type":"text","text":"{}"}]}',
        "result_is": ResultIs.RAW,
        "pairing": Pairing.ID,
    }
    return Call(**{**usual, **members})


def without_result(number: int, tool: str = "get_issue", why: ResultIs = ResultIs.NO_RESPONSE, **members: Any) -> Call:
    """A call whose result is not there."""
    return call(number, tool, result_json=None, result_is=why, **members)


def guard(name: str = "g", wat: str = "by_letter", policy: Any = None, **options: Any) -> Guard:
    """`tests/guards/WAT.wat` before server `name`."""
    return Guard(name, guardkit.wat(wat), policy or POLICY, **options)


def replayed(
    calls: Iterable[Call], guards: Sequence[Guard] | None = None, **options: Any
) -> tuple[list[DecisionRecord], ReplaySummary]:
    """The decisions on calls, each of which was written and read again, and the summary."""
    options = {"workers": 1, "limits": Limits(timeout_s=30), "log_level": "off", **options}
    with replay(calls, [guard()] if guards is None else guards, **options) as decisions:
        records = list(decisions)
    for record in records:
        line = json.loads(record.to_line())
        assert (line["v"], line["call"], line["agrees"]) == (1, record.call, record.agrees)
    return records, decisions.summary
