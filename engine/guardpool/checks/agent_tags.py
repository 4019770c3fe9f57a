"""The tags that the GitHub guard gives an agent, told from the policy alone: no guard is run.

Source: github/gh-aw-mcpg, guards/github-guard/rust-guard/src/labels/helpers.rs, and docs/CONFIGURATION.md for the table of
`repos` and what a sink must accept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guardpool.contract.policy import LEVELS
from guardpool.contract.text import lower, trim
from guardpool.decide import AgentState


def scopes_of(allow_only: Mapping[str, Any]) -> tuple[str, ...]:
    """The scopes of a policy, as they stand in tags: `all`, `public`, `octo`, `octo/rocket`, `octo/ro*`, in its order.

    Args:
        allow_only: the object under `allow-only`, already checked.
    """
    repos = allow_only["repos"]
    if isinstance(repos, str):
        return (lower(trim(repos)),)
    return tuple(trim(scope).removesuffix("/*") for scope in repos)


def level_of_policy(allow_only: Mapping[str, Any]) -> str:
    """Its min-integrity: `none`, `unapproved`, `approved` or `merged`."""
    return lower(trim(allow_only.get("min-integrity", allow_only.get("integrity"))))


def agent_tags(allow_only: Mapping[str, Any]) -> AgentState:
    """What `label_agent` of the GitHub guard answers to a policy that was checked."""
    scopes = scopes_of(allow_only)
    levels = LEVELS[: LEVELS.index(level_of_policy(allow_only)) + 1]
    if len(scopes) == 1:
        integrity = [f"{level}:{scopes[0]}" for level in levels]
    else:
        integrity = [f"integrity={level};scopes={','.join(scopes)}" for level in levels]
    secrecy = [] if isinstance(allow_only["repos"], str) else [f"private:{scope}" for scope in scopes]
    return AgentState(frozenset(secrecy), frozenset(integrity))
