"""Limits on how often an agent may call a tool, and the keys of a policy that are not for a guard.

Source: github/gh-aw-mcpg, internal/server/unified.go (counting), internal/config/guard_policy.go (the keys) and
internal/guard/wasm_payload.go, which refuses those keys in what a wasm guard gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from guardpool.contract.text import shown
from guardpool.decide.words import Failure, Rule
from guardpool.errors import PolicyError

LIMITS_KEY = "tool-call-limits"
# Keys of `allow-only` that a gateway's configuration may have, and that no wasm guard is given.
NOT_FOR_GUARDS = (LIMITS_KEY, "promotion-label", "demotion-label")


class SplitPolicy(NamedTuple):
    """A policy as its guard may have it, and what is not for the guard.

    Attributes:
        policy: a copy of the policy without those keys.
        limits: the most calls of each tool; tools without a limit are left out.
        taken_off: the keys that were taken off, in their order.
    """

    policy: dict[str, Any]
    limits: dict[str, int]
    taken_off: tuple[str, ...]


def split_policy(policy: Mapping[str, Any]) -> SplitPolicy:
    """Take off a gateway's policy what its guard would refuse.

    Args:
        policy: `{"allow-only": {...}}`. What the guard gets is not checked here but by `guardpool.contract.check_policy`.

    Raises:
        PolicyError: the policy is not an object, or its limits are not whole numbers from 0 on.
    """
    if not isinstance(policy, Mapping):
        raise PolicyError(f"a policy is an object, not {shown(policy)}")
    key = "allow-only" if "allow-only" in policy else "allowonly"
    body = policy.get(key)
    if not isinstance(body, Mapping):
        return SplitPolicy(dict(policy), {}, ())
    kept = {name: value for name, value in body.items() if name not in NOT_FOR_GUARDS}
    taken_off = tuple(name for name in body if name in NOT_FOR_GUARDS)
    return SplitPolicy({**policy, key: kept}, limits_of(body.get(LIMITS_KEY) or {}), taken_off)


def limits_of(value: Any) -> dict[str, int]:
    """The limits that are in force: 0 stands for no limit.

    Raises:
        PolicyError: they are not an object of whole numbers from 0 on.
    """
    if not isinstance(value, Mapping):
        raise PolicyError(f"{LIMITS_KEY} must be an object of tool names and numbers, not {shown(value)}")
    for tool, most in value.items():
        if not isinstance(tool, str) or not tool:
            raise PolicyError(f"{LIMITS_KEY} has the key {shown(tool)}, which is not a tool's name")
        if type(most) is not int or most < 0:
            raise PolicyError(f"{LIMITS_KEY}[{shown(tool)}] must be a whole number from 0 on, not {shown(most)}")
    return {tool: most for tool, most in value.items() if most}


class CallCounts:
    """How often each tool was called at one server in one session."""

    __slots__ = ("_counts", "_limits")

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = limits
        self._counts: dict[str, int] = {}

    def count(self, tool: str) -> Failure | None:
        """Count a call before anything is checked, so that a denied call counts; one past the limit does not."""
        most = self._limits.get(tool)
        if most is None:
            return None
        calls = self._counts.get(tool, 0)
        if calls >= most:
            return Failure(Rule.CALL_LIMIT, detail=f"the tool may be called {most} times, and was")
        self._counts[tool] = calls + 1
        return None
