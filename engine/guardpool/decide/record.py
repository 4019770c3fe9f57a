"""The record of one decision: a line of `decisions.jsonl`.

A record holds what the questions of people need (which call, by what, what became of it, item by item, and why) and nothing of
the result but what names an item. It is made by `guardpool.replay`, written one a line in the order of the input, and read by
everything that reports, compares or explains.

    from guardpool.decide.record import read_records

    with open("decisions.jsonl", "rb") as lines:
        for record in read_records(lines, "decisions.jsonl"):
            print(record.call, record.verdict, record.failed)

The members that every question asks for stand in each line, null or empty where there is nothing to say; the others are left
out there. A line without some of them is read as if they said nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Annotated, Any, Union

import msgspec
from msgspec import UNSET, UnsetType

from guardpool.decide.words import Coarse, Rules, Verdict
from guardpool.errors import CallerError, check_kind
from guardpool.labels import DifcMode
from guardpool.lines import BOM
from guardpool.printable import printable

VERSION = 1

Tags = tuple[str, ...]
Count = Annotated[int, msgspec.Meta(ge=0)]


class RecordError(CallerError, ValueError):
    """A line is not a decision of this version; the message names the file and the line."""


class WhyUndecided(str, Enum):
    """Why nothing could be decided on a call."""

    NO_RESULT = "no-recorded-result"  # `result_is` says what became of it
    NO_ARGUMENTS = "arguments-not-known"
    NO_LABEL = "not-labelled"  # by a fault of ours or of the machine, not of the guard's
    UNKNOWN_SERVER = "unknown-server"
    OTHER_SCOPE = "denied-under-another-policy"

    def __str__(self) -> str:
        return self.value


class Agrees(str, Enum):
    """Whether a decision is what the recording itself says."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value


def _always(value: Any) -> Any:
    """A default that is written nevertheless: msgspec leaves out what equals a default, but not what a function gives."""
    return msgspec.field(default_factory=lambda: value)


