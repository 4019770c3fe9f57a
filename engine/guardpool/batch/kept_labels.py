"""A file of kept labels: SQLite, for any number of processes at once, and for one user.

The file is trusted as the cache of compiled guards is: it and every folder above it must be ours or root's, and no one else
may write there, because a label in it stands for a run of the guard. What is read is checked all the same: the file's kind and
version, its schema to the letter, a digest in each row, and that a label is one. SQLite runs no code of the file: extensions
stay off, and so does everything that a schema could call.

A label counts only once the worker that made it has left, and has done nothing wrong until then. So a row names its worker,
and a worker that may be believed stands in a table of its own; rows of others are as good as not there, and are written over.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from guardpool.errors import GuardPoolError
from guardpool.labels import check_label
from guardpool.protocol.wire import UsedItem

KEY_BYTES = 32
_APPLICATION_ID = 0x67706B6C  # "gpkl"
_VERSION = 1
# So long a process waits for others that write; a transaction of ours takes some milliseconds.
_BUSY_S = 30.0
# Keys that are looked up in one statement.
LOOKUP_KEYS = 256
_SCHEMA = (
    "CREATE TABLE labels (key BLOB PRIMARY KEY, worker INTEGER NOT NULL, op TEXT NOT NULL, label BLOB NOT NULL, "
    "asked INTEGER NOT NULL, told INTEGER NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE told (worker INTEGER NOT NULL, number INTEGER NOT NULL, tool TEXT NOT NULL, args BLOB NOT NULL, "
    "reply BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (worker, number)) WITHOUT ROWID",
    "CREATE TABLE honest (worker INTEGER PRIMARY KEY)",
)
_CHECK = {op: check_label(op) for op in ("label_resource", "label_response")}
_NO_LABEL = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, ValueError)
# What SQLite may hold of the file in memory; with its 2 MB a look-up in a file of 15 MB took a third longer.
_CACHE_KIB = 64 * 1024
# Labels that were checked, by their text: most runs have few different ones, and a look takes 0.1 us where a check takes 2.
_MOST_CHECKED_BYTES = 16 * 1024 * 1024
_ENTRY_BYTES = 200  # what an entry takes beside its label
_COMPANIONS = ("-wal", "-shm", "-journal")


class KeptLabelsError(GuardPoolError):
    """A file of kept labels cannot be used; the message names it and says why. Nothing in it was changed."""


class KeptLabel(NamedTuple):
    """A label as it is kept.

    Args:
        worker: the number of the guard's instance that made it (`new_worker`).
        op: of the job.
        label: as JSON, in the form of the outcome file.
        asked: how many questions the guard asked for the job; all had an answer.
        told: how many replies the instance had been told by then, in this job or before. A guard may remember any of them.
    """

    worker: int
    op: str
    label: bytes
    asked: int
    told: int


class KeptLabels:
    """An open file of kept labels, used by one thread at a time.

    Args:
        path: of the file; it is made if it is not there, with mode 0600.

    Attributes:
        path: as it was given.
        damaged: rows that were found damaged so far, and removed.

    Raises:
        KeptLabelsError: it is not ours, not private, of another version, or no file of kept labels.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.damaged = 0
        self._checked: set[tuple[str, bytes]] = set()
        self._checked_bytes = 0
        _check_trust(self.path)
        with self._explained():
            # The thread that looks up is not the one that opens.
            self._db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            with self._explained():
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        db = self._db
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "temp_store=MEMORY"):
            db.execute(f"PRAGMA {pragma}")
        db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        if self._is_empty():
            with self._transaction():
                if self._is_empty():  # no other process was quicker
                    for table in _SCHEMA:
                        db.execute(table)
                    db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
                    db.execute(f"PRAGMA user_version={_VERSION}")
        ((kind,),), ((version,),) = db.execute("PRAGMA application_id"), db.execute("PRAGMA user_version")
        if kind != _APPLICATION_ID:
            raise KeptLabelsError(f"{self.path}: it is a database, but holds no kept labels: choose another file")
        if version != _VERSION:
            raise KeptLabelsError(
                f"{self.path}: its kept labels have the format {version}, of another version of guardpool, and this one has "
                f"{_VERSION}: choose another file"
            )
        if sorted(sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")) != sorted(
            _SCHEMA
        ):
            raise KeptLabelsError(f"{self.path}: its tables are not those of kept labels: choose another file")
        # A commit waits for no disk, and one that a power failure takes away is only a label less. Of two processes that each
        # write 2,000 labels and look up as many at a time, the slowest turn took 0.5 to 0.9 s with a log ahead, and 0.6 to
        # 2.3 s with a rollback journal, on a busy machine.
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")

    def _is_empty(self) -> bool:
        ((count,),) = self._db.execute("SELECT count(*) FROM sqlite_master")
        ((kind,),) = self._db.execute("PRAGMA application_id")
        return not count and not kind

    def find(self, keys: Sequence[bytes]) -> dict[bytes, KeptLabel]:
        """The labels that are kept under some of these keys, and made by workers that may be believed.

        Raises:
            KeptLabelsError: the file cannot be read any more.
        """
        found: dict[bytes, KeptLabel] = {}
        damaged: list[tuple[object]] = []
        with self._explained():
            for first in range(0, len(keys), LOOKUP_KEYS):
                part = list(keys[first : first + LOOKUP_KEYS])
                part += [b""] * (LOOKUP_KEYS - len(part))  # one statement, prepared once
                for key, *row in self._db.execute(_FIND, part):
                    label = self._label_of(key, *row)
                    if label is None:
                        damaged.append((key,))
                    else:
                        found[key] = label
            if damaged:
                self.damaged += len(damaged)
                with self._transaction():
                    self._db.executemany("DELETE FROM labels WHERE key = ?", damaged)
        return found

    def _label_of(
        self, key: object, worker: object, op: object, label: object, asked: object, told: object, digest: object
    ) -> KeptLabel | None:
        """A row as a label; None if it is damaged."""
        if not (
            isinstance(key, bytes) and isinstance(worker, int) and isinstance(op, str) and isinstance(label, bytes)
        ):
            return None
        if not (isinstance(asked, int) and isinstance(told, int)):
            return None
        try:
            if digest != _digest(key, worker, op, label, asked, told):
                return None
            self._check(op, label)
        except (*_NO_LABEL, KeyError):
            return None
        return KeptLabel(worker, op, label, asked, told)

    def told(self, worker: int) -> list[UsedItem]:
        """What an instance was told, the first reply first, up to the first row that is damaged or missing.

        Raises:
            KeptLabelsError: the file cannot be read any more.
        """
        replies: list[UsedItem] = []
        with self._explained():
            rows = self._db.execute("SELECT * FROM told WHERE worker = ? ORDER BY number", (worker,)).fetchall()
        for _, number, tool, args, reply, digest in rows:
            are_right = isinstance(tool, str) and isinstance(args, bytes) and isinstance(reply, bytes)
            if number != len(replies) or not are_right or digest != _digest(_TOLD, worker, number, tool, args, reply):
                break
            replies.append(UsedItem(tool, args, reply))
        return replies

    def _check(self, op: str, label: bytes) -> None:
        """Raise one of `_NO_LABEL`, or KeyError, if it is not a label of that operation on one line."""
        if (op, label) in self._checked:
            return
        _CHECK[op](label)
        if b"\n" in label or b"\r" in label:
            raise ValueError("more than one line")
        self._checked_bytes += len(label) + _ENTRY_BYTES
        if self._checked_bytes > _MOST_CHECKED_BYTES:
            self._checked.clear()
            self._checked_bytes = len(label) + _ENTRY_BYTES
        self._checked.add((op, label))

    def keep(self, labels: Iterable[tuple[bytes, KeptLabel]], told: Iterable[tuple[int, int, UsedItem]] = ()) -> None:
        """Write labels with their keys, and replies that instances were told, each with its instance and its number there.

        Raises:
            KeptLabelsError: they cannot be written.
        """
        label_rows = [(key, *label, _digest(key, *label)) for key, label in labels]
        told_rows = []
        for worker, number, reply in told:
            columns = (worker, number, reply.tool, reply.args, reply.digest)
            told_rows.append((*columns, _digest(_TOLD, *columns)))
        with self._explained(), self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO told VALUES (?, ?, ?, ?, ?, ?)", told_rows)
            self._db.executemany(_KEEP, label_rows)

    def believe(self, worker: int) -> None:
        """From here on a worker's labels count. Raises KeptLabelsError if that cannot be written."""
        with self._explained(), self._transaction():
            self._db.execute("INSERT OR IGNORE INTO honest VALUES (?)", (worker,))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise KeptLabelsError(f"{self.path}: the kept labels cannot be used: {error}") from error


