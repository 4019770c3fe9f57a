"""Opening folders and files only if no other user could have put something into them.

A cache entry is machine code: to load one is to run it. So a folder counts only if it is ours and closed to other
users, and no other user can replace it or a folder above it; a file only if it is a regular file, ours, readable and
writable by us alone, under a single name. Every check is made on the opened descriptor, never on a path that could lead
elsewhere a moment later, and what is read is read once, through that descriptor.

"Ours" is the effective user. A group that holds only that user is still a group: who is in it can change.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

FOLDER_MODE = 0o700
FILE_MODE = 0o600

_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: opening a named pipe in a file's place would wait until something is written to it.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class UntrustedError(Exception):
    """Another user could have touched it, or it is not what it should be. `str()` is the reason, one line."""


def open_folder(path: Path, *, create: bool = False) -> int:
    """Open a folder after checking it and every folder above it.

    Symbolic links above the folder are resolved first (a home folder may be one) and the real path is then walked from
    the root, each step relative to the folder before it. The folder itself must not be a link.

    Args:
        path: an absolute path.
        create: make the folder, and those missing above it, with mode 0700.

    Returns:
        A descriptor of the folder; the caller closes it.

    Raises:
        UntrustedError: the folder or one above it fails a check.
        FileNotFoundError: it is not there and `create` is false.
        OSError: the system refused, for example to create it.
    """
    if not path.is_absolute():
        raise UntrustedError(f"{path} is not an absolute path: set HOME or GUARDPOOL_CACHE_DIR to one")
    if not path.name:
        raise UntrustedError(f"{path} cannot be a cache folder: set GUARDPOOL_CACHE_DIR to another")
    fd = _walk(Path(os.path.realpath(path.parent)), create, _OF_CACHE)
    try:
        fd = _step(fd, path.name, _LIST, create=create, shown=str(path))
        _check_folder(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_folder_of(path: Path) -> int:
    """Open the folder that a file of ours stands in, after checking it and every folder above it. Others may read the folder.

    Args:
        path: of the folder: absolute, no link, and none above it.

    Returns:
        A descriptor of the folder; the caller closes it.

    Raises:
        UntrustedError: another user can put a file in the place of ours.
        OSError: the system refused; it is not there.
    """
    hint = "choose a folder of yours"
    fd = _walk(path.parent, False, _Whose("the folder of the file", hint))
    try:
        if path.name:
            fd = _step(fd, path.name, _WALK, create=False, shown=str(path))
        info = os.fstat(fd)
        if info.st_mode & 0o022 or info.st_uid not in (0, os.geteuid()):
            raise UntrustedError(
                f"others can write to its folder {path} (mode {_mode(info)}, uid {info.st_uid}): {hint}"
            )
    except BaseException:
        os.close(fd)
        raise
    return fd


class _Whose(NamedTuple):
    """Which folder is checked, and what to do if it cannot be trusted: for messages."""

    what: str
    hint: str


_OF_CACHE = _Whose("the cache folder", "set GUARDPOOL_CACHE_DIR to a folder of yours")


def _walk(path: Path, create: bool, whose: _Whose) -> int:
    """Open a folder from the root on, each step relative to the folder before it, and check each."""
    fd = os.open("/", _WALK)
    try:
        _check_above(fd, "/", whose)
        walked = "/"
        for part in path.parts[1:]:
            walked = os.path.join(walked, part)
            fd = _step(fd, part, _WALK, create=create, shown=walked)
            _check_above(fd, walked, whose)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _step(fd: int, part: str, flags: int, *, create: bool, shown: str) -> int:
    """Open `part` in the folder `fd` and close `fd`; if that fails, `fd` stays open."""
    if create:
        try:
            os.mkdir(part, FOLDER_MODE, dir_fd=fd)
        except FileExistsError:
            pass
        except OSError:
            # A system folder above us may be read-only or not ours to write to, and yet be there.
            if not _exists(part, fd):
                raise
        else:
            with contextlib.suppress(OSError):  # whatever the umask made of it
                os.chmod(part, FOLDER_MODE, dir_fd=fd)
    try:
        below = os.open(part, flags, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and _exists(part, fd):
            raise UntrustedError(f"{shown} is {_kind_at(part, fd)}, not a folder") from error
        raise
    os.close(fd)
    return below


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def _check_above(fd: int, shown: str, whose: _Whose) -> None:
    info = os.fstat(fd)
    if info.st_uid not in (0, os.geteuid()):
        raise UntrustedError(
            f"{shown}, above {whose.what}, is owned by uid {info.st_uid}: neither yours nor root's; {whose.hint}"
        )
    # In a sticky folder such as /tmp others may add names but not replace ours.
    if info.st_mode & 0o022 and not info.st_mode & stat.S_ISVTX:
        raise UntrustedError(
            f"{shown}, above {whose.what}, has mode {_mode(info)}: others can write to it; run: chmod go-w {shown}"
        )


def _check_folder(fd: int, path: Path) -> None:
    info = os.fstat(fd)
    if info.st_uid != os.geteuid():
        raise UntrustedError(
            f"the folder is owned by uid {info.st_uid}, not by you (uid {os.geteuid()}); "
            "set GUARDPOOL_CACHE_DIR to a folder of yours"
        )
    if info.st_mode & 0o777 != FOLDER_MODE:
        if os.listdir(fd):
            raise UntrustedError(
                f"the folder has mode {_mode(info)} and must be {FOLDER_MODE:04o}; clear it and run: chmod 700 {path}"
            )
        # It was made with plain mkdir and is empty: there is nothing to mistrust, and from here on only we can add to it.
        os.fchmod(fd, FOLDER_MODE)
        if os.listdir(fd):
            raise UntrustedError(
                "the folder was open to others and one of them has just written to it: remove what it holds"
            )


def open_file(folder: int, name: str, max_bytes: int) -> tuple[int, os.stat_result]:
    """Open a file of a trusted folder for reading, after checking what was opened.

    Returns:
        The descriptor, which the caller closes, and its `fstat`.

    Raises:
        UntrustedError: it is not a regular file of ours, has another mode than 0600, another name, or more than
            `max_bytes`.
        FileNotFoundError: it is not there.
        OSError: the system refused.
    """
    try:
        fd = os.open(name, _READ, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link; a socket or a device without a driver
            raise UntrustedError(f"is {_kind_at(name, folder)}, not a file") from error
        raise
    try:
        info = os.fstat(fd)
        _check_file(info, max_bytes)
    except BaseException:
        os.close(fd)
        raise
    return fd, info


def check_file(folder: int, name: str) -> None:
    """Check a file of a trusted folder as `open_file` does, without opening it.

    For files that SQLite locks: a process that closes a descriptor of one loses all the locks that it has there.

    Raises:
        UntrustedError: as `open_file`.
        FileNotFoundError: it is not there.
        OSError: the system refused.
    """
    info = os.stat(name, dir_fd=folder, follow_symlinks=False)
    _check_file(info, info.st_size)


def _check_file(info: os.stat_result, max_bytes: int) -> None:
    if not is_regular(info):
        raise UntrustedError(f"is {_kind(info)}, not a file")
    if info.st_uid != os.geteuid():
        raise UntrustedError(f"is owned by uid {info.st_uid}, not by you (uid {os.geteuid()})")
    if stat.S_IMODE(info.st_mode) != FILE_MODE:
        raise UntrustedError(f"has mode {_mode(info)}, not {FILE_MODE:04o}")
    if info.st_nlink != 1:
        raise UntrustedError(f"has {info.st_nlink} names (hard links), not one")
    if info.st_size > max_bytes:
        raise UntrustedError(f"has {info.st_size} bytes, more than the {max_bytes} that an entry can have")


def is_regular(info: os.stat_result) -> bool:
    """Whether it is a plain file."""
    return stat.S_ISREG(info.st_mode)


def read_all(fd: int, size: int) -> bytearray:
    """The file's content, read once; shorter or one byte longer than `size` if it changed in the meantime."""
    data = bytearray(size + 1)
    view = memoryview(data)
    filled = 0
    while filled < len(data):
        count = os.readv(fd, [view[filled:]])
        if count == 0:
            break
        filled += count
    view.release()
    del data[filled:]
    return data


def create_file(folder: int, name: str) -> int:
    """Make a new file with mode 0600 in a trusted folder and open it for reading and writing.

    Raises:
        FileExistsError: the name is taken, be it by a broken link.
        OSError: the system refused.
    """
    fd = os.open(name, _CREATE, FILE_MODE, dir_fd=folder)
    os.fchmod(fd, FILE_MODE)
    return fd


def remove(folder: int, name: str, seen: os.stat_result | None = None) -> bool:
    """Remove a name from a trusted folder, whatever stands there; True if it is gone because of this call.

    Args:
        seen: what was found under the name; a file that has taken its place since then is left alone.
    """
    try:
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if seen is not None and (info.st_dev, info.st_ino) != (seen.st_dev, seen.st_ino):
            return False
        if stat.S_ISDIR(info.st_mode):
            os.rmdir(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
    except OSError:
        return False
    return True


def _kind_at(name: str, folder: int) -> str:
    try:
        return _kind(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except OSError:
        return "something that is gone again"


def _kind(info: os.stat_result) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a folder",
        stat.S_IFREG: "a file",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(info.st_mode), "something else")


def _mode(info: os.stat_result) -> str:
    return f"{stat.S_IMODE(info.st_mode):04o}"
