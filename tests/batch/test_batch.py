"""Files of jobs and of outcomes: what becomes of each line, and what is on disk after a failure."""

from __future__ import annotations

import base64
import copy
import json
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from guardpool.batch import (
    EachGuard,
    JobParser,
    JobReader,
    LineSplitter,
    OutcomeWriter,
    encode_outcome,
    encode_outcomes,
)
from guardpool.batch.jobline import job_line
from guardpool.batch.pump import Pump
from guardpool.batch.signals import Signals
from guardpool.errors import PoolBroken
from guardpool.jobs import UNSET, Job, Prepared
from guardpool.outcomes import Outcome, OutcomeError, Status
from guardpool.recordings import Call, jobs as jobs_of_calls
from guardpool.submit.payload import NO_PIECE, PayloadError, encode_job, payload_from_parts
from paths import VECTORS

GOOD = b'{"id":"a","op":"label_resource","tool_name":"get_issue","tool_args":{"n":1}}'


def parse(line: bytes, number: int = 7, guards: tuple[str, ...] = ("github",), limit: int = 1000) -> Prepared:
    job = JobParser(guards, limit).parse(line, number)
    assert job is not None
    return job


def with_key(key: str, value: str) -> bytes:
    """The good line with one member more."""
    return GOOD.replace(b'"a"', f'"a","{key}":{value}'.encode(), 1)


def read_all(data: bytes, limit: int = 1000) -> list[Prepared]:
    """What a `JobReader` makes of a pipe that holds `data`."""
    read, write = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(write, data) if len(data) < 65536 else None, os.close(write)))
    writer.start()
    reader = JobReader(read, JobParser(("github",), limit))
    try:
        return [job for portion in reader.batches() for job in portion]
    finally:
        writer.join()
        reader.close()
        os.close(read)


# --- one line


def test_a_job_line_becomes_the_guards_input_as_the_reference_writes_it() -> None:
    line = (
        b'{"id": 1, "op": "label_response", "tool_name": "list_issues", "other": [1e400], '
        b'"tool_result": {"b": 1.50, "a": "\\u00e9\xc3\xa9", "b": 7.0}, "tool_args": [-0, 1e21], "capabilities": {"x":null}}'
    )
    job = parse(line)
    assert (job.id, job.guard, job.op, job.error) == (1, None, "label_response", None)
    assert job.payload == (
        '{"tool_name":"list_issues","tool_result":{"b":7,"a":"\u00e9\u00e9"},'
        '"tool_args":[-0,1e+21],"capabilities":{"x":null}}'.encode()
    )


