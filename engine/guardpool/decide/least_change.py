"""The smallest change of a policy that would admit something, as far as labels alone tell it.

Another min-integrity needs no guard run, because the guard's labels do not depend on it. What other changes would do (a trusted
user, another repository) only the guard can say.
"""

from __future__ import annotations

from guardpool.contract.policy import LEVELS
from guardpool.decide.call import AgentState
from guardpool.decide.flow import Tagged
from guardpool.decide.words import level_of

_RANKS = {level: rank for rank, level in enumerate(LEVELS)}


def admitting_level(agent: AgentState, data: Tagged) -> str | None:
    """The highest min-integrity at which an agent with these labels could read something.

    A min-integrity of some level demands the tags of that level and of all below it.

    Args:
        agent: an agent whose integrity tags name levels, as a guard's `label_agent` gives them.
        data: a resource or an item.

    Returns:
        `merged`, `approved`, `unapproved` or `none`; the agent's own if it may read it already. None if no level helps: it is
        secret, blocked, or its tags are those of another scope.
    """
    if not data.secrecy <= agent.secrecy:
        return None
    demanded = {tag: _RANKS.get(level_of({tag}) or "", -1) for tag in agent.integrity}
    own = max(demanded.values(), default=-1)
    for rank in range(own, -1, -1):
        if all(tag in data.integrity for tag, of_tag in demanded.items() if of_tag <= rank):
            return LEVELS[rank]
    return None
