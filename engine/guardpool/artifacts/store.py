"""Reading and writing entries in a trusted cache folder, and sweeping up after writers that died.

A writer holds a lock on its temporary file for as long as it lives. So a process that can lock such a file knows that
its writer is dead, even if that was in another container, where its pid would mean nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterable

from guardpool.artifacts import entry, trust

_ENTRY = re.compile(r"([0-9a-f]{64})" + re.escape(entry.SUFFIX))
_TEMPORARY = re.compile(r"tmp-[0-9]+-[0-9a-f]{16}")


def keys(folder: int) -> list[str]:
    """The keys of all entries, sorted; other files in the folder are passed over."""
    return sorted(match[1] for match in map(_ENTRY.fullmatch, os.listdir(folder)) if match)


def read(fd: int, size: int) -> bytearray:
    """An entry's bytes, read once, after a look at its head: a file that is far too large is not read at all.

    Raises:
        DamagedError: its head says another size, or is not that of an entry.
        OSError: the system refused.
    """
    entry.check_size(os.pread(fd, entry.FIXED_BYTES, 0), size)
    return trust.read_all(fd, size)


def write(folder: int, name: str, parts: Iterable[bytes]) -> None:
    """Write a file so that, whatever happens, `name` is the old one or the whole new one.

    Raises:
        OSError: it could not be written; nothing is left of it.
    """
    sweep(folder)
    temporary, fd = _create(folder)
    try:
        for part in parts:
            _write_all(fd, part)
        os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    finally:
        os.close(fd)
    os.fsync(folder)


def _write_all(fd: int, part: bytes) -> None:
    rest = memoryview(part)
    while rest:
        rest = rest[os.write(fd, rest) :]


def sweep(folder: int) -> int:
    """Remove temporary files whose writers are dead; returns how many there were."""
    return sum(_sweep_one(folder, name) for name in os.listdir(folder) if _TEMPORARY.fullmatch(name))


def _create(folder: int) -> tuple[str, int]:
    while True:
        name = f"tmp-{os.getpid()}-{secrets.token_hex(8)}"
        fd = trust.create_file(folder, name)
        # Between the two calls a sweeper may have taken it for a dead writer's: then it is locked, or gone.
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink == 1:
                return name, fd
        except BlockingIOError:
            pass
        os.close(fd)


def _sweep_one(folder: int, name: str) -> bool:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        # Not a file of ours, then: a link, or one without the right to read it.
        return trust.remove(folder, name)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return trust.remove(folder, name, os.fstat(fd))
    except OSError:
        return False
    finally:
        os.close(fd)
