"""What the control group of this process allows: cores, memory, processes. In a container that is less than the machine has.

Both versions of cgroups are read. A limit of a group holds for all below it, so the least on the way up to the root counts.
What cannot be read sets no limit.
"""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
# Version 1 writes "no limit" as the largest multiple of a page.
_NO_LIMIT_BYTES = 1 << 60


def cores() -> float | None:
    """How many cores' worth of time the quota allows, e.g. 1.5; None: no quota."""
    shares: list[float] = []
    for folder in _folders("cpu"):
        words = (_read(folder / "cpu.max") or "").split()  # version 2: "QUOTA PERIOD", or "max PERIOD"
        if not words:
            words = [_read(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
        quota, period = (_number(word) for word in (*words, "", "")[:2])
        if quota is not None and period is not None and quota > 0 and period > 0:
            shares.append(quota / period)
    return min(shares, default=None)


def memory_bytes() -> int | None:
    """How much memory this process and its neighbours in the group may use together; None: no limit."""
    limits = [
        limit
        for folder in _folders("memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := _number(_read(folder / name))) is not None and 0 < limit < _NO_LIMIT_BYTES
    ]
    return min(limits, default=None)


def processes() -> int | None:
    """How many processes and threads the group may have; None: no limit."""
    limits = [limit for folder in _folders("pids") if (limit := _number(_read(folder / "pids.max"))) is not None]
    return min(limits, default=None)


def room_for_processes() -> int | None:
    """How many more processes and threads the group may have now; None: no limit."""
    rooms = [
        most - there
        for folder in _folders("pids")
        if (most := _number(_read(folder / "pids.max"))) is not None
        and (there := _number(_read(folder / "pids.current"))) is not None
    ]
    return min(rooms, default=None)


def _folders(controller: str) -> list[Path]:
    """The folders of this process's group, from its own up to the root, in the tree that has the controller."""
    lines = [line.split(":", 2) for line in (_read(_OWN) or "").splitlines() if line.count(":") >= 2]
    for _number_of_tree, names, path in lines:
        if controller in names.split(","):
            return _upwards(_ROOT / names, path) or _upwards(_ROOT / controller, path)
    for number, names, path in lines:
        if number == "0" and not names:
            return _upwards(_ROOT, path)
    return []


def _upwards(root: Path, path: str) -> list[Path]:
    if not root.is_dir():
        return []
    folder = Path(os.path.normpath(f"{root}/{path}"))
    # In a container the path may be the one outside, which is not there: what holds is at the root then.
    return [each for each in (folder, *folder.parents) if each.is_relative_to(root) and each.is_dir()] or [root]


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.lstrip("-").isdecimal() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return None
