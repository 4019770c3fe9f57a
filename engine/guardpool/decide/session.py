"""`Session`: the calls of one agent to all of its servers, in order, folded into decisions.

An agent has one pair of labels for all servers. Each server adds to them when it is first called, and in propagate every read
changes them. Nothing here runs a guard: labels come in and decisions go out, so a change of mode, sinks, limits or rules needs
no guard run.

Source: github/gh-aw-mcpg, internal/difc/agent.go, internal/server/guard_init.go, unified.go and session.go; the stricter rules
are ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Union

import msgspec
from msgspec import UNSET
from msgspec.structs import force_setattr, replace

from guardpool.contract.text import shown
from guardpool.decide.accumulation import strict_accumulates
from guardpool.decide.call import AgentState, CallLabels
from guardpool.decide.case import ends_early, in_order
from guardpool.decide.decision import Decision
from guardpool.decide.limits import CallCounts, limits_of
from guardpool.decide.monitor import Monitor
from guardpool.decide.sinks import NoGuard, Sink, WhyNoGuard
from guardpool.decide.words import (
    ITEMS,
    NO_TAGS,
    PROPAGATE,
    WHOLE,
    WRITE,
    DecideError,
    Failure,
    Rule,
    Rules,
    Verdict,
    mode_of,
    rules_of,
    strings_of,
    tags_of,
)
from guardpool.labels import AgentLabels, DifcMode, Operation, Printed, ResourceLabel, ResponseLabel


class Guarded(Printed, frozen=True):
    """A server with a guard.

    Args:
        agent: what the guard's `label_agent` answered; None if it gave no answer, and then no call to the server is allowed.
        limits: the most calls of each tool, as `tool-call-limits` has them; see `split_policy`.
        item_limit: how many items the guard labels at most, as in `CallLabels`.
        error: why `label_agent` gave no answer.

    Raises:
        DecideError: an argument is not of its kind.
        PolicyError: the limits are not valid.
    """

    agent: AgentLabels | None
    limits: dict[str, int] = msgspec.field(default_factory=dict)
    item_limit: int | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if self.agent is not None and not isinstance(self.agent, AgentLabels):
            raise DecideError(f"what label_agent answered is an AgentLabels or None, not {shown(self.agent)}")
        force_setattr(self, "limits", limits_of(self.limits))


Server = Union[Guarded, Sink, NoGuard]
_UNKNOWN_SERVER = NoGuard(WhyNoGuard.UNKNOWN_SERVER)


class _Contact:
    """What a session knows of a server that it has called: its tags, its counts, the agent there, whether its guard trapped."""

    __slots__ = ("agent", "counts", "granted", "server", "trapped")  # a replay has as many as sessions

    def __init__(self, server: Server, granted: frozenset[str]) -> None:
        self.server = server
        self.granted = granted
        self.counts = CallCounts(server.limits if isinstance(server, Guarded) else {})
        self.trapped = False
        # The agent's labels as they count at this server under strict rules; None where they are to be made anew.
        self.agent: AgentState | None = None


class Session:
    """One agent's calls, in order.

    Args:
        servers: what stands before each server: `Guarded`, a `Sink` or `NoGuard`, by the server's id. A server that is not
            among them is unknown, which is `NoGuard`.
        rules: `gateway` or `strict`.
        mode: a mode in the place of those that the guards answered; None keeps theirs.
        default_mode: the gateway's own mode, for servers without a guard.
        secrecy, integrity: the labels that the configuration gives to every agent.
        allowed_tools: the tools that may be called, by server; a server that is not among them allows all.
        label_writes: under the strict rules, whether what a write returns is judged, too.

    Raises:
        DecideError: an argument is not of its kind.

    Under gateway rules integrity tags of all servers add up. Under strict rules each server has its own, because no item of
    one server can have the tags of another; what is dropped is dropped for all, and never comes back.
    """

    __slots__ = (
        *("_agent", "_contacts", "_default_mode", "_defaults", "_dropped", "_granting", "_mode", "_monitor", "_read"),
        *("_rules", "_servers", "_strict", "_tools"),
    )

    def __init__(
        self,
        servers: Mapping[str, Server],
        *,
        rules: Rules | str = Rules.GATEWAY,
        mode: DifcMode | str | None = None,
        default_mode: DifcMode | str = DifcMode.STRICT,
        secrecy: Collection[str] = (),
        integrity: Collection[str] = (),
        allowed_tools: Mapping[str, Collection[str]] | None = None,
        label_writes: bool = False,
    ) -> None:
        self._monitor = Monitor(rules_of(rules), label_writes)
        self._rules = rules_of(rules)
        self._strict = self._rules is Rules.STRICT
        self._mode = None if mode is None else mode_of(mode)
        self._default_mode = mode_of(default_mode)
        self._servers: dict[str, Server] = {}
        for what, value in (("servers", servers), ("allowed_tools", allowed_tools or {})):
            if not isinstance(value, Mapping):
                raise DecideError(f"{what} is a mapping by server, not {shown(value)}")
        for name, server in servers.items():
            self.configure(name, server)
        self._tools = {
            name: strings_of(tools, f"allowed_tools[{shown(name)}]", "tool")
            for name, tools in (allowed_tools or {}).items()
        }
        self._defaults = tags_of(integrity, "integrity")
        self._agent = AgentState(tags_of(secrecy, "secrecy"), self._defaults)
        self._contacts: dict[str, _Contact] = {}
        self._granting = 0  # servers whose guard gave the agent integrity tags
        self._dropped: frozenset[str] = NO_TAGS
        self._read: frozenset[str] = NO_TAGS

    @property
    def agent(self) -> AgentState:
        """The agent's labels now: those of all servers it has called."""
        return self._agent

    @property
    def read(self) -> frozenset[str]:
        """The secrecy tags of what the agent was shown so far, which may be fewer than it is cleared for."""
        return self._read

    def configure(self, name: str, server: Server) -> None:
        """Put another guard, policy or sink before a server. Its tags are added, and its counts begin anew, at the next call.

        The same once more changes nothing.

        Raises:
            DecideError: it is not a `Guarded`, `Sink` or `NoGuard`.
        """
        if not isinstance(server, (Guarded, Sink, NoGuard)):
            raise DecideError(f"server {shown(name)} is a Guarded, a Sink or NoGuard, not {shown(server)}")
        if self._servers.get(name) != server:
            self._servers[name] = server

    def decide(
        self,
        server: str,
        tool_name: str,
        *,
        resource: ResourceLabel | None = None,
        response: bytes | ResponseLabel | None = None,
        tool_result: Any = UNSET,
        operation: Operation | str | None = None,
        resource_error: str | None = None,
        response_error: str | None = None,
        tool_known: bool | None = None,
        read_only_hint: bool | None = None,
        trapped: bool = False,
    ) -> Decision:
        """The decision on the session's next call, after which the session's labels are those after the call.

        In the order of the gateway: allowed tools, the first contact with the server, the limit on calls, then the rules.

        Args:
            server: the server's id.
            trapped: whether the guard trapped or ran out of time while it labelled this call: in the gateway all of its later
                calls would fail.
            tool_name, resource, response, tool_result, operation, resource_error, response_error, tool_known, read_only_hint:
                as those of `CallLabels`. The mode is the server's, and sinks and servers without a guard need no label.

        Raises:
            DecideError: an argument is not of its kind; the session is as it was.
        """
        known = self._servers.get(server, _UNKNOWN_SERVER)
        guard = known if isinstance(known, Guarded) else None
        call = CallLabels(
            tool_name,
            self._mode_at(known),
            operation,
            resource if guard is not None else known,  # type: ignore[arg-type]
            None if guard is None else response,
            tool_result,
            resource_error,
            None if guard is None else response_error,
            None if guard is None else tool_known,
            read_only_hint,
            None if guard is None else guard.item_limit,
        )
        return self.decide_on(server, call, trapped=trapped)

    def decide_on(self, server: str, call: CallLabels, *, trapped: bool = False) -> Decision:
        """As `decide`, with labels that sessions under other rules or in other modes may share.

        Args:
            server: the server's id.
            call: its labels; a sink or `NoGuard` stands in the place of the resource. The mode is the server's, not the call's.
            trapped: as of `decide`.
        """
        known = self._servers.get(server, _UNKNOWN_SERVER)
        guard = known if isinstance(known, Guarded) else None
        call = call.in_mode(self._mode_at(known))
        if server in self._tools and call.tool_name not in self._tools[server]:
            not_allowed = Failure(Rule.ALLOWED_TOOLS, detail="the server's list of allowed tools lacks it")
            return self._ends(call, Verdict.DENIED, (not_allowed,))
        if guard is not None and guard.agent is None:
            why = f"label_agent: {guard.error or 'no answer'}"
            return self._ends(call, Verdict.LABELLING_ERROR, error=why)
        contact, met = self._contact(server, known)
        if guard is not None and guard.limits and not self._strict:
            met.append("B16")
        past_limit = contact.counts.count(call.tool_name)
        if past_limit is not None:
            return _with(self._ends(call, Verdict.DENIED, (past_limit,)), met)
        decision = self._monitor.decide(self._agent_at(contact), call)
        met += self._met_between_calls(contact, decision, trapped)
        label = call.label
        if label is not None:
            if decision.agent_after is not decision.agent_before:
                self._accumulate(decision, label)
            self._note_what_was_read(decision, label)
        return _with(decision, met)

    def mode_at(self, server: str) -> DifcMode:
        """The mode in which calls to a server are judged."""
        return self._mode_at(self._servers.get(server, _UNKNOWN_SERVER))

    def _mode_at(self, server: Server) -> DifcMode:
        if self._mode is not None:
            return self._mode
        if isinstance(server, Guarded):
            return self._default_mode if server.agent is None else server.agent.mode
        return DifcMode.FILTER if isinstance(server, Sink) else self._default_mode

    def _contact(self, name: str, server: Server) -> tuple[_Contact, list[str]]:
        """The server's contact, made at the first call and after every change: `label_agent`'s tags are added."""
        contact = self._contacts.get(name)
        if contact is not None and contact.server is server:
            return contact, []
        met = []
        secrecy, granted = NO_TAGS, NO_TAGS
        if isinstance(server, Guarded) and server.agent is not None:
            secrecy, granted = server.agent.secrecy, server.agent.integrity
        if self._strict:
            granted -= self._dropped  # integrity never rises
        elif granted & self._dropped:
            met.append("B9")
            self._dropped -= granted
        contact = self._contacts[name] = _Contact(server, granted)
        self._granting = sum(bool(each.granted) for each in self._contacts.values())
        self._set_agent(AgentState(self._agent.secrecy | secrecy, self._agent.integrity | granted))
        return contact, met

    def _agent_at(self, contact: _Contact) -> AgentState:
        """The agent's labels as they count at a server: under strict rules with that server's integrity tags alone."""
        if not self._strict:
            return self._agent
        if contact.agent is None:
            own = (self._defaults | contact.granted) - self._dropped
            contact.agent = AgentState(self._agent.secrecy, own)
        return contact.agent

    def _set_agent(self, agent: AgentState) -> None:
        self._agent = agent
        for contact in self._contacts.values():
            contact.agent = None

    def _accumulate(self, decision: Decision, resource: ResourceLabel) -> None:
        """Take over what a read in propagate did to the agent: a tag that is dropped is dropped at every server."""
        before, after = self._agent, decision.agent_after
        if self._strict:
            shown_labels = [item.labels for item in decision.items or () if item.allowed]
            after = strict_accumulates(before, shown_labels, resource)
        self._dropped |= before.integrity - after.integrity
        self._set_agent(after)

    def _note_what_was_read(self, decision: Decision, resource: ResourceLabel) -> None:
        if decision.verdict is ITEMS:
            for item in decision.items or ():
                if item.allowed and not item.labels.secrecy <= self._read:
                    self._read |= item.labels.secrecy
        elif decision.verdict is WHOLE and decision.operation is not WRITE:
            self._read |= resource.secrecy

    def _ends(
        self, call: CallLabels, verdict: Verdict, failed: tuple[Failure, ...] = (), error: str | None = None
    ) -> Decision:
        return ends_early(self._rules, self._agent, call, verdict, failed, error)

    def _met_between_calls(self, contact: _Contact, decision: Decision, trapped: bool) -> list[str]:
        """The places that no single call shows."""
        refused = [failure.extra for failure in decision.failed if failure.rule is Rule.WRITE_SECRECY]
        met = ["B10"] if refused and not refused[0] & self._read else []
        if self._strict:
            return met
        contact.trapped |= trapped
        if contact.trapped:
            met.append("B29")
        if not isinstance(contact.server, Guarded) or decision.mode is PROPAGATE:
            return met
        if self._granting > 1:
            of_others = self._agent.integrity - contact.granted - self._defaults
            if of_others and _denied_for(decision, of_others):
                met.append("B34")
        return met


def _denied_for(decision: Decision, tags: frozenset[str]) -> bool:
    """Whether the call or an item was denied for the lack of nothing but these integrity tags."""
    failed = [failure for item in decision.filtered for failure in item.failed]
    return any(
        failure.rule is Rule.READ_INTEGRITY and failure.missing <= tags for failure in (*decision.failed, *failed)
    )


def _with(decision: Decision, met: list[str]) -> Decision:
    return replace(decision, unsafe=in_order((*decision.unsafe, *met))) if met else decision
