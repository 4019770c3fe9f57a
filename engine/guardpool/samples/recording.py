"""A gateway's log of the sample traffic, and what it stands for.

A small gateway is played: it labels each of the agent's calls by the guard's rules (`guard_rules.py`), refuses it, or sends
it on and writes request and answer to its log, and then says which things the guard's labels took away. What the log stands
for is noted while it is written; nothing is read back from it. The log has the traps of real ones:

- a request has no id, and every answer has the id 1
- the guard's questions look like calls: those of `label_resource` stand before the agent's request, those of
  `label_response` behind its answer
- answers to concurrent calls overtake one another
- secrets are taken out of payloads, and some payloads are no JSON any more (`sanitiser.py`)
- refused calls have no request, calls that failed no result, and the last request may have no answer
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from datetime import datetime, timedelta, timezone
from heapq import heappop, heappush
from random import Random
from typing import NamedTuple, TypeVar

import msgspec

from guardpool.samples import guard_rules, sanitiser, traffic
from guardpool.samples.guard_rules import APPROVED, Item, Label, Target
from guardpool.samples.policy import POLICY
from guardpool.samples.repositories import VISIBILITY, backend
from guardpool.samples.traffic import AgentCall, JsonObject

# How often an agent makes 2 to 4 calls at once and does not wait for one after the other: about 9% of its calls.
BURST_SHARE = 0.03
_BURST_SIZES = (2, 2, 3, 4)
# How many of the calls that were sent get no answer but a transport error.
ERROR_SHARE = 0.01
_ERRORS = ("context deadline exceeded", "unexpected EOF", "connection reset by peer")
# How many logs end before the last request was answered.
UNANSWERED_SHARE = 0.4
# The shares of denials (3%), of secrets (3%) and of the guard's questions follow from the traffic and from the guard's
# rules: the guard asks about a repository when it meets it first, and again at times where nobody knows it.

SERVER = "github"
# The gateway's own lines at the beginning, a request for the tools and its answer. They belong to no call.
LISTING_LINES = (1, 2)

# Versions of the gateway from that autumn on log denials.
_START = datetime(2026, 10, 2, 8, tzinfo=timezone.utc)
_MAX_ANSWER_MS = 900
_MAX_PAUSE_MS = 4000

Labelling = tuple[str, str, JsonObject, "JsonObject | None", list[str], list[Label]]
_T = TypeVar("_T")
# A process of the gateway: yields after how many milliseconds it goes on.
_Steps = Generator[int, None, _T]


class Log(NamedTuple):
    """A log and what it stands for."""

    lines: list[str]
    truth: list[JsonObject]


def recording(n: int, seed: int = 0) -> list[str]:
    """The lines of a gateway's `rpc-messages.jsonl`, version 2, of sample traffic; without newlines.

    The same `n` and `seed` give the same lines. A smaller `n` does not give their beginning. 100,000 calls make
    about 440,000 lines and 410 MB of text, and take some 25 s and 1.5 GiB of memory; both grow with `n` and no faster.

    Args:
        n: how many calls the agent makes, 0 or more. The guard's questions are added to them.
        seed: any whole number.

    Raises:
        ValueError: `n` is negative.
    """
    return play(n, seed).lines


def recording_truth(n: int, seed: int = 0) -> list[JsonObject]:
    """What `recording(n, seed)` stands for: its calls, in the order of their requests.

    A call has the members that a reader can know from the log; what is not there is left out:

    - `call`: `"#LINE"` with the line of its request, counted from 1, or of its denial
    - `lines`: all lines that belong to it, ascending. Each line of the log belongs to one call, but for the two of
      `LISTING_LINES`
    - `role`: `agent`, or `enrichment` for a question of the guard
    - `server`, `at`, `until` (of request and answer, RFC 3339)
    - `tool`, `args`: as they were sent, with `[REDACTED]` where the log has it. A denial has no arguments, and a lost
      request has neither
    - `result`: the MCP result, with `[REDACTED]` where the log has it
    - `result_is`: `raw`; `lost`; `no-response` for a transport error and for a request without an answer; `not-recorded`
      for a denial
    - `error`: what the transport said
    - `payload`: the states of `args` and `result` after the sanitiser; see `sanitiser.Damage`
    - `enrichment`: the guard's questions for this call, each with `tool`, `args` and `result`, in their order; they are also
      calls of their own
    - `observed`: `{"filtered": [...]}` or `{"denied": ...}`: the events of the log, without their time, schema, server and
      tool. Tags are in no order

    Calls share sub-objects: treat them as immutable.

    Raises:
        ValueError: `n` is negative.
    """
    return play(n, seed).truth


def play(n: int, seed: int, watch: Callable[[Labelling], None] | None = None) -> Log:
    """Play a gateway under `n` calls.

    Args:
        n, seed: as for `recording`.
        watch: is told each labelling in the order in which the guard made it: operation, tool, arguments, result (None for
            `label_resource`), the repositories that were asked about, and the labels.

    Raises:
        ValueError: `n` is negative.
    """
    if n < 0:
        raise ValueError(f"n must be 0 or more, not {n}")
    draw = Random(seed).random
    gateway = _Gateway(draw, watch)
    gateway.list_tools()
    last = n - 1 if draw() < UNANSWERED_SHARE else -1
    at = 0
    while at < n:
        size = min(n - at, _BURST_SIZES[int(draw() * len(_BURST_SIZES))] if draw() < BURST_SHARE else 1)
        gateway.serve([(traffic.draw_call(draw), number != last) for number in range(at, at + size)])
        at += size
    return Log(gateway.lines, gateway.truth)


class _Gateway:
    """One server behind one guard, its clock and its log."""

    def __init__(self, draw: traffic.Draw, watch: Callable[[Labelling], None] | None) -> None:
        self.lines: list[str] = []
        self.truth: list[JsonObject] = []
        self._draw = draw
        self._watch = watch
        self._now_ms = 0
        self._guard_is_busy = False
        self._visibilities = guard_rules.Visibilities(VISIBILITY)

    def list_tools(self) -> None:
        """Write the request for the server's tools, and its answer."""
        self._write_request("tools/list", sanitiser.encode({"jsonrpc": "2.0", "method": "tools/list", "params": {}}))
        self._now_ms += 40 + int(self._draw() * 100)
        self._write_answer(sanitiser.sanitise(traffic.answer_of({"tools": _TOOLS})))

    def serve(self, calls: Iterable[tuple[AgentCall, bool]]) -> None:
        """Serve calls that come at once, and wait for all; with each call: whether it gets an answer."""
        self._now_ms += 20 + int(self._draw() * _MAX_PAUSE_MS)
        due: list[tuple[int, int, _Steps[None]]] = []
        for order, (call, is_answered) in enumerate(calls):
            heappush(due, (self._now_ms + order, order, self._serve(call, is_answered)))
        while due:
            self._now_ms, order, steps = heappop(due)
            wait_ms = next(steps, None)
            if wait_ms is not None:
                heappush(due, (self._now_ms + wait_ms, order, steps))

    # One call

    def _serve(self, call: AgentCall, is_answered: bool) -> _Steps[None]:
        told: JsonObject = {"role": "agent", "server": SERVER, "tool": call.tool, "lines": []}
        target = guard_rules.target_of(call.tool, call.args)
        (label,) = yield from self._label("label_resource", call, target, told)
        yield 1
        if _is_denied(label):
            self._deny(label, told)
            return
        self._send(call, told)
        if not is_answered:
            told["result_is"] = "no-response"
            return
        yield 30 + int(self._draw() * _MAX_ANSWER_MS)
        if self._draw() < ERROR_SHARE:
            self._fail(told)
            return
        self._receive(call.answer, told)
        if target.operation == "write":
            return  # what a write returns is not labelled
        yield 1
        yield from self._label("label_response", call, target, told)

    def _label(self, op: str, call: AgentCall, target: Target, told: JsonObject) -> _Steps[list[Label]]:
        """Have the guard label a call or its answer; it takes one at a time, and asks before it answers."""
        while self._guard_is_busy:
            yield 1
        self._guard_is_busy = True
        asked = self._visibilities.asked = []
        found: list[tuple[Item | None, Label]]
        if op == "label_resource":
            found = [(None, guard_rules.label_resource(target, self._visibilities))]
        else:
            found = guard_rules.label_response(target, call.answer.page, self._visibilities)
        labels = [label for _, label in found]
        if self._watch is not None:
            result = call.answer.result if op == "label_response" else None
            self._watch((op, call.tool, call.args, result, asked, labels))
        for repo in asked:
            yield from self._ask(repo, told)
        self._guard_is_busy = False
        if op == "label_response":
            self._filter(call.tool, found, told)
        return labels

    def _ask(self, repo: str, told: JsonObject) -> _Steps[None]:
        """Write a question of the guard, and its answer."""
        tool, args = "search_repositories", {"query": f"repo:{repo}", "perPage": 10}
        result = traffic.wrapped(backend(tool, args))
        question: JsonObject = {"role": "enrichment", "server": SERVER, "tool": tool, "lines": []}
        page = guard_rules.Page(None, ())
        answer = traffic.Answer(result, page, sanitiser.damage(traffic.answer_of(result)), result)
        self._send(AgentCall(tool, args, answer), question)
        told.setdefault("enrichment", []).append({"tool": tool, "args": args, "result": result})
        yield 15 + int(self._draw() * 80)
        self._receive(answer, question)

    def _send(self, call: AgentCall, told: JsonObject) -> None:
        params = {"name": call.tool, "arguments": call.args}
        request = {"jsonrpc": "2.0", "method": "tools/call", "params": params}
        payload = sanitiser.damage(sanitiser.encode(request, sorted_names=True))
        told["payload"] = {"args": payload.state}
        if payload.left is None:
            del told["tool"]
        elif payload.state == sanitiser.INTACT:
            told["args"] = call.args
        else:
            told["args"] = msgspec.json.decode(payload.left)["params"]["arguments"]
        self._begin(told)
        told["lines"].append(self._write_request("tools/call", payload.logged))

    def _receive(self, answer: traffic.Answer, told: JsonObject) -> None:
        told["payload"]["result"] = answer.payload.state
        told["until"] = self._stamp()
        told["result_is"] = "raw" if answer.left is not None else "lost"
        if answer.left is not None:
            told["result"] = answer.left
        told["lines"].append(self._write_answer(answer.payload.logged))

    def _fail(self, told: JsonObject) -> None:
        """Write that the transport failed: there is no payload, for which the sanitiser writes an object."""
        error = _ERRORS[int(self._draw() * len(_ERRORS))]
        told |= {"until": self._stamp(), "result_is": "no-response", "error": error}
        told["lines"].append(self._write_answer(sanitiser.sanitise(""), error=error))

    def _deny(self, label: Label, told: JsonObject) -> None:
        rule = "lacks required integrity to write" if label.operation == "write" else "has secrecy requirements"
        # A version that logs denials always has the agent's tags in them; the sample policy gives no secrecy.
        agent = {"agent_secrecy_tags": [], "agent_integrity_tags": self._shuffled(_AGENT_INTEGRITY)}
        event = self._event(label, f"the call is denied: {label.description} {rule}") | agent
        told |= {"result_is": "not-recorded", "observed": {"denied": event}}
        self._begin(told)
        told["lines"].append(self._write_event(told["tool"], event))

    def _filter(self, tool: str, found: list[tuple[Item | None, Label]], told: JsonObject) -> None:
        """Write a line for each thing that the agent does not get."""
        removed: list[JsonObject] = []
        for item, label in found:
            rule = _violated(label)
            if rule:
                event = self._event(label, f"{label.description} {rule}") | _facts(item)
                removed.append(event)
                told["lines"].append(self._write_event(tool, event))
        if removed:
            told["observed"] = {"filtered": removed}

    def _event(self, label: Label, reason: str) -> JsonObject:
        return {
            "description": label.description,
            "reason": reason,
            "secrecy_tags": list(label.secrecy),
            "integrity_tags": self._shuffled(label.integrity),
        }

    def _shuffled(self, tags: tuple[str, ...]) -> list[str]:
        """The tags in some order, as Go's maps give them."""
        start = int(self._draw() * len(tags))
        return [*tags[start:], *tags[:start]]

    # Lines

    def _begin(self, told: JsonObject) -> None:
        """Note a call at its first own line, which is the next one."""
        told |= {"call": f"#{len(self.lines) + 1}", "at": self._stamp()}
        self.truth.append(told)

    def _write_request(self, method: str, payload: str) -> int:
        return self._write_message("rpc_request", "OUT", {"method": method}, payload)

    def _write_answer(self, payload: str, **error: str) -> int:
        return self._write_message("rpc_response", "IN", error, payload)

    def _write_message(self, event: str, direction: str, more: dict[str, str], payload: str) -> int:
        head = {"timestamp": self._stamp(), "event": event, "_schema": "rpc-message/v2", "direction": direction}
        line = sanitiser.encode({**head, "server_id": SERVER, **more})
        return self._write(f'{line[:-1]},"payload":{payload}}}')

    def _write_event(self, tool: str, event: JsonObject) -> int:
        head = {"timestamp": self._stamp(), "event": "difc_filtered", "_schema": "difc-filtered/v2"}
        return self._write(sanitiser.encode({**head, "server_id": SERVER, "tool_name": tool, **event}))

    def _write(self, line: str) -> int:
        """Append a line; returns its number, counted from 1."""
        self.lines.append(line)
        return len(self.lines)

    def _stamp(self) -> str:
        at = _START + timedelta(milliseconds=self._now_ms)
        return f"{at.strftime('%Y-%m-%dT%H:%M:%S')}.{at.microsecond // 1000:03}Z"


