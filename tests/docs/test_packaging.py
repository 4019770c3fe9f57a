"""An installed guardpool: without an engine it says what is missing; the wheel holds what it must and no more."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

import engineoption
import guardpool
import guardpool_worker
from guardpool import samples
from guardpool.machine.engines import ENGINES
from paths import ROOT

PACKAGES = (Path(guardpool.__file__).parent, Path(guardpool_worker.__file__).parent)
# What `auto` means in this Python.
ENGINE = ENGINES[engineoption.auto_order_of_users()[0]]
DEPENDENCIES = ("msgspec", "psutil", "rich", "pygments", "markdown_it", "mdurl", "typing_extensions", "tomli")
MAKE_A_POOL = """
from guardpool import EngineMissing, Guard, GuardPool, samples
try:
    GuardPool([Guard.from_file(samples.GUARD, name="g", policy=samples.POLICY)])
except EngineMissing as error:
    print(error)
"""


class Installation:
    """A Python that finds these packages, the dependencies, and no other packages."""

    def __init__(self, folder: Path, *packages: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for package in packages:
            (folder / package.name).symlink_to(package)
        for name in DEPENDENCIES:
            self.link(name)

    def link(self, name: str) -> None:
        """Install a dependency that this very Python has."""
        spec = PathFinder.find_spec(name)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            found = origin.parent if spec.submodule_search_locations else origin
            (self.folder / found.name).symlink_to(found)
            for info in found.parent.glob(f"{name}-*.dist-info"):
                (self.folder / info.name).symlink_to(info)

    def run(self, code: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run code in it."""
        start = f"import sys; sys.path.append({str(self.folder)!r})\n"
        command = [sys.executable, "-I", "-S", "-B", "-W", "error", "-c", start + code, *args]
        # What a command leaves in the folder for temporary files, as `demo` does, goes with the test.
        environment = {**os.environ, "COLUMNS": "200", "TMPDIR": str(self.folder.parent)}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)

    def command(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run `guardpool`."""
        return self.run("from guardpool.cli import main; sys.exit(main())", *args)


@pytest.fixture(params=["no engine", "the stub that pip installs where there is no wheel"])
def without_engine(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Installation, str]:
    """An installation without a usable engine, and what it has to say."""
    installation = Installation(tmp_path / "site", *PACKAGES)
    if request.param == "no engine":
        return installation, f"the package {ENGINE.name} is not installed"
    for name in ENGINE.packages:
        (installation.folder / name).mkdir()
        (installation.folder / name / "__init__.py").write_text("raise ImportError('not available')")
    return installation, "has no native library for this Python"


def test_without_an_engine_everything_says_so_in_one_line(without_engine: tuple[Installation, str]) -> None:
    installation, reason = without_engine
    imported = installation.run("import guardpool; print(guardpool.__version__)")
    assert (imported.returncode, imported.stdout.strip(), imported.stderr) == (0, guardpool.__version__, "")
    pool = installation.run(MAKE_A_POOL)
    assert (pool.returncode, pool.stderr) == (0, "")
    (line,) = pool.stdout.splitlines()
    assert reason in line
    assert line.endswith(f"run: {ENGINE.install}")
    demo = installation.command("demo")
    assert (demo.returncode, demo.stderr) == (1, f"guardpool: {line}\n")


def test_without_an_engine_doctor_fails_and_the_rest_works(without_engine: tuple[Installation, str]) -> None:
    installation, reason = without_engine
    doctor = installation.command("doctor")
    assert (doctor.returncode, doctor.stderr) == (1, "")
    assert "engine" in doctor.stdout
    assert reason in " ".join(doctor.stdout.split())
    assert doctor.stdout.rstrip().splitlines()[-1] == "No pool can be made here: see engine."
    assert installation.command("--help").returncode == 0
    inspected = installation.command("inspect", str(samples.GUARD))
    assert inspected.returncode == 0
    assert inspected.stdout.rstrip().endswith("a guard")


def test_the_source_archive_has_every_document_of_the_top_folder() -> None:
    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[tool.hatch.build.targets.sdist]")[1]
    assert [path.name for path in ROOT.glob("*.md") if f'"/{path.name}"' not in listed] == []


# --- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", str(folder))
    command = [sys.executable, "-m", "pip", "wheel", *options, str(ROOT)]
    subprocess.run(command, check=True, timeout=120)
    (file,) = folder.glob("*.whl")
    return file


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name and not name.endswith("/")}
    expected = {
        str(file.relative_to(package.parent))
        for package in (*PACKAGES, ROOT / "benchmarks" / "guardpool_bench")
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert names == expected
    for name in ("guardpool/py.typed", "guardpool_worker/py.typed", "guardpool/samples/github_guard.wasm"):
        assert name in names
    assert any(name.endswith(".zig") for name in names)
    assert not [name for name in names if "test_" in name or name.startswith("tests/")]


@pytest.mark.slow
def test_an_unpacked_wheel_labels_jobs(wheel: Path, tmp_path: Path) -> None:
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    installation = Installation(tmp_path / "site", unpacked / "guardpool", unpacked / "guardpool_worker")
    for name in ENGINE.packages:
        installation.link(name)
    where = installation.run("import guardpool; print(guardpool.__file__)").stdout
    assert where.startswith(str(installation.folder))
    doctor = installation.command("doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    demo = installation.command("demo", "--workers", "1")
    assert demo.returncode == 0, demo.stderr
