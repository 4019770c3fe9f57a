"""Reading in tests of recordings: every tally adds up, and every call survives being written and read again."""

from __future__ import annotations

from pathlib import Path

from guardpool import recordings
from guardpool.recordings import Call, Tally


def checked(path: Path) -> tuple[list[Call], Tally]:
    """What is read from a path."""
    reader = recordings.read(path)
    calls = list(reader)
    tally = reader.tally
    assert tally.lines == tally.in_calls + sum(tally.reasons.values())
    assert len({call.call for call in calls}) == len(calls)
    for call in calls:
        assert Call.from_json(call.to_json()) == call == Call.from_dict(call.to_dict())
    return calls, tally
