"""The recipes of the sample guard and of the quick judge: the modules that are shipped are what their sources give."""

from __future__ import annotations

from pathlib import Path

import pytest

from guardpool import samples, zig
from guardpool.samples import build as sample_build
from guardpool_worker import quick_judge
from guardpool_worker.quick_judge import build as quick_judge_build

RECIPES = {"sample guard": sample_build.RECIPE, "quick judge": quick_judge_build.RECIPE}


@pytest.mark.parametrize("name", RECIPES)
def test_building_gives_the_shipped_module(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    there = sorted(recipe.source.parent.rglob("*"))
    assert zig.build(recipe) == recipe.target.read_bytes()
    assert [*tmp_path.iterdir()] == []
    new = set(recipe.source.parent.rglob("*")) - set(there)
    assert {path for path in new if "__pycache__" not in path.parts} == set()


def test_the_recipes_make_the_modules_that_are_used() -> None:
    assert sample_build.RECIPE.target == samples.GUARD
    assert quick_judge_build.RECIPE.target.read_bytes() == quick_judge.WASM


def test_check_tells_a_module_that_is_not_its_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "guard.wasm"
    recipe = sample_build.RECIPE._replace(target=target)
    monkeypatch.setattr(zig, "build", lambda recipe: b"new bytes")
    assert zig.main(recipe, ["--check"]) == 1
    assert "guard.wasm" in capsys.readouterr().err
    target.write_bytes(b"old")
    assert zig.main(recipe, ["--check"]) == 1
    assert "run: python -m guardpool.samples.build" in capsys.readouterr().err
    assert target.read_bytes() == b"old"
    assert zig.main(recipe, []) == 0
    assert target.read_bytes() == b"new bytes"
    assert zig.main(recipe, ["--check"]) == 0
    assert zig.main(recipe, ["--force"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["guard.wasm"]


def test_another_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zig, "ZIG_VERSION", "9.9.9")
    with pytest.raises(zig.BuildError, match=r"pip install ziglang==9\.9\.9\.post1"):
        zig.build(sample_build.RECIPE)
