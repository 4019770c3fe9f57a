"""How an agent's labels change by what it reads. Only in propagate, and only by calls that read.

Source: github/gh-aw-mcpg, internal/guard/pipeline.go and internal/difc/resource.go; the stricter rule is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from guardpool.decide.call import AgentState
from guardpool.decide.flow import Tagged
from guardpool.labels import Labels


def gateway_accumulates(agent: AgentState, items: Sequence[Labels] | None, resource: Tagged) -> AgentState:
    """The agent after a response, as the gateway has it.

    Every item counts, also one that was denied. The secrecy of all is added. Of the integrity stays what is in the **union** of
    their integrity: so one trusted item is enough to keep a tag, and without items nothing stays. A `*` is an ordinary tag.

    Args:
        agent: the agent before.
        items: the labels of all items, or None if there are no items: then the resource's labels count.
        resource: the labels of the call.
    """
    read: Sequence[Tagged] = [resource] if items is None else items
    secrecy = agent.secrecy.union(*(labels.secrecy for labels in read))
    integrity = frozenset[str]().union(*(labels.integrity for labels in read))
    return AgentState(secrecy, agent.integrity & integrity)


def strict_accumulates(agent: AgentState, shown: Sequence[Labels], resource: Tagged) -> AgentState:
    """The agent after a response, under the strict rules: only what was shown counts, and the integrity that all of it has.

    Args:
        agent: the agent before.
        shown: the labels of the items that the agent gets; if it gets none, the resource's labels count.
        resource: the labels of the call.
    """
    read: Sequence[Tagged] = shown or [resource]
    secrecy = agent.secrecy.union(*(labels.secrecy for labels in read))
    return AgentState(secrecy, agent.integrity.intersection(*(labels.integrity for labels in read)))
