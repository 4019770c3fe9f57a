"""`Monitor`: decides on one call after the other."""

from __future__ import annotations

from msgspec.structs import force_setattr

from guardpool.decide import gateway, strict
from guardpool.decide.call import AgentState, CallLabels
from guardpool.decide.decision import Decision
from guardpool.decide.words import STRICT_RULES, Rules, rules_of
from guardpool.labels import Printed


class Monitor(Printed, frozen=True, gc=False):
    """Who decides what an agent gets of a call. It has no state: a session's calls are folded by `Session`.

    Args:
        rules: `gateway`, to reproduce what happened, or `strict`, to say what should have.
        label_writes: under the strict rules, whether what a write returns is judged, too.

    Raises:
        DecideError: the rules are neither.
    """

    rules: Rules | str = Rules.GATEWAY
    label_writes: bool = False

    def __post_init__(self) -> None:
        force_setattr(self, "rules", rules_of(self.rules))

    def decide(self, agent: AgentState, call: CallLabels) -> Decision:
        """What becomes of a call, and why.

        Args:
            agent: the agent's labels before the call.
            call: the call with its labels.

        Returns:
            The decision; `agent_after` has the labels for the next call. What the guard answered is never an exception: an
            answer that is not valid is a `labelling-error`.
        """
        if self.rules is STRICT_RULES:
            return strict.decide(agent, call, self.label_writes)
        return gateway.decide(agent, call)
