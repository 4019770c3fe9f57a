"""Guards, policies and texts that a command line names, read and checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from guardpool.batch.files import STANDARD, FileError
from guardpool.cli.render import UsageError, complain
from guardpool.contract import check_policy
from guardpool.contract.text import shown
from guardpool.decide import split_policy
from guardpool.errors import CallerError, GuardPoolError, PolicyError
from guardpool.gateway_config import find_policy
from guardpool.guard import Backend, Guard
from guardpool.lines import BOM
from guardpool.printable import option_name

SINK = "write-sink"


def load_guards(
    guards: Sequence[str],
    policies: Sequence[str],
    backends: Mapping[str, Backend | None] | None = None,
    *,
    need_policy: bool = True,
    as_in_gateway: bool = False,
    **options: Any,
) -> list[Guard]:
    """The guards of `NAME=FILE.wasm`, each with its policy of `NAME=POLICY.json`, and its backend if it has one.

    Args:
        guards, policies, backends: as typed.
        need_policy: False: a guard may do without a policy, which is to come from elsewhere.
        as_in_gateway: policies may have what a gateway takes and no guard does, such as limits; it is left in them.
        options: those of `Guard`.

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
        _guard(name, path, policy_files.get(name), as_in_gateway, backend=backends.get(name), **options)
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


def _guard(name: str, module: str, policy_file: str | None, as_in_gateway: bool, **options: Any) -> Guard:
    try:
        Guard(name, b"")
    except CallerError as error:
        raise UsageError(str(error)) from None
    policy = None if policy_file is None else policy_of_guard(policy_file, name, as_in_gateway=as_in_gateway)
    return Guard.from_file(module, name=name, policy=policy, **options)


def policy_of_guard(path: str, name: str, *, as_in_gateway: bool = True) -> dict[str, Any]:
    """The policy of a guard in a file. Raises FileError, as `read_policy`, or if it is the policy of a sink.

    Args:
        path: the file.
        name: the server's id; a policy may stand below it.
        as_in_gateway: whether the policy may have keys that a gateway takes and no guard does.
    """
    policy = read_policy(path, name)
    if SINK in policy:
        raise FileError(f"{path}: it is the policy of a sink, and no guard takes one")
    if not as_in_gateway:
        try:
            check_policy(policy)
        except PolicyError as error:
            raise FileError(f"{path}: {error}") from error
    return policy


def read_policy(path: str, name: str) -> dict[str, Any]:
    """The policy of a server in a file, as a gateway reads it: of a guard, with the keys that no guard takes, or of a sink.

    Args:
        path: the file.
        name: the server's id; a policy may stand below it.

    Raises:
        FileError: it cannot be read or is not a policy; the message names the file.
    """
    value = read_json(path, "the policy")
    try:
        policy = find_policy(name, value) if isinstance(value, dict) else None
        if policy is None:
            raise PolicyError(f"the policy has neither 'allow-only' nor 'write-sink': {shown(value)}")
        if SINK not in policy:
            check_policy(split_policy(policy).policy)
    except PolicyError as error:
        raise FileError(f"{path}: {error}") from error
    return policy


def read_json(path: str, what: str) -> Any:
    """The JSON in a file. Raises FileError, whose message names the file and `what` it was to be."""
    try:
        text = Path(path).read_bytes().removeprefix(BOM)
    except OSError as error:
        raise FileError.of(path, f"{what} cannot be read", error) from error
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileError(f"{path}: {what} is not JSON: {error}") from error


def tell_taken_off(guards: Sequence[Guard]) -> None:
    """Say which keys of guards' policies no guard takes: they are taken off before a guard is made with the policy."""
    for guard in guards:
        if guard.policy is not None:
            tell_taken_off_policy(f"server {guard.name}", guard.policy)


def tell_taken_off_policy(name: str, policy: Any) -> None:
    """Say so for one policy; `name` is what messages call it."""
    taken_off = split_policy(policy).taken_off
    if taken_off:
        complain(
            f"{name}: the policy has {', '.join(taken_off)}, which no wasm guard takes (in the gateway every call would fail, "
            "B16): taken off; limits are counted here"
        )


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
