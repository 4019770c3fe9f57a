"""Building our modules of Zig, for developers: the `dev` extra has the compiler, and no process of a pool loads this.

The same source gives the same bytes on every machine: the compiler's version is fixed, sources are compiled from a
directory of their own under names that do not depend on where they lie, and debug information is left out. Nothing is
written outside a temporary directory but the module itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ZIG_VERSION = "0.13.0"

_OPTIONS = ("-target", "wasm32-freestanding", "-mcpu", "generic", "-fno-entry", "-rdynamic", "-fstrip")


class BuildError(Exception):
    """A module could not be built; the message says why and what to do."""


class Recipe(NamedTuple):
    """How one of our modules is made.

    Attributes:
        command: the Python module that builds it, as `python -m` takes it, for messages.
        source: its main file, whose directory has the others.
        target: the module.
        options: of the compiler, beside those that all of ours have.
    """

    command: str
    source: Path
    target: Path
    options: tuple[str, ...]


def build(recipe: Recipe) -> bytes:
    """Compile the source and return the module.

    Raises:
        BuildError: the compiler is missing, of another version, or refuses the source.
    """
    with tempfile.TemporaryDirectory(prefix="guardpool-build-") as name:
        directory = Path(name)
        _check_compiler(directory)
        (directory / "source").mkdir()
        for file in recipe.source.parent.glob("*.zig"):
            shutil.copy(file, directory / "source")
        arguments = [
            "build-exe",
            f"source/{recipe.source.name}",
            *_OPTIONS,
            *recipe.options,
            "--cache-dir",
            "cache",
            "--global-cache-dir",
            "cache",
            "-femit-bin=made.wasm",
        ]
        _zig(arguments, directory)
        return (directory / "made.wasm").read_bytes()


def main(recipe: Recipe, arguments: Sequence[str] | None = None) -> int:
    """Build and write the module, or with `--check` compare it with the one on disk; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command, target = recipe.command, recipe.target
    if given not in ([], ["--check"]):
        print(f"usage: python -m {command} [--check]", file=sys.stderr)
        return 2
    try:
        wasm = build(recipe)
        if not given:
            _replace(target, wasm)
            print(f"{target}: {len(wasm)} bytes")
            return 0
        there = target.read_bytes()
    except (BuildError, OSError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 1
    if wasm != there:
        message = (
            f"{target}: its {len(there)} bytes are not what the source gives ({len(wasm)} bytes); "
            f"run: python -m {command}"
        )
        print(message, file=sys.stderr)
        return 1
    print(f"{target}: is what its source gives, {len(wasm)} bytes")
    return 0


def _check_compiler(directory: Path) -> None:
    found = _zig(["version"], directory).strip()
    if found != ZIG_VERSION:
        raise BuildError(
            f"zig {found} gives other bytes than zig {ZIG_VERSION}: pip install ziglang=={ZIG_VERSION}.post1"
        )


def _zig(arguments: list[str], directory: Path) -> str:
    # Whatever the compiler would keep outside its cache goes to the temporary directory as well.
    cache = str(directory / "cache")
    environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
    command = [sys.executable, "-m", "ziglang", *arguments]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout
    if "No module named ziglang" in done.stderr:
        raise BuildError(f"the compiler is missing: pip install ziglang=={ZIG_VERSION}.post1")
    raise BuildError(f"zig {arguments[0]} failed:\n{done.stderr.strip()}")


def _replace(target: Path, content: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(target)
