"""A lock for each key of the cache, across processes and threads, that the kernel releases when its holder dies.

All keys share one file, `lock`: a key is one byte of it, at an offset made from the key, and the lock is an open file
description lock on that byte. So no lock files pile up, none is ever removed (which would need a protocol of its own),
and two keys that share an offset only wait for each other. Such a lock belongs to the open file and not to the process,
so two threads of one process exclude each other as well.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time

from guardpool.artifacts import trust

LOCK_NAME = "lock"

_FLOCK = struct.Struct("@hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.001, 0.05
_UNSUPPORTED = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class LockTimeoutError(Exception):
    """Another holder kept the lock for longer than the caller would wait."""


class KeyLock:
    """The lock of one key, taken by `with`.

    Args:
        folder: descriptor of the trusted cache folder.
        key: the entry's 64 hex digits.
        timeout_s: how long to wait for it, in seconds.

    Raises (on entry):
        LockTimeoutError: it was not free in time.
        OSError: the lock file cannot be made or opened, as in a read-only folder.
    """

    def __init__(self, folder: int, key: str, timeout_s: float) -> None:
        self._folder = folder
        self._offset = int(key[:15], 16)
        self._timeout_s = timeout_s
        self._fd = -1

    def __enter__(self) -> KeyLock:
        self._fd = _open_lock_file(self._folder)
        try:
            self._wait()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # By name, and not only by closing: a process that the caller forked meanwhile shares the open file.
        with contextlib.suppress(OSError):
            self._set(fcntl.F_UNLCK)
        self._close()

    def _wait(self) -> None:
        # No system call waits for such a lock with a time limit; looking now and then costs next to nothing
        # beside what the holder does.
        deadline = time.monotonic() + self._timeout_s
        pause_s = _FIRST_WAIT_S
        while not self._try():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise LockTimeoutError
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_WAIT_S)

    def _try(self) -> bool:
        try:
            self._set(fcntl.F_WRLCK)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            # A file system without such locks: compiling twice is all that can happen, because entries are renamed
            # into place whole.
            if error.errno not in _UNSUPPORTED:
                raise
        return True

    def _set(self, kind: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, self._offset, 1, 0))

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1


def _open_lock_file(folder: int) -> int:
    """Open the folder's lock file; something else in its place is removed and the file made anew."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    for _ in range(3):
        try:
            fd = os.open(LOCK_NAME, flags, trust.FILE_MODE, dir_fd=folder)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO) or not trust.remove(folder, LOCK_NAME):
                raise
            continue
        info = os.fstat(fd)
        if info.st_uid == os.geteuid() and info.st_nlink == 1 and trust.is_regular(info):
            return fd
        os.close(fd)
        trust.remove(folder, LOCK_NAME, info)
    raise OSError(errno.EBUSY, "something else keeps taking the lock file's place", LOCK_NAME)