_FIND = (
    "SELECT key, worker, op, label, asked, told, digest FROM labels JOIN honest USING (worker) "
    f"WHERE key IN ({', '.join('?' * LOOKUP_KEYS)})"
)
# Of labels of one instance the first stays: it rests on the fewest replies.
_KEEP = (
    "INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET worker = excluded.worker, "
    "op = excluded.op, label = excluded.label, asked = excluded.asked, told = excluded.told, digest = excluded.digest "
    "WHERE excluded.worker <> labels.worker"
)
_TOLD = b"told"


def new_worker() -> int:
    """A number for a guard's instance in a worker that no other one in any process has."""
    return secrets.randbits(62)


def _digest(key: bytes, *columns: object) -> bytes:
    return blake2b(msgspec.msgpack.encode(columns), key=key, digest_size=16).digest()


def _check_trust(path: str) -> None:
    """Make sure that only this user can have written the file, and what SQLite keeps beside it. Makes it if it is not there."""
    if not os.path.basename(path):
        raise KeptLabelsError(f"{path}: the kept labels cannot be used: it names no file")
    _check_folders(os.path.dirname(os.path.abspath(path)), path)
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)) as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask made of it
    except FileExistsError:
        pass
    except OSError as error:
        raise KeptLabelsError(f"{path}: the kept labels cannot be used: {error.strerror or error}") from error
    for each in (path, *(path + companion for companion in _COMPANIONS)):
        try:
            status = os.lstat(each)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise KeptLabelsError(f"{each}: the kept labels cannot be used: {error.strerror or error}") from error
        why = _why_not_ours(status)
        if why is not None:
            raise KeptLabelsError(f"{each}: the kept labels cannot be trusted: {why}")


