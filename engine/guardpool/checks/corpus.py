"""A corpus: calls of tools with what their guard is expected to say, and what is to become of them.

Two forms are read, told by content.

**Lines**: a file of JSON lines, one case each. A case is a job (`tool_name`, `tool_args`, `tool_result`, `capabilities`,
`session`, `guard`, and an `id` that names it), or a call as `guardpool import` writes it. `expect` has what is expected:

    {"id": "an outsider's issue", "tool_name": "get_issue", "tool_args": {...}, "tool_result": {...}, "expect": {
        "resource": {"description": "issue:o/r#1", "secrecy": [], "integrity": ["none:all"], "operation": "read"},
        "response": {"labeled_paths": [...], "default_labels": null, "items_path": null},
        "decision": {"verdict": "items", "filtered": [{"index": 0, "failed": ["read-integrity"]}]}}}

Labels stand as in an outcome's line; `{"status": "refused"}` in the place of one expects no label, for that reason.
Only those members of a decision are compared that a case has: `rules`, `mode`, `operation`, `coarse`, `verdict`, `failed`,
`filtered`, `shown`, `unsafe`, `lost`. `rules` and `mode` of a case say how it is decided. Cases with one `session` are decided
in order, as one agent's; every other case has an agent of its own. The first line may say what holds for all,
`{"corpus": 1, "policy": {...}, "replies": [{"tool", "args", "result"}...], "guard": "github",
"expect": {"agent": {"secrecy": [], "integrity": [], "mode": "filter"}}}`.

**The GitHub guard's own corpus**: one JSON object, with `resource_cases`, `response_cases`, `backend_replay`,
`allow_only_policy` and `expected_agent`. Source: github/gh-aw-mcpg, guards/github-guard/docs/TESTING.md.

A line that is not a case does not stop the others; it is told, and kept as it is when the file is written again. A file with a
line of decisions or of another recording is not a corpus, as writing it again would destroy it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from guardpool.backends import Replies
from guardpool.backends.replies import RepliesError
from guardpool.contract import check_policy
from guardpool.contract.text import shown
from guardpool.decide import DecideError, split_policy
from guardpool.decide.words import mode_of, rules_of
from guardpool.errors import CallerError, PolicyError
from guardpool.gateway_config import find_policy
from guardpool.labels import ResourceLabel, ResponseLabel, label_from_json
from guardpool.lines import BOM
from guardpool.outcomes import Status
from guardpool.printable import printable
from guardpool.recordings.sniff import what_is

_EXPECT_KEYS = ("resource", "response", "decision")
_CASE_KEYS = frozenset(
    {
        *("id", "name", "op", "tool_name", "tool_args", "tool_result", "capabilities"),
        *("session", "guard", "rules", "mode", "expect"),
    }
)
# What every call has that `guardpool import` wrote; a table of replies, e.g., has tools without them.
_CALL_KEYS = ("call", "source", "pairing", "result_is")
_VERSION = 1


class CorpusError(CallerError, ValueError):
    """A file is not a corpus; the message names it."""


class Broken(NamedTuple):
    """A line, or a case of the guard's own form, that cannot be used."""

    place: str
    why: str


