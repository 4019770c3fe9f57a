"""Lines of outcomes read back as outcomes: as they were, or refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from guardpool.batch import encode_outcomes
from guardpool.batch.outcome_lines import BadOutcome, outcomes_of_lines
from guardpool.labels import LabeledItem, Labels, LabelWarning, Operation, PathLabel, ResourceLabel, ResponseLabel
from guardpool.outcomes import BackendUse, Outcome, OutcomeError, Question, Status

NONE: frozenset[str] = frozenset()
RESOURCE = ResourceLabel("d\u2028", frozenset({"b", "a"}), NONE, Operation.READ, (LabelWarning("tags_dropped", "x"),))
RESPONSE = ResponseLabel((PathLabel("/0", "one", NONE, frozenset({"i"})),), Labels("o", NONE, NONE), "/items")
OLDER = ResponseLabel(items=(LabeledItem({"a": [1, None, "é"]}, Labels("one", frozenset({"s"}), NONE)),))
OUTCOMES = [
    Outcome(0, "g", "label_resource", "t", Status.OK, RESOURCE, duration_us=12, attempts=1),
    Outcome("1", "g", "label_response", "t", Status.OK, RESPONSE, attempts=2, session_restarted=True),
    Outcome(2.5, "h", "label_response", "u", Status.OK, OLDER),
    Outcome(True, "h", "label_response", "u", Status.OK, None),
    Outcome(None, None, "", None, Status.REJECTED, error=OutcomeError("bad_job", "m", line=7, backend=("E: x",))),
    Outcome(
        *(10**30, "h", "label_resource", "u", Status.REFUSED, None, OutcomeError("guard_refused", "m", guard_code=-7)),
        backend_calls=3,
        backend=BackendUse(3, 2, 1, (Question("search", {"q": [1, 2.5]}),)),
    ),
]


def line(**changes: Any) -> bytes:
    """The line of the first outcome with other members."""
    members = msgspec.json.decode(encode_outcomes(OUTCOMES[:1]))
    members["label"] = {**members["label"], **changes.pop("of_label", {})}
    return msgspec.json.encode({**members, **changes}) + b"\n"


def test_outcomes_come_back_from_lines_as_they_were() -> None:
    back = outcomes_of_lines(memoryview(encode_outcomes(OUTCOMES)))
    assert back == OUTCOMES
    assert [type(each.id) for each in back] == [type(each.id) for each in OUTCOMES]
    assert encode_outcomes(back) == encode_outcomes(OUTCOMES)


def test_an_id_that_python_does_not_hold_comes_back_as_it_was() -> None:
    odd = line(id=msgspec.Raw(b"1e999"))
    first, second = outcomes_of_lines(odd + line())
    assert (bytes(first.id), second.id) == (b"1e999", 0)
    assert encode_outcomes([first]) == odd


def test_a_line_separator_within_a_string_ends_no_line() -> None:
    both = [Outcome(msgspec.Raw(b"1e999"), "g", "label_resource", "\u2028\x85", Status.OK, RESOURCE), OUTCOMES[0]]
    assert outcomes_of_lines(encode_outcomes(both))[0].tool_name == "\u2028\x85"


def test_what_comes_back_needs_the_bytes_no_more() -> None:
    data = bytearray(encode_outcomes(OUTCOMES))
    back = outcomes_of_lines(memoryview(data))
    data[:] = bytes(len(data))
    assert back == OUTCOMES


@pytest.mark.parametrize(
    "bad",
    [
        line(of_label={"operation": "delete"}),
        line(of_label={"secrecy": None}),
        line(of_label={"more": 1}),
        line(of_label={"warnings": [["c", "d" * 81]]}),
        line(label=None),
        line(op=None),
        line(op="label_response"),
        line(op="label_agent"),
        line(status="fine"),
        line(error={"code": "c", "message": "m"}),
        line(status="trap"),
        line(status="trap", error={"code": "c", "message": "m"}),
        line(id=[1]),
        line(id={"a": 1}),
        line(more=1),
        line().replace(b'"label_resource"', b'"label_res\xff"'),
        line().replace(b'"d', b'"\xff'),
        line()[:-10] + b"\n",
        b"[]\n",
    ],
)
def test_what_no_pool_gives_is_refused(bad: bytes) -> None:
    with pytest.raises(BadOutcome, match=r"^the outcome of job .+ is not valid: "):
        outcomes_of_lines(line(id=5) + bad)


def test_the_job_of_a_bad_line_is_named() -> None:
    with pytest.raises(BadOutcome, match=r"^the outcome of job 17 is not valid: "):
        outcomes_of_lines(line(id=5) + line(id=17, of_label={"operation": "delete"}))
