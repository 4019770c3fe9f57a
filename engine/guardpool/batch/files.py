"""The files of a batch, opened and checked before any job runs: what can fail fails at once, not after an hour."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress

from guardpool.errors import GuardPoolError

STANDARD = "-"
# What is written stands beside the file, with this behind its name, until all of it is there.
PART = ".part"
_CHUNK_BYTES = 64 * 1024
# Endings that promise a packed file. Whoever wrote lines under such a name would leave a file that nothing opens.
_PACKED = (".gz", ".gzip", ".tgz", ".zst", ".zstd", ".bz2", ".xz", ".lzma", ".lz4", ".br", ".zip", ".7z", ".parquet")
# What stands there are open descriptors: the file behind one is written, as the shell opened it, and never renamed.
_NAMES_OF_DESCRIPTORS = ("/dev/std", "/dev/fd/", "/proc/")


class FileError(GuardPoolError):
    """A file of a batch cannot be used; the message names it."""

    @classmethod
    def of(cls, path: str, what: str, error: OSError) -> FileError:
        """`path: cannot be opened: No such file or directory`."""
        return cls(f"{path}: {what}: {error.strerror or error}")


class Input:
    """The jobs' file, open for reading. `-` is standard input."""

    def __init__(self, path: str) -> None:
        self.path = "standard input" if path == STANDARD else path
        self._is_ours = path != STANDARD
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if self._is_ours else _standard(0, os.O_WRONLY)
            self.status = os.fstat(self.fd)
        except OSError as error:
            raise FileError.of(self.path, "the jobs cannot be read", error) from error
        if stat.S_ISDIR(self.status.st_mode):
            self.close()
            raise FileError(f"{self.path}: the jobs cannot be read: it is a directory")

    def close(self) -> None:
        """Close it, unless it is standard input."""
        if self._is_ours:
            os.close(self.fd)


def _standard(fd: int, wrong: int) -> int:
    """A standard stream, if it is open and not only in the wrong direction."""
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == wrong:
        raise OSError(errno.EBADF, "it is closed")
    return fd


