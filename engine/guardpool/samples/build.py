"""Build the sample guard: `python -m guardpool.samples.build` (the `dev` extra has the compiler).

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

ZIG_VERSION = "0.13.0"

_HERE = Path(__file__).resolve().parent
SOURCE = _HERE / "guard"
TARGET = _HERE / "github_guard.wasm"

# ReleaseSmall: 77 KB and quicker to compile and to load than ReleaseFast's 133 KB, for about 1.6 times the time a call.
# The guard recurs 24 levels deep at most: 128 KiB of stack are plenty, and at the low end of memory, where an
# overflow would trap and not overwrite data.
_OPTIONS = (
    "-target",
    "wasm32-freestanding",
    "-mcpu",
    "generic",
    "-O",
    "ReleaseSmall",
    "-fno-entry",
    "-rdynamic",
    "-fstrip",
    "--stack",
    str(128 * 1024),
)


class BuildError(Exception):
    """The guard could not be built; the message says why and what to do."""


def build() -> bytes:
    """Compile the guard's source and return the module.

    Raises:
        BuildError: the compiler is missing, of another version, or refuses the source.
    """
    with tempfile.TemporaryDirectory(prefix="guardpool-build-") as name:
        directory = Path(name)
        _check_compiler(directory)
        shutil.copytree(SOURCE, directory / "guard")
        arguments = [
            "build-exe",
            "guard/github_guard.zig",
            *_OPTIONS,
            "--cache-dir",
            "cache",
            "--global-cache-dir",
            "cache",
            "-femit-bin=github_guard.wasm",
        ]
        _zig(arguments, directory)
        return (directory / "github_guard.wasm").read_bytes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and write the module, or with `--check` compare it with the one on disk; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given not in ([], ["--check"]):
        print("usage: python -m guardpool.samples.build [--check]", file=sys.stderr)
        return 2
    try:
        wasm = build()
        if not given:
            _replace(TARGET, wasm)
            print(f"{TARGET}: {len(wasm)} bytes")
            return 0
        there = TARGET.read_bytes()
    except (BuildError, OSError) as error:
        print(f"guardpool.samples.build: {error}", file=sys.stderr)
        return 1
    if wasm != there:
        message = (
            f"{TARGET}: its {len(there)} bytes are not what the source gives ({len(wasm)} bytes); "
            "run: python -m guardpool.samples.build"
        )
        print(message, file=sys.stderr)
        return 1
    print(f"{TARGET}: is what its source gives, {len(wasm)} bytes")
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


if __name__ == "__main__":
    sys.exit(main())
