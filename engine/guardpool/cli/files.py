"""Guards, policies and texts that a command line names, read and checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from guardpool.batch.files import STANDARD, FileError
from guardpool.cli.render import UsageError
from guardpool.contract import check_policy
from guardpool.errors import CallerError, ContractError, GuardPoolError
from guardpool.guard import Backend, Guard
from guardpool.printable import option_name


def load_guards(
    guards: Sequence[str],
    policies: Sequence[str],
    backends: Mapping[str, Backend | None] | None = None,
    *,
    need_policy: bool = True,
    **options: Any,
) -> list[Guard]:
    """The guards of `NAME=FILE.wasm`, each with its policy of `NAME=POLICY.json`, and its backend if it has one. `options` are
    those of `Guard`. Without `need_policy` a guard may do without a policy, which is to come from elsewhere.

    Raises:
        UsageError: an option does not have that form, a name is given twice, or a policy or a backend has no guard or a guard
            no policy.
        FileError, ModuleError: a file cannot be read, or a policy is not valid; the message names the file.
    """
    modules = pairs("--guard", "FILE.wasm", guards)
    policy_files = pairs("--policy", "POLICY.json", policies)
    for name in policy_files:
        if name not in modules:
            raise UsageError(
                f"--policy {name}={policy_files[name]}: no guard is called {name!r}: add --guard {option_name(name)}=FILE.wasm"
            )
    for name in modules:
        if name not in policy_files and need_policy:
            raise UsageError(f"guard {name!r} has no policy: add --policy {option_name(name)}=POLICY.json")
    backends = backends or {}
    for name in backends:
        if name not in modules:
            raise UsageError(
                f"--backend {name}: no guard is called {name!r}: add --guard {option_name(name)}=FILE.wasm"
            )
    return [
        _guard(name, path, policy_files.get(name), backend=backends.get(name), **options)
        for name, path in modules.items()
    ]


def pairs(option: str, kind: str, values: Sequence[str]) -> dict[str, str]:
    """What options of the form `NAME=SOMETHING` say, by name. Raises UsageError for another form, or a name given twice."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            raise UsageError(f"{option} {_shown(value)}: write it as {option} NAME={kind}")
        if name in found:
            if option == "--guard":
                raise UsageError(
                    f"{option} {value}: {name!r} is already the name of {found[name]}; choose another name"
                )
            raise UsageError(f"{option} is given twice for guard {name!r}: give it once")
        found[name] = path
    return found


def _shown(value: str) -> str:
    """What was typed, without what may be behind the scheme of a URL: a password."""
    before, found, _ = value.partition("://")
    return f"{before}{found}..." if found else value


def _guard(name: str, module: str, policy_file: str | None, **options: Any) -> Guard:
    try:
        Guard(name, b"")
    except CallerError as error:
        raise UsageError(str(error)) from None
    policy = None if policy_file is None else _policy(policy_file)
    return Guard.from_file(module, name=name, policy=policy, **options)


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
