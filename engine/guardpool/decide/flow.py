"""Where data may flow: the two checks on tags, and the four rules that are made of them.

A tag is an opaque string: no prefix, no case and no `*` within it means anything. To read, the data must be trusted at least
as far as the agent demands, and the agent must be cleared for it. To write, the agent must be trusted as far as the target
demands, and nothing that it may know may be more secret than the target.

Source: github/gh-aw-mcpg, internal/difc/flow_labels.go and evaluator.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from guardpool.decide.remembered import Remembered
from guardpool.decide.words import NO_TAGS, PROPAGATE, READ, WRITE, Failure, Rule, level_of
from guardpool.labels import DifcMode, Operation

# The tag that the gateway takes for all tags, where it stands on the side named in the two checks.
STAR = "*"
_NOTHING_FAILED: tuple[Failure, ...] = ()

# Whether something is denied, and every rule that failed.
Judged = tuple[bool, tuple[Failure, ...]]
# Of a read for which no tag is missing and none too many, with or without a `*`. What a `*` allows is another tuple.
MAY_FLOW: Judged = (False, _NOTHING_FAILED)


class Tagged(Protocol):
    """What has tags: an agent, a resource, an item."""

    @property
    def secrecy(self) -> frozenset[str]: ...

    @property
    def integrity(self) -> frozenset[str]: ...


def missing_integrity(source: frozenset[str], target: frozenset[str], star: bool) -> frozenset[str]:
    """Integrity tags that the target demands and the source lacks: none may be missing for data to flow.

    Args:
        source: the tags of where the data comes from.
        target: the tags of where it goes.
        star: whether a `*` of the source stands for all tags, as in the gateway.
    """
    if target <= source or (star and STAR in source):
        return NO_TAGS
    return target - source


def extra_secrecy(source: frozenset[str], target: frozenset[str], star: bool) -> frozenset[str]:
    """Secrecy tags of the source for which the target is not cleared: there may be none for data to flow.

    Args:
        source: the tags of where the data comes from.
        target: the tags of where it goes.
        star: whether a `*` of the target stands for all tags, as in the gateway.
    """
    if source <= target or (star and STAR in target):
        return NO_TAGS
    return source - target


def read_failures(agent: Tagged, data: Tagged, star: bool) -> tuple[Failure, ...]:
    """The read rules that fail, integrity first: data flows from a resource or an item to the agent."""
    demanded, cleared = agent.integrity, agent.secrecy
    if demanded <= data.integrity and data.secrecy <= cleared:
        return _NOTHING_FAILED
    return _READ_FAILURES[demanded, cleared, data.integrity, data.secrecy, star]


def _read_failures(
    demanded: frozenset[str], cleared: frozenset[str], integrity: frozenset[str], secrecy: frozenset[str], star: bool
) -> tuple[Failure, ...]:
    missing = missing_integrity(integrity, demanded, star)
    extra = extra_secrecy(secrecy, cleared, star)
    return _FAILURES[Rule.READ_INTEGRITY, missing, Rule.READ_SECRECY, extra] if missing or extra else _NOTHING_FAILED


_READ_FAILURES = Remembered(_read_failures)


def write_failures(agent: Tagged, target: Tagged, star: bool) -> tuple[Failure, ...]:
    """The write rules that fail, integrity first: data flows from the agent to a resource."""
    if target.integrity <= agent.integrity and agent.secrecy <= target.secrecy:
        return _NOTHING_FAILED
    missing = missing_integrity(agent.integrity, target.integrity, star)
    extra = extra_secrecy(agent.secrecy, target.secrecy, star)
    return _FAILURES[Rule.WRITE_INTEGRITY, missing, Rule.WRITE_SECRECY, extra] if missing or extra else _NOTHING_FAILED


def _failures(integrity: Rule, missing: frozenset[str], secrecy: Rule, extra: frozenset[str]) -> tuple[Failure, ...]:
    of_integrity = (Failure(integrity, missing=missing, level=level_of(missing)),) if missing else ()
    of_secrecy = (Failure(secrecy, extra=extra),) if extra else ()
    return (*of_integrity, *of_secrecy)


_FAILURES = Remembered(_failures)


def evaluate_each(
    agent: Tagged, every: Sequence[Tagged], operation: Operation, mode: DifcMode, star: bool
) -> list[Judged]:
    """`evaluate` for each of several things."""
    if operation is not READ:
        return [evaluate(agent, data, operation, mode, star) for data in every]
    demanded, cleared = agent.integrity, agent.secrecy
    denies = mode is not PROPAGATE
    judged = []
    for data in every:
        integrity, secrecy = data.integrity, data.secrecy
        if demanded <= integrity and secrecy <= cleared:
            judged.append(MAY_FLOW)
        else:
            failed = _READ_FAILURES[demanded, cleared, integrity, secrecy, star]
            judged.append((denies and bool(failed), failed))
    return judged


def evaluate(agent: Tagged, data: Tagged, operation: Operation, mode: DifcMode, star: bool) -> Judged:
    """Whether an operation on `data` is denied, and every rule that failed.

    A read is denied if a read rule fails, but never in propagate. A write is denied if a write rule fails, in every mode. A
    read-write is a read and then a write.

    Returns:
        Denied or not, and the failed rules in the order in which the gateway looks at them; it tells the first that denies.
        In propagate failed read rules are among them although they deny nothing.
    """
    failed = _NOTHING_FAILED
    denied = False
    if operation is READ and agent.integrity <= data.integrity and data.secrecy <= agent.secrecy:
        return MAY_FLOW
    if operation is not WRITE:
        failed = read_failures(agent, data, star)
        denied = bool(failed) and mode is not PROPAGATE
    if operation is not READ:
        of_writing = write_failures(agent, data, star)
        if of_writing:
            failed += of_writing
            denied = True
    return denied, failed
