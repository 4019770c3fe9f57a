"""A file of kept labels: SQLite, for any number of processes at once, and for one user.

The file is trusted as the cache of compiled guards is: it and every folder above it must be ours or root's, and no one else
may write there, because a label in it stands for a run of the guard. What is read is checked all the same: the file's kind and
version, its schema to the letter, a digest in each row, and that a label is one. SQLite runs no code of the file: extensions
stay off, and so does everything that a schema could call.

A label counts only once the worker that made it has left, and has done nothing wrong until then. So a row names its worker,
and a worker that may be believed stands in a table of its own; rows of others are as good as not there, and are written over.

Labels are numbered as they are made, and rows lie in the order of their numbers: they are written one behind the other, and a
run over the same jobs reads many of them at once. What finds them by a key is a table of small rows, of which the file's cache
holds more than of rows with labels.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from guardpool.artifacts import trust
from guardpool.errors import GuardPoolError
from guardpool.labels import check_label
from guardpool.protocol.wire import UsedItem

KEY_BYTES = 32
_APPLICATION_ID = 0x67706B6C  # "gpkl"
_VERSION = 1
# So long a process waits for others that write; a transaction of ours takes some milliseconds.
_BUSY_S = 30.0
# Values that one statement looks up.
_LOOKUP = 256
# Rows are read ahead in blocks of so many, by their numbers, where a look-up finds so many of one: a run over the jobs of an
# earlier one finds all of it, and one that finds few has read for nothing at most 16 rows for each.
_BLOCK_BITS = 10
_DENSE_ROWS = 64
# What is held of rows that were read.
_MOST_HELD_BYTES = 32 * 1024 * 1024
_HELD_ROW_BYTES = 1000  # beside its label
# `short` is the beginning of a key. Of two keys with the same one, which chance does not make, the later one is found.
_SCHEMA = (
    "CREATE TABLE labels (number INTEGER PRIMARY KEY, keys BLOB NOT NULL, worker INTEGER NOT NULL, op TEXT NOT NULL, "
    "label BLOB NOT NULL, asked INTEGER NOT NULL, told INTEGER NOT NULL, digest BLOB NOT NULL)",
    "CREATE TABLE keys (short INTEGER PRIMARY KEY, number INTEGER NOT NULL)",
    "CREATE TABLE told (worker INTEGER NOT NULL, number INTEGER NOT NULL, tool TEXT NOT NULL, args BLOB NOT NULL, "
    "reply BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (worker, number)) WITHOUT ROWID",
    "CREATE TABLE honest (worker INTEGER PRIMARY KEY)",
)
_CHECK = {op: check_label(op) for op in ("label_resource", "label_response")}
_NO_LABEL = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, ValueError)
# What SQLite may hold of the file in memory.
_CACHE_KIB = 64 * 1024
# Labels that were checked, by their text: most runs have few different ones, and a look takes 0.1 us where a check takes 2.
_MOST_CHECKED_BYTES = 16 * 1024 * 1024
_ENTRY_BYTES = 200  # what an entry takes beside its label
# What SQLite may have beside the file.
COMPANIONS = ("-wal", "-shm", "-journal")


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
        self._honest: set[object] = set()  # workers that may be believed, as far as they were asked for
        # What was read, by the last of its keys, which is the one that is asked for first: rows, and labels that were checked.
        self._ahead: dict[bytes, _Row] = {}
        self._found: dict[bytes, KeptLabel] = {}
        self._held_bytes = 0
        path = _trusted_path(self.path)
        with self._explained():
            # The thread that looks up is not the one that opens.
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
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
        rows: dict[bytes, _Row] = {}
        unknown = []
        for key in keys:
            if (label := self._found.get(key)) is not None:
                found[key] = label
            elif (row := self._ahead.get(key)) is not None:
                rows[key] = row
            else:
                unknown.append(key)
        damaged: set[object] = set()
        with self._explained():
            if unknown:
                rows.update(self._rows_of(unknown))
            self._learn_who_is_honest({row[_WORKER] for row in rows.values()})
            for key, row in rows.items():
                try:
                    label = self._label_of(key, row)
                except (*_NO_LABEL, KeyError):
                    damaged.add(row[0])
                    continue
                if label is not None:
                    found[key] = self._found[key] = label
            if damaged:
                self._remove(damaged)
        return found

    def _rows_of(self, keys: Sequence[bytes]) -> dict[bytes, _Row]:
        """Rows that may be those of keys; as they stand there, nothing is checked."""
        key_of = {_short(key): key for key in keys}
        number_of = self._numbers_of(key_of)
        density = Counter(number >> _BLOCK_BITS for number in number_of.values())
        rows = {}
        for block, count in density.items():
            if count >= _DENSE_ROWS:
                rows.update(self._held(_BLOCK, (block << _BLOCK_BITS, (block + 1) << _BLOCK_BITS)))
        scattered = [number for number in number_of.values() if number not in rows]
        for first in range(0, len(scattered), _LOOKUP):
            rows.update(self._held(_ROWS, _filled(scattered[first : first + _LOOKUP])))
        return {key_of[short]: rows[number] for short, number in number_of.items() if number in rows}

    def _held(self, statement: str, values: Sequence[int | None]) -> dict[int, _Row]:
        """Read rows, and hold them for the look-ups to come; returns those that have come, by their numbers."""
        if self._held_bytes > _MOST_HELD_BYTES:
            self._forget()
        rows = {}
        for row in self._db.execute(statement, values):
            rows[row[0]] = row
            keys, label = row[1], row[_LABEL]
            if isinstance(keys, bytes) and isinstance(label, bytes):  # others are damaged: they are found one by one
                self._ahead[keys[-KEY_BYTES:]] = row
                self._held_bytes += len(label) + _HELD_ROW_BYTES
                if self._held_bytes > 2 * _MOST_HELD_BYTES and statement is _BLOCK:
                    break  # the rest is asked for by number
        return rows

    def _forget(self) -> None:
        self._ahead, self._found, self._held_bytes = {}, {}, 0

    def _numbers_of(self, shorts: Collection[int]) -> dict[int, int]:
        """The numbers of rows that are found by the beginnings of keys."""
        found = self._select(_NUMBERS, list(shorts))
        return {short: number for short, (_, number) in found.items() if isinstance(number, int)}

    def _select(self, statement: str, values: Sequence[int]) -> dict[int, _Row]:
        """Rows by their first column, for `_LOOKUP` values at a time: one statement, prepared once."""
        rows = {}
        for first in range(0, len(values), _LOOKUP):
            for row in self._db.execute(statement, _filled(values[first : first + _LOOKUP])):
                rows[row[0]] = row
        return rows

    def _learn_who_is_honest(self, workers: set[object]) -> None:
        unknown = [worker for worker in workers - self._honest if isinstance(worker, int)]
        if unknown:
            self._honest.update(self._select(_HONEST, unknown))

    def _label_of(self, key: bytes, row: _Row) -> KeptLabel | None:
        """The label in a row; None if it does not count, or is another key's.

        Raises one of `_NO_LABEL`, or KeyError, if it is damaged. A digest that fits says that each column is as we wrote it.
        """
        _, keys, worker, op, label, asked, told, digest = row
        if digest != _digest(keys, worker, op, label, asked, told):
            raise ValueError("it is not what was written")
        if worker not in self._honest or (not keys.endswith(key) and not keys.startswith(key)):
            return None
        if (op, label) not in self._checked:
            self._check(op, label)
        return KeptLabel(worker, op, label, asked, told)

    def _remove(self, numbers: Iterable[object]) -> None:
        """Remove damaged rows."""
        gone = [(number,) for number in numbers]
        self.damaged += len(gone)
        self._forget()
        with self._transaction():
            self._db.executemany("DELETE FROM labels WHERE number = ?", gone)

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
            if number != len(replies) or not are_right or digest != _digest(worker, number, tool, args, reply):
                break
            replies.append(UsedItem(tool, args, reply))
        return replies

    def _check(self, op: str, label: bytes) -> None:
        """Raise one of `_NO_LABEL`, or KeyError, if it is not a label of that operation on one line."""
        _CHECK[op](label)
        if b"\n" in label or b"\r" in label:
            raise ValueError("more than one line")
        self._checked_bytes += len(label) + _ENTRY_BYTES
        if self._checked_bytes > _MOST_CHECKED_BYTES:
            self._checked.clear()
            self._checked_bytes = len(label) + _ENTRY_BYTES
        self._checked.add((op, label))

    def keep(
        self, labels: Iterable[tuple[Sequence[bytes], KeptLabel]], told: Iterable[tuple[int, int, UsedItem]] = ()
    ) -> None:
        """Write labels, each with the one or two keys that it is found by, the one that is asked for first last; and replies
        that instances were told, each with its instance and its number there.

        Raises:
            KeptLabelsError: they cannot be written.
        """
        told_rows = []
        for worker, number, reply in told:
            columns = (worker, number, reply.tool, reply.args, reply.digest)
            told_rows.append((*columns, _digest(*columns)))
        self._forget()
        shorts = [(tuple(map(_short, keys)), b"".join(keys), label) for keys, label in labels]
        with self._explained(), self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO told VALUES (?, ?, ?, ?, ?, ?)", told_rows)
            self._keep_labels(shorts)

    def _keep_labels(self, labels: Sequence[tuple[tuple[int, ...], bytes, KeptLabel]]) -> None:
        """Write labels. Where the same instance made an earlier one for a key, that one stays, because it rests on fewer
        replies; a label of another instance is replaced."""
        number_of = self._numbers_of({short for shorts, _, _ in labels for short in shorts})
        # By number, the worker of the row there and its keys: a number may be another label's, after one that was removed.
        stored = {number: row[1:] for number, row in self._select(_STORED, list(set(number_of.values()))).items()}
        ((last,),) = self._db.execute("SELECT coalesce(max(number), 0) FROM labels")
        rows = {}
        pointers = []
        for shorts, keys, label in labels:
            numbers = {number_of[short] for short in shorts if short in number_of}
            number = next((each for each in numbers if each in stored and _are_of_one(stored[each][1], keys)), None)
            if number is None:
                number = last = last + 1
            elif stored[number][0] == label.worker:
                continue
            stored[number] = (label.worker, keys)
            rows[number] = (number, keys, *label, _digest(keys, *label))
            for short in shorts:
                number_of[short] = number
                pointers.append((short, number))
        self._db.executemany("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows.values())
        self._db.executemany("INSERT OR REPLACE INTO keys VALUES (?, ?)", pointers)

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
            # That class itself means no database, or a damaged one; its subclasses a full disk, a lock, a bug.
            what_to_do = "; choose another file" if type(error) is sqlite3.DatabaseError else ""
            raise KeptLabelsError(f"{self.path}: the kept labels cannot be used: {error}{what_to_do}") from error


_Row = tuple[Any, ...]
"""A row as SQLite gives it: a damaged file may hold anything."""
_WORKER, _LABEL = 2, 4
_IN = f"IN ({', '.join('?' * _LOOKUP)})"
_NUMBERS = f"SELECT short, number FROM keys WHERE short {_IN}"
_ROWS = f"SELECT * FROM labels WHERE number {_IN}"
_BLOCK = "SELECT * FROM labels WHERE number >= ? AND number < ? ORDER BY number"
_STORED = f"SELECT number, worker, keys FROM labels WHERE number {_IN}"
_HONEST = f"SELECT worker FROM honest WHERE worker {_IN}"


def _are_of_one(keys: object, others: bytes) -> bool:
    """Whether the keys of two rows are those of equal jobs, which may be spelt in two ways."""
    return isinstance(keys, bytes) and keys[:KEY_BYTES] == others[:KEY_BYTES]


def _filled(values: Sequence[int]) -> tuple[int | None, ...]:
    """So many values as a statement takes, so that it is prepared once."""
    return (*values, *(None,) * (_LOOKUP - len(values)))


def _short(key: bytes) -> int:
    return int.from_bytes(key[:8], "big", signed=True)


def new_worker() -> int:
    """A number for a guard's instance in a worker that no other one in any process has."""
    return secrets.randbits(62)


