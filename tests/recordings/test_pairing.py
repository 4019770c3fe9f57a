"""Answers without ids, given to the requests that wait for them: against the truth of generated interleavings."""

from __future__ import annotations

import random
from typing import NamedTuple

from guardpool.recordings.formats.pairing import MAX_OPEN, Open, OpenRequests
from strategies import examples

NO_EVIDENCE = b"{}"


class Pair(NamedTuple):
    """What became of one answer."""

    is_right: bool
    is_marked: bool


def interleave(draw: random.Random, calls: int) -> list[Pair]:
    """Calls to one server, up to four at a time, whose answers come in any order and say nothing of their request."""
    requests = OpenRequests()
    running: list[int] = []
    pairs: list[Pair] = []
    asked = 0
    while asked < calls or running:
        if asked < calls and len(running) < 4 and (not running or draw.random() < 0.4):
            requests.add(Open("s", "tools/call", None, [asked]))
            running.append(asked)
            asked += 1
            continue
        answered = running.pop(draw.randrange(len(running)))
        found, is_marked = requests.answer("s", NO_EVIDENCE, is_error=False)
        assert found is not None
        pairs.append(Pair(found.what == [answered], is_marked))
    return pairs


def test_no_wrong_pair_is_unmarked_in_thousands_of_interleavings() -> None:
    draw = random.Random(4711)
    pairs = [pair for _ in range(examples(10_000)) for pair in interleave(draw, 6)]
    assert not [pair for pair in pairs if not pair.is_right and not pair.is_marked]
    # And neither everything is marked, nor is there nothing wrong to be marked.
    assert sum(pair.is_marked for pair in pairs) < 0.95 * len(pairs)
    assert any(not pair.is_right for pair in pairs)


def test_calls_one_after_the_other_are_never_marked() -> None:
    requests = OpenRequests()
    for at in range(100):
        requests.add(Open("s", "tools/call", None, [at]))
        found, is_marked = requests.answer("s", NO_EVIDENCE, is_error=False)
        assert (found is not None and found.what == [at], is_marked) == (True, False)


def test_requests_that_nobody_answers_do_not_grow_without_bound() -> None:
    requests = OpenRequests()
    half = MAX_OPEN // 2
    given_up = [each.what for at in range(MAX_OPEN + 1) for each in requests.add(Open("s", "tools/call", None, [at]))]
    assert given_up == [[at] for at in range(half)]
    found, is_marked = requests.answer("s", NO_EVIDENCE, is_error=False)
    assert (found is not None and found.what == [half], is_marked) == (True, True)
    assert len(requests.close_all()) == half
    assert requests.answer("s", NO_EVIDENCE, is_error=False) == (None, False)
