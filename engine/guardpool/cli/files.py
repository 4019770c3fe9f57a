"""The files of a batch, opened and checked before any job runs: what can fail fails at once, not after an hour."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from guardpool.cli.render import UsageError
from guardpool.contract import check_policy
from guardpool.errors import CallerError, ContractError, GuardPoolError
from guardpool.guard import Guard

STANDARD = "-"


class FileError(GuardPoolError):
    """A file of a batch cannot be used; the message names it."""

    @classmethod
    def of(cls, path: str, what: str, error: OSError) -> FileError:
        """`path: cannot be opened: No such file or directory`."""
        return cls(f"{path}: {what}: {error.strerror or error}")


def load_guards(guards: Sequence[str], policies: Sequence[str]) -> list[Guard]:
    """The guards of `NAME=FILE.wasm`, each with its policy of `NAME=POLICY.json`.

    Raises:
        UsageError: an option does not have that form, a name is given twice, or a policy has no guard or a guard no policy.
        FileError, ModuleError: a file cannot be read, or a policy is not valid; the message names the file.
    """
    modules = _pairs("--guard", "FILE.wasm", guards)
    policy_files = _pairs("--policy", "POLICY.json", policies)
    for name in policy_files:
        if name not in modules:
            raise UsageError(
                f"--policy {name}={policy_files[name]}: no guard is called {name!r}: add --guard {name}=FILE.wasm"
            )
    for name in modules:
        if name not in policy_files:
            raise UsageError(f"guard {name!r} has no policy: add --policy {name}=POLICY.json")
    return [_guard(name, module, policy_files[name]) for name, module in modules.items()]


def _pairs(option: str, kind: str, values: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            raise UsageError(f"{option} {value}: write it as {option} NAME={kind}")
        if name in pairs:
            raise UsageError(f"{option} {value}: {name!r} is already the name of {pairs[name]}; choose another name")
        pairs[name] = path
    return pairs


def _guard(name: str, module: str, policy_file: str) -> Guard:
    try:
        Guard(name, b"")
    except CallerError as error:
        raise UsageError(str(error)) from None
    return Guard.from_file(module, name=name, policy=_policy(policy_file))


def _policy(path: str) -> Any:
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise FileError.of(path, "the policy cannot be read", error) from error
    try:
        policy = msgspec.json.decode(text.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileError(f"{path}: the policy is not JSON: {error}") from error
    try:
        check_policy(policy)
    except ContractError as error:
        raise FileError(f"{path}: {error}") from error
    return policy


def read_whole(path: str) -> bytes:
    """A whole file; `-` is standard input.

    Raises:
        OSError: it cannot be read, or standard input is closed.
    """
    if path != STANDARD:
        return Path(path).read_bytes()
    with open(0, "rb", closefd=False) as stdin:  # `sys.stdin` is None where it is closed
        return stdin.read()


def guard_name_of(file: str) -> str:
    """A name for the guard in a file, from the file's; every character that a name may not have becomes `_`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", Path(file).stem).lstrip("._-")[:64] or "guard"


def name_the_file(error: GuardPoolError, guards: Sequence[Guard]) -> GuardPoolError:
    """The error with the guard's file in front of its message, if one guard is to blame and the message does not name it."""
    to_blame = getattr(error, "guard", None)
    for guard in guards:
        if guard.name == to_blame and guard.path and guard.path not in str(error):
            return FileError(f"{guard.path}: {error}")
    return error


class Input:
    """The jobs' file, open for reading. `-` is standard input."""

    def __init__(self, path: str) -> None:
        self.path = "standard input" if path == STANDARD else path
        self._is_ours = path != STANDARD
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if self._is_ours else 0
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


class Output:
    """A file to be written, open from the start and left as it is until `begin`. `-` is standard output.

    Args:
        path: as on the command line.
        what: what goes there, for messages.
        is_private: only its owner may read it, as what was made from recordings.
    """

    def __init__(self, path: str, what: str, *, is_private: bool = False) -> None:
        self._mode = 0o600 if is_private else 0o666
        self.path = "standard output" if path == STANDARD else path
        self._what = what
        self._is_ours = path != STANDARD
        self._created = False
        try:
            self.fd = self._open(path) if self._is_ours else 1
            self.status = os.fstat(self.fd)
        except OSError as error:
            raise FileError.of(self.path, f"{what} cannot be written", error) from error

    def _open(self, path: str) -> int:
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, self._mode)
            self._created = True
        except FileExistsError:
            fd = os.open(path, flags)
        return fd

    def refuse(self, status: os.stat_result, path: str) -> None:
        """Make sure that writing here does not destroy the file at `path`, which has this `status`.

        Raises:
            FileError: both are the same file.
        """
        if stat.S_ISREG(status.st_mode) and os.path.samestat(status, self.status):
            raise FileError(f"{self.path}: {self._what} cannot be written: {path} is the same file; choose another")

    def begin(self) -> None:
        """From here on the file is ours: what was in it goes."""
        self._created = False
        if self._is_ours and stat.S_ISREG(self.status.st_mode):
            try:
                os.ftruncate(self.fd, 0)
                if self._mode == 0o600:
                    os.fchmod(self.fd, self._mode)
            except OSError as error:
                raise FileError.of(self.path, f"{self._what} cannot be written", error) from error

    def close(self) -> None:
        """Close it; if nothing was begun, leave no empty file behind.

        Raises:
            FileError: the file system tells only now that it could not write.
        """
        if self._created:
            self._created = False
            os.unlink(self.path)
        if self._is_ours:
            self._is_ours = False
            try:
                os.close(self.fd)
            except OSError as error:
                raise FileError.of(self.path, f"{self._what} cannot be written", error) from error
