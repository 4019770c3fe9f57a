"""`--redact` and `--redact-key`: with which key names are replaced by hashes in what is written."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from guardpool.batch.files import PART, FileError
from guardpool.batch.journal import sync_folder_of
from guardpool.cli.render import complain
from guardpool.decide import DecisionRecord
from guardpool.report.redaction import Redactor

if TYPE_CHECKING:
    from guardpool.replay_summary import ReplaySummary

_KEY_BYTES = 32
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}){16,64}")
_MOST_BYTES = 1024
_Key = TypeVar("_Key")


class Redaction(NamedTuple):
    """How names are taken out of what a command writes.

    Attributes:
        redactor: takes them out; None: they stay.
        is_kept: whether the key is in a file, so that another run can have the same hashes.
    """

    redactor: Redactor | None
    is_kept: bool = False

    def records(self, records: Iterable[DecisionRecord]) -> Iterable[DecisionRecord]:
        """The decisions as they may be shown."""
        return records if self.redactor is None else map(self.redactor.redacted, records)

    def recordings(self, names: Sequence[str]) -> Sequence[str]:
        """The names of inputs as they may be shown."""
        return names if self.redactor is None else list(map(self.redactor.recording, names))

    def server(self, name: str) -> str:
        """The name of a server as it may be shown."""
        return name if self.redactor is None else self.redactor.server(name)

    def log_level(self, level: str) -> str:
        """From which level on guards' log lines may be shown: none of them, if names are taken out, as strangers wrote them."""
        return level if self.redactor is None else "off"

    def summary(self, summary: ReplaySummary, disagreements: Sequence[tuple[str, str]] = ()) -> ReplaySummary:
        """A replay's summary as it may be shown. `disagreements`: its own, made of redacted decisions."""
        if self.redactor is None:
            return summary
        server, tool = self.redactor.server, self.redactor.tool
        return replace(
            summary,
            inputs={self.redactor.recording(name): counts for name, counts in summary.inputs.items()},
            disagreements=list(disagreements),
            servers=_renamed(summary.servers, server),
            unknown_servers=_renamed(summary.unknown_servers, server),
            unguarded=_renamed(summary.unguarded, server),
            guard_failures=_renamed(summary.guard_failures, lambda key: (server(key[0]), key[1])),
            asked=_renamed(summary.asked, tool),
            missing=_renamed(summary.missing, tool),
            taken_off={server(name): keys for name, keys in summary.taken_off.items()},
        )

    def tell(self) -> None:
        """Say so if another run will have other hashes: the key is kept nowhere."""
        if self.redactor is not None and not self.is_kept:
            complain(
                "redacted with a key that is kept nowhere: --redact-key FILE keeps it, so that runs can be compared"
            )


def redaction(redact: bool, key_file: str | None) -> Redaction:
    """What the two options ask for; a file for the key asks for it, too, and is made if there is none.

    Raises:
        FileError: the file cannot be read or made, it is another user's or others may read it, or it holds no key.
    """
    if key_file is not None:
        return Redaction(Redactor(_key_of(key_file)), is_kept=True)
    return Redaction(Redactor(secrets.token_bytes(_KEY_BYTES)) if redact else None)


def _renamed(counts: Counter[_Key], name: Callable[[_Key], _Key]) -> Counter[_Key]:
    renamed: Counter[_Key] = Counter()
    for key, count in counts.items():
        renamed[name(key)] += count
    return renamed


def _key_of(path: str) -> bytes:
    """The key in a file, which is made if it is not there: by one of several first runs."""
    if not os.path.exists(path):
        _make_key(path)
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            text = file.read(_MOST_BYTES).strip()
    except OSError as error:
        raise FileError.of(path, "the key cannot be read", error) from error
    if stat.S_ISREG(status.st_mode) and status.st_uid not in (0, os.geteuid()):
        raise FileError(f"{path}: the key belongs to another user, who may read it: copy it, or name a new file")
    if stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o077:
        raise FileError(f"{path}: others may read the key, or write it: chmod 600 {path}, or name a new file")
    if not _HEX.fullmatch(text):
        raise FileError(
            f"{path}: no key is in it: a key is 32 to 128 hexadecimal digits; a file that is not there is made"
        )
    return bytes.fromhex(text.decode())


def _make_key(path: str) -> None:
    """A new key, which only its owner may read: on the disk, whole, before anything is written with it.

    Nothing is done if another run was quicker.
    """
    target = os.path.realpath(path)
    part = f"{target}.{secrets.token_hex(8)}{PART}"
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES).hex().encode() + b"\n")
                file.flush()
                os.fsync(fd)
            with suppress(FileExistsError):
                os.link(part, target)
        finally:
            os.unlink(part)
        sync_folder_of(target)
    except OSError as error:
        raise FileError.of(path, "the key cannot be written", error) from error