def _inputs() -> Iterator[tuple[bytes, bool, str]]:
    for line in (VECTORS / "inputs.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        yield base64.b64decode(case["json_base64"]), case["accept"], case.get("value", "")


def _with_spelling(text: str | bytes) -> Any:
    return json.loads(text, parse_int=lambda digits: ("number", digits), parse_float=lambda digits: ("number", digits))


@pytest.mark.parametrize("place", ["tool_args", "tool_result", "capabilities"])
def test_every_place_of_a_line_reaches_the_guard_as_the_vectors_have_it(place: str) -> None:
    for number, (raw, accept, value) in enumerate(_inputs()):
        line = b'{"op":"label_response","tool_name":"t","tool_result":[],"%s":%s}' % (place.encode(), raw)
        job = parse(line, number)
        if accept:
            assert job.error is None, line
            told = _with_spelling(job.payload)
            assert told.get(place) == _with_spelling(value), line
        else:
            assert job.error is not None, line
            assert job.error.code == "not_json"


@pytest.mark.parametrize(
    ("line", "job_id"),
    [
        (b"", 7),
        (b'"id":"x",', "x"),
        (b'"id":12345678901234567890123,', 12345678901234567890123),
        (b'"id":1.5,', 1.5),
        (b'"id":true,', True),
        (b'"id":null,', None),
    ],
)
def test_the_id_comes_back_and_defaults_to_the_line_number(line: bytes, job_id: object) -> None:
    job = parse(b"{" + line + GOOD.removeprefix(b'{"id":"a",'))
    assert job.error is None
    assert job.id == job_id
    assert type(job.id) is type(job_id)


def test_an_id_too_large_for_python_comes_back_unchanged() -> None:
    job = parse(GOOD.replace(b'"a"', b"1e999", 1))
    assert job.error is None
    assert b'{"id":1e999,' in encode_outcome(Outcome(job.id, "github", job.op, job.tool_name, Status.OK))


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (b"{", "not_json", "ends too early"),
        (b"[1]", "bad_job", "an array"),
        (b"null", "bad_job", "null"),
        (GOOD + b"\x00", "not_json", "trailing"),
        (GOOD + b" {}", "not_json", "trailing"),
        (b"\x00", "not_json", "invalid character"),
        (GOOD.replace(b"1}", b"NaN}"), "not_json", "invalid character"),
        (GOOD.replace(b"1}", b"1,}"), "not_json", "trailing comma"),
        (GOOD.replace(b"1}", b"1e400}"), "not_json", "tool_args is not JSON: the number 1e400 is too large"),
        (GOOD.replace(b"1}", b"1}\xff"), "not_json", "expected ',' or '}'"),
        (GOOD.replace(b"1}", b"[" * 100_000 + b"]" * 100_000 + b"}"), "not_json", "too deep"),
        (b'{"op":"label_resource"}', "bad_tool_name", "missing"),
        (GOOD.replace(b'"get_issue"', b"null"), "bad_tool_name", "null"),
        (b'{"tool_name":"x"}', "no_such_op", "missing"),
        (GOOD.replace(b"label_resource", b"label_agent"), "no_such_op", "label_agent"),
        (GOOD.replace(b'"label_resource"', b"5"), "no_such_op", "a number"),
        (GOOD.replace(b'"a"', b"[1]", 1), "bad_id", "an array"),
        (GOOD.replace(b'"a"', b'"a","guard":"gitlab"', 1), "no_such_guard", "github"),
        (GOOD.replace(b'"a"', b'"a","guard":5', 1), "bad_job", "a number"),
        (GOOD.replace(b'"a"', b'"a","guard":1e999', 1), "bad_job", "a number"),
        (GOOD.replace(b'"a"', b'"a","guard":' + b"9" * 5000, 1), "bad_job", "a number"),
        (GOOD.replace(b'"a"', b'"a","guard":{"a":[null]}', 1), "bad_job", "an object"),
        (with_key("session", "5"), "bad_session", "session must be a string, not a number"),
        (with_key("session", "{}"), "bad_session", "not an object"),
        (
            with_key("time", '"2026-01-01T00:00:00Z"'),
            "bad_time",
            "seconds since 1970, from 0 to 9000000000; not a string",
        ),
        (with_key("time", "true"), "bad_time", "not true"),
        (with_key("time", "[1]"), "bad_time", "not an array"),
        (with_key("time", "-1"), "bad_time", "not -1"),
        (with_key("time", "1767225600000"), "bad_time", "not 1767225600000: are these milliseconds?"),
        (with_key("time", "1e999"), "bad_time", "not 1e999"),
        (with_key("time", "9" * 5000), "bad_time", "not "),
        (GOOD[:-20], "not_json", "ends too early"),
        (b'{"op":"label_re', "not_json", "ends too early"),
        (b'{"a":tru', "not_json", "ends too early"),
        (b'{"a":"\\', "not_json", "ends too early"),
        (b'{"a":"\xc3', "not_json", "it ends too early"),
        (GOOD.replace(b"1}", b'"%b"}' % (b"x" * 1000)), "input_too_large", "1000"),
    ],
)
def test_a_line_that_is_not_a_job_is_rejected_with_its_number(line: bytes, code: str, words: str) -> None:
    job = parse(line)
    assert job.error is not None
    assert (job.error.code, job.error.line) == (code, 7)
    assert words in job.error.message
    assert "\n" not in job.error.message
    assert parse(line + b"\n").error == job.error


@pytest.mark.parametrize("value", [b"null", b"{}", b'"get_issue"', b"[1]", b"1e999"])
@pytest.mark.parametrize(
    ("key", "word"),
    [("arguments", "tool_args"), ("result", "tool_result"), ("name", "tool_name"), ("params", "tool_args")],
)
def test_a_word_of_mcp_is_rejected_with_the_right_word(key: str, word: str, value: bytes) -> None:
    for line in (
        GOOD.replace(b'"tool_args"', b'"%b":%b,"tool_args"' % (key.encode(), value)),
        GOOD.replace(b'"tool_args":{"n":1}', b'"%b":%b' % (key.encode(), value)),
    ):
        job = parse(line)
        assert job.error is not None
        assert (job.id, job.op, job.error.code, job.error.line) == ("a", "label_resource", "wrong_key", 7)
        assert f"{word} here" in job.error.message
    inside = GOOD.replace(b'{"n":1}', b'{"%b":1}' % key.encode())
    assert parse(inside).error is None, "in the arguments any word may stand"


