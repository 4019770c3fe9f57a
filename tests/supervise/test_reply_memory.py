"""The memory that holds known replies: what is written is found, whole or not at all, and only its writer can write."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st

from guardpool.protocol.reply_memory import (
    BUCKET_BYTES,
    FAILURE,
    HEAD_BYTES,
    KEY_BYTES,
    NEVER,
    RESULT,
    Area,
    Found,
    hasher_of,
    key_of,
    key_of_question,
    key_with,
    map_read_only,
    read,
)
from guardpool.supervise.reply_memory import Layout, ReplyMemory


def private(layout: Layout) -> tuple[ReplyMemory, mmap.mmap]:
    memory = mmap.mmap(-1, max(1, layout.size))
    return ReplyMemory(memory), memory


def question(number: int) -> bytes:
    return b'"get"{"n":%d}' % number


@pytest.fixture
def shared() -> Iterator[tuple[int, ReplyMemory, Area]]:
    layout = Layout()
    area = layout.kept(256 * 1024)
    assert area is not None
    fd, memory = ReplyMemory.shared(layout)
    yield fd, memory, area
    memory.close()
    os.close(fd)


def test_a_table_holds_every_reply_whatever_its_length() -> None:
    dice = random.Random(7)
    replies = [
        (question(n), dice.choice((RESULT, FAILURE)), dice.randbytes(dice.choice((0, 1, 8, 300)))) for n in range(3000)
    ]
    layout = Layout()
    first, second = layout.table(replies[:2000]), layout.table(replies[2000:])
    memory, _ = private(layout)
    assert memory.fill(first, replies[:2000])
    assert memory.fill(second, replies[2000:])
    for number, (asked, kind, reply) in enumerate(replies):
        area, other = (first, second) if number < 2000 else (second, first)
        assert memory.find(area, key_of(asked), 0) == (kind, reply)
        assert memory.find(other, key_of(asked), 0) is None


answers = st.dictionaries(
    st.integers(0, 99).map(question), st.tuples(st.sampled_from([RESULT, FAILURE]), st.binary(max_size=400)), min_size=1
)


@given(answers)
def test_a_table_is_found_as_what_is_kept_is_and_nothing_that_is_kept_later_changes_it(
    answers: dict[bytes, tuple[int, bytes]],
) -> None:
    replies = [(asked, kind, reply) for asked, (kind, reply) in answers.items()]
    layout = Layout()
    before, table, after = layout.kept(2048), layout.table(replies), layout.kept(64 * 1024)
    assert before is not None
    assert after is not None
    memory, bytes_of = private(layout)
    assert memory.fill(table, replies)
    its = slice(table.index_at, table.heap_at + table.heap_bytes)
    filled = bytes_of[its]
    for area in (before, after):
        for number in range(200):  # more than once around the smaller one
            memory.put(area, key_of(question(number)), FAILURE, b"live" * number, NEVER)
    assert bytes_of[its] == filled
    for asked, kind, reply in replies:
        assert memory.put(after, key_of(asked), kind, reply, NEVER)
        assert memory.find(table, key_of(asked), 0) == memory.find(after, key_of(asked), 0) == (kind, reply)
    assert memory.find(table, key_of(b"not asked"), 0) is None


def test_a_table_takes_nothing_once_it_may_have_readers() -> None:
    layout = Layout()
    area = layout.table([(b"x", RESULT, b"1")] * 2)
    memory, _ = private(layout)
    assert memory.fill(area, [(b"x", RESULT, b"1")])
    with pytest.raises(AssertionError):
        memory.put(area, key_of(b"y"), RESULT, b"2", NEVER)
    assert memory.find(area, key_of(b"y"), 0) is None


def test_questions_made_to_meet_in_one_place_are_told_and_cost_no_other_reply() -> None:
    # As many as a table of that size has room for, all with the same first bytes of their keys.
    layout = Layout()
    area = layout.table([(b"", RESULT, b"")] * 8000)
    memory, _ = private(layout)
    keys = [bytes(8) + number.to_bytes(8, "little") for number in range(1, 1001)]
    placed = [key for key in keys if memory._put(area, key, RESULT, key, NEVER)]
    assert 500 < len(placed) < 1000
    assert all(memory.find(area, key, 0) == (RESULT, key) for key in placed)


def test_the_oldest_make_room_and_what_is_found_is_right(shared: tuple[int, ReplyMemory, Area]) -> None:
    _, memory, area = shared
    for number in range(5_000):
        assert memory.put(area, key_of(question(number)), RESULT, b"%d" % number * 20, NEVER)
    found = [number for number in range(5_000) if memory.find(area, key_of(question(number)), 0)]
    for number in found:
        assert memory.find(area, key_of(question(number)), 0) == (RESULT, b"%d" % number * 20)
    # The newest are there, and the oldest are not.
    assert set(range(4_000, 5_000)) <= set(found)
    assert min(found) > 1_000


def test_what_is_not_known_is_soon_seen_however_full_the_memory_is() -> None:
    class Looks(mmap.mmap):
        count = 0

        def __getitem__(self, where: Any) -> Any:
            self.count += 1
            return super().__getitem__(where)

    layout = Layout()
    area = layout.kept(64 * 1024)
    assert area is not None
    memory = Looks(-1, layout.size)
    writer = ReplyMemory(memory)
    for number in range(3_000):
        assert writer.put(area, key_of(question(number)), RESULT, b"1", NEVER)
    memory.count = 0
    assert writer.find(area, key_of(question(-1)), 0) is None
    assert 1 < memory.count <= 12


def test_a_new_reply_takes_the_place_of_the_old_one(shared: tuple[int, ReplyMemory, Area]) -> None:
    _, memory, area = shared
    key = key_of(question(1))
    for reply in (b"first", b"second", b""):
        memory.put(area, key, RESULT, reply, NEVER)
        assert memory.find(area, key, 0) == (RESULT, reply)


def test_a_reply_that_expired_is_not_there(shared: tuple[int, ReplyMemory, Area]) -> None:
    _, memory, area = shared
    key = key_of(question(1))
    memory.put(area, key, FAILURE, b"down", 1000)
    assert memory.find(area, key, 999) == (FAILURE, b"down")
    assert memory.find(area, key, 1000) is None


def test_what_is_too_large_is_not_kept(shared: tuple[int, ReplyMemory, Area]) -> None:
    _, memory, area = shared
    assert not memory.put(area, key_of(b"x"), RESULT, bytes(area.heap_bytes - HEAD_BYTES + 1), NEVER)
    assert memory.put(area, key_of(b"x"), RESULT, bytes(area.heap_bytes - HEAD_BYTES), NEVER)
    assert memory.find(area, key_of(b"x"), 0) == (RESULT, bytes(area.heap_bytes - HEAD_BYTES))


def test_a_torn_entry_is_not_there() -> None:
    layout = Layout()
    area = layout.kept(64 * 1024)
    assert area is not None
    writer, memory = private(layout)
    key = key_of(question(1))
    writer.put(area, key, RESULT, bytes(range(256)), NEVER)
    for at in range(area.heap_at, area.heap_at + HEAD_BYTES - 3 + 256):  # 3 bytes of a head stand for nothing
        if HEAD_BYTES - 3 <= at - area.heap_at < HEAD_BYTES:
            continue
        before = memory[at]
        memory[at] = before ^ 0x10
        assert read(memory, area, key, 0) is None, at - area.heap_at
        memory[at] = before
    assert read(memory, area, key, 0) == Found(RESULT, bytes(range(256)), NEVER)


@given(
    st.binary(min_size=BUCKET_BYTES, max_size=BUCKET_BYTES),
    st.binary(min_size=200, max_size=600),
    st.integers(0, 7),
    st.booleans(),
)
def test_whatever_stands_there_a_reader_ends_and_finds_nothing(
    index: bytes, heap: bytes, slot: int, is_fixed: bool
) -> None:
    area = Area(0, 1, BUCKET_BYTES, len(heap) & ~7, 1, is_fixed)
    memory = mmap.mmap(-1, 4096)
    key = key_of(b"x")
    memory[:BUCKET_BYTES] = index
    memory[8 * slot : 8 * slot + 8] = key[8:]
    memory[BUCKET_BYTES : BUCKET_BYTES + len(heap)] = heap
    assert read(memory, area, key, 0) is None
    memory.close()


def test_others_can_read_it_and_never_write(shared: tuple[int, ReplyMemory, Area]) -> None:
    fd, memory, area = shared
    memory.put(area, key_of(b"x"), RESULT, b"known", NEVER)
    mapped = map_read_only(fd)
    assert read(mapped, area, key_of(b"x"), 0) == Found(RESULT, b"known", NEVER)
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 4096)
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    for change in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, change)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(_address_of(fd)), 4096, mmap.PROT_READ | mmap.PROT_WRITE) == -1
    assert ctypes.get_errno() == errno.EACCES
    mapped.close()


def _address_of(fd: int) -> int:
    """Where this process has mapped the memory for reading."""
    inode = os.fstat(fd).st_ino
    with open("/proc/self/maps", encoding="ascii") as maps:
        lines = [line.split() for line in maps]
    (line,) = [line for line in lines if line[4] == str(inode) and line[1] == "r--s"]
    return int(line[0].split("-")[0], 16)


def test_a_worker_that_reads_all_of_it_has_no_more_than_what_is_said_to_be_written() -> None:
    layout = Layout()
    area = layout.kept(8 << 20)
    assert area is not None
    fd, memory = ReplyMemory.shared(layout)
    for number in range(2000):
        memory.put(area, key_of(question(number)), RESULT, bytes(900), NEVER)
    assert os.fstat(fd).st_blocks * 512 <= memory.written_bytes <= layout.size + 2 * mmap.PAGESIZE
    memory.close()
    assert memory.find(area, key_of(question(1)), 0) is None
    assert not memory.put(area, key_of(question(1)), RESULT, b"", NEVER)
    os.close(fd)


def test_a_key_made_in_two_steps_is_the_key() -> None:
    assert key_with(hasher_of('a "tool"'), b"[1]") == key_of_question('a "tool"', b"[1]") == key_of(rb'"a \"tool\""[1]')
    assert len(key_of(b"")) == KEY_BYTES
