"""Which engine is chosen, on which Python, and what a user is told where one is missing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import engineoption
from guardpool import EngineMissing, EngineUnknown, Guard, GuardPool, ModuleCache, samples
from guardpool.artifacts.compilation import compile_guard
from guardpool.machine import engines, launch
from guardpool.machine.engines import (
    ENGINE_NAMES,
    ENGINE_WORDS,
    ENGINES,
    choose_engine,
    engine_packages,
    engine_problem,
)
from workkit import lines_run

# As Python gives them to a program: major, minor, micro, release level, serial.
VERSIONS = {minor: (3, minor, 0, "final", 0) for minor in range(9, 16)}


def on_python(monkeypatch: pytest.MonkeyPatch, minor: int) -> None:
    monkeypatch.setattr(sys, "version_info", VERSIONS[minor])


class Site:
    """A folder of packages, in which a test installs engines as pip would: the names and the files, without their code."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        hidden = [name for facts in ENGINES.values() for name in facts.packages]
        for name in [name for name in sys.modules if name.split(".")[0] in hidden]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "path", [str(folder)])
        monkeypatch.setattr(engines, "EXTENSION_SUFFIXES", [".so"])

    def install(self, name: str, *, version: str | None = None, stub: bool = False) -> None:
        facts = ENGINES[name]
        for package in facts.packages:
            (self.folder / package).mkdir()
            (self.folder / package / "__init__.py").write_text("raise ImportError('an engine is never imported here')")
            if not stub:
                library = self.folder / package / engines._LIBRARIES[package](package)[0]
                library.parent.mkdir(exist_ok=True)
                library.write_bytes(b"native")
            info = self.folder / f"{package}-{version or facts.version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {package}\nVersion: {version or facts.version}\n"
            )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """No engine is installed, until the test installs one."""
    return Site(tmp_path, monkeypatch)


