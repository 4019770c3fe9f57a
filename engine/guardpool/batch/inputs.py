"""The inputs that a user names, files, folders, globs and standard input: found and looked at before any job runs."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from guardpool.batch.binary import LONGEST_MAGIC, NotLines, kind_of
from guardpool.batch.files import STANDARD, FileError, Input
from guardpool.compression import DecoderMissing, check_decoder, is_packed

# A folder means its files with these endings. The format of a file is told by its content, whatever its ending.
ENDINGS = (
    *(f".{kind}{packed}" for kind in ("jsonl", "ndjson") for packed in ("", ".gz", ".zst")),
    *(".parquet", ".pq"),
)
PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True)
class Found:
    """One input.

    Args:
        path: to open it; `-` is standard input.
        status: when it was found.
        head: its first bytes, if it is a regular file.
        held: it, open, if it cannot be opened a second time, as a pipe cannot.
    """

    path: str
    status: os.stat_result
    head: bytes
    held: Input | None = None

    @property
    def is_regular(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.status.st_mode)

    @property
    def is_parquet(self) -> bool:
        """Whether it begins as Parquet does."""
        return self.head.startswith(PARQUET_MAGIC)

    def open(self) -> Input:
        """It, open for reading; the caller closes it.

        Raises:
            FileError: it cannot be opened any more.
        """
        return self.held or Input(self.path)

    def close(self, opened: Input) -> None:
        """Close what `open` gave, unless it is needed again."""
        if opened is not self.held:
            opened.close()

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return "standard input" if self.path == STANDARD else self.path


class Inputs:
    """The files that paths mean, each once: in the order given, within a folder in the order of their names.

    Args:
        paths: files, folders and globs; `-` is standard input. A folder means all regular files below it whose names end in
            one of `ENDINGS`; links in it are not followed.
        leave_out: paths that a folder or a glob does not mean, because the run writes them.

    Attributes:
        files: at least one.
        left_out: files that a folder or a glob has and that were left out.
        path: what to call them all in a message.

    Raises:
        FileError: one does not exist or cannot be read, is zstd and nothing here reads that, is a folder without files of jobs,
            or a glob that fits nothing.
        NotLines: the first bytes of one say that no line of it can be a job.
    """

    def __init__(self, paths: Sequence[str], *, leave_out: Iterable[str] = ()) -> None:
        self.files: list[Found] = []
        self.left_out: list[str] = []
        outputs = frozenset(map(os.path.realpath, leave_out))
        try:
            for path in expanded(paths, outputs, self.left_out):
                self.files.append(looked_at(path))
        except BaseException:
            self.close()
            raise
        self.path = self.files[0].name
        if len(self.files) > 1:
            self.path += f" and {len(self.files) - 1:,} more"

    @property
    def total_bytes(self) -> int | None:
        """The size of all files together, as they are stored; None if one is a pipe."""
        if not all(each.is_regular for each in self.files):
            return None
        return sum(each.status.st_size for each in self.files)

    def close(self) -> None:
        """Close what is open."""
        for each in self.files:
            if each.held is not None:
                each.held.close()


def looked_at(path: str) -> Found:
    """An input, found and looked at; what is not a regular file is open.

    Raises:
        FileError, NotLines: as for `Inputs`.
    """
    opened = Input(path)
    held = path == STANDARD or not stat.S_ISREG(opened.status.st_mode)
    try:
        head = b""
        if stat.S_ISREG(opened.status.st_mode):
            at = os.lseek(opened.fd, 0, os.SEEK_CUR)  # a shell may have read a part of standard input
            head = os.pread(opened.fd, LONGEST_MAGIC, at)
        check_head(head, path)
        return Found(path, opened.status, head, opened if held else None)
    except OSError as error:
        raise FileError.of(opened.path, "the jobs cannot be read", error) from error
    finally:
        if not held:
            opened.close()


def check_head(head: bytes, path: str) -> None:
    """Make sure that a file with these first bytes may hold jobs, and can be unpacked here.

    Args:
        head: `LONGEST_MAGIC` bytes tell everything.
        path: for the message.

    Raises:
        FileError: it is zstd, and nothing here reads that.
        NotLines: no line of it can be a job.
    """
    if is_packed(head):
        try:
            check_decoder(head)
        except DecoderMissing as error:
            name = "standard input" if path == STANDARD else path
            raise FileError(f"{name}: the jobs cannot be read: {error}") from error
    elif not head.startswith(PARQUET_MAGIC) and (kind := kind_of(head)) is not None:
        raise NotLines(kind, path)


def expanded(
    paths: Iterable[str], outputs: frozenset[str] = frozenset(), left_out: list[str] | None = None
) -> Iterator[str]:
    """The files that paths mean, each once, as `Inputs` takes them; one that is named itself need not be there.

    Args:
        paths: files, folders and globs.
        outputs: real paths of what is written: left out where a folder or a glob has them.
        left_out: gets the names of those.

    Raises:
        FileError: a folder has no files of jobs or cannot be read, or nothing fits a glob.
    """
    seen: set[str] = set()
    left_out = [] if left_out is None else left_out
    for path in paths:
        begin = len(left_out)
        found = 0
        for named in _matches(path):
            is_folder = os.path.isdir(named)
            for each in _files_below(named) if is_folder else [named]:
                identity = each if each == STANDARD else os.path.realpath(each)
                if identity in outputs and (is_folder or named != path):
                    left_out.append(each)
                    continue
                found += 1
                if identity not in seen:
                    seen.add(identity)
                    yield each
        if not found:
            what = "this folder holds" if os.path.isdir(path) else "this pattern fits"
            only = ", ".join(left_out[begin:])
            raise FileError(f"{path}: the jobs cannot be read: {what} only what is written here: {only}")


def files_of(paths: Iterable[str]) -> list[str]:
    """The files that paths mean, as far as they are there: nothing may be written over them."""
    found: list[str] = []
    for path in paths:
        for named in _matches_there(path):
            if os.path.isdir(named):
                found += [os.path.join(inner, name) for inner, _, names in os.walk(named) for name in names]
            elif os.path.isfile(named):
                found.append(named)
    return found


def is_glob(path: str) -> bool:
    """Whether a path may be a pattern."""
    return any(sign in path for sign in "*?[")


def _matches(path: str) -> list[str]:
    matches = _matches_there(path)
    if not matches:
        raise no_match(path)
    return matches


def _matches_there(path: str) -> list[str]:
    """The files that a path means: what matches it if it is a glob, unless a file of that very name is there; else itself."""
    if path == STANDARD or os.path.lexists(path) or not is_glob(path):
        return [path]
    return sorted(glob.glob(path, recursive=True))


def _files_below(folder: str) -> list[str]:
    try:
        os.listdir(folder)
    except OSError as error:
        raise FileError.of(folder, "the jobs cannot be read", error) from error

    def refuse(error: OSError) -> None:  # os.walk passes over what it cannot list, with all the jobs in it
        raise FileError.of(error.filename, "the jobs cannot be read", error) from error

    found = []
    for inner, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        paths = (os.path.join(inner, name) for name in sorted(names) if name.lower().endswith(ENDINGS))
        found += [path for path in paths if not os.path.islink(path) and os.path.isfile(path)]
    if not found:
        raise no_jobs_below(folder)
    return found


def no_jobs_below(folder: str) -> FileError:
    """What to raise for a folder without files of jobs."""
    kinds = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
    return FileError(f"{folder}: the jobs cannot be read: no file in this folder ends in {kinds}")


def no_match(pattern: str) -> FileError:
    """What to raise for a glob that fits nothing."""
    return FileError(f"{pattern}: the jobs cannot be read: no file fits this pattern")
