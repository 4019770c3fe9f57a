"""Checking a policy before a guard sees it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from guardpool.contract.document import MAX_DEPTH, JsonError, read
from guardpool.contract.text import fail, lower, scrub, shown, trim
from guardpool.errors import PolicyError

LEVELS = ("none", "unapproved", "approved", "merged")
_TOP_KEYS = frozenset(("allow-only", "allowonly", "trusted-bots"))
_SCOPE = re.compile(r"[a-z0-9_-]{1,39}/(?:\*|[a-z0-9_-]{1,100}\*?)")
_LABEL_SEPARATOR = re.compile("[,\n]")
_JSON_SIGNS = re.compile(r'[{}\[\]"\n]')
_SUFFIX = re.compile(r"\.[A-Za-z]\w{0,7}$")
_READ_IT = "pass what is in the file, e.g. policy=json.loads(pathlib.Path(...).read_text())"
_SHAPE = '{"allow-only": {"repos": ..., "min-integrity": ...}}'


def check_policy(policy: Any, trusted_bots: Iterable[str] = (), trusted_users: Iterable[str] = ()) -> dict[str, Any]:
    """The payload `label_agent` gets for `policy`.

    Args:
        policy: an object, or a string holding a JSON object.
        trusted_bots: where given, they take the place of the policy's `trusted-bots`, as in the gateway.
        trusted_users: where given, they take the place of the `trusted-users` of its `allow-only`.

    Returns:
        A new dict; `policy` is not changed. `refusal-labels` are an array of trimmed labels, all else is as it was.

    Raises:
        PolicyError: the policy breaks a rule; the message says which.
    """
    payload = _object(policy)
    if "policy" in payload:
        _refuse(f"the policy is wrapped in an envelope, the key 'policy': pass what is inside; expected {_SHAPE}")
    key = "allow-only" if "allow-only" in payload else "allowonly"
    if key not in payload:
        _refuse(f"the policy has no 'allow-only'; expected {_SHAPE}")
    for name in payload:
        if name not in _TOP_KEYS:
            _refuse(f"the policy has the unknown key {shown(name)}; it may have 'allow-only' and 'trusted-bots'")
    allow_only = payload[key]
    if not isinstance(allow_only, dict):
        _refuse(f"{key} must be an object, not {shown(allow_only)}; expected {_SHAPE}")
    _replace(payload, "trusted-bots", trusted_bots, "trusted_bots")
    _replace(allow_only, "trusted-users", trusted_users, "trusted_users")
    _check_allow_only(allow_only)
    if "trusted-bots" in payload:
        _check_strings("trusted-bots", payload["trusted-bots"])
        if not payload["trusted-bots"]:
            _refuse("trusted-bots must not be empty; leave it out instead")
    return payload


def _object(policy: Any) -> dict[str, Any]:
    if isinstance(policy, str):
        text = trim(policy)
        if not text:
            _refuse("the policy is an empty string; expected a JSON object")
        try:
            policy = read(text)
        except JsonError as error:
            if _looks_like_a_path(text):
                _refuse(f"the policy is {shown(text)}, which looks like a path: {_READ_IT}", error)
            _refuse(f"the policy is a string that is not JSON: {error}", error)
        if not isinstance(policy, dict):
            _refuse(f"the policy is a string holding {shown(policy)}; expected a JSON object")
        return policy
    if hasattr(policy, "__fspath__"):
        _refuse(f"the policy is the path {shown(str(policy))}: {_READ_IT}")
    if not isinstance(policy, dict):
        _refuse(f"a policy is an object, or a string holding one, not {shown(policy)}; expected {_SHAPE}")
    copy = _plain(policy, 0)
    assert isinstance(copy, dict)
    return copy


def _looks_like_a_path(text: str) -> bool:
    """Whether a string that is not JSON is more likely a file's name. A guess: no file is looked for."""
    return not _JSON_SIGNS.search(text) and ("/" in text or "\\" in text or bool(_SUFFIX.search(text)))


