"""A gateway's log that was damaged: every line is still part of a call or counted, and nothing raises."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from guardpool import recordings, samples
from guardpool.recordings import Call, Pairing
from strategies import examples

Lines = list[bytes]
Mutation = Callable[[Lines, random.Random], None]


@lru_cache(maxsize=1)
def lines_of_a_log() -> tuple[bytes, ...]:
    """A log with pairs that overlap, events, denials and damaged payloads."""
    return tuple(line.encode() + b"\n" for line in samples.recording(60, 3))


def swap(lines: Lines, draw: random.Random) -> None:
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]


def drop(lines: Lines, draw: random.Random) -> None:
    del lines[draw.randrange(len(lines))]


def repeat(lines: Lines, draw: random.Random) -> None:
    lines.insert(draw.randrange(len(lines)), draw.choice(lines))


def cut(lines: Lines, draw: random.Random) -> None:
    at = draw.randrange(len(lines))
    lines[at] = lines[at][: draw.randrange(len(lines[at]) + 1)]


def change_a_byte(lines: Lines, draw: random.Random) -> None:
    at = draw.randrange(len(lines))
    if lines[at]:
        changed = bytearray(lines[at])
        changed[draw.randrange(len(changed))] = draw.choice(b'\x00\xff"{}[],:\\\nx0')
        lines[at] = bytes(changed)


def replace_a_value(lines: Lines, draw: random.Random) -> None:
    """A member's value becomes one of another type: ids, results, names, times."""
    at = draw.randrange(len(lines))
    old = draw.choice(
        (b'"id":1', b'"result":{', b'"arguments":{', b'"name":"', b'"timestamp":"', b'"server_id":"', b'"payload":{')
    )
    name = old[: old.index(b":") + 1]
    value = draw.choice((b"null", b"1e999", b'"\\ud800"', b"[]", b"-0.5", b"9" * 400, b"{}", b'""'))
    lines[at] = lines[at].replace(old, name + value + b',"x":' + old[len(name) :], 1)


def append_a_run(lines: Lines, draw: random.Random) -> None:
    lines += lines[: draw.randrange(len(lines))]


MUTATIONS: tuple[Mutation, ...] = (swap, drop, repeat, cut, change_a_byte, replace_a_value, append_a_run)


def check(path: Path, data: bytes) -> list[Call]:
    """Read it; the tally must add up, and every call survive being written and read."""
    path.write_bytes(data)
    reader = recordings.read(path)
    calls = list(reader)
    tally = reader.tally
    lines = data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    assert (
        tally.lines
        == lines
        == tally.in_calls + sum(tally.reasons.values())
        == sum(tally.formats.values()) + sum(tally.reasons[each] for each in ("blank", "not-json", "unknown-format"))
    )
    assert tally.calls == len(calls) == len({call.call for call in calls})
    order: dict[str, int] = {}
    for call in calls:
        assert Call.from_json(call.to_json()) == call
        number = int(call.call.rsplit("#", 1)[1])
        assert number > order.get(call.session, 0)  # the calls of a session come in the order of their requests
        order[call.session] = number
    return calls


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_a_mutated_log_gives_calls_or_counted_reasons(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int
) -> None:
    draw = random.Random(seed)
    lines = list(lines_of_a_log())
    for _ in range(count):
        draw.choice(MUTATIONS)(lines, draw)
    check(tmp_path_factory.getbasetemp() / "mutated", b"".join(lines))


@pytest.mark.slow
def test_thousands_of_mutated_logs_give_calls_or_counted_reasons(tmp_path: Path) -> None:
    draw = random.Random(4711)
    for _ in range(examples(3_000)):
        lines = list(lines_of_a_log())
        for _ in range(draw.randrange(1, 40)):
            draw.choice(MUTATIONS)(lines, draw)
        check(tmp_path / "mutated", b"".join(lines))


def test_a_lost_answer_leaves_no_wrong_pair_that_is_not_marked(tmp_path: Path) -> None:
    lines = list(lines_of_a_log())
    whole = {call.call: call for call in check(tmp_path / "log", b"".join(lines))}
    lost = next(at for at, line in enumerate(lines) if at > 20 and b"rpc_response" in line)
    lines[lost] = b"{\n"
    calls = check(tmp_path / "log", b"".join(lines))
    assert len(calls) == len(whole)
    wrong = [call for call in calls if call.until != whole[call.call].until]
    assert wrong
    assert {call.pairing for call in wrong} <= {Pairing.AMBIGUOUS, Pairing.UNMATCHED}


def test_an_event_of_a_tool_that_another_method_asked_for_is_counted(tmp_path: Path) -> None:
    lines = list(lines_of_a_log())
    asked = [line for line in lines if b'"rpc_request"' in line and b'"get_issue"' in line]
    event = b'{"event":"difc_filtered","_schema":"difc-filtered/v2","server_id":"github","tool_name":"get_issue"}\n'
    other = asked[0].replace(b'"tools/call",', b'"tools/cull",', 1)
    answer = next(line for line in lines if b'"rpc_response"' in line and b'"content"' in line)
    check(tmp_path / "log", b"".join([asked[-1].replace(b"get_issue", b"a"), other, answer, event]))
