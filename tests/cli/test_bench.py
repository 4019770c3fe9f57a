"""`guardpool bench` without the suite, and without an engine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from guardpool import pool
from guardpool.cli import main
from guardpool.errors import EngineMissing


def test_bench_without_the_suite_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "guardpool_bench" else real(name, *more)
    )
    assert main(["bench", "--quick"]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.splitlines() == [
        "guardpool: the benchmark suite is not installed: run: pip install 'guardpool[bench]'",
    ]


def test_without_an_engine_there_is_nothing_to_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_engine(_: str) -> None:
        raise EngineMissing("no engine: use CPython 3.10")

    monkeypatch.setattr(pool, "choose_engine", no_engine)
    assert main(["bench", "--quick", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err == "guardpool bench: no engine: use CPython 3.10\n"


def test_bench_prints_the_help_of_the_suite(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    out = capsys.readouterr().out
    assert "usage: guardpool bench" in out
    assert "--compare OLD.json" in out


def test_the_main_help_lists_bench(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "bench        measure guardpool" in capsys.readouterr().out
