"""The inputs that a user names: files, folders, globs and standard input, as names and streams of bytes.

Only what the user named is opened, and regular files in folders that the user named; never a file that an input names.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import select
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from guardpool.compression import READ_BYTES
from guardpool.errors import CallerError
from guardpool.recordings.runs import Run, files_of, is_rpc_log, is_text_log, run_of

STANDARD = "-"
_MAGIC = ("*", "?", "[")


class InputError(CallerError):
    """An input that was named cannot be read.

    Attributes:
        path: as it was named.
    """

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class Input:
    """One file to read.

    Args:
        path: to open it; `-` is standard input.
        name: for ids and messages: relative to what all inputs have in common, so that it is the same on every machine.
        was_named: the user named the file itself; otherwise it was found in a folder.
        size: in bytes when it was found; None for a pipe or a device.
        run: the run in whose folder it was found, or the gateway whose logs lie beside it: shared by all its files. None for
            other files.
        given: what the user named: the file itself, or a folder that it is in.
    """

    path: str
    name: str
    was_named: bool
    size: int | None
    run: Run | None = None
    given: str = ""


def find(paths: Sequence[str | os.PathLike[str]]) -> list[Input]:
    """The files that `paths` mean, each once: in the order given, within a folder in the order of their names,
    but logs of messages before the text logs of their folder.

    Args:
        paths: files, folders (all regular files below them, and of a run's folder its recordings; symbolic links in them are
            not followed), globs, or `-`.

    Raises:
        InputError: a path does not exist, cannot be read, or is a glob that fits nothing.
    """
    named: list[tuple[str, bool]] = []
    for path in [os.fspath(each) for each in paths]:
        if not isinstance(path, str):
            raise InputError(f"{path!r}: a path is a string or a path of pathlib, not bytes", path=repr(path))
        named += [(each, True) for each in _expand(path)]
    base = _common_base([path for path, _ in named if path != STANDARD])
    found: list[Input] = []
    seen: set[tuple[int, int]] = set()
    for path, _ in named:
        for each in _files_of(path, base):
            identity = _identity(each.path)
            if identity is None or identity not in seen:
                found.append(replace(each, given=path))
            if identity is not None:
                seen.add(identity)
    if not found:
        if not named:
            raise InputError("no recording is named: name a file, a folder, a glob or -", path="")
        path = named[0][0]
        raise InputError(f"{path}: no file is in it: name a recording, or a folder that holds some", path=path)
    return _grouped(found)


def _grouped(found: list[Input]) -> list[Input]:
    """The inputs, with the logs of one gateway as one run: those that lie in one folder, the messages before the text.

    Both tell of the same denials, and the log of messages tells more of each.
    """
    folders: dict[str, list[int]] = {}
    for at, each in enumerate(found):
        if each.run is None and each.path != STANDARD and _is_log(each):
            folders.setdefault(os.path.dirname(os.path.abspath(each.path)), []).append(at)
    for places in folders.values():
        logs = sorted((found[at] for at in places), key=lambda each: not is_rpc_log(os.path.basename(each.path)))
        if len({is_rpc_log(os.path.basename(each.path)) for each in logs}) == 2:
            run = Run(logs[0].name)
            for at, each in zip(places, logs):
                found[at] = replace(each, run=run)
    return found


def _is_log(source: Input) -> bool:
    name = os.path.basename(source.path)
    return is_rpc_log(name) or is_text_log(name)


def _expand(path: str) -> list[str]:
    if path == STANDARD or os.path.lexists(path) or not any(sign in path for sign in _MAGIC):
        return [path]
    matches = sorted(glob.glob(path, recursive=True))
    if not matches:
        raise InputError(f"{path}: no file fits this pattern", path=path)
    return matches


def _common_base(paths: Sequence[str]) -> str:
    folders = [path if os.path.isdir(path) else os.path.dirname(path) for path in map(os.path.abspath, paths)]
    return os.path.commonpath(folders) if folders else ""


def _files_of(path: str, base: str) -> Iterator[Input]:
    try:
        if path == STANDARD:
            yield Input(path, STANDARD, True, _size_of(os.fstat(_standard_input())))
            return
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            if not os.access(path, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            yield Input(path, _name(path, base), True, _size_of(status))
            return
        os.listdir(path)
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}", path=path) from error
    unlisted: list[OSError] = []
    for folder, folders, names in os.walk(path, onerror=unlisted.append):
        folders.sort()
        run = run_of(folder)
        if run is not None:
            folders[:] = [name for name in folders if run_of(os.path.join(folder, name)) is not None]
        paths = (os.path.join(folder, name) for name in sorted(names))
        for each in paths if run is None else files_of(folder, unlisted):
            try:
                status = os.lstat(each)
            except OSError:
                continue  # it went away since the folder was listed
            if stat.S_ISREG(status.st_mode):
                yield Input(each, _name(each, base), False, status.st_size, run)
    # As inputs they are counted as what cannot be read, like a file.
    yield from (Input(error.filename, _name(error.filename, base), False, None) for error in unlisted)


def _size_of(status: os.stat_result) -> int | None:
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _identity(path: str) -> tuple[int, int] | None:
    if path == STANDARD:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _name(path: str, base: str) -> str:
    relative = os.path.relpath(os.path.abspath(path), base) if base else path
    return os.fsencode(relative).decode("utf-8", "backslashreplace")


class OpenInput:
    """An input while it is read.

    A regular file that grows while it is read is read to the end of the line that its size lay in when it was opened:
    otherwise a run could follow a busy log for ever.

    Attributes:
        bytes_read: bytes of the file taken so far, as they are on the disk.
    """

    def __init__(self, source: Input) -> None:
        self._is_ours = source.path != STANDARD
        # Without O_NONBLOCK a named pipe that nobody writes to waits, as it does for `cat`.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | (0 if source.was_named else os.O_NOFOLLOW | os.O_NONBLOCK)
        self._fd = os.open(source.path, flags) if self._is_ours else _standard_input()
        self._end = _size_of(os.fstat(self._fd)) or None  # files of /proc say 0
        if self._end is not None and not self._is_ours:
            self._end = None  # the offset is not ours: somebody may have read a part
        self.bytes_read = 0

    def read(self) -> bytes:
        """The next bytes; empty at the end.

        Raises:
            OSError: it cannot be read.
        """
        while True:
            if self._end is not None and self.bytes_read >= self._end:
                return self._rest_of_line()
            try:
                data = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                waiter = select.poll()  # `select.select` takes no descriptor over 1,023
                waiter.register(self._fd, select.POLLIN)
                waiter.poll()
                continue
            if self._end is not None and self.bytes_read + len(data) > self._end:
                data = self._cut(data)
            self.bytes_read += len(data)
            return data

    def _cut(self, data: bytes) -> bytes:
        """What of the last read belongs to the file as it was, and to the line that was begun then."""
        assert self._end is not None
        at = max(0, self._end - self.bytes_read - 1)
        newline = data.find(b"\n", at)
        if newline >= 0:
            data = data[: newline + 1]
            self._end = -1  # nothing more is read
        return data

    def _rest_of_line(self) -> bytes:
        if self._end is None or self._end < 0 or self._ends_with_newline():
            return b""
        data = os.read(self._fd, READ_BYTES)
        newline = data.find(b"\n")
        if newline >= 0:
            data = data[: newline + 1]
            self._end = -1
        self.bytes_read += len(data)
        return data

    def _ends_with_newline(self) -> bool:
        return self.bytes_read > 0 and os.pread(self._fd, 1, self.bytes_read - 1) == b"\n"

    def close(self) -> None:
        """Close it, unless it is standard input."""
        if self._is_ours:
            os.close(self._fd)


def _standard_input() -> int:
    """The descriptor of standard input.

    Raises:
        OSError: it was closed when Python began, or is open for writing only.
    """
    fd = -1 if sys.stdin is None else sys.stdin.fileno()
    if fd < 0 or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        raise OSError(errno.EBADF, "it is closed")
    return fd
