"""A guard that a real toolchain builds for wasm32-wasi, compiled here by the real compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import guardkit

# Unoptimised: with every check of the language, and the largest functions that a compiler makes.
OPTIONS = ("-target", "wasm32-wasi", "-mexec-model=reactor", "-mcpu", "generic", "-O", "Debug", "-rdynamic", "-fstrip")


def wasi_guard(folder: Path) -> bytes:
    """The wasm of `tests/guards/wasi_guard.zig`. The folder is left as it was."""
    work = folder / "zig"
    work.mkdir()
    try:
        shutil.copy(guardkit.GUARDS / "wasi_guard.zig", work)
        cache = str(work / "cache")
        environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        command = [sys.executable, "-m", "ziglang", "build-exe", "wasi_guard.zig", *OPTIONS, "--stack", "131072"]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return Path(work, "wasi_guard.wasm").read_bytes()
    finally:
        shutil.rmtree(work)
