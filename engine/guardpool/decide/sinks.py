"""Servers without a guard of their own: write sinks, which have tags from the configuration, and servers without any guard.

Source: github/gh-aw-mcpg, internal/guard/write_sink.go and noop.go, internal/config/guard_policy_validation.go,
internal/server/guard_init.go and guard_visibility.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from msgspec.structs import force_setattr

from guardpool.contract.text import lower, shown, trim
from guardpool.decide.flow import STAR
from guardpool.decide.words import NO_TAGS, DecideError
from guardpool.errors import PolicyError
from guardpool.labels import Operation, Printed, ResourceLabel

_VISIBILITIES = ("public", "private", "internal")
_ENTRY = re.compile(
    r"(?:(?:private|public|internal):)?[A-Za-z0-9_-]{1,39}(?:/(?:\*|[A-Za-z0-9._-]{1,100}\*?))?", re.ASCII
)
_SAFE_OUTPUTS = frozenset(("safe-outputs", "safeoutputs"))


class Sink(Printed, frozen=True, gc=False):
    """A server that is only written to, such as safe-outputs.

    Every call is a write to a resource without integrity, whose secrecy tags are the entries of `accept`, or none if the
    sink is public. So a call is allowed if every secrecy tag of the agent is an entry. An entry is compared as it is spelt:
    `private:o/r*` does not accept the tag `private:o/r`. A `*` alone accepts every tag.

    Args:
        accept: at least one of `[private:|public:|internal:]OWNER[/REPO[*]]`, each once, or `*` alone.
        visibility: `public`, `private`, `internal`, in any case, or None. Only `public` changes a decision. What the gateway
            makes of one that is not set, `sink_visibility` says.

    Raises:
        PolicyError: an entry or the visibility is not valid.
    """

    accept: Sequence[str]
    visibility: str | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "accept", _checked_accept(self.accept))
        force_setattr(self, "visibility", _checked_visibility(self.visibility))

    @property
    def tags(self) -> frozenset[str]:
        """The secrecy that the sink accepts."""
        return NO_TAGS if self.visibility == "public" else frozenset(self.accept)

    def label(self, tool_name: str) -> ResourceLabel:
        """The label of a call to this sink."""
        return ResourceLabel(f"sink ({tool_name})", self.tags, NO_TAGS, Operation.WRITE)


def sink_of_policy(policy: Any) -> Sink:
    """The sink of a policy `{"write-sink": {"accept": [...], "sink-visibility": ...}}`.

    Raises:
        PolicyError: the policy is not of that shape.
    """
    body = policy.get("write-sink", policy.get("writesink")) if isinstance(policy, dict) else None
    if not isinstance(body, dict) or len(policy) != 1:
        raise PolicyError(f'a sink\'s policy is {{"write-sink": {{"accept": [...]}}}}, not {shown(policy)}')
    for name in body:
        if name not in ("accept", "sink-visibility"):
            raise PolicyError(
                f"write-sink has the unknown key {shown(name)}; it may have 'accept' and 'sink-visibility'"
            )
    return Sink(body.get("accept", ()), body.get("sink-visibility") or None)


def sink_visibility(
    server: str, configured: str | None, repository_is_public: bool | None, exempt: bool = False
) -> str | None:
    """The visibility that the gateway gives to a sink when it starts.

    Args:
        server: the sink's server id; `safe-outputs` and `safeoutputs` are treated apart.
        configured: the visibility that was set, or None.
        repository_is_public: whether the workflow's repository is public; None if the look-up failed.
        exempt: whether the server is exempt from being public by default.

    Returns:
        `public`, the visibility that was set, or None. A set `private` stays when the look-up failed: it fails open.
    """
    visibility = _checked_visibility(configured)
    if visibility is None:
        if exempt:
            return None
        public = repository_is_public if server in _SAFE_OUTPUTS else True
        return "public" if public else None
    return "public" if repository_is_public else visibility


class WhyNoGuard(str, Enum):
    """Why a server has no guard."""

    NONE = "none"  # none is configured
    NOT_LOADED = "not-loaded"
    NO_POLICY = "no-policy"
    UNKNOWN_SERVER = "unknown-server"

    def __str__(self) -> str:
        return self.value


class NoGuard(Printed, frozen=True, gc=False):
    """A server without a guard.

    The gateway takes each call for a read-write of a resource without tags: an agent that demands any integrity is denied
    every call, and one that demands none is allowed every call. The strict rules deny each call and say that the
    configuration is the reason.

    Args:
        why: `none`, or what kept the guard from being used: `not-loaded`, `no-policy`, `unknown-server`.
    """

    why: WhyNoGuard | str = WhyNoGuard.NONE

    def __post_init__(self) -> None:
        try:
            force_setattr(self, "why", WhyNoGuard(self.why))
        except ValueError as error:
            known = ", ".join(why.value for why in WhyNoGuard)
            raise DecideError(f"why there is no guard is one of {known}, not {shown(self.why)}") from error

    def label(self, tool_name: str) -> ResourceLabel:
        """The label that the gateway gives to a call."""
        return ResourceLabel(f"unguarded ({tool_name})", NO_TAGS, NO_TAGS, Operation.READ_WRITE)


def _checked_accept(value: Any) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise PolicyError(f"accept must be an array of entries, not {shown(value)}")
    entries = tuple(value)
    if not entries:
        raise PolicyError("accept must not be empty; a sink that accepts all has ['*']")
    seen = set()
    for entry in entries:
        name = trim(entry) if isinstance(entry, str) else ""
        if name == STAR:
            if len(entries) > 1:
                raise PolicyError("accept may hold '*' only alone")
        elif not _ENTRY.fullmatch(name):
            raise PolicyError(
                f"accept holds {shown(entry)}; an entry is 'owner', 'owner/repo' or 'owner/prefix*', with 'private:', "
                "'public:' or 'internal:' before it or not"
            )
        if name in seen:
            raise PolicyError(f"accept holds {shown(name)} twice")
        seen.add(name)
    return (STAR,) if seen == {STAR} else entries


def _checked_visibility(value: Any) -> str | None:
    if value is None:
        return None
    word = lower(trim(value)) if isinstance(value, str) else None
    if word not in _VISIBILITIES:
        raise PolicyError(f"a sink's visibility is public, private or internal, not {shown(value)}")
    return word