@pytest.fixture
def unforced(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` means what it means to users, also in a run with `--engine`."""
    monkeypatch.setattr(engines, "auto_order", engineoption.auto_order_of_users)


@pytest.mark.usefixtures("unforced")
@pytest.mark.parametrize(("minor", "name"), [(10, "wasmer"), *((minor, "wasmtime") for minor in range(11, 15))])
def test_auto_is_wasmer_on_python_3_10_and_wasmtime_later(
    site: Site, monkeypatch: pytest.MonkeyPatch, minor: int, name: str
) -> None:
    on_python(monkeypatch, minor)
    for each in ENGINE_NAMES:
        site.install(each)
    choice = choose_engine()
    assert choice.name == name
    assert choice.version == f"{name} {ENGINES[name].version}"
    assert [package.name for package in choice.packages] == list(ENGINES[name].packages)
    assert f"auto is {name} on CPython 3.{minor}" in choice.why


@pytest.mark.usefixtures("unforced")
def test_auto_takes_the_other_engine_where_its_own_is_missing_and_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_python(monkeypatch, 10)
    site.install("wasmtime")
    choice = choose_engine()
    assert choice.name == "wasmtime"
    assert choice.why.startswith("auto means wasmer, which cannot be used: the package wasmer is not installed")


@pytest.mark.usefixtures("unforced")
@pytest.mark.parametrize("minor", [10, 11, 14])
def test_without_any_engine_the_error_names_the_command_to_type(
    site: Site, monkeypatch: pytest.MonkeyPatch, minor: int
) -> None:
    on_python(monkeypatch, minor)
    with pytest.raises(EngineMissing) as caught:
        choose_engine()
    assert str(caught.value).endswith(f"run: {ENGINES[engines.auto_order()[0]].install}")
    assert ENGINES["wasmtime"].install == "pip install wasmtime==50.0.1"
    assert ENGINES["wasmer"].install == "pip install wasmer==1.1.0 wasmer-compiler-cranelift==1.1.0"


@pytest.mark.parametrize("here", [False, True])
def test_wasmer_on_a_newer_python_is_an_error_that_leads_to_wasmtime(
    site: Site, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    on_python(monkeypatch, 12)
    site.install("wasmer")
    if here:
        site.install("wasmtime")
    with pytest.raises(
        EngineMissing, match=r"wasmer 1\.1\.0 has builds for CPython 3\.7 to 3\.10 only .* 3\.12: "
    ) as caught:
        choose_engine("wasmer")
    way = (
        "use wasmtime, which is installed here (--engine wasmtime)"
        if here
        else "use wasmtime (--engine wasmtime), after: pip install wasmtime==50.0.1"
    )
    assert str(caught.value).endswith(way)


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_a_stub_without_a_native_library_is_an_error(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    on_python(monkeypatch, 10)
    site.install(name, stub=True)
    assert "has no native library for this Python and machine" in str(engine_problem(name))


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_another_version_is_an_error_that_names_both(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    on_python(monkeypatch, 10)
    site.install(name, version="99.1")
    problem = str(engine_problem(name))
    assert problem.startswith(f"{name} is version 99.1 and must be {ENGINES[name].version}; run: pip install {name}==")


def test_other_pythons_and_machines_are_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys.implementation, "name", "pypy")
        assert "this is pypy 3." in str(engine_problem("wasmtime"))
        assert "use CPython 3.10 or later" in str(engine_problem("wasmtime"))
    with monkeypatch.context() as patch:
        on_python(patch, 9)
        assert "CPython 3.10 and later only and this is cpython 3.9" in str(engine_problem("wasmtime"))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert "runs on Linux only and this is darwin" in str(engine_problem("wasmtime"))
    fields = list(os.uname())
    with monkeypatch.context() as patch:
        patch.setattr(os, "uname", lambda: os.uname_result([*fields[:4], "riscv64"]))
        assert "for x86_64 and aarch64 only and this machine is riscv64" in str(engine_problem("wasmtime"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "uname", lambda: os.uname_result([*fields[:4], "aarch64"]))
        site.install("wasmtime")
        assert engine_packages("wasmtime")[0].library == "linux-aarch64/_libwasmtime.so"


@pytest.mark.parametrize(
    "call",
    [
        lambda word: GuardPool([Guard.from_file(samples.GUARD, policy=samples.POLICY)], engine=word),
        lambda word: compile_guard(samples.GUARD.read_bytes(), engine=word),
        lambda word: ModuleCache("/nonexistent").get(b"", engine=word),
        lambda word: ModuleCache("/nonexistent").get_or_compile(b"", engine=word),
        lambda word: ModuleCache("/nonexistent").warm(b"", engine=word),
    ],
)
def test_another_word_is_an_error_that_names_the_three(call: Callable[[str], object]) -> None:
    with pytest.raises(EngineUnknown, match="engine must be one of auto, wasmtime, wasmer, not 'wasmedge'") as caught:
        call("wasmedge")
    assert isinstance(caught.value, ValueError)
    assert ENGINE_WORDS == ("auto", "wasmtime", "wasmer")


def test_the_engine_of_this_run_is_here_and_found_with_little_work() -> None:
    choice = choose_engine()
    assert engine_problem(choice.name) is None
    assert choice.packages == engine_packages(choice.name)
    assert {package.version for package in choice.packages} == {ENGINES[choice.name].version}
    assert lines_run(choose_engine) < 3000


def test_a_child_gets_the_folders_of_its_own_engine_only(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    on_python(monkeypatch, 10)
    site.install("wasmer")
    other = site.folder / "other"
    other.mkdir()
    monkeypatch.setattr(sys, "path", [str(other), str(site.folder)])
    elsewhere = Site(other, monkeypatch)
    elsewhere.install("wasmtime")
    monkeypatch.setattr(sys, "path", [str(other), str(site.folder)])
    monkeypatch.setattr(launch, "CHILD_PACKAGES", ())
    monkeypatch.setattr(launch, "search_path", launch.search_path.__wrapped__)
    assert launch.search_path("wasmtime") == (str(other),)
    assert launch.search_path("wasmer") == (str(site.folder),)


def test_the_pins_of_the_installation_are_the_versions_that_are_used() -> None:
    from paths import ROOT

    for file in ("pyproject.toml", "constraints.txt"):
        text = (ROOT / file).read_text(encoding="utf-8")
        for facts in ENGINES.values():
            for package in facts.packages:
                assert f"{package.replace('_', '-')}=={facts.version}" in text, file


def test_a_pool_says_which_engine_it_uses() -> None:
    choice = choose_engine()
    with GuardPool(
        [Guard.from_file(samples.GUARD, name="g", policy=samples.POLICY)], workers=1, engine=choice.name
    ) as pool:
        assert pool.engine == choice.name
        assert pool.stats().engine == choice.version == f"{choice.name} {ENGINES[choice.name].version}"


def test_the_cache_lists_and_fills_by_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from guardpool.cli import main

    monkeypatch.setenv("GUARDPOOL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    here = [name for name in ENGINE_NAMES if engine_problem(name) is None]
    for name in here:
        assert main(["cache", "warm", "--engine", name, str(samples.GUARD)]) == 0
        assert "compiled in" in capsys.readouterr().out
        assert main(["cache", "warm", "--engine", name, str(samples.GUARD)]) == 0
        assert "was compiled already" in capsys.readouterr().out
    assert main(["cache", "list"]) == 0
    out = capsys.readouterr().out
    for name in here:
        assert f"{name} {ENGINES[name].version}" in out
    assert "not usable here" not in out
    assert all(each.usable_here for each in ModuleCache().entries())
    assert len(ModuleCache().entries()) == len(here)


def test_a_command_refuses_another_word_and_names_the_three(capsys: pytest.CaptureFixture[str]) -> None:
    from guardpool.cli import main

    for command in (["demo"], ["cache", "warm", "x.wasm"]):
        assert main([*command, "--engine", "wasmedge"]) == 2
        said = capsys.readouterr().err
        assert "--engine" in said
        assert all(word in said for word in ENGINE_WORDS)
