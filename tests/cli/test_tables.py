"""`inspect`, `cache` and `doctor`: tables for people, JSON for programs, exit statuses for scripts."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cachekit
import guardkit
from clikit import standard_input
from guardpool import __version__
from guardpool.artifacts.cache import ModuleCache
from guardpool.cli import doctor, main
from guardpool.cli.doctor import Standing, diagnose
from guardpool.cli.render import make_console
from guardpool.errors import EngineMissing
from guardpool.machine import engines
from guardpool.machine.kernel import Feature


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("GUARDPOOL_CACHE_DIR", str(folder))
    monkeypatch.setenv("COLUMNS", "120")
    return folder


@pytest.fixture
def fake_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cachekit.FakeCompiler:
    compiler = cachekit.FakeCompiler(tmp_path / "compiled")
    monkeypatch.setattr("guardpool.artifacts.cache.compile_guard", compiler)
    return compiler


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    status = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return status, out, err


def run_json(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, Any]:
    status, out, err = run(capsys, *args, "--json")
    assert err == ""
    return status, json.loads(out)


# --- inspect


def test_inspect_shows_a_guard_and_calls_it_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "g.wasm").write_bytes(guardkit.wat("by_letter"))
    status, out, _ = run(capsys, "inspect", tmp_path / "g.wasm")
    assert status == 0
    for word in ("label_agent", "label_resource", "label_response", "env.host_log", "capped at 512", "a guard"):
        assert word in out
    status, facts = run_json(capsys, "inspect", tmp_path / "g.wasm")
    assert (status, facts["ok"], facts["problems"]) == (0, True, [])
    assert facts["memory"]["minimum_pages"] == 1


def test_inspect_tells_everything_that_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wat = '(module (import "env" "fly" (func)) (memory (export "memory") 2) (func (export "label_agent")))'
    (tmp_path / "g.wasm").write_bytes(cachekit.assemble(wat))
    status, out, _ = run(capsys, "inspect", tmp_path / "g.wasm", "--memory-pages", 1)
    assert status == 1
    for word in ("env.fly", "label_agent", "label_resource", "label_response", "not a guard"):
        assert word in out
    assert out.count("problem: ") >= 4
    status, facts = run_json(capsys, "inspect", tmp_path / "g.wasm", "--memory-pages", 1)
    assert (status, facts["ok"]) == (1, False)
    assert len(facts["problems"]) == out.count("problem: ")


def test_inspect_says_what_each_engine_would_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "g.wasm"
    file.write_bytes(guardkit.wat("by_engine/simd"))
    for engine, status in (("wasmtime", 0), ("wasmer", 1)):
        found, out, _ = run(capsys, "inspect", "--engine", engine, file)
        assert found == status
        rows = [line.split() for line in out.splitlines()]
        assert ["wasmtime", "takes", "it"] in rows
        assert any(row[:3] == ["wasmer", "refuses", "it"] and "function" in row for row in rows)
        assert (f"is a guard for {engine}" if status == 0 else f"a pool refuses it with {engine}") in out
        _, facts = run_json(capsys, "inspect", "--engine", engine, file)
        assert (facts["engine"], facts["ok"]) == (engine, status == 0)
        assert facts["engines"]["wasmtime"] == {"accepts": True, "problem": None}
        assert facts["engines"]["wasmer"]["accepts"] is False
        assert "-C target-feature=-simd128" in facts["engines"]["wasmer"]["problem"]


def test_inspect_prints_names_from_the_module_harmlessly(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wat = '(module (memory (export "memory") 1) (func (export "[bold]\\1b[2J\\e2\\80\\ae")))'
    (tmp_path / "g.wasm").write_bytes(cachekit.assemble(wat))
    _, out, _ = run(capsys, "inspect", tmp_path / "g.wasm")
    assert "[bold]\\x1b[2J\\u202e" in out, "shown as it is called, neither obeyed nor taken for markup"


def test_inspect_takes_several_modules_and_standard_input(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    guard, other = tmp_path / "g.wasm", tmp_path / "other.wasm"
    guard.write_bytes(guardkit.wat("by_letter"))
    other.write_bytes(cachekit.assemble("(module)"))
    assert run(capsys, "inspect", guard, guard)[0] == 0
    status, out, err = run(capsys, "inspect", other, tmp_path / "no.wasm", guard)
    assert (status, err) == (1, f"guardpool: {tmp_path / 'no.wasm'}: No such file or directory\n")
    assert f"{other} is not a guard" in out
    assert f"\n\n{guard}\n" in out
    assert out.endswith(f"{guard} is a guard\n")
    with standard_input(guardkit.wat("by_letter")):
        status, out, _ = run(capsys, "inspect", other, "-", "--json")
    facts = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert [(each["file"], each["ok"]) for each in facts] == [(str(other), False), ("standard input", True)]
    assert run(capsys, "inspect", "-", "-") == (
        2, "", "guardpool: inspect: standard input holds one module: name - once\n"
    )  # fmt: skip


def test_inspect_of_a_closed_standard_input_is_one_line() -> None:
    command = ["sh", "-c", 'exec "$0" -m guardpool inspect - <&-', sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("guardpool: standard input: ")


def test_inspect_of_a_file_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, err = run(capsys, "inspect", tmp_path / "no.wasm")
    assert (status, out) == (1, "")
    assert err == f"guardpool: {tmp_path / 'no.wasm'}: No such file or directory\n"


# --- cache


def test_the_cache_is_warmed_listed_pruned_and_cleared(
    capsys: pytest.CaptureFixture[str], cache_folder: Path, tmp_path: Path, fake_compiler: cachekit.FakeCompiler
) -> None:
    assert run(capsys, "cache", "path") == (0, f"{cache_folder}\n", "")
    assert "empty" in run(capsys, "cache", "list")[1]
    assert not cache_folder.exists(), "looking makes nothing"
    files = []
    for number in range(3):
        files.append(tmp_path / f"guard-{number}.wasm")
        files[-1].write_bytes(cachekit.variant(number))
    status, out, err = run(capsys, "cache", "warm", *files, "--memory-pages", 100)
    assert (status, err, out.count("compiled in")) == (0, "", 3)
    assert run(capsys, "cache", "warm", *files, "--memory-pages", 100)[1].count("was compiled already") == 3

    out = run(capsys, "cache", "list")[1]
    assert out.count("guard-") == 3
    assert "3 artifacts" in out
    listed = run_json(capsys, "cache", "list")[1]
    assert listed["path"] == str(cache_folder)
    assert {entry["header"]["guard"] for entry in listed["entries"]} == {"guard-0", "guard-1", "guard-2"}
    assert all(
        entry["usable_here"] and entry["header"]["ingredients"]["memory_pages"] == 100 for entry in listed["entries"]
    )

    assert "all sound" in run(capsys, "cache", "verify")[1]
    size = listed["entries"][0]["size_bytes"]
    assert run(capsys, "cache", "prune", "--max-bytes", size)[1].startswith("removed 2 artifacts")
    assert run(capsys, "cache", "prune", "--max-age", "7d")[1].startswith("removed 0 artifacts")
    assert run(capsys, "cache", "clear")[1] == "removed 1 artifact\n"
    assert run_json(capsys, "cache", "list")[1]["entries"] == []


def test_a_cache_folder_that_cannot_be_used_is_not_called_one_bad_artifact(
    capsys: pytest.CaptureFixture[str], cache_folder: Path
) -> None:
    cache_folder.mkdir(mode=0o755)
    (cache_folder / "file").touch()
    for more in ([], ["--remove"]):
        status, out, _ = run(capsys, "cache", "verify", *more)
        assert status == 1
        assert re.fullmatch(rf"{cache_folder} cannot be used: the folder has mode 0755 .*\n", out)


def test_the_listing_fits_eighty_columns_whatever_guards_are_called(
    capsys: pytest.CaptureFixture[str],
    cache_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    fake_compiler: cachekit.FakeCompiler,
) -> None:
    ModuleCache().get_or_compile(cachekit.variant(1), guard="g" * 64)

    def console_of_a_terminal() -> Any:
        console = make_console()
        console.width = 80
        return console

    monkeypatch.setattr("guardpool.cli.cache.make_console", console_of_a_terminal)
    lines = run(capsys, "cache", "list")[1].splitlines()
    assert lines[0].split()[:6] == ["key", "guard", "engine", "pages", "size", "used"]
    assert sum("ggg…" in line for line in lines) == 1
    assert max(map(len, lines[:4])) <= 80


def test_verify_finds_a_damaged_artifact_and_removes_it_when_told(
    capsys: pytest.CaptureFixture[str], cache_folder: Path, tmp_path: Path, fake_compiler: cachekit.FakeCompiler
) -> None:
    ModuleCache().get_or_compile(cachekit.variant(1))
    ModuleCache().get_or_compile(cachekit.variant(2))
    (entry, _) = ModuleCache().entries()
    data = bytearray(entry.path.read_bytes())
    data[-1] ^= 1
    entry.path.write_bytes(data)
    status, out, _ = run(capsys, "cache", "verify")
    assert status == 1
    assert entry.key in out.replace("\n", "")
    status, facts = run_json(capsys, "cache", "verify")
    assert status == 1
    assert [problem["path"] for problem in facts["problems"]] == [str(entry.path)]
    assert run(capsys, "cache", "verify", "--remove")[0] == 1
    assert run(capsys, "cache", "verify")[0] == 0
    assert len(ModuleCache().entries()) == 1


def test_warming_tries_every_file_and_names_the_bad_ones(
    capsys: pytest.CaptureFixture[str], cache_folder: Path, tmp_path: Path, fake_compiler: cachekit.FakeCompiler
) -> None:
    (tmp_path / "good.wasm").write_bytes(cachekit.variant(1))
    status, out, err = run(capsys, "cache", "warm", tmp_path / "no.wasm", tmp_path / "good.wasm")
    assert status == 1
    assert out.count("compiled in") == 1
    assert err.startswith(f"guardpool: {tmp_path / 'no.wasm'}: ")
    assert err.count("\n") == 1


def test_a_cache_that_others_can_write_is_a_warning(capsys: pytest.CaptureFixture[str], cache_folder: Path) -> None:
    cache_folder.mkdir()
    (cache_folder / "something").touch()
    cache_folder.chmod(0o777)
    status, _, err = run(capsys, "cache", "list")
    assert status == 0
    assert err.startswith("guardpool: ")
    assert str(cache_folder) in err
    assert err.count("\n") == 1
    assert run(capsys, "cache", "verify")[0] == 1


# --- doctor


def standings() -> dict[str, Standing]:
    return {check.name: check.standing for check in diagnose().checks}


def test_doctor_says_that_a_pool_can_be_made_here(capsys: pytest.CaptureFixture[str], cache_folder: Path) -> None:
    status, out, err = run(capsys, "doctor")
    assert (status, err) == (0, "")
    for word in (
        "python",
        "engine",
        "wasmtime",
        "wasmer",
        "pidfd",
        "seccomp",
        "landlock",
        "cores",
        "cache",
        __version__,
    ):
        assert word in out
    status, facts = run_json(capsys, "doctor")
    assert (status, facts["ok"], facts["version"]) == (0, True, __version__)
    assert {check["standing"] for check in facts["checks"]} <= {"ok", "warning"}


@pytest.mark.parametrize(
    ("limit", "most", "name", "said"),
    [
        (resource.RLIMIT_NOFILE, 20, "descriptors", "only 20 open files (RLIMIT_NOFILE, ulimit -n)"),
        (resource.RLIMIT_FSIZE, 1000, "file size", "only 1000 bytes in a file"),
    ],
)
def test_doctor_says_that_a_limit_is_too_low_before_a_pool_meets_it(
    limit: int, most: int, name: str, said: str
) -> None:
    code = (
        f"import resource, sys; resource.setrlimit({limit}, ({most}, resource.getrlimit({limit})[1]))\n"
        "from guardpool.cli import main; sys.exit(main(['doctor', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    facts = json.loads(done.stdout)
    (check,) = [check for check in facts["checks"] if check["name"] == name]
    assert check["standing"] == "failed"
    assert said in check["detail"]
    assert done.returncode == 1


def test_without_an_engine_doctor_says_what_to_do(
    capsys: pytest.CaptureFixture[str], cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> tuple[engines.NativePackage, ...]:
        raise EngineMissing(f"{name} is missing; run: pip install {name}")

    monkeypatch.setattr(engines, "engine_packages", missing)
    status, out, _ = run(capsys, "doctor")
    assert status == 1
    for facts in engines.ENGINES.values():
        assert f"run: pip install {facts.name}" in out or not facts.has_builds_for_this_python
    assert "No pool can be made here: see engine." in out
    assert run_json(capsys, "doctor")[1]["ok"] is False


def test_doctor_tells_which_engine_auto_takes_how_old_each_is_and_whether_it_gets_fixes(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(name: str) -> tuple[engines.NativePackage, ...]:
        facts = engines.ENGINES[name]
        return tuple(engines.NativePackage(each, facts.version, "x.so", 1, "/") for each in facts.packages)

    def only_wasmtime(name: str) -> tuple[engines.NativePackage, ...]:
        if name == "wasmer":
            raise EngineMissing("the package wasmer is not installed; run: pip install wasmer==1.1.0")
        return both(name)

    monkeypatch.setattr(engines, "auto_order", lambda: ("wasmer", "wasmtime"))
    monkeypatch.setattr(engines, "engine_packages", both)
    checks = {check.name: check for check in diagnose().checks}
    assert [name for name in checks if name in ("engine", *engines.ENGINE_NAMES)] == ["engine", "wasmtime", "wasmer"]
    assert checks["engine"].detail.startswith("wasmer 1.1.0: auto is wasmer on CPython 3.")
    assert checks["wasmtime"].standing is Standing.OK
    assert "wasmtime 50.0.1 of 22 October 2026, which gets security fixes" in checks["wasmtime"].detail
    assert checks["wasmer"].standing is Standing.WARNING
    assert "wasmer 1.1.0 of January 2022, which gets no security fixes" in checks["wasmer"].detail
    monkeypatch.setattr(engines, "engine_packages", only_wasmtime)
    checks = {check.name: check for check in diagnose().checks}
    assert checks["engine"].standing is Standing.WARNING
    assert checks["engine"].detail.startswith(
        "wasmtime 50.0.1: auto means wasmer, which cannot be used: the package wasmer"
    )
    assert diagnose().ok


@pytest.mark.parametrize(("feature", "standing"), [("pidfd", Standing.FAILED), ("landlock", Standing.WARNING)])
def test_a_kernel_without_a_feature_fails_or_warns(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch, feature: str, standing: Standing
) -> None:
    monkeypatch.setattr(doctor, "probe", lambda: [Feature(feature, False, "not here")])
    assert standings()[feature] is standing
    assert diagnose().ok is (standing is Standing.WARNING)


def test_a_cache_that_cannot_be_used_is_a_warning(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert standings()["cache"] is Standing.OK
    cache_folder.mkdir(mode=0o700)
    assert standings()["cache"] is Standing.OK
    (cache_folder / "something").touch()
    cache_folder.chmod(0o777)
    assert standings()["cache"] is Standing.WARNING
    monkeypatch.setenv("GUARDPOOL_CACHE_DIR", str(cache_folder / "something" / "cache"))
    assert standings()["cache"] is Standing.WARNING
    assert diagnose().ok


def test_doctor_works_where_no_engine_is_installed(cache_folder: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['wasmtime', 'wasmer', 'wasmer_compiler_cranelift'])); "
        "from guardpool.cli import main; sys.exit(main(['doctor']))"
    )
    env = {**os.environ, "GUARDPOOL_CACHE_DIR": str(cache_folder)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr == ""
    assert "pip install" in done.stdout
    assert "No pool can be made here" in done.stdout