_encode = msgspec.msgpack.Encoder().encode


def _digest(*columns: object) -> bytes:
    """The digest of a row's columns. No row passes for one of another table, whose columns differ in number and types."""
    return sha256(_encode(columns)).digest()[:16]


def _trusted_path(path: str) -> str:
    """The file's real path, once it is certain that only this user can have written it, and what SQLite keeps beside it.

    Makes it if it is not there. Nothing that other users can change leads from there to another file.
    """
    name = os.path.basename(path)
    if not name:
        raise KeptLabelsError(f"{path}: the kept labels cannot be used: it names no file")
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    each = path
    try:
        fd = trust.open_folder_of(Path(folder))
        try:
            with suppress(FileExistsError):
                os.close(trust.create_file(fd, name))
            for companion in ("", *COMPANIONS):
                each = path + companion
                with suppress(FileNotFoundError):
                    trust.check_file(fd, name + companion)
        finally:
            os.close(fd)
    except trust.UntrustedError as error:
        raise KeptLabelsError(f"{each}: the kept labels cannot be trusted: {_sentence(str(error))}") from error
    except OSError as error:
        raise KeptLabelsError(f"{each}: the kept labels cannot be used: {error.strerror or error}") from error
    return os.path.join(folder, name)


def _sentence(why: str) -> str:
    """A reason as a sentence; those about files have no subject."""
    if why.startswith(("is ", "has ")):
        chmod = "; if no one else wrote it, run chmod 600" if why.startswith("has mode") else ""
        return f"it {why}{chmod}"
    return why
