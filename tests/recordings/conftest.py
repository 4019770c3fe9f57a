"""Reading in tests: every reading's tally must add up, and every call must survive being written and read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guardpool.recordings import Call, Tally
from recordingkit import checked

ReadText = Callable[[str], tuple[list[Call], Tally]]


@pytest.fixture
def read_text(tmp_path: Path) -> ReadText:
    """Writes a text to a file and reads it."""

    def run(text: str) -> tuple[list[Call], Tally]:
        path = tmp_path / "recording"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        return checked(path)

    return run
