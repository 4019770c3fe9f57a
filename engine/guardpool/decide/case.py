"""One call while it is decided on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from guardpool.decide.call import AgentState, CallLabels
from guardpool.decide.decided_item import DecidedItem
from guardpool.decide.decision import Decision
from guardpool.decide.items import Found
from guardpool.decide.words import Coarse, Failure, Rules, Verdict
from guardpool.labels import DifcMode, Operation, ResourceLabel


class Case(msgspec.Struct):
    """What is known of a call from one step of the rules to the next.

    Attributes:
        rules, agent, call: what is decided on, and by which rules.
        mode: the call's mode.
        operation: what the call is taken to do.
        operation_is_known: whether the guard gave one of the three words.
        resource: the labels of what it touches.
        coarse: what became of it before the backend was asked.
        failed: the rules that the call itself failed.
        met: ids of the places met so far, see `PLACES`.
    """

    rules: Rules
    agent: AgentState
    call: CallLabels
    mode: DifcMode
    operation: Operation
    operation_is_known: bool
    resource: ResourceLabel
    coarse: Coarse = Coarse.DENIED
    failed: tuple[Failure, ...] = ()
    met: list[str] = msgspec.field(default_factory=list)

    def ends(
        self,
        verdict: Verdict,
        agent_after: AgentState | None = None,
        *,
        lost: tuple[str, ...] = (),
        response_labelled: bool = False,
        items: Sequence[DecidedItem] | None = None,
        shown: Any = None,
        error: str | None = None,
        found: Found | None = None,
    ) -> Decision:
        """The decision, whose fields the arguments are. The agent is as it was unless `agent_after` says otherwise."""
        return Decision(
            self.rules,
            self.mode,
            self.operation,
            self.coarse,
            verdict,
            self.failed,
            self.agent,
            self.agent if agent_after is None else agent_after,
            in_order(self.met) if self.met else (),
            lost,
            response_labelled,
            items,
            shown,
            error,
            self.call.tool_result,
            found,
        )


def begin(rules: Rules, agent: AgentState, call: CallLabels, resource: ResourceLabel) -> Case:
    """The case of a call before anything is decided."""
    operation, is_known = call.asked
    return Case(rules, agent, call, enforced(call), operation, is_known, resource)


def in_order(places: Iterable[str]) -> tuple[str, ...]:
    """Ids of places, each once, by their number."""
    return tuple(sorted(set(places), key=lambda place: int(place[1:])))


def enforced(call: CallLabels) -> DifcMode:
    """The mode of a call, which is one of the three since the call was made."""
    mode = call.mode
    assert type(mode) is DifcMode
    return mode


def ends_early(
    rules: Rules,
    agent: AgentState,
    call: CallLabels,
    verdict: Verdict,
    failed: tuple[Failure, ...] = (),
    error: str | None = None,
) -> Decision:
    """The decision on a call that ended before any label was looked at."""
    operation = call.asked.operation
    return Decision(rules, enforced(call), operation, Coarse.DENIED, verdict, failed, agent, agent, error=error)