def test_all_wrong_words_of_a_line_are_named_at_once() -> None:
    job = parse(b'{"id":5,"method":"tools/call","name":"get_issue","arguments":{}}')
    assert job.error is not None
    assert (job.id, job.op, job.error.code) == (5, "", "wrong_key")
    assert job.error.message == (
        "what the tool is called with is tool_args here, not arguments; the tool's name is tool_name here, not name"
    )


@pytest.mark.parametrize("text", ["{}", ' \n{"owner": "o", "n": [1, {"a": "\u00e9"}]} '])
def test_arguments_that_were_encoded_twice_are_rejected(text: str) -> None:
    twice = json.dumps(text).encode()
    response = (
        b'{"op":"label_response","tool_result":{"a":"x"},"capabilities":1,"tool_name":"x","tool_args":%b}' % twice
    )
    for line in (GOOD.replace(b'{"n":1}', twice), response):
        job = parse(line)
        assert job.error is not None
        assert (job.error.code, job.error.line) == ("bad_tool_args", 7)
        assert "write the object itself" in job.error.message
    with pytest.raises(PayloadError, match="write the object itself"):
        encode_job(Job(1, "label_resource", "x", text))


@pytest.mark.parametrize("text", ["", "x", "{", "{x}", "[1]", '"{}"', "{} {}", "5", "{" * 5000])
def test_other_strings_are_arguments_like_any_value(text: str) -> None:
    once = json.dumps(text).encode()
    job = parse(GOOD.replace(b'{"n":1}', once), limit=10_000)
    assert job.error is None
    assert job.payload == encode_job(Job(1, "label_resource", "get_issue", text))
    result = b'{"op":"label_response","tool_name":"x","tool_result":"{}","tool_args":{}}'
    assert parse(result).error is None, "a tool may answer with text"


def test_a_rejected_job_keeps_what_is_right_of_it() -> None:
    job = parse(GOOD.replace(b'"a"', b'"a","guard":"gitlab"', 1))
    assert (job.id, job.guard, job.op, job.tool_name) == ("a", None, "label_resource", "get_issue")
    job = parse(GOOD.replace(b'"a"', b'{"a":1}', 1))
    assert job.id == 7, "an id that is not a scalar is replaced by the line number"


def test_a_job_has_the_name_of_its_tool_as_text() -> None:
    assert parse(GOOD).tool_name == "get_issue"
    assert parse(GOOD.replace(b"get_issue", rb"gr\u00fc\u00dfe")).tool_name == "grüße"
    too_large = parse(GOOD.replace(b"1}", b'"%b"}' % (b"x" * 1000)))
    assert (too_large.tool_name, too_large.error is None) == ("get_issue", False)
    assert parse(GOOD.replace(b"label_resource", b"label_agent")).tool_name == "get_issue"
    assert parse(GOOD.replace(b'"get_issue"', b"5")).tool_name is None


def test_with_several_guards_a_job_must_name_one() -> None:
    two = ("github", "jira")
    assert parse(GOOD, guards=two).error is not None
    named = parse(GOOD.replace(b'"a"', b'"a","guard":"jira"', 1), guards=two)
    assert (named.guard, named.error) == ("jira", None)


@pytest.mark.parametrize("broken", [b"", b"\xff"])
@pytest.mark.parametrize(
    ("session", "time", "job_session", "job_time"),
    [
        ('"s 1"', "1767225600.25", "s 1", 1767225600.25),
        ('""', "0", "", 0),
        (r'"\ud800"', "9e9", "\ufffd", 9e9),
        ("null", "null", None, None),
    ],
)
def test_a_line_tells_session_and_time(
    session: str, time: str, job_session: str | None, job_time: float | None, broken: bytes
) -> None:
    # With bytes that are not UTF-8 the line is read again, part by part.
    line = with_key("session", session).replace(b'"session"', f'"time":{time},"session"'.encode())
    job = parse(line.replace(b"get_issue", b"get_issue" + broken))
    assert (job.error, job.session, job.time) == (None, job_session, job_time)
    [of_a, of_b] = next(EachGuard(_Jobs([job]), ["a", "b"]).batches())
    assert (of_a.session, of_a.time) == (of_b.session, of_b.time) == (job_session, job_time)
    again = parse(job_line(Job(1, "label_resource", "t", session=job.session, time=job.time)))
    assert (again.error, again.session, again.time) == (None, job_session, job_time)