def _why_not_ours(status: os.stat_result) -> str | None:
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    if status.st_uid != os.geteuid():
        return f"it is owned by uid {status.st_uid}, not by you (uid {os.geteuid()})"
    if stat.S_IMODE(status.st_mode) != 0o600:
        return f"it has mode {stat.S_IMODE(status.st_mode):04o}, not 0600; if no one else wrote it, run chmod 600"
    if status.st_nlink != 1:
        return f"it has {status.st_nlink} names (hard links), not one"
    return None


def _check_folders(folder: str, path: str) -> None:
    """Make sure that no other user can put a file in the place of ours."""
    above = os.path.realpath(folder)
    is_ours = True  # of the folder itself; in a sticky one above it others can add names, but not replace ours
    while True:
        try:
            status = os.stat(above)
        except OSError as error:
            raise KeptLabelsError(f"{path}: the kept labels cannot be used: {error.strerror or error}") from error
        writable = status.st_mode & 0o022 and (is_ours or not status.st_mode & stat.S_ISVTX)
        if writable or status.st_uid not in (0, os.geteuid()):
            why = (
                f"others can write to its folder {above} (mode {stat.S_IMODE(status.st_mode):04o}, uid {status.st_uid})"
            )
            raise KeptLabelsError(f"{path}: the kept labels cannot be trusted: {why}: choose a folder of yours")
        if above == os.path.dirname(above):
            return
        above, is_ours = os.path.dirname(above), False
