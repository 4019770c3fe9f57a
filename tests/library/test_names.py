"""The names that `guardpool` shows."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import util

import guardpool
from paths import ROOT


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


def test_the_modules_that_documents_name_come_with_import_guardpool_alone() -> None:
    texts = [(ROOT / name).read_text("utf-8") for name in ("README.md", "CHANGELOG.md")]
    named = {name for text in texts for name in re.findall(r"\bguardpool\.([a-z_]+)[.`]", text)}
    named.discard("guard")  # a logger, `guardpool.guard.NAME`
    modules = {name for name in named if util.find_spec(f"guardpool.{name}") is not None}
    assert {"arrow", "batch", "checks", "contract", "ray", "telemetry"} <= modules
    program = (
        f"import guardpool\nfor name in {modules}: assert getattr(guardpool, name).__name__ == f'guardpool.{{name}}'"
    )
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)
