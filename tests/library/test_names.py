"""The names that `guardpool` shows."""

from __future__ import annotations

import subprocess
import sys

import guardpool


def test_dir_shows_the_public_names_and_nothing_of_how_they_come() -> None:
    shown = {name for name in dir(guardpool) if not name.startswith("__")} | {"__version__"}
    assert shown == set(guardpool.__all__)
    for name in shown:
        assert getattr(guardpool, name) is not None


def test_dir_shows_the_same_before_anything_was_used() -> None:
    program = (
        "import guardpool, sys; print(*dir(guardpool)); print(*(m for m in sys.modules if m.startswith('guardpool.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    names, modules = done.stdout.splitlines()
    assert set(guardpool.__all__) <= set(names.split())
    assert {name for name in names.split() if name.startswith("_")} == {n for n in names.split() if n.startswith("__")}
    assert modules == "", "nothing was imported to show the names"