_AGENT_INTEGRITY = guard_rules.tags_up_to(POLICY["allow-only"]["min-integrity"])


def _violated(label: Label) -> str:
    """The read rule that keeps a thing from the agent, in the words that tell the rules apart; empty if it may have it."""
    if len(label.integrity) < APPROVED:
        return "has lower integrity than agent requires"
    return "has secrecy requirements that agent does not meet" if label.secrecy else ""


def _is_denied(label: Label) -> bool:
    """Whether the gateway refuses a call: a read never, a write for want of integrity, a change by either rule."""
    if label.operation == "read":
        return False
    lacks_integrity = len(label.integrity) > APPROVED
    return lacks_integrity or (label.operation == "read-write" and bool(_violated(label)))


def _facts(item: Item | None) -> JsonObject:
    """What the log says of a thing beside its label, as far as the thing has it."""
    if item is None:
        return {}
    thing = item.data
    facts = {
        "author_association": thing.get("author_association"),
        "author_login": guard_rules.author_of(thing),
        "html_url": thing.get("html_url"),
        "number": str(thing["number"]) if "number" in thing else None,
        "sha": thing.get("sha"),
    }
    return {name: value for name, value in facts.items() if value}


_OWNER_AND_REPO = {"owner": {"type": "string"}, "repo": {"type": "string"}}
_TOOLS = [
    {
        "name": tool,
        "description": f"{tool.replace('_', ' ').capitalize()}.",
        "inputSchema": {"type": "object", "properties": _OWNER_AND_REPO},
        "annotations": {"readOnlyHint": operation == "read"},
    }
    for tool, operation in guard_rules.operations().items()
]
