"""Where things are in the checkout, and a folder that cannot be listed."""

from __future__ import annotations

import os
from pathlib import Path

KITS = Path(__file__).parent
TESTS = KITS.parent
ROOT = TESTS.parent
GUARDS = TESTS / "guards"
VECTORS = TESTS / "vectors"


def folder_that_cannot_be_listed(above: Path) -> Path:
    """Make folders below `above`, one in the other, until a path is longer than a system call takes: what is there cannot be
    listed by its path, not even by root. Returns that one."""
    path, fd = above, os.open(above, os.O_RDONLY)
    while len(os.fsencode(path)) < 4096:
        name = "n" * 200
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        path, fd = path / name, below
    os.close(fd)
    return path