class Expect(msgspec.Struct, frozen=True):
    """What a case expects; UNSET where it expects nothing.

    Attributes:
        resource: the label of the call, or why it has none.
        response: the label of the result (None: no fine-grained labels), or why it has none.
        decision: what is compared of the decision.
    """

    resource: ResourceLabel | Status | msgspec.UnsetType = UNSET
    response: ResponseLabel | Status | msgspec.UnsetType | None = UNSET
    decision: dict[str, Any] | msgspec.UnsetType = UNSET

    def __bool__(self) -> bool:
        return any(getattr(self, name) is not UNSET for name in _EXPECT_KEYS)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One call, and what is expected of it.

    Attributes:
        name: for people.
        place: where it stands: `FILE:LINE`.
        at: its index among the lines of the file, or of the guard's own form its key and index.
        guard: who labels it; None: the only guard there is.
        tool_name, tool_args, tool_result, capabilities, session: as those of a job; UNSET for no result.
        rules, mode: how it is decided; None: as the command says.
        expect: what is expected.
    """

    name: str
    place: str
    at: tuple[str, int]
    tool_name: str
    tool_args: Any = None
    tool_result: Any = UNSET
    capabilities: Any = None
    session: str | None = None
    guard: str | None = None
    rules: str | None = None
    mode: str | None = None
    expect: Expect = Expect()


class Corpus(msgspec.Struct, kw_only=True):
    """The cases of one file.

    Attributes:
        path: the file.
        cases: in its order.
        broken: what is not a case.
        policy: what the guard is initialised with; None: the corpus does not say.
        replies: what its backend answers; None: the corpus does not say.
        agent: what `label_agent` is expected to answer, by `secrecy`, `integrity`, `mode`, `normalized_policy`.
        written: the file as it is, for `rewritten`.
    """

    path: str
    cases: list[Case]
    broken: list[Broken]
    written: _Lines | _Object
    policy: dict[str, Any] | None = None
    replies: Replies | None = None
    agent: dict[str, Any] | None = None

    def rewritten(self, expectations: Mapping[tuple[str, int], Mapping[str, Any]]) -> bytes:
        """The file with other expectations: for `Case.at`, by `resource`, `response` and `decision`, in the form of a line.

        Everything else in it stays as it is, numbers to the letter.
        """
        return self.written.rewritten(expectations)


def load(path: str) -> Corpus:
    """The corpus in a file.

    Raises:
        CorpusError: it cannot be read, or is not a corpus.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: the corpus cannot be read: {error.strerror or error}") from error
    return parse(text, path)


def parse(text: bytes, path: str = "the corpus") -> Corpus:
    """The corpus in a text. Raises CorpusError if it is not one."""
    text = text.removeprefix(BOM)
    whole = _object_or_none(text)
    if whole is not None and ("resource_cases" in whole or "response_cases" in whole):
        return _Object(path, text, whole).corpus()
    return _Lines(path, text).corpus()


