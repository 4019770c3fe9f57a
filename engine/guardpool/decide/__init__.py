"""Decisions: what becomes of a call under its labels, item by item, and why. No process is started and nothing is read.

    from guardpool import decide

    agent = decide.AgentState(integrity=frozenset({"none:all", "approved:all"}))
    call = decide.CallLabels("list_issues", mode="filter", resource=resource, response=response, tool_result=result)
    decision = decide.Monitor(rules="gateway").decide(agent, call)
    print(decision.verdict, decision.shown, decision.filtered, decision.unsafe)

`gateway` rules are GitHub's MCP gateway (github/gh-aw-mcpg at db20541, July 2026) as it is, `strict` rules are those that close
the places where it fails open. One file is one part of the rules:

| file | what it holds |
| --- | --- |
| `flow.py` | the two checks on tags, and the four rules made of them |
| `gateway.py`, `strict.py` | the steps of one call, and the check before the backend is asked |
| `items.py` | which items a result has, and which labels each |
| `decided_item.py` | one of them, and what was decided on it |
| `verdicts.py` | what the agent gets of judged items |
| `accumulation.py` | how reading changes the agent's labels |
| `results.py` | what the result becomes, and what is lost |
| `sinks.py`, `limits.py` | write sinks, servers without a guard, limits on calls |
| `session.py` | the calls of one agent to several servers, in order |
| `unsafe.py` | the places where the gateway fails open |
| `least_change.py` | the min-integrity that would admit something |
| `remembered.py` | what the same few sets of tags come to, made once |
| `record.py` | the record of a decision, a line of `decisions.jsonl` |
| `to_record.py`, `item_facts.py` | a decision's parts in that form; whose an item is |
| `sides.py` | what changes side between two decisions |
| `agreement.py` | whether a decision is what a gateway's own log says |
| `server_labels.py` | whether a server's own label is stricter than the guard's |
"""

from __future__ import annotations

from msgspec import UNSET

from guardpool.decide.call import AgentState, CallLabels
from guardpool.decide.decided_item import DecidedItem
from guardpool.decide.decision import Decision, ItemCounts
from guardpool.decide.least_change import admitting_level
from guardpool.decide.limits import SplitPolicy, split_policy
from guardpool.decide.monitor import Monitor
from guardpool.decide.record import DecisionRecord, RecordError, read_record, read_records
from guardpool.decide.session import Guarded, Session
from guardpool.decide.sinks import NoGuard, Sink, WhyNoGuard, sink_of_policy, sink_visibility
from guardpool.decide.unsafe import NOT_IN_DECISIONS, PLACES
from guardpool.decide.words import Coarse, DecideError, Failure, Rule, Rules, Verdict, level_of

__all__ = [
    "NOT_IN_DECISIONS",
    "PLACES",
    "UNSET",
    "AgentState",
    "CallLabels",
    "Coarse",
    "DecideError",
    "DecidedItem",
    "Decision",
    "DecisionRecord",
    "Failure",
    "Guarded",
    "ItemCounts",
    "Monitor",
    "NoGuard",
    "RecordError",
    "Rule",
    "Rules",
    "Session",
    "Sink",
    "SplitPolicy",
    "Verdict",
    "WhyNoGuard",
    "admitting_level",
    "level_of",
    "read_record",
    "read_records",
    "sink_of_policy",
    "sink_visibility",
    "split_policy",
]