class _Jobs:
    """A source of jobs in memory."""

    def __init__(self, jobs: list[Prepared]) -> None:
        self._jobs = jobs

    def batches(self) -> Iterator[list[Prepared]]:
        yield self._jobs

    def stop(self) -> None:
        pass


def test_of_two_equal_keys_the_last_counts() -> None:
    job = parse(GOOD.replace(b'"tool_name"', b'"tool_name":"first","tool_name"'))
    assert msgspec.json.decode(job.payload)["tool_name"] == "get_issue"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_job_or_a_rejection(line: bytes) -> None:
    job = JobParser(("github",), 1000).parse(line, 7)
    if job is None:
        assert not line.strip()
    else:
        assert job.error is not None or msgspec.json.decode(job.payload)


@given(JSON_VALUES, JSON_VALUES, JSON_VALUES, st.text(), st.sampled_from(["label_resource", "label_response"]))
def test_a_job_line_and_the_same_job_object_give_the_guard_equal_input(
    args: Any, result: Any, capabilities: Any, tool: str, op: str
) -> None:
    job = {"op": op, "tool_name": tool, "tool_args": args, "tool_result": result, "capabilities": capabilities}
    from_line = parse(json.dumps(job, ensure_ascii=True).encode(), limit=100_000)
    if from_line.error is not None:
        assert from_line.error.code == "bad_tool_args"
        return
    from_object = encode_job(Job(id=1, **job))
    assert _with_spelling(from_line.payload) == _with_spelling(from_object)
    assert list(msgspec.json.decode(from_line.payload)) == list(msgspec.json.decode(from_object))


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (Job(1, "label_resource", 5), "bad_tool_name"),  # type: ignore[arg-type]
        (Job(1, "label_resource", "x", {"a": object()}), "not_json"),
        (Job(1, "label_response", "x"), "no_tool_result"),
    ],
)
def test_a_job_object_that_is_not_json_is_a_value_error_naming_the_field(job: Job, code: str) -> None:
    with pytest.raises(PayloadError) as caught:
        encode_job(job)
    assert caught.value.code == code
    assert any(field in str(caught.value) for field in ("op", "tool_name", "tool_args", "tool_result"))


def test_a_job_object_that_contains_itself_is_a_value_error() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(PayloadError, match=r"^tool_args\[0\]: contains itself$"):
        encode_job(Job(1, "label_resource", "x", loop))


def test_a_job_of_a_recording_keeps_its_numbers_on_the_way_through_a_line() -> None:
    call = Call(call="c", source="s", tool="t", args_json=rb'{"a":-0,"b":7.0,"c":9007199254740993,"d":"\ud800"}')
    [job] = jobs_of_calls([call])
    expected = '{"tool_name":"t","tool_args":{"a":-0,"b":7,"c":9007199254740992,"d":"\ufffd"}}'.encode()
    assert encode_job(job) == expected
    assert parse(job_line(job)).payload == expected


def test_a_recorded_number_that_no_double_holds_refuses_the_job() -> None:
    [job] = jobs_of_calls([Call(call="c", source="s", tool="t", args_json=b'{"a":[1e400]}')])
    with pytest.raises(PayloadError, match=r"^tool_args\.a\[0\]: Infinity is not JSON$"):
        encode_job(job)
    rejected = parse(job_line(job))
    assert rejected.id == "c/resource"
    assert rejected.error is not None
    assert "too large" in rejected.error.message


def test_pieces_are_joined_in_the_contracts_order() -> None:
    assert payload_from_parts("label_resource", b'"t"', None, b"1", b"null") == b'{"tool_name":"t","tool_args":null}'
    assert payload_from_parts("label_response", b'"t"', b"null", b"null", b"2") == (
        b'{"tool_name":"t","tool_result":null,"capabilities":2}'
    )


@pytest.mark.parametrize("none", [None, b"", b"null", msgspec.Raw(), msgspec.Raw(b"null"), NO_PIECE])
def test_a_piece_that_is_not_there_is_left_out(none: bytes | msgspec.Raw | None) -> None:
    name = msgspec.Raw(b'"t"')
    assert payload_from_parts("label_resource", name, none, none, none) == b'{"tool_name":"t","tool_args":null}'
    assert payload_from_parts("label_response", name, none, b"1", none) == b'{"tool_name":"t","tool_result":1}'