class Output:
    """A file to be written, open from the start. `-` is standard output.

    What is written goes to `PATH.part` beside the file and takes the file's place in `finish`, so that a run which does not
    come to its end replaces nothing. A pipe, a terminal or a device is written directly. Nothing changes before `begin`.

    Args:
        path: as on the command line.
        what: what goes there, for messages.
        is_private: only its owner may read it, as what was made from recordings.
        packs: endings of packed files that are kept to, as `.gz`; a name with any other such ending is refused.

    Attributes:
        fd: what is written to.
        path: of the file, for messages.
        written_path: where what was written is: `PATH.part` up to `finish`, if there is one, else `path`.
    """

    def __init__(self, path: str, what: str, *, is_private: bool = False, packs: Sequence[str] = ()) -> None:
        self._packs = packs
        self._mode = 0o600 if is_private else 0o666
        self.path = self.written_path = "standard output" if path == STANDARD else path
        self._what = what
        self._before: os.stat_result | None = None  # of the file that is there already
        self._target: str | None = None  # whose place the part takes in the end
        self._created = self._begun = False
        self._is_open = path != STANDARD
        try:
            self.fd = self._open(path) if self._is_open else _standard(1, os.O_RDONLY)
            self.status = os.fstat(self.fd)
        except OSError as error:
            raise FileError.of(self.written_path, f"{what} cannot be written", error) from error

    @property
    def is_terminal(self) -> bool:
        """Whether what is written is shown on a screen."""
        return os.isatty(self.fd)

    @property
    def replaces(self) -> bool:
        """Whether there is a file whose place what is written will take."""
        return self._target is not None and self._before is not None

    def _open(self, path: str) -> int:
        if os.path.basename(path) in ("", os.curdir, os.pardir):
            raise IsADirectoryError(errno.EISDIR, "it names no file")
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
        except FileNotFoundError:
            pass
        else:
            self._before = os.fstat(fd)
            if not stat.S_ISREG(self._before.st_mode) or path.startswith(_NAMES_OF_DESCRIPTORS):
                return fd
            os.close(fd)
        self._refuse_packed(path)
        self._target = os.path.realpath(path)  # a symbolic link stays one
        self.written_path = f"{path}{PART}" if not os.path.islink(path) else f"{self._target}{PART}"
        return self._open_part(f"{self._target}{PART}")

    def _refuse_packed(self, path: str) -> None:
        ending = os.path.splitext(path)[1].lower()
        if ending in _PACKED and ending not in self._packs:
            raise FileError(
                f"{path}: {self._what} cannot be written as {ending}: choose a name without it, and pack the file afterwards"
            )

    def _open_part(self, part: str) -> int:
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(part, flags | os.O_CREAT | os.O_EXCL, self._mode)
            self._created = True
        except FileExistsError:  # of a run that did not come to its end
            fd = os.open(part, flags)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise FileExistsError(errno.EEXIST, "what is there is not a regular file") from None
        return fd

    def refuse(self, status: os.stat_result, path: str) -> None:
        """Make sure that writing here does not destroy the file at `path`, which has this `status`.

        Raises:
            FileError: both are the same file.
        """
        for ours in (self.status, self._before):
            if ours is not None and stat.S_ISREG(status.st_mode) and os.path.samestat(status, ours):
                raise FileError(f"{self.path}: {self._what} cannot be written: {path} is the same file; choose another")

    def refuse_standard_too(self, other: Output) -> None:
        """Make sure that lines of two kinds do not stand among one another in standard output, whatever it is.

        Raises:
            FileError: both are written there.
        """
        if not self._is_open and not other._is_open:
            raise FileError(f"standard output: {self._what} and {other._what} cannot both be written there")

    def refuse_name(self, path: str) -> None:
        """Make sure that a file which the run makes or keeps at `path`, there or not yet, is not replaced by this one.

        Raises:
            FileError: both have one name, or the other has that of the part.
        """
        if self._target is not None and os.path.realpath(path) in (self._target, self.part):
            raise FileError(f"{self.path}: {self._what} cannot be written: {path} is the same file; choose another")

    @property
    def is_new(self) -> bool:
        """Whether there was no part when it was opened. Up to `begin`."""
        return self._created

    @property
    def part(self) -> str | None:
        """Where what is written stands until it is complete; None if it is written directly."""
        return None if self._target is None else f"{self._target}{PART}"

    @property
    def target(self) -> str | None:
        """The file whose place it takes then."""
        return self._target

    def begin(self, *, keep: bool = False) -> None:
        """From here on what is written is ours: what an earlier run left in the part goes, or may be gone on with.

        Args:
            keep: leave what is there; `empty` removes it.

        Raises:
            FileError: it cannot be written, or another run writes it.
        """
        created, self._created, self._begun = self._created, False, True
        if not self._is_open or not stat.S_ISREG(self.status.st_mode):
            return
        try:
            if self._target is not None:
                self._lock()
                self._take_over_mode(created)
        except OSError as error:
            self._begun = False
            raise FileError.of(self.written_path, f"{self._what} cannot be written", error) from error
        if not keep:
            self.empty()

    def empty(self) -> None:
        """Remove what stands in a regular file.

        Raises:
            FileError: it cannot be written.
        """
        if not stat.S_ISREG(self.status.st_mode):
            return
        try:
            os.ftruncate(self.fd, 0)
        except OSError as error:
            self._begun = False
            raise FileError.of(self.written_path, f"{self._what} cannot be written", error) from error

    def write(self, data: bytes) -> None:
        """Write all of it, after `begin`.

        Raises:
            BrokenPipeError: it is a pipe, and its reader is gone.
            FileError: it cannot be written for another reason.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise FileError.of(self.written_path, f"{self._what} cannot be written", error) from error

    def go_behind_last_line(self) -> None:
        """Write behind the last whole line of what an earlier run left, and remove the line that it cut.

        Raises:
            FileError: it cannot be read or written.
        """
        if self._target is None:
            return
        try:
            end = _end_of_last_line(f"{self._target}{PART}")
            os.ftruncate(self.fd, end)
            os.lseek(self.fd, end, os.SEEK_SET)
        except OSError as error:
            raise FileError.of(self.written_path, f"{self._what} cannot be written", error) from error

    def _lock(self) -> None:
        """Keep other runs from the part; the lock ends with the descriptor."""
        part = f"{self._target}{PART}"
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.lexists(part) and os.path.samestat(os.stat(part), self.status)
        except BlockingIOError:
            is_ours = False
        except OSError:  # a file system without locks
            return
        if not is_ours:
            raise BlockingIOError(errno.EWOULDBLOCK, "another run writes to the same file; choose another")

    def _take_over_mode(self, created: bool) -> None:
        """Let the part be read by those who could read the file, and by no others."""
        before = self._before
        if self._mode == 0o600:
            os.fchmod(self.fd, self._mode)
        elif before is not None:
            os.fchmod(self.fd, stat.S_IMODE(before.st_mode))
            if (before.st_uid, before.st_gid) != (self.status.st_uid, self.status.st_gid):
                with suppress(OSError):  # only root may give a file away
                    os.fchown(self.fd, before.st_uid, before.st_gid)

    def finish(self, product: str | None = None) -> None:
        """All is written: it takes the file's place.

        Args:
            product: a file beside the part that takes the place instead of it; the part goes.

        Raises:
            FileError: the file system tells only now that it could not write, or it cannot be renamed.
        """
        self._close()
        if self._target is not None and self._begun:
            try:
                os.replace(product or f"{self._target}{PART}", self._target)
                if product is not None:
                    os.unlink(f"{self._target}{PART}")
            except OSError as error:
                what = f"{self._what} are whole but cannot be renamed to {self.path}"
                raise FileError.of(self.written_path, what, error) from error
            self._begun = False
            self.written_path = self.path

    def close(self) -> None:
        """Close it; a part in which nothing stands is removed. Does nothing after `finish`.

        Raises:
            FileError: the file system tells only now that it could not write.
        """
        if not self._is_open:
            return
        is_empty = self._begun and stat.S_ISREG(self.status.st_mode) and os.fstat(self.fd).st_size == 0
        if self._target is not None and (self._created or is_empty):
            with suppress(OSError):  # also if another run took it over
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(f"{self._target}{PART}")
        self._close()

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            try:
                os.close(self.fd)
            except OSError as error:
                raise FileError.of(self.written_path, f"{self._what} cannot be written", error) from error


def refuse_clashes(outputs: Sequence[Output], inputs: Iterable[str] = (), kept: Iterable[str | None] = ()) -> None:
    """Make sure that no file of a run takes the place of another.

    Args:
        outputs: what is written.
        inputs: what is read; one that is no file, or not there, does not matter.
        kept: what is made or added to while the run goes on, if it is named.

    Raises:
        FileError: two of them are one file.
    """
    read = [path for path in inputs if path != STANDARD and os.path.exists(path)]
    named = [path for path in kept if path is not None]
    for at, output in enumerate(outputs):
        for path in read:
            output.refuse(os.stat(path), path)
        for path in named:
            output.refuse_name(path)
            if os.path.exists(path):
                output.refuse(os.stat(path), path)
        for other in outputs[:at]:
            output.refuse(other.status, other.path)
            output.refuse_standard_too(other)
    names = [os.path.realpath(path) for path in named]
    for at, path in enumerate(named):
        if names[at] in names[:at]:
            raise FileError(f"{path}: it is named for two things: choose another file for one of them")


def _end_of_last_line(path: str) -> int:
    """How many bytes of a file are whole lines."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _CHUNK_BYTES)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0