def _plain(value: Any, depth: int) -> Any:
    """A copy of `value` in plain JSON types; any other type is refused."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return scrub(str(value))
    if depth > MAX_DEPTH // 2:
        _refuse("the policy is nested too deeply")
    if isinstance(value, dict):
        copy = {}
        for name, member in value.items():
            if not isinstance(name, str):
                _refuse(f"the policy has a key that is not a string: {shown(name)}")
            copy[scrub(str(name))] = _plain(member, depth + 1)
        return copy
    if isinstance(value, (list, tuple)):
        items = []
        for item in value:
            items.append(_plain(item, depth + 1))  # noqa: PERF401  # a comprehension would take a frame of its own
        return items
    if not isinstance(value, float) or not math.isfinite(value):
        _refuse(f"the policy holds {shown(value)}, which is not JSON")
    return value


def _replace(target: dict[str, Any], key: str, names: Iterable[str], argument: str) -> None:
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        _refuse(f"{argument} must be a list of names, not {shown(names)}")
    given = list(names)
    if not given:
        return
    _check_strings(argument, given)
    target[key] = [scrub(str(name)) for name in given]


def _check_allow_only(allow_only: dict[str, Any]) -> None:
    integrity = "min-integrity" if "min-integrity" in allow_only else "integrity"
    missing = [name for name, key in (("repos", "repos"), ("min-integrity", integrity)) if key not in allow_only]
    if missing:
        _refuse(f"allow-only lacks {' and '.join(missing)}; expected {_SHAPE}")
    for name in allow_only:
        if name not in _FIELDS and name != "integrity":
            _refuse(f"allow-only has the unknown key {shown(name)}; it may have {', '.join(_FIELDS)}")
    _check_level(integrity, allow_only[integrity])
    for name, check in _FIELDS.items():
        if name in allow_only and name != "min-integrity":
            check(name, allow_only[name])
    if "refusal-labels" in allow_only:
        allow_only["refusal-labels"] = _labels(allow_only["refusal-labels"])


def _check_repos(name: str, value: Any) -> None:
    if isinstance(value, str):
        if lower(trim(value)) not in ("all", "public"):
            _refuse(f"{name} must be 'all', 'public' or an array of scopes such as 'owner/repo', not {shown(value)}")
        return
    if not isinstance(value, list) or not value:
        _refuse(f"{name} must be 'all', 'public' or a non-empty array of scopes, not {shown(value)}")
    seen = set()
    for index, entry in enumerate(value):
        scope = trim(entry) if isinstance(entry, str) else None
        if scope is None or not _SCOPE.fullmatch(scope):
            _refuse(
                f"{name}[{index}] must be 'owner/*', 'owner/repo' or 'owner/prefix*' (lower-case letters, digits, '_', "
                f"'-'; owner at most 39, repo at most 100), not {shown(entry)}"
            )
        if scope in seen:
            _refuse(f"{name} must not hold {shown(scope)} twice")
        seen.add(scope)


def _check_level(name: str, value: Any) -> None:
    if not isinstance(value, str) or lower(trim(value)) not in LEVELS:
        _refuse(f"{name} must be one of {', '.join(LEVELS)}, not {shown(value)}")


def _check_strings(name: str, value: Any) -> None:
    if not isinstance(value, list):
        _refuse(f"{name} must be an array of strings, not {shown(value)}")
    for index, entry in enumerate(value):
        if not isinstance(entry, str) or not trim(entry):
            _refuse(f"{name}[{index}] must be a string that is not blank, not {shown(entry)}")


def _check_labels(name: str, value: Any) -> None:
    if not isinstance(value, str):
        _check_strings(name, value)
    elif not _labels(value):
        _refuse(f"{name} must hold at least one label, not {shown(value)}")


def _labels(value: Any) -> list[str]:
    parts = _LABEL_SEPARATOR.split(value) if isinstance(value, str) else value
    return [label for part in parts if (label := trim(part))]


_FIELDS: dict[str, Callable[[str, Any], None]] = {
    "repos": _check_repos,
    "min-integrity": _check_level,
    "blocked-users": _check_strings,
    "approval-labels": _check_strings,
    "refusal-labels": _check_labels,
    "trusted-users": _check_strings,
    "endorsement-reactions": _check_strings,
    "disapproval-reactions": _check_strings,
    "disapproval-integrity": _check_level,
    "endorser-min-integrity": _check_level,
}


def _refuse(message: str, cause: BaseException | None = None) -> NoReturn:
    fail(message, PolicyError, cause)
