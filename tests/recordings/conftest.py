"""Reading in tests: every reading's tally must add up, and every call must survive being written and read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guardpool import recordings
from guardpool.recordings import Call, Tally

ReadText = Callable[[str], tuple[list[Call], Tally]]


@pytest.fixture
def read_text(tmp_path: Path) -> ReadText:
    """Writes a text to a file and reads it."""

    def run(text: str) -> tuple[list[Call], Tally]:
        path = tmp_path / "recording"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        return checked(path)

    return run


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