def _object_or_none(text: bytes) -> dict[str, msgspec.Raw] | None:
    """The object that a text is, its members undecoded; None if it is not one object."""
    try:
        return _decode_object(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_encode = msgspec.json.Encoder().encode


class _NotACase(Exception):
    """Why a line, or an object, is not a case."""


class _Form(msgspec.Struct, forbid_unknown_fields=True):
    """What is written down in a corpus: of the types that it is compared by."""


class _Agent(_Form):
    """What `label_agent` is expected to answer."""

    secrecy: list[str] | msgspec.UnsetType = UNSET
    integrity: list[str] | msgspec.UnsetType = UNSET
    mode: str | msgspec.UnsetType = UNSET
    normalized_policy: Any = UNSET


class _ExpectOfAll(_Form):
    agent: dict[str, Any] | None = None


class _Head(msgspec.Struct):
    """The first line, where it says what holds for all cases."""

    corpus: Any
    policy: dict[str, Any] | None = None
    replies: list[dict[str, Any]] | None = None
    guard: str | None = None
    expect: _ExpectOfAll | None = None


class _FilteredItem(_Form):
    index: int
    failed: list[str]


class _Decision(_Form):
    """What is expected of a decision."""

    rules: str | msgspec.UnsetType = UNSET
    mode: str | msgspec.UnsetType = UNSET
    operation: str | msgspec.UnsetType = UNSET
    coarse: str | msgspec.UnsetType = UNSET
    verdict: str | msgspec.UnsetType = UNSET
    failed: list[str] | msgspec.UnsetType = UNSET
    filtered: list[_FilteredItem] | msgspec.UnsetType = UNSET
    shown: list[int] | msgspec.UnsetType | None = UNSET
    unsafe: list[str] | msgspec.UnsetType = UNSET
    lost: list[str] | msgspec.UnsetType = UNSET


class _ObjectHead(msgspec.Struct):
    """What the guard's own form says of all cases."""

    version: Any = None
    allow_only_policy: dict[str, Any] | None = None
    expected_agent: dict[str, Any] | None = None
    backend_replay: list[dict[str, Any]] | None = None


class _Lines:
    """A file of lines."""

    def __init__(self, path: str, text: bytes) -> None:
        self._path = path
        self._lines = text.split(b"\n")
        self._members: dict[int, dict[str, msgspec.Raw]] = {}

    def corpus(self) -> Corpus:
        found = Corpus(path=self._path, cases=[], broken=[], written=self)
        guard = None
        replies: list[bytes] = []
        is_first = True
        for at, line in enumerate(self._lines):
            if not line.strip():
                continue
            place = f"{self._path}:{at + 1}"
            try:
                members = self._read(line)
                if is_first and "corpus" in members:
                    guard = self._head(found, line, place, replies)
                elif not _is_a_question(members):
                    _refuse_others(members, place)
                    case = _case_of(members, place, ("", at), guard)
                    replies += _enrichment(members)
                    found.cases.append(case)
                    self._members[at] = members
            except _NotACase as error:
                found.broken.append(Broken(place, str(error)))
            is_first = False
        if not found.cases:
            why = ""
            if found.broken:
                lines = "1 line is not" if len(found.broken) == 1 else f"{len(found.broken):,} lines are not"
                why = f" ({lines}; the first: {found.broken[0].why})"
            raise CorpusError(
                f"{self._path}: there is no case in it{why}; a case is a line of JSON with 'tool_name', or as "
                "'guardpool import' writes it"
            )
        if replies:
            found.replies = Replies(replies, self._path)
        return found

    def _read(self, line: bytes) -> dict[str, msgspec.Raw]:
        try:
            return _decode_object(line)
        except RecursionError as error:
            raise _NotACase("not a case: nested too deeply") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _NotACase(f"not a case: {error}") from error

    def _head(self, found: Corpus, line: bytes, place: str, replies: list[bytes]) -> str | None:
        """Take over what the first line says about all cases; returns the guard that it names."""
        try:
            head: _Head = _typed(_value(msgspec.Raw(line)), _Head, "")
            _check_version(head.corpus)
            found.policy = _policy(head.policy, "policy")
            if head.expect is not None and head.expect.agent is not None:
                found.agent = _agent(head.expect.agent, "expect.agent")
            replies += _reply_lines(head.replies or [], "result", "replies")
        except _NotACase as error:
            raise CorpusError(f"{place}: {error}") from error
        return head.guard

    def rewritten(self, expectations: Mapping[tuple[str, int], Mapping[str, Any]]) -> bytes:
        """See `Corpus.rewritten`."""
        lines = list(self._lines)
        for (_key, at), expect in expectations.items():
            members = self._members[at]
            before = _decode_object(members["expect"]) if "expect" in members else {}
            members["expect"] = msgspec.Raw(_encode({**before, **expect}))
            lines[at] = _encode(members)
        return b"\n".join(lines)


class _Object:
    """A file in the form of the GitHub guard's own corpus."""

    def __init__(self, path: str, text: bytes, whole: dict[str, msgspec.Raw]) -> None:
        self._path = path
        self._is_indented = b"\n" in text.strip()
        self._whole = whole
        self._cases: dict[str, list[dict[str, msgspec.Raw]]] = {}

    def corpus(self) -> Corpus:
        found = Corpus(path=self._path, cases=[], broken=[], written=self)
        members = {name: raw for name, raw in self._whole.items() if not name.endswith("_cases")}
        try:
            head: _ObjectHead = _typed({name: _value(raw) for name, raw in members.items()}, _ObjectHead, "")
            if "version" in members:
                _check_version(head.version)
            found.policy = _policy(head.allow_only_policy, "allow_only_policy")
            if head.expected_agent is not None:
                found.agent = _agent(head.expected_agent, "expected_agent", mode="difc_mode")
            lines = _reply_lines(head.backend_replay or [], "response", "backend_replay")
        except _NotACase as error:
            raise CorpusError(f"{self._path}: {error}") from error
        if lines:
            found.replies = Replies(lines, self._path)
        for key, to_expect in (("resource_cases", _expected_resource), ("response_cases", _expected_response)):
            for at, members in enumerate(self._objects(key)):
                place = f"{self._path}:{key}[{at}]"
                try:
                    rest = {name: raw for name, raw in members.items() if not name.startswith("expected")}
                    rest["expect"] = msgspec.Raw(_encode(to_expect(members)))
                    found.cases.append(_case_of(rest, place, (key, at), None))
                except _NotACase as error:
                    found.broken.append(Broken(place, str(error)))
        return found

    def _objects(self, key: str) -> list[dict[str, msgspec.Raw]]:
        if key not in self._whole:
            return []
        try:
            _typed(_value(self._whole[key]), list[dict[str, Any]], key)
        except _NotACase as error:
            raise CorpusError(f"{self._path}: {error}") from error
        self._cases[key] = _decode_objects(self._whole[key])
        return self._cases[key]

    def rewritten(self, expectations: Mapping[tuple[str, int], Mapping[str, Any]]) -> bytes:
        """See `Corpus.rewritten`. This form has no place for decisions, nor for a response without a label."""
        for (key, at), expect in expectations.items():
            members = self._cases[key][at]
            if key == "resource_cases" and "resource" in expect:
                members["expected"] = msgspec.Raw(_encode(expect["resource"]))
            elif key == "response_cases" and "response" in expect:
                response = msgspec.json.decode(_encode(expect["response"]))
                if response is not None:  # that a response gets no label cannot be written down
                    _write_response(members, response)
        text = _encode({**self._whole, **self._cases})
        return msgspec.json.format(text, indent=2) + b"\n" if self._is_indented else text


def _write_response(members: dict[str, msgspec.Raw], label: Mapping[str, Any]) -> None:
    """Have a case of the guard's own form expect a response's label, given as in an outcome's line."""
    paths = [
        {"path": path["path"], "labels": {name: path[name] for name in path if name != "path"}}
        for path in label.get("labeled_paths", [])
    ]
    members["expected_paths"] = msgspec.Raw(_encode(paths))
    members["expected_default"] = msgspec.Raw(_encode(label.get("default_labels")))
    members.pop("expected_items_path", None)
    if label.get("items_path") is not None:
        members["expected_items_path"] = msgspec.Raw(_encode(label["items_path"]))


def _expected_resource(members: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    return {"resource": members["expected"]} if "expected" in members else {}


def _expected_response(members: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    """What the guard's own form expects of a response, as a label of an outcome's line."""
    if "expected_paths" not in members:
        return {}
    paths, default = _value(members["expected_paths"]), _value(members.get("expected_default", msgspec.Raw(b"null")))
    items_path = _value(members.get("expected_items_path", msgspec.Raw(b"null")))
    try:
        labeled = [{"path": path["path"], **_labels_form(path["labels"])} for path in paths]
        default = None if default is None else _labels_form(default)
    except (KeyError, TypeError, AttributeError) as error:
        raise _NotACase('expected_paths is an array of {"path": ..., "labels": {...}}') from error
    return {"response": {"labeled_paths": labeled, "default_labels": default, "items_path": items_path}}


def _labels_form(labels: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "description": labels.get("description") or "",
        "secrecy": labels.get("secrecy") or [],
        "integrity": labels.get("integrity") or [],
    }


def _value(raw: msgspec.Raw) -> Any:
    """The value of a member. Raises _NotACase."""
    try:
        return msgspec.json.decode(raw)
    except RecursionError as error:
        raise _NotACase("not a case: nested too deeply") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _NotACase(f"not a case: {error}") from error


def _typed(value: Any, form: Any, field: str) -> Any:
    """A value of a form. Raises _NotACase, which names the field: `expect.agent.secrecy[0]: expected str, got int`."""
    try:
        return msgspec.convert(value, form)
    except msgspec.ValidationError as error:
        what, _, within = str(error).replace("`", "").partition(" - at $")
        named = f"{field}{within}".lstrip(".")
        raise _NotACase(f"{named or 'it'}: {what[:1].lower()}{what[1:]}") from error


def _check_version(version: Any) -> None:
    if type(version) is not int or version != _VERSION:
        raise _NotACase(f"version {shown(version)} of a corpus; this guardpool reads version {_VERSION}")


def _policy(value: dict[str, Any] | None, field: str) -> dict[str, Any] | None:
    """A guard's policy as a gateway reads it. Raises _NotACase."""
    if value is None:
        return None
    try:
        policy = find_policy("", value)
        if policy is None or "write-sink" in policy:
            raise PolicyError(f"the policy of a guard has 'allow-only': {shown(value)}")
        check_policy(split_policy(policy).policy)
    except PolicyError as error:
        raise _NotACase(f"{field}: {error}") from error
    return policy


def _agent(value: dict[str, Any], field: str, mode: str = "mode") -> dict[str, Any]:
    """What `label_agent` is expected to answer. Raises _NotACase. `mode`: how the mode is called there."""
    named = {("mode" if name == mode else name): each for name, each in value.items()}
    _typed(named, _Agent, field)
    return named


def _refuse_others(members: Mapping[str, msgspec.Raw], place: str) -> None:
    """Make sure that a line which names a tool is not one of another kind of file.

    Raises:
        CorpusError: it is a decision, or a line of a recording.
    """
    if "verdict" in members and "call" in members:
        raise CorpusError(f"{place}: these are decisions, not a corpus: see guardpool report, explain or diff")
    if "tool_name" not in members:
        return
    ours = {"tool_name": msgspec.Raw(b'""')}  # what a case itself holds may look like anything
    others = {name: raw for name, raw in members.items() if name not in _CASE_KEYS}
    recording = what_is(_encode({**others, **ours})) if others else None
    if recording is not None:
        raise CorpusError(
            f"{place}: this is a recording ({recording}), not a corpus: guardpool import FILE -o corpus.jsonl makes a corpus "
            "of its calls"
        )


def _is_a_question(members: Mapping[str, msgspec.Raw]) -> bool:
    """Whether it is a recorded call that a guard made, and not the agent."""
    return members.get("role") == b'"enrichment"'


def _case_of(members: Mapping[str, msgspec.Raw], place: str, at: tuple[str, int], guard: str | None) -> Case:
    """The case in an object. Raises _NotACase."""
    values = {name: _value(raw) for name, raw in members.items() if name != "expect"}
    values = _as_job(values)
    for key in ("tool_name", "session", "guard", "rules", "mode"):
        value = values.get(key)
        if value is not None and not isinstance(value, str):
            raise _NotACase(f"{key} is a string, not {shown(value)}")
    tool = values.get("tool_name")
    if not tool:
        raise _NotACase(f"it has no 'tool_name', but {', '.join(map(shown, list(values)[:5])) or 'nothing'}")
    rules, mode = values.get("rules"), values.get("mode")
    try:
        rules is None or rules_of(rules)
        mode is None or mode_of(mode)
    except DecideError as error:
        raise _NotACase(str(error)) from error
    name = values.get("name", values.get("id"))
    if isinstance(name, (dict, list)):
        raise _NotACase(f"{'name' if 'name' in values else 'id'} is a string or a number, not {shown(name)}")
    return Case(
        name=tool if name is None else str(name),
        place=place,
        at=at,
        tool_name=tool,
        tool_args=values.get("tool_args"),
        tool_result=values.get("tool_result", UNSET),
        capabilities=values.get("capabilities"),
        session=values.get("session"),
        guard=values.get("guard", guard),
        rules=rules,
        mode=mode,
        expect=_expect_of(members["expect"]) if "expect" in members else Expect(),
    )


def _as_job(values: dict[str, Any]) -> dict[str, Any]:
    """A call of `guardpool import` under the names of a job; a job as it is. Raises _NotACase."""
    if "tool_name" in values or not ("tool" in values or all(name in values for name in _CALL_KEYS)):
        return values
    if any(name not in values for name in _CALL_KEYS):
        raise _NotACase("it has 'tool', but is not a call as 'guardpool import' writes it; a case has 'tool_name'")
    if "tool" not in values or "args" not in values:
        missing = "tool" if "tool" not in values else "arguments"
        raise _NotACase(
            f"the recording does not tell the {missing} of this call, so there is nothing to run: drop the line"
        )
    names = {"tool": "tool_name", "args": "tool_args", "result": "tool_result", "server": "guard", "call": "id"}
    job = {names.get(name, name): value for name, value in values.items()}
    job.pop("session", None)  # a recording's calls are cases of their own; a case that is written by hand may name one
    if values.get("result_is") not in (None, "raw", "unknown"):
        job.pop("tool_result", None)  # what a gateway has filtered is not what the guard would be given
    return job


def _expect_of(raw: msgspec.Raw) -> Expect:
    """What a case expects. Raises _NotACase."""
    try:
        members = _decode_object(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _NotACase(f"expect is an object: {error}") from error
    for name in members:
        if name not in _EXPECT_KEYS:
            raise _NotACase(f"expect has the unknown key {shown(name)}; it may have {', '.join(_EXPECT_KEYS)}")
    found: dict[str, Any] = {}
    for name, op in (("resource", "label_resource"), ("response", "label_response")):
        if name in members:
            found[name] = _expected_label(op, name, members[name])
    if "decision" in members:
        found["decision"] = _value(members["decision"])
        _typed(found["decision"], _Decision, "expect.decision")
    return Expect(**found)


def _expected_label(op: str, name: str, raw: msgspec.Raw) -> Any:
    value = _value(raw)
    if isinstance(value, dict) and value.keys() == {"status"}:
        try:
            return Status(value["status"])
        except ValueError as error:
            raise _NotACase(f"expect.{name}.status is an outcome's, not {shown(value['status'])}") from error
    try:
        return label_from_json(op, bytes(raw))
    except ValueError as error:
        raise _NotACase(f"expect.{name} is not a label: {error}") from error


def _enrichment(members: Mapping[str, msgspec.Raw]) -> Iterator[bytes]:
    """What a guard asked for a recorded call, as lines of a table of replies."""
    asked = _value(members["enrichment"]) if "enrichment" in members else []
    for question in asked if isinstance(asked, list) else []:
        if isinstance(question, dict) and isinstance(question.get("tool"), str) and "result" in question:
            yield _encode({"tool": question["tool"], "args": question.get("args"), "result": question["result"]})


def _reply_lines(replies: Sequence[Mapping[str, Any]], answer: str, field: str) -> list[bytes]:
    """The replies of a corpus as lines of a table; `answer` is what the corpus calls a reply's result. Raises _NotACase."""
    lines = []
    for at, reply in enumerate(replies):
        line = _encode({("result" if name == answer else name): value for name, value in reply.items()})
        try:
            Replies([line], field)
        except RepliesError as error:
            raise _NotACase(f"{field}[{at}]: {printable(str(error.__cause__ or error), 300)}") from error
        lines.append(line)
    return lines