@pytest.mark.parametrize("none", [None, b"", msgspec.Raw(), NO_PIECE])
def test_a_result_that_is_not_there_cannot_be_labelled(none: bytes | msgspec.Raw | None) -> None:
    with pytest.raises(PayloadError, match="tool_result") as caught:
        payload_from_parts("label_response", b'"t"', None, none, None)
    assert caught.value.code == "no_tool_result"


def test_null_is_a_result_and_no_result_is_a_mistake() -> None:
    null = GOOD.replace(b"label_resource", b"label_response").replace(b'{"n":1}', b'1,"tool_result":null')
    job = parse(null)
    assert (job.error, job.payload) == (None, b'{"tool_name":"get_issue","tool_result":null,"tool_args":1}')
    assert encode_job(Job("a", "label_response", "get_issue", 1, None)) == job.payload
    job = parse(null.replace(b',"tool_result":null', b""))
    assert job.error is not None
    assert (job.id, job.op, job.error.code, job.error.line) == ("a", "label_response", "no_tool_result", 7)
    for result in (None, [1], UNSET):  # a line that is written says the same as its job
        same = Job("a", "label_response", "get_issue", 1, result)
        assert (parse(job_line(same)).error is None) == (result is not UNSET)


def test_the_mark_of_no_result_is_one_object_after_copies_and_pickles() -> None:
    job = Job(1, "label_response", "x")
    assert job.tool_result is UNSET
    assert copy.deepcopy(job).tool_result is copy.copy(job).tool_result is UNSET
    assert all(pickle.loads(pickle.dumps(job, protocol)).tool_result is UNSET for protocol in range(2, 6))


# --- lines


PIECES = st.one_of(st.binary(max_size=12), st.text(max_size=5).map(str.encode)).map(lambda raw: raw.replace(b"\n", b""))


