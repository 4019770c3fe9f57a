"""Parts of a decision in the form of its record: tags sorted, items without their data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from guardpool.contract.policy import LEVELS
from guardpool.decide.call import AgentState
from guardpool.decide.decided_item import DecidedItem
from guardpool.decide.decision import Decision
from guardpool.decide.flow import Tagged
from guardpool.decide.item_facts import ItemFacts
from guardpool.decide.least_change import admitting_level
from guardpool.decide.record import (
    Differs,
    FailedRule,
    FilteredItem,
    ItemCounts,
    ResourceRecord,
    Seen,
    TagPair,
    Tags,
)
from guardpool.decide.remembered import Remembered
from guardpool.decide.words import ITEMS, Coarse, Failure, Rule, level_of
from guardpool.labels import ResourceLabel

_MIN_INTEGRITY = "min-integrity"


def sorted_tags(tags: frozenset[str]) -> Tags:
    """Tags in order."""
    return _SORTED[tags,] if tags else ()


_SORTED = Remembered(lambda tags: tuple(sorted(tags)))


def tag_pair(agent: AgentState) -> TagPair:
    """An agent's labels."""
    return _PAIRS[agent,]


_PAIRS = Remembered(lambda agent: TagPair(sorted_tags(agent.secrecy), sorted_tags(agent.integrity)))


def failed_rules(failed: tuple[Failure, ...]) -> tuple[FailedRule, ...]:
    """Rules that failed."""
    return (
        tuple(
            FailedRule(each.rule._value_, sorted_tags(each.missing), sorted_tags(each.extra), each.level, each.detail)
            for each in failed
        )
        if failed
        else ()
    )


def resource_record(label: ResourceLabel) -> ResourceRecord:
    """The labels of what a call touches."""
    return ResourceRecord(label.description, sorted_tags(label.secrecy), sorted_tags(label.integrity))


def item_counts(decision: Decision) -> ItemCounts | None:
    """How many items there are and are shown; None if they were not labelled."""
    total, shown, filtered = decision.counted
    return None if decision.items is None else ItemCounts(total, shown, filtered)


def filtered_and_seen(decision: Decision) -> tuple[tuple[FilteredItem, ...], tuple[Seen, ...]]:
    """The items that the rules do not let through; and all items by author, association and level, in the order in which each
    first comes."""
    if decision.items is None:
        return (), ()
    filtered = []
    counts: dict[tuple[str | None, str | None, str | None], list[int]] = {}
    is_shown = decision.verdict is ITEMS
    for item, facts in zip(decision.items, decision.facts):
        whose = (facts.author, facts.association, _LEVELS[item.labels.integrity,])
        count = counts.get(whose)
        if count is None:
            count = counts[whose] = [0, 0]
        count[1] += 1
        if item.allowed:
            count[0] += is_shown
        else:
            filtered.append(_item(decision, item, facts))
    return tuple(filtered), tuple([Seen(*key, shown, total) for key, (shown, total) in counts.items()])


def _item(decision: Decision, item: DecidedItem, facts: ItemFacts) -> FilteredItem:
    labels = item.labels
    return FilteredItem(
        item.index,
        item.pointer,
        labels.description,
        facts.number,
        facts.author,
        facts.association,
        facts.url,
        *_WHY_NOT[decision.agent_before, labels.secrecy, labels.integrity, item.failed],
    )


def _why_not(
    agent: AgentState, secrecy: frozenset[str], integrity: frozenset[str], failed: tuple[Failure, ...]
) -> tuple[Tags, Tags, tuple[FailedRule, ...], dict[str, str] | None]:
    """The tags, the failed rules and the least change in the record of an item."""
    change = _lowered(agent, AgentState(secrecy, integrity))
    return sorted_tags(secrecy), sorted_tags(integrity), failed_rules(failed), change


_WHY_NOT = Remembered(_why_not)
_LEVELS = Remembered(level_of)
_ADMITTING = Remembered(lambda agent, secrecy, integrity: admitting_level(agent, AgentState(secrecy, integrity)))


def differs_of(gateway: Decision, strict: Decision) -> Differs | None:
    """What the strict rules would have done; None if the agent gets the same items and texts."""
    if gateway.verdict is strict.verdict and gateway.items is strict.items:
        return None
    ours, theirs = _shown(gateway), _shown(strict)
    if gateway.verdict is strict.verdict and ours == theirs:
        return None
    hidden = ours - theirs
    return Differs(
        strict.coarse._value_,
        strict.verdict._value_,
        item_counts(strict),
        failed_rules(strict.failed),
        tuple([_item(strict, item, strict.facts[item.index]) for item in strict.items or () if item.index in hidden]),
        tuple(sorted(theirs - ours)),
        strict.error,
    )


def _shown(decision: Decision) -> set[int]:
    return set(decision.allowed) if decision.verdict is ITEMS else set()


def would_pass_with(decision: Decision, resource: ResourceLabel | None) -> dict[str, str] | None:
    """The least change of min-integrity with which all of a call passes, as far as labels tell.

    Returns:
        `{"min-integrity": LEVEL}`, lower for what is to be read, higher for what is to be written; None if nothing failed, or
        if no level helps.
    """
    agent = decision.agent_before
    if decision.coarse is Coarse.DENIED:
        rules = {failure.rule for failure in decision.failed}
        if resource is not None and rules == {Rule.WRITE_INTEGRITY}:
            return _raised(agent, resource)
        if resource is not None and rules and rules <= {Rule.READ_INTEGRITY}:
            return _lowered(agent, resource)
        return None
    filtered = decision.filtered
    if not filtered or any(Rule.WRITE_INTEGRITY is failure.rule for item in filtered for failure in item.failed):
        return None
    lowest = None
    for item in filtered:
        level = _ADMITTING[agent, item.labels.secrecy, item.labels.integrity]
        if level is None:
            return None
        lowest = level if lowest is None else min(lowest, level, key=LEVELS.index)
    return None if lowest is None else {_MIN_INTEGRITY: lowest}


def _lowered(agent: AgentState, data: Tagged) -> dict[str, str] | None:
    level = _ADMITTING[agent, data.secrecy, data.integrity]
    return None if level is None else {_MIN_INTEGRITY: level}


def _raised(agent: AgentState, target: ResourceLabel) -> dict[str, str] | None:
    """The level that gives the agent what it lacks to write: of each scope that it has it gets all levels up to that."""
    scopes = {tag.partition(":")[2] for tag in agent.integrity}
    wanted = target.integrity - agent.integrity
    if not wanted or any(_scope_and_level(tag) is None for tag in wanted):
        return None
    if {tag.partition(":")[2] for tag in wanted} <= scopes:
        return {_MIN_INTEGRITY: LEVELS[max(LEVELS.index(tag.partition(":")[0]) for tag in wanted)]}
    return None


def _scope_and_level(tag: str) -> tuple[str, str] | None:
    level, colon, scope = tag.partition(":")
    return (scope, level) if colon and level in LEVELS else None


def warning_codes(labels: Iterable[Any]) -> Tags:
    """The codes of what was odd in a guard's answers, each once, in order."""
    given = [warning for label in labels if label is not None for warning in label.warnings]
    return tuple(dict.fromkeys([warning.code for warning in given])) if given else ()
