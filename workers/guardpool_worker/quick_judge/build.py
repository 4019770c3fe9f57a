"""Build the quick judge: `python -m guardpool_worker.quick_judge.build` (the `dev` extra has the compiler)."""

from __future__ import annotations

import sys
from pathlib import Path

from guardpool import zig

_HERE = Path(__file__).resolve().parent

# ReleaseFast, 9 KB, is as quick to compile as ReleaseSmall, 7 KB. No function calls itself: 16 KiB of stack are plenty.
RECIPE = zig.Recipe(
    "guardpool_worker.quick_judge.build",
    _HERE / "quick_judge.zig",
    _HERE / "quick_judge.wasm",
    ("-O", "ReleaseFast", "--stack", str(16 * 1024)),
)


if __name__ == "__main__":
    sys.exit(zig.main(RECIPE))
