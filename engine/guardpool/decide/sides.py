"""What changes side between two decisions on one call: items that one shows and the other does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Union

from guardpool.decide.record import DecisionRecord, FilteredItem

# What GitHub calls people who may write to a repository.
MEMBERS = frozenset({"OWNER", "MEMBER", "COLLABORATOR"})
UNKNOWN, MEMBER, OUTSIDER = "unknown", "member", "outsider"


class Turned(NamedTuple):
    """Something that changed side.

    Attributes:
        number: the index of the item; None for the call as a whole.
        opened: whether it is shown now, or allowed, and was not before.
        item: what the stricter of the two decisions says of it; None for the call as a whole.
    """

    number: Union[int, None]
    opened: bool
    item: FilteredItem | None


def standing(association: str | None) -> str:
    """Whether the author of an item is a member of what it belongs to: `member`, `outsider` or `unknown`."""
    if association is None:
        return UNKNOWN
    return MEMBER if association in MEMBERS else OUTSIDER


def turned(before: DecisionRecord, after: DecisionRecord) -> Iterator[Turned]:
    """What changed side from one decision to the other. Nothing if one of them is undecided."""
    if before.is_undecided or after.is_undecided:
        return
    if before.items is None or after.items is None:
        was, now = _lets_through(before), _lets_through(after)
        if was != now:
            yield Turned(None, now, None)
        return
    kept_before, kept_after = _kept_back(before), _kept_back(after)
    for index in sorted(kept_before.keys() - kept_after.keys()):
        yield Turned(index, True, kept_before[index])
    for index in sorted(kept_after.keys() - kept_before.keys()):
        yield Turned(index, False, kept_after[index])


def _lets_through(record: DecisionRecord) -> bool:
    """Whether the agent gets anything: the whole result, or an item of it."""
    return record.verdict == "whole" or (record.items is not None and record.items.shown > 0)


def _kept_back(record: DecisionRecord) -> dict[int, FilteredItem | None]:
    """The items that the agent does not get: all of them, if none is shown."""
    told: dict[int, FilteredItem | None] = {item.index: item for item in record.filtered}
    if record.items is None or record.verdict == "items":
        return told
    return {index: told.get(index) for index in range(record.items.total)}
