"""Files below a folder, read so that nothing in the folder can lead elsewhere.

The kernel resolves the names itself where it can (openat2, Linux 5.6): beneath the folder, through no symbolic link. Where it
cannot, or a container's filter refuses the call, each name is opened on its own, below the one before it and through no link.
What is not a regular file is not opened for reading: a pipe would wait for a writer, and some devices act when they are opened.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
from collections.abc import Callable, Sequence
from functools import cache

# From `include/uapi/asm-generic/unistd.h` and `include/uapi/linux/openat2.h`; the number is the same on every architecture
# that Python has wheels for.
_SYS_OPENAT2 = 437
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
# What says that there is no such call: an old kernel, and filters of containers that answer EPERM for what they do not know.
_NOT_THERE = (errno.ENOSYS, errno.EPERM)
_NAME = re.compile(r"[A-Za-z0-9._-]+\Z")


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def read(folder: str, names: Sequence[str], most: int) -> bytes | None:
    """The content of the regular file `names` below a folder; None if it is missing, or larger than `most` bytes.

    Args:
        folder: the user named it, or a folder above it.
        names: the folders below it and the file, one name each, of letters, digits, `_`, `-` and `.`.
        most: in bytes.
    """
    if not all(_NAME.match(name) and name not in (".", "..") for name in names):
        return None
    top = file = -1
    try:
        top = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if not _is_regular(top, names):
            return None
        # Without O_NONBLOCK a pipe that was put there since would make us wait.
        file = open_beneath(top, names, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            return None
        return _all_of(file, most)
    except OSError:
        return None
    finally:
        for each in (top, file):
            if each >= 0:
                os.close(each)


def _is_regular(top: int, names: Sequence[str]) -> bool:
    place = open_beneath(top, names, os.O_PATH)
    try:
        return stat.S_ISREG(os.fstat(place).st_mode)
    finally:
        os.close(place)


def _all_of(file: int, most: int) -> bytes | None:
    parts: list[bytes] = []
    left = most + 1
    while left:
        data = os.read(file, left)
        if not data:
            return b"".join(parts)
        parts.append(data)
        left -= len(data)
    return None  # it grew while it was read


def open_beneath(top: int, names: Sequence[str], flags: int) -> int:
    """Open `names` below the folder that `top` is open at.

    Raises:
        OSError: it is not there, or a symbolic link stands in the way.
    """
    try:
        return _openat2(top, "/".join(names), flags)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
    return open_stepwise(top, names, flags)


def _openat2(top: int, path: str, flags: int) -> int:
    how = _How(flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)
    number = ctypes.c_long(_SYS_OPENAT2)
    fd = _syscall()(number, ctypes.c_int(top), path.encode(), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(fd)


@cache
def _syscall() -> Callable[..., int]:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return call


def open_stepwise(top: int, names: Sequence[str], flags: int) -> int:
    """The same without openat2: no name is `..`, so that each step stays below the one before it.

    Raises:
        OSError: it is not there, or a symbolic link stands in the way.
    """
    at = top
    try:
        for folder in names[:-1]:
            below = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            if at != top:
                os.close(at)
            at = below
        file = os.open(names[-1], flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    finally:
        if at != top:
            os.close(at)
    return file