@given(st.lists(PIECES, max_size=12), st.data())
def test_lines_are_the_same_however_the_bytes_arrive(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"\n".join(lines)
    splitter = LineSplitter(max_line_bytes=8)
    got: list[bytes | None] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        more, are_text = splitter.feed(stream[:size])
        got += more
        assert are_text == all(line is None or is_text(line) for line in more) or None in more
        stream = stream[size:]
    more, are_text = splitter.finish()
    assert not are_text, "the last line was not checked"
    if lines and not lines[-1]:  # a newline at the end begins no line
        lines.pop()
    assert [None if line is None else line.removesuffix(b"\n") for line in got + more] == [
        line if len(line) <= 8 else None for line in lines
    ]
    assert all(line is None or line.endswith(b"\n") for line in got)


def is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_bytes_that_are_not_utf8_are_replaced_and_spoil_no_other_line() -> None:
    accented = GOOD.replace(b"1}", '"\u00e9\U0001f980"}'.encode())
    lines = [accented, GOOD, GOOD.replace(b"1}", b'"\xff\xed\xa0\x80"}'), accented, GOOD]
    told = [msgspec.json.decode(job.payload)["tool_args"]["n"] for job in read_all(b"\n".join(lines))]
    assert told == ["\u00e9\U0001f980", 1, "\ufffd" * 4, "\u00e9\U0001f980", 1]


def test_lone_surrogates_of_a_line_are_replaced_wherever_they_stand() -> None:
    line = rb'{"id":"\ud800","op":"label_resource","tool_name":"\udc00x","tool_args":{"\ud800":"a\ud83d\u0041\ud83d\ude00"}}'
    job = parse(line)
    assert (job.id, job.tool_name, job.error) == ("\ufffd", "\ufffdx", None)
    assert msgspec.json.decode(job.payload) == {"tool_name": "\ufffdx", "tool_args": {"\ufffd": "a\ufffdA\U0001f600"}}


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm() -> None:
    jobs = read_all(b"\xef\xbb\xbf" + GOOD + b"\r\n" + GOOD + b"\r\n")
    assert [job.error for job in jobs] == [None, None]


def test_blank_lines_count_and_give_nothing() -> None:
    no_id = GOOD.replace(b'"id":"a",', b"")
    jobs = read_all(no_id + b"\n\n \t\r\n" + no_id + b"\n\r\nx\n" + no_id + b"\n")
    assert [job.id for job in jobs] == [0, 3, 5, 6]
    assert [job.error and job.error.line for job in jobs] == [None, None, 5, None]
    assert len(read_all(GOOD)) == 1
    assert read_all(b"") == read_all(b"\n" * 1000) == read_all(b" ") == []


def test_a_line_that_is_too_long_is_rejected_and_never_held(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    with path.open("wb") as file:
        file.write(GOOD + b"\n")
        for _ in range(40):
            file.write(b"x" * (1 << 20))
        file.write(b"\n" + GOOD)
    fd = os.open(path, os.O_RDONLY)
    reader = JobReader(fd, JobParser(("github",), 1000))
    held = 0
    jobs = []
    for portion in reader.batches():
        jobs += portion
        held = max(held, reader.bytes_read)
    os.close(fd)
    reader.close()
    assert [job.error.code if job.error else None for job in jobs] == [None, "line_too_long", None]
    assert jobs[1].id == 1
    assert reader.total_bytes == reader.bytes_read == path.stat().st_size


def test_slow_input_is_handed_on_at_once_and_its_reader_can_be_stopped() -> None:
    read, write = os.pipe()
    reader = JobReader(read, JobParser(("github",), 1000))
    batches = reader.batches()
    os.write(write, GOOD + b"\n" + GOOD[:10])
    assert len(next(batches)) == 1, "the first job did not wait for the rest of the second"
    rest: list[list[Prepared]] = []
    waiting = threading.Thread(target=lambda: rest.extend(batches))
    waiting.start()
    reader.stop()
    waiting.join(10)
    assert not waiting.is_alive()
    assert rest == [], "half a line is not a job"
    reader.close()
    os.close(read)
    os.close(write)


# --- outcomes


def test_an_outcome_line_has_the_keys_in_order_and_the_label_as_it_came() -> None:
    label = b'{"description":"\xc3\xa9","secrecy":["b","a"],"integrity":[],"operation":"read"}'
    line = encode_outcome(Outcome("x", "github", "label_resource", "get_me", Status.OK, label, None, 12, 1))
    assert line == (
        b'{"id":"x","guard":"github","op":"label_resource","tool_name":"get_me","status":"ok","label":'
        + label
        + b',"error":null,'
        b'"duration_us":12,"attempts":1}\n'
    )
    error = OutcomeError(code="not_json", message='bad "thing"', line=3)
    line = encode_outcome(Outcome(3, None, "", None, Status.REJECTED, None, error))
    assert line == (
        b'{"id":3,"guard":null,"op":null,"tool_name":null,"status":"rejected","label":null,'
        b'"error":{"code":"not_json","message":"bad \\"thing\\"","line":3},"duration_us":0,"attempts":0}\n'
    )


def test_a_line_without_timing_differs_in_that_only() -> None:
    outcome = Outcome("x", "g", "label_resource", "t", Status.OK, b"null", None, 12, 1)
    assert encode_outcome(outcome, timing=False) == encode_outcome(outcome).replace(b'"duration_us":12,', b"")


def test_an_outcome_line_tells_of_a_session_only_where_it_was_restarted() -> None:
    outcome = Outcome(1, "g", "label_resource", "t", Status.OK)
    assert b"session" not in encode_outcome(outcome)
    line = json.loads(encode_outcome(msgspec.structs.replace(outcome, session_restarted=True)))
    assert line["session_restarted"] is True


def test_an_error_message_that_is_not_text_does_not_stop_the_writer() -> None:
    error = OutcomeError(code="crashed", message="it said \udcff")
    line = encode_outcome(Outcome(1, "g", "label_resource", "t", Status.CRASHED, None, error))
    assert json.loads(line)["error"] == {"code": "crashed", "message": "it said \\udcff"}


def test_outcomes_are_written_together_as_they_are_alone() -> None:
    label = b'{"description":"\xc3\xa9","secrecy":["b","a"],"integrity":[],"operation":"read"}'
    asked = Outcome(msgspec.Raw(b"1e999"), "g", "label_resource", "t", Status.OK, label, None, 7, 2)
    assert asked.label is not None
    many = [
        Outcome("x", "g", "label_resource", "t", Status.OK, label, None, 12, 1),
        Outcome(
            2,
            "g",
            "label_resource",
            "t",
            Status.CRASHED,
            None,
            OutcomeError("crashed", "it said \udcff", signal="SIGSEGV"),
        ),
        asked,
        Outcome(None, None, "", None, Status.REJECTED, None, OutcomeError("not_json", "bad", line=3)),
        Outcome(True, "g", "label_response", "t", Status.OK, None, None, 1, 1),
    ]
    text = encode_outcomes(many)
    assert text == b"".join(map(encode_outcome, many))
    lines = text.splitlines()
    assert lines[0].split(b'"label":')[1].startswith(label)  # as it came; a caller that reads it gets the tags sorted
    assert b'"id":1e999,' in lines[2]
    assert b'"secrecy":["a","b"]' in lines[2]
    assert json.loads(lines[1])["error"]["message"] == "it said \\udcff"
    assert json.loads(lines[3])["error"]["line"] == 3
    assert encode_outcomes([]) == b""


def outcomes(count: int) -> list[Outcome]:
    return [Outcome(number, "g", "label_resource", "t", Status.OK, b'{"x":1}', None, 1, 1) for number in range(count)]


def test_what_is_held_is_written_by_flush(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        writer = OutcomeWriter(file.fileno())
        writer.add(outcomes(3))
        assert (tmp_path / "out").stat().st_size == 0
        writer.flush()
        writer.flush()
        assert writer.written == 3
    assert [json.loads(line)["id"] for line in (tmp_path / "out").read_text().splitlines()] == [0, 1, 2]


@pytest.mark.parametrize("before", [b"", b"what was there\n"])
def test_a_full_disk_leaves_whole_lines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes) -> None:
    (tmp_path / "out").write_bytes(before)
    with (tmp_path / "out").open("ab") as file:
        writer = OutcomeWriter(file.fileno())
        write, room = os.write, [len(encode_outcomes(outcomes(2))) + 9]

        def write_until_full(fd: int, data: bytes) -> int:
            if not room[0]:
                raise OSError(28, "No space left on device")
            written = write(fd, bytes(data)[: room[0]])
            room[0] -= written
            return written

        monkeypatch.setattr(os, "write", write_until_full)
        writer.add(outcomes(10))
        with pytest.raises(OSError, match="No space"):
            writer.flush()
        monkeypatch.undo()
        assert writer.written == 2
        writer.flush()
    text = (tmp_path / "out").read_bytes()
    assert text == before + b"".join(map(encode_outcome, outcomes(2)))


def test_a_pipe_whose_reader_is_slow_and_non_blocking_gets_everything() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    got = bytearray()

    def drain() -> None:
        while data := os.read(read, 4096):
            got.extend(data)

    thread = threading.Thread(target=drain)
    thread.start()
    writer = OutcomeWriter(write)
    writer.add(outcomes(5000))
    writer.flush()
    os.close(write)
    thread.join()
    os.close(read)
    assert got.count(b"\n") == 5000
    assert writer.written == 5000


class EndingStream:
    """A stream whose pool breaks: one outcome, one job that did not run, and the error."""

    def __init__(self) -> None:
        self._rounds = [[outcomes(1)[0], Outcome(1, "g", "label_resource", "t", Status.CANCELLED)]]

    def put(self, jobs: list[Prepared]) -> None:
        """Take jobs."""

    def finish(self) -> None:
        """No more jobs."""

    def take_numbered(self, timeout_s: float) -> tuple[range, list[Outcome]]:
        """The outcomes, then the error."""
        if self._rounds:
            return range(2), self._rounds.pop()
        raise PoolBroken("workers die before they label anything")


class Jobs:
    """A source of three jobs."""

    def batches(self) -> Iterator[list[Prepared]]:
        """All of them."""
        yield [parse(GOOD), parse(GOOD), parse(GOOD)]

    def stop(self) -> None:
        """Nothing to stop."""


def test_a_pool_that_breaks_leaves_the_outcomes_of_jobs_that_ran(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        writer = OutcomeWriter(file.fileno())
        stream: Any = EndingStream()
        pump = Pump(stream, Jobs(), writer, kill=lambda: None, timeout_s=1.0)
        with pytest.raises(PoolBroken):
            pump.run(Signals(), lambda pump: None)
    assert [json.loads(line)["id"] for line in (tmp_path / "out").read_text().splitlines()] == [0]
    assert (pump.counts, pump.taken, writer.written) == ({Status.OK: 1}, 2, 1)
