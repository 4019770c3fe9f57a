"""The last lines of a job on its worker's page: what was written is read, and noise does no harm."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from guardpool.outcomes import LogLine
from guardpool.protocol.log_tail import MAX_TEXT_BYTES, LogTail, read
from guardpool.protocol.progress_page import LOG_END, LOG_LINES, LOG_RING, LOG_SEQ, PAGE_BYTES, PAGE_WORDS, SEQ

ROOM = 64 * 1024


def new_page(seq: int = 7) -> memoryview:
    page = memoryview(bytearray(PAGE_BYTES)).cast("Q")
    page[SEQ] = seq
    return page


def written(*lines: LogLine) -> memoryview:
    page = new_page()
    tail = LogTail(page)
    tail.begin()
    for line in lines:
        tail.add(line.level, line.text.encode())
    return page


def test_lines_are_read_in_their_order_and_only_for_their_job() -> None:
    lines = [LogLine(0, ""), LogLine(1, "12345678"), LogLine(2, "é\x1b[2J"), LogLine(3, "x" * MAX_TEXT_BYTES)]
    page = written(*lines)
    assert read(page, 7, ROOM) == lines
    assert read(page, 8, ROOM) == []
    page[SEQ] = 8
    LogTail(page).begin()  # the next job
    assert read(page, 7, ROOM) == read(page, 8, ROOM) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1200), st.integers(1, 5)), max_size=60))
def test_of_many_lines_the_last_ones_are_read_and_the_others_are_counted(lines: list[tuple[int, int, int]]) -> None:
    page = new_page()
    tail = LogTail(page)
    tail.begin()
    expected, total = [], 0
    for at, (level, length, times) in enumerate(lines):
        text = f"{at}: {'x' * length}"
        tail.add(level, text.encode())
        for more in range(2, times + 1):
            tail.repeat(1, more)
        least = "at least " if at == len(lines) - 1 and times > 3 else ""
        expected.append(LogLine(level, text[:MAX_TEXT_BYTES] + (f" ({least}{times} times)" if times > 1 else "")))
        total += times
    found = read(page, 7, ROOM)
    if found and "lost" in found[0].text:
        lost = found.pop(0)
        assert sum(len(line.text) for line in found) > PAGE_BYTES // 2
        kept = sum(times for _, _, times in lines[len(lines) - len(found) :])
        assert lost.text == f"at least {total - kept:,} other lines are lost: its worker was ended"
    else:
        assert len(found) == len(expected)
    assert found == expected[len(expected) - len(found) :]


def test_lines_that_were_not_written_are_counted() -> None:
    page = new_page()
    tail = LogTail(page)
    tail.begin()
    tail.add(1, b"one")
    tail.skip(1_000_000)
    tail.add(2, b"two")
    lost = LogLine(2, "at least 1,000,000 other lines are lost: its worker was ended")
    assert read(page, 7, ROOM) == [lost, LogLine(1, "one"), LogLine(2, "two")]


@pytest.mark.parametrize("room", [0, 3, 4, 7, 8, 100])
def test_lines_are_read_up_to_the_log_limit_the_last_first(room: int) -> None:
    found = read(written(LogLine(1, "one"), LogLine(0, "two")), 7, room)
    kept = [LogLine(1, "one"), LogLine(0, "two")][2 - min(2, room // 4) :]
    assert [line for line in found if "lost" not in line.text] == kept
    assert ("lost" in found[0].text) == (len(kept) < 2)


def test_a_line_that_was_being_written_when_the_worker_was_killed_is_not_read() -> None:
    """Whatever a write that was cut has left in the words behind the newest record, older ones that it hit are not shown."""
    page = new_page()
    tail = LogTail(page)
    tail.begin()
    for number in range(500):
        tail.add(1, f"line {number} ".encode() * 9)
    end, lines = page[LOG_END], page[LOG_LINES]
    tail.add(3, b"\xff" * MAX_TEXT_BYTES)
    page[LOG_END], page[LOG_LINES] = end, lines
    found = read(page, 7, ROOM)[1:]
    assert [line.text for line in found] == [f"line {n} " * 9 for n in range(500 - len(found), 500)]
    assert len(found) > 20


@pytest.mark.parametrize("seed", range(200))
def test_noise_is_read_as_few_short_lines_or_none(seed: int) -> None:
    rng = random.Random(seed)
    page = written(*[LogLine(1, f"honest {n}") for n in range(rng.randrange(200))])
    for _ in range(rng.choice([1, 3, 2000])):
        at = rng.choice([LOG_END, LOG_LINES, rng.randrange(LOG_RING, PAGE_WORDS), rng.randrange(LOG_RING, PAGE_WORDS)])
        page[at] = rng.choice(
            [0, 2**64 - 1, rng.getrandbits(64), rng.getrandbits(13), page[LOG_END] ^ 1, 1 << 24 | 0xFF]
        )
    page[LOG_SEQ] = 7
    found = read(page, 7, ROOM)
    assert sum(len(line.text) for line in found) <= 3 * PAGE_BYTES
    assert len(found) <= PAGE_WORDS
    assert all(0 <= line.level <= 3 for line in found)
