"""The words of decisions: which rules judge, what became of a call, and which rule failed.

Words compare equal to plain strings: `decision.verdict == "items"`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

from guardpool.contract.policy import LEVELS
from guardpool.contract.text import lower, shown
from guardpool.errors import CallerError
from guardpool.labels import DifcMode, Operation, Printed
from guardpool.outcomes import Status

# A guard whose call ended so answers nothing more in the gateway. A tuple, so that words of records are found in it, too.
POISONING = (Status.TRAP, Status.TIMEOUT, Status.MEMORY)


class DecideError(CallerError, ValueError):
    """What was handed in cannot be decided on: a mode, a rule set, a label or a server that is not valid."""


class _Word(str, Enum):
    def __str__(self) -> str:
        return str(self.value)

    __hash__ = str.__hash__  # of the word, which it is equal to; that of `Enum` is of the name, and slow


class Rules(_Word):
    """Who judges: the gateway as it is, or the stricter rules that close the places where it fails open."""

    GATEWAY = "gateway"
    STRICT = "strict"


class Coarse(_Word):
    """What became of the call before the backend was asked."""

    ALLOWED = "allowed"
    BYPASS = "bypass"  # its resource may not be read, and the backend is asked all the same
    DENIED = "denied"  # the call ends, and the backend is not asked


class Verdict(_Word):
    """What the agent gets."""

    DENIED = "denied"
    STRICT_BLOCK = "strict-block"
    SINGLE_ITEM_ERROR = "single-item-error"
    ITEMS = "items"
    WHOLE = "whole"
    LABELLING_ERROR = "labelling-error"
    UNDECIDED = "undecided"


class Rule(_Word):
    """A rule that can fail. The first four compare tags; of the others `Failure.detail` has the facts."""

    READ_INTEGRITY = "read-integrity"
    READ_SECRECY = "read-secrecy"
    WRITE_INTEGRITY = "write-integrity"
    WRITE_SECRECY = "write-secrecy"
    ALLOWED_TOOLS = "allowed-tools"
    CALL_LIMIT = "call-limit"
    # Strict rules only:
    CONFIGURATION = "configuration"
    NO_LABEL = "no-label"
    INVALID_LABEL = "invalid-label"
    ITEM_LIMIT = "item-limit"


# Members by a name of their own, for what is asked in each decision: to look one up in its class takes ten times as long.
READ: Final = Operation.READ
WRITE: Final = Operation.WRITE
READ_WRITE: Final = Operation.READ_WRITE
GATEWAY_RULES: Final = Rules.GATEWAY
STRICT_RULES: Final = Rules.STRICT
STRICT_MODE: Final = DifcMode.STRICT
PROPAGATE: Final = DifcMode.PROPAGATE
ALLOWED: Final = Coarse.ALLOWED
BYPASS: Final = Coarse.BYPASS
DENIED: Final = Coarse.DENIED
ITEMS: Final = Verdict.ITEMS
WHOLE: Final = Verdict.WHOLE

NO_TAGS: frozenset[str] = frozenset()


class Failure(Printed, frozen=True, gc=False, omit_defaults=True):
    """One rule that failed, and by what.

    Attributes:
        rule: which.
        missing: integrity tags that were demanded and are not there.
        extra: secrecy tags that are there and for which there is no clearance.
        level: of an integrity rule the highest level among the missing tags: `merged`, `approved`, `unapproved` or `none`;
            None if no missing tag names a level.
        detail: of a rule that compares no tags, the facts in one line.
    """

    rule: Rule
    missing: frozenset[str] = NO_TAGS
    extra: frozenset[str] = NO_TAGS
    level: str | None = None
    detail: str = ""


_OF_SEVERAL_SCOPES = "integrity="
_HIGHEST_FIRST = tuple(reversed(LEVELS))


def level_of(tags: Iterable[str]) -> str | None:
    """The highest level that a tag names: `LEVEL:SCOPE`, or `integrity=LEVEL;scopes=...` where a policy has several scopes.

    Returns:
        `merged`, `approved`, `unapproved` or `none`; None if no tag names one of them.

    Source: github/gh-aw-mcpg, internal/difc/violations.go; the second form: the GitHub guard's labels/helpers.rs.
    """
    found = {_level(tag) for tag in tags}
    return next((level for level in _HIGHEST_FIRST if level in found), None)


def _level(tag: str) -> str:
    if tag.startswith(_OF_SEVERAL_SCOPES):
        return tag[len(_OF_SEVERAL_SCOPES) :].partition(";")[0]
    return tag.partition(":")[0]


_MODES = {mode.value: mode for mode in DifcMode}


def mode_of(word: Any) -> DifcMode:
    """A mode by its word, in any case. Empty is `strict`.

    Raises:
        DecideError: it is another word. The gateway would take its default and go on.

    Source: github/gh-aw-mcpg, internal/difc/evaluator.go.
    """
    if word == "":
        return DifcMode.STRICT
    mode = _MODES.get(lower(word)) if isinstance(word, str) else None
    if mode is None:
        raise DecideError(f"a mode is strict, filter or propagate, not {shown(word)}")
    return mode


def rules_of(word: Any) -> Rules:
    """A rule set by its word. Raises `DecideError` for another one."""
    try:
        return Rules(word)
    except ValueError as error:
        raise DecideError(f"rules are 'gateway' or 'strict', not {shown(word)}") from error


def tags_of(value: Any, what: str) -> frozenset[str]:
    """A frozen set of tags from any collection of strings.

    Raises:
        DecideError: it is one string, or holds something else; the message names it as `what`.
    """
    return strings_of(value, what, "tag")


def strings_of(value: Any, what: str, kind: str) -> frozenset[str]:
    """A frozen set of strings, each of which is a `kind`, from any collection of them.

    Raises:
        DecideError: it is one string, or holds something else; the message names it as `what`.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise DecideError(f"{what} is a set of {kind}s, not {shown(value)}")
    strings = []
    for each in value:
        if not isinstance(each, str):
            raise DecideError(f"{what} holds {shown(each)}; a {kind} is a string")
        strings.append(each)
    return frozenset(strings)