class _Part(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    pass


class FailedRule(_Part, frozen=True, gc=False, omit_defaults=True):
    """A rule that failed; see `guardpool.decide.Failure`. Tags are sorted."""

    rule: str
    missing: Tags = _always(())
    extra: Tags = _always(())
    level: Union[str, None] = _always(None)
    detail: str = ""


class TagPair(msgspec.Struct, frozen=True, gc=False):
    """An agent's labels. Tags are sorted."""

    secrecy: Tags = ()
    integrity: Tags = ()


class ResourceRecord(msgspec.Struct, frozen=True, gc=False):
    """The labels of what a call touches. Tags are sorted."""

    description: str
    secrecy: Tags = ()
    integrity: Tags = ()


class ItemCounts(msgspec.Struct, frozen=True, gc=False):
    """How many items a result has, how many the agent gets, and how many the rules do not let through."""

    total: Count
    shown: Count
    filtered: Count


class FilteredItem(_Part, frozen=True, gc=False, omit_defaults=True):
    """An item that the rules do not let through.

    Attributes:
        index: its place in the collection, from 0.
        pointer: the JSON pointer to it; empty if it is the whole result.
        description: the guard's line for people.
        number, author, association, url: from the item itself, where it has them.
        secrecy, integrity: the tags it was judged by.
        failed: every rule that failed.
        would_pass_with: the least change of the policy that admits it, as far as labels tell: `{"min-integrity": LEVEL}`.
    """

    index: int
    pointer: str = _always("")
    description: str = _always("")
    number: Union[int, str, None] = _always(None)
    author: Union[str, None] = _always(None)
    association: Union[str, None] = _always(None)
    url: Union[str, None] = _always(None)
    secrecy: Tags = _always(())
    integrity: Tags = _always(())
    failed: tuple[FailedRule, ...] = _always(())
    would_pass_with: Union[dict[str, str], None] = _always(None)


class Seen(msgspec.Struct, frozen=True, gc=False):
    """How many items of one author, association and level a result has, and how many the agent gets.

    `level` is the highest that the item's integrity names; None if it names none.
    """

    author: str | None = None
    association: str | None = None
    level: str | None = None
    shown: Count = 0
    total: Count = 0


class MissingAnswer(msgspec.Struct, frozen=True, gc=False):
    """A question of the guard that had no answer."""

    tool: str
    args: Any = None


class Enrichment(msgspec.Struct, frozen=True, gc=False):
    """What the guard asked while it labelled the call, and what of it had no answer."""

    asked: Count = 0
    answered: Count = 0
    missing: tuple[MissingAnswer, ...] = ()


class Labelling(_Part, frozen=True, gc=False, omit_defaults=True):
    """How the labellings of a call ended that gave no label: a status of `guardpool.Status`."""

    resource: str | None = None
    response: str | None = None


class SinkRecord(_Part, frozen=True, gc=False, omit_defaults=True):
    """The sink that a call goes to."""

    accept: Tags = ()
    visibility: str | None = None


class Differs(_Part, frozen=True, gc=False, omit_defaults=True):
    """What the strict rules would have done, where that is something else.

    Attributes:
        coarse, verdict, items, failed, error: as in the record.
        hides: items that the gateway shows and the strict rules do not, with the rules that fail.
        shows: indexes of items that the strict rules show and the gateway does not.
    """

    coarse: str
    verdict: str
    items: ItemCounts | None = None
    failed: tuple[FailedRule, ...] = ()
    hides: tuple[FilteredItem, ...] = ()
    shows: tuple[int, ...] = ()
    error: str | None = None


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What becomes of one call, and why.

    Attributes:
        v: the version of the form, 1.
        call, session, agent, server, tool, at, run, workflow, repository, source: which call; as in `recordings.Call`.
        args_json: its arguments, as `args` in the line; `args` decodes them.
        result_is: what the recording has of its result.
        pairing: how request and answer were brought together, where that is not certain: `ambiguous` or `unmatched`.
        payload: states of `args` and `result` that are not intact, e.g. `{"result": "redacted"}`.
        guard: the name of the guard that labelled it, which is the server's; None if it has none.
        guard_sha256, policy_sha256: of the module's bytes, and of the policy as canonical JSON.
        mode, rules: by which mode and rule set. Under `gateway` rules `differs` has what the strict ones do.
        operation: `read`, `write` or `read-write`.
        resource: the labels of what it touches; None where there is no label.
        labels_from: `"log"` where the resource's labels are those of the recording's own denial, else None.
        warnings: codes of what was odd in the guard's answers.
        coarse: `allowed`, `bypass` or `denied`.
        failed: every rule that the call itself failed.
        verdict: `denied`, `strict-block`, `single-item-error`, `items`, `whole`, `labelling-error` or `undecided`.
        why: why it is undecided.
        error: the facts of that in one line, or why a labelling failed.
        items: counts; None if the response was not labelled item by item.
        filtered: the items that the rules do not let through.
        seen: the items by author, association and level.
        agent_before, agent_after: the agent's labels.
        read: of a call that writes, the secrecy tags of what the agent was really shown before.
        sink: of a call to a sink, what that accepts.
        lost: envelope members and parts that the result lost on the way.
        unsafe: ids of the places where the gateway failed open or contradicted itself, see `guardpool.decide.PLACES`.
        contradicts: what the server's own label says of the result and the guard's labels deny: `private`, `untrusted`.
        differs: what the strict rules would have done; None if the same; UNSET where they were not asked.
        enrichment: what the guard asked; None if it asked nothing.
        labelling: labellings that gave no label.
        restarts: how often the guard had begun anew in this session, for a trap, a limit or a worker's death: what it
            remembered was lost.
        would_pass_with: the least change of the policy that admits all of the call, as far as labels tell.
        observed: what the recording says that was done.
        agrees: whether that is the same as this.
        redacted: of decisions in which hashes stand for names: the id of the key; see `guardpool.report.Redactor`.
    """

    v: int
    call: str
    session: str
    server: str | None = _always(None)
    tool: str | None = _always(None)
    agent: str | None = None
    at: str | None = _always(None)
    run: str | None = _always(None)
    workflow: str | None = _always(None)
    repository: str | None = _always(None)
    source: str | None = None
    args_json: Union[msgspec.Raw, UnsetType] = msgspec.field(default=UNSET, name="args")
    result_is: str
    pairing: str | None = None
    payload: dict[str, str] = msgspec.field(default_factory=dict)
    guard: str | None = _always(None)
    guard_sha256: str | None = _always(None)
    policy_sha256: str | None = _always(None)
    mode: str
    rules: str
    operation: str | None = _always(None)
    resource: ResourceRecord | None = _always(None)
    labels_from: str | None = None
    warnings: Tags = ()
    coarse: str | None = _always(None)
    failed: tuple[FailedRule, ...] = _always(())
    verdict: str
    why: str | None = None
    error: str | None = None
    items: ItemCounts | None = _always(None)
    filtered: tuple[FilteredItem, ...] = _always(())
    seen: tuple[Seen, ...] = _always(())
    agent_before: TagPair
    agent_after: TagPair
    read: Tags = ()
    sink: SinkRecord | None = None
    lost: tuple[str, ...] = _always(())
    unsafe: tuple[str, ...] = _always(())
    contradicts: tuple[str, ...] = ()
    differs: Union[Differs, UnsetType, None] = UNSET
    enrichment: Enrichment | None = _always(None)
    labelling: Labelling | None = None
    restarts: Count = 0
    would_pass_with: dict[str, str] | None = _always(None)
    observed: dict[str, Any] | None = _always(None)
    agrees: str
    redacted: str | None = None

    @property
    def args(self) -> Any:
        """The arguments as a Python value; None where they are not known."""
        if isinstance(self.args_json, UnsetType):
            return None  # as where it is null
        try:
            return _decode_any(self.args_json)
        except msgspec.MsgspecError:  # a number that msgspec refuses
            return json.loads(bytes(self.args_json))

    @property
    def is_finding(self) -> bool:
        """Whether it is unsafe, differs between the rules, or disagrees with the recording, also by a server's label."""
        return bool(self.unsafe or self.contradicts) or isinstance(self.differs, Differs) or self.agrees == "no"

    @property
    def is_undecided(self) -> bool:
        """Whether nothing could be decided."""
        return self.verdict == "undecided"

    @property
    def guard_failed(self) -> bool:
        """Whether a labelling of it gave no label."""
        return self.labelling is not None

    def __repr__(self) -> str:
        """Which call it is, and what became of it."""
        told = (self.call, self.session, self.server, self.tool, self.args, self.verdict, self.why, self.items)
        return f"DecisionRecord({', '.join(map(repr, told))})"

    def to_line(self) -> bytes:
        """The record as a line of `decisions.jsonl`, with its newline."""
        try:
            return _encode(self) + b"\n"
        except UnicodeEncodeError:  # text that no JSON can hold comes out as the escape it would have had
            return json.dumps(_plain(self)).encode() + b"\n"


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(DecisionRecord).decode
_decode_any = msgspec.json.Decoder().decode


# A line with nothing but what has to be there, from which the members are known that always are.
_SMALLEST = (
    b'{"v":1,"call":"","session":"","result_is":"","mode":"","rules":"","verdict":"","agrees":"","differs":null,'
    b'"agent_before":{},"agent_after":{}}'
)


class _Version(msgspec.Struct):
    v: Any = None
    verdict: Any = None


_decode_version = msgspec.json.Decoder(_Version).decode


# What the words may be that reports, comparisons and explanations go by: an unknown one would be taken for something else.
_WORDS = {
    "mode": [each.value for each in DifcMode],
    "rules": [each.value for each in Rules],
    "coarse": [each.value for each in Coarse],
    "verdict": [each.value for each in Verdict],
    "agrees": [each.value for each in Agrees],
}


def read_record(line: bytes) -> DecisionRecord:
    """The record of a line.

    Raises:
        RecordError: it is not a decision, or one of another version.
    """
    check_kind("line", line, (bytes, bytearray, memoryview, str), "a line of JSON")
    try:
        record = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(_what_it_is(line, error)) from error
    if record.v != VERSION:
        raise RecordError(_of_version(record.v))
    for member, words in _WORDS.items():
        word = getattr(record, member)
        if word not in words and not (word is None and member == "coarse"):
            told = ", ".join(words[:-1]) + f" or {words[-1]}"
            raise RecordError(f"not a decision: {member} is {told}, not {printable(repr(word), 60)}")
    return record


def read_records(lines: Iterable[bytes], name: str) -> Iterator[DecisionRecord]:
    """The records of a file's lines; blank lines are passed over, and a byte order mark before the first.

    Args:
        lines: the lines, as an open file gives them.
        name: what messages call the file.

    Raises:
        RecordError: a line is not a decision of this version; the message names file and line.
    """
    check_kind("lines", lines, Iterable, "an iterable of lines")
    for number, line in enumerate(lines, 1):
        check_kind("each of the lines", line, bytes, "bytes: open the file with 'rb'")
        if number == 1:
            line = line.removeprefix(BOM)
        if line.strip():
            try:
                yield read_record(line)
            except RecordError as error:
                raise RecordError(f"{name}: line {number}: {error}") from error


def _what_it_is(line: bytes, error: Exception) -> str:
    """Why a line is no decision: of another version, or something else."""
    try:
        found = _decode_version(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return (
            f"not a decision: {printable(str(error), 200)}; `guardpool replay ... -o decisions.jsonl` writes decisions"
        )
    if found.v is not None and found.v != VERSION:
        return _of_version(found.v)
    if found.v is None:
        return "not a decision: it has no version; `guardpool replay ... -o decisions.jsonl` writes decisions"
    return f"not a decision: {printable(str(error), 200)}"


def _of_version(version: Any) -> str:
    shown = printable(repr(version), 40)
    return f"a decision of version {shown}, and this guardpool reads version {VERSION}: make it again with guardpool replay"


def _plain(record: DecisionRecord) -> Any:
    """The record as values of the standard library's encoder."""
    members = {
        told: record.args if name == "args_json" else msgspec.to_builtins(getattr(record, name))
        for name, told in zip(record.__struct_fields__, record.__struct_encode_fields__)
        if getattr(record, name) is not UNSET
    }
    return {name: value for name, value in members.items() if name in _ALWAYS or value not in (None, [], (), {}, 0, "")}


_ALWAYS = frozenset(msgspec.json.decode(_encode(_decode(_SMALLEST)))) | {"args"}
