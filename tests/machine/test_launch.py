"""Processes of the untrusted side start wherever guardpool is installed, whatever the locale of the caller."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import guardkit
import paths
from guardpool.machine import engines, launch

_POOL = """
import sys
import guardpool
guard = guardpool.Guard.from_file(sys.argv[1], policy={"allow-only": {"repos": "all", "min-integrity": "none"}})
with guardpool.GuardPool([guard], workers=1, engine=sys.argv[2]) as pool:
    print(ascii(guardpool.__file__), sys.getfilesystemencoding(), pool.label_resource("get_issue", {}).status)
"""


def test_the_code_of_a_child_is_ascii_whatever_the_folders_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    name = engines.choose_engine().name
    monkeypatch.setattr(launch, "search_path", lambda _engine: ("/stra\xdfe", os.fsdecode(b"/stra\xdfe")))
    words = launch.command("guardpool_worker.forkserver", name)
    assert words[words.index("-c") + 1].isascii()


@pytest.mark.skipif(shutil.which("localedef") is None, reason="no localedef here to make the locale with")
def test_a_pool_starts_below_a_folder_whose_name_the_locale_spells_otherwise(tmp_path: Path, engine_name: str) -> None:
    locales = tmp_path / "locales"
    locales.mkdir()
    made = subprocess.run(
        ["localedef", "-i", "POSIX", "-f", "ISO-8859-1", str(locales / "xx_XX.ISO-8859-1")], capture_output=True
    )
    if not (locales / "xx_XX.ISO-8859-1").exists():
        pytest.skip(f"localedef cannot make an ISO-8859-1 locale here: {made.stderr.decode()[-200:]}")
    home = tmp_path / "stra\xdfe"
    home.mkdir()
    for part in ("engine", "workers"):
        (home / part).symlink_to(paths.ROOT / part)
    wasm = tmp_path / "tiny.wasm"
    wasm.write_bytes(guardkit.wat("tiny"))
    environment = {
        **os.environ,
        "LOCPATH": str(locales),
        "LC_ALL": "xx_XX.ISO-8859-1",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": os.pathsep.join(str(home / part) for part in ("engine", "workers")),
    }
    charmap = subprocess.run(["locale", "charmap"], env=environment, capture_output=True, text=True).stdout.strip()
    if charmap != "ISO-8859-1":  # as where the character maps of the C library are not installed
        pytest.skip(f"localedef made a locale with the characters of {charmap} here")
    run = subprocess.run(
        [sys.executable, "-c", _POOL, str(wasm), engine_name], env=environment, capture_output=True, timeout=60
    )
    assert run.returncode == 0, run.stderr.decode("utf-8", "replace")
    file, encoding, status = run.stdout.decode("ascii").split()
    assert "stra\\xc3\\x9fe" in file
    assert (encoding, status) == ("iso8859-1", "ok")
