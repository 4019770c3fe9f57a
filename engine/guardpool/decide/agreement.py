"""Whether a decision is what the gateway's own log says that it did.

A log has an event for each item that was taken away in filter and propagate mode, and in newer versions one for each call that
was denied. A block in strict mode leaves none.

Source: github/gh-aw-mcpg, internal/server/difc_log.go and unified.go.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from guardpool.decide.decided_item import DecidedItem
from guardpool.decide.decision import Decision
from guardpool.decide.record import Agrees, DecisionRecord
from guardpool.decide.words import Verdict

# What the gateway's sanitiser makes of digests in payloads. Its events have them as they were.
_DIGEST = re.compile(r"[0-9a-f]{32,}")
_SANITISED = "[REDACTED]"
# How it begins: a guard may have cut it, as it cuts a digest.
_MARK = "[REDACT"

_Event = tuple[str, frozenset[str], frozenset[str]]
_LOGGED = (Verdict.ITEMS, Verdict.SINGLE_ITEM_ERROR)


def predicted_events(decision: Decision) -> int:
    """How many events a gateway's log would have of a decision."""
    if decision.verdict in _LOGGED:
        return len(decision.filtered)
    return 1 if decision.verdict is Verdict.DENIED else 0


def observed_events(observed: Mapping[str, Any] | None) -> int:
    """How many events the recording has of a call."""
    if not observed:
        return 0
    filtered = observed.get("filtered")
    return (len(filtered) if isinstance(filtered, (list, tuple)) else 0) + ("denied" in observed)


def agreement(decision: Decision, observed: Mapping[str, Any] | None, log_has_events: bool) -> Agrees:
    """Compare a decision with what was recorded of the call.

    Args:
        decision: by the gateway's rules.
        observed: as in `recordings.Call`.
        log_has_events: whether the recording has an event of this or of an earlier call: then a call without one had none.
    """
    observed = observed or {}
    if decision.verdict in (Verdict.UNDECIDED, Verdict.LABELLING_ERROR):
        return Agrees.UNKNOWN
    if "denied" in observed:
        return Agrees.YES if decision.verdict is Verdict.DENIED else Agrees.NO
    filtered = observed.get("filtered")
    taken_away = decision.filtered if decision.verdict in _LOGGED else ()
    if not filtered:
        if not log_has_events:
            return Agrees.UNKNOWN
        if not taken_away and decision.verdict is not Verdict.DENIED:
            return Agrees.YES
    elif _are_in_order(taken_away, filtered):
        return Agrees.YES
    recorded = _events(filtered)
    if not recorded and not log_has_events:
        return Agrees.UNKNOWN
    if not recorded and not taken_away and decision.verdict is not Verdict.DENIED:
        return Agrees.YES
    ours: Counter[_Event] = Counter()
    if decision.verdict in _LOGGED:
        ours.update((_comparable(item.description), item.secrecy, item.integrity) for item in decision.filtered)
    if decision.verdict is Verdict.DENIED:
        # Older versions log no denial; but what has a result was not denied.
        return Agrees.NO
    return Agrees.YES if _without_sanitised(ours, recorded) else Agrees.NO


def difference(record: DecisionRecord) -> str:
    """In one line, what the recording says of a call and the decision does not, and the other way round."""
    observed = record.observed or {}
    if "denied" in observed:
        return f"denied in the recording, {record.verdict} here"
    if record.verdict == Verdict.DENIED.value:
        return "denied here, and has a result in the recording"
    recorded = _events(observed.get("filtered"))
    ours: Counter[_Event] = Counter()
    if record.verdict in _LOGGED:
        ours.update(
            (_comparable(item.description), frozenset(item.secrecy), frozenset(item.integrity))
            for item in record.filtered
        )
    parts = [
        f"taken away {where} alone: {_told(events)}"
        for where, events in (("in the recording", recorded - ours), ("here", ours - recorded))
        if events
    ]
    return "; ".join(parts) or f"{record.verdict} here"


def _told(events: Counter[_Event]) -> str:
    """The first of some events, and how many there are."""
    description, secrecy, integrity = next(iter(events))
    more = sum(events.values()) - 1
    tags = ", ".join(sorted(secrecy | integrity)) or "no tags"
    return f"{description} ({tags}){f' and {more} more' if more else ''}"


def _are_in_order(items: Sequence[DecidedItem], filtered: Any) -> bool:
    """Whether a log has an event for each of these items, in their order and word for word, as it nearly always has."""
    if not isinstance(filtered, (list, tuple)) or len(items) != len(filtered):
        return False
    for item, event in zip(items, filtered):
        labels = item.labels
        if (
            not isinstance(event, dict)
            or event.get("description") != labels.description
            or not _has_tags(event.get("secrecy_tags"), labels.secrecy)
            or not _has_tags(event.get("integrity_tags"), labels.integrity)
        ):
            return False
    return True


def _has_tags(value: Any, tags: frozenset[str]) -> bool:
    """Whether a list holds these tags, each once, and nothing else."""
    if value is None:
        return not tags
    if not isinstance(value, (list, tuple)):
        return False
    try:
        return len(value) == len(tags) and tags.issubset(value)
    except TypeError:  # it holds lists or objects
        return False


def _without_sanitised(ours: Counter[_Event], recorded: Counter[_Event]) -> bool:
    """Whether the events are the same, where a description that was made of a sanitised value fits any with the same tags."""
    ours_alone, theirs_alone = ours - recorded, recorded - ours
    if not ours_alone and not theirs_alone:
        return True
    if not all(_MARK in event[0] for event in ours_alone):
        return False
    return Counter(event[1:] for event in ours_alone.elements()) == Counter(
        event[1:] for event in theirs_alone.elements()
    )


def _events(filtered: Any) -> Counter[_Event]:
    events: Counter[_Event] = Counter()
    for event in filtered if isinstance(filtered, (list, tuple)) else ():
        if isinstance(event, dict):
            description = _comparable(str(event.get("description", "")))
            events[description, _tags(event.get("secrecy_tags")), _tags(event.get("integrity_tags"))] += 1
    return events


def _comparable(description: str) -> str:
    return _DIGEST.sub(_SANITISED, description)


def _tags(value: Any) -> frozenset[str]:
    return frozenset(tag for tag in value if isinstance(tag, str)) if isinstance(value, (list, tuple)) else frozenset()
