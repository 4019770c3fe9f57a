"""The buffers' places in memory: ranges at its end never overlap, and memory does not leak."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

import strategies
from guardpool.sizes import PAGE_BYTES
from guardpool_worker.buffers import FIRST_OUTPUT_BYTES, BufferFault, Buffers, TailAllocator

MIB = 1024 * 1024


class FakeMemory:
    """A linear memory that has a size in pages, but no bytes."""

    def __init__(self, pages: int, most: int) -> None:
        self.pages = pages
        self.most = most

    def size(self) -> int:
        return self.pages * PAGE_BYTES

    def grow(self, pages: int) -> int:
        before = self.pages
        if before + pages > self.most:
            return -1
        self.pages += pages
        return before


def tail(pages: int = 10, most: int = 512) -> tuple[FakeMemory, TailAllocator]:
    memory = FakeMemory(pages, most)
    return memory, TailAllocator(memory, memory.grow)  # type: ignore[arg-type]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 9 * MIB)),
        st.tuples(st.just("give"), st.integers(0, 9)),
        st.tuples(st.just("grow"), st.integers(1, 3)),
    ),
    max_size=40,
)


@settings(max_examples=strategies.examples(120), deadline=None)
@given(st.integers(1, 100), st.integers(0, 500), STEPS)
def test_ranges_are_inside_memory_and_apart(pages: int, more: int, steps: list[tuple[str, int]]) -> None:
    memory, allocator = tail(pages, pages + more)
    taken: list[tuple[int, int]] = []
    guests = [(0, pages * PAGE_BYTES)]
    for step, number in steps:
        if step == "take":
            ptr = allocator.take(number)
            if ptr is not None:
                taken.append((ptr, number))
        elif step == "give" and number < len(taken):
            allocator.give(*taken.pop(number))
        elif step == "grow":
            before = memory.grow(number)
            if before != -1:
                guests.append((before * PAGE_BYTES, number * PAGE_BYTES))
        ranges = sorted(taken + guests)
        assert all(at + size <= following for (at, size), (following, _) in pairwise(ranges))
        assert all(at + size <= memory.size() for at, size in taken)


def test_neighbours_that_come_back_are_one_range() -> None:
    memory, allocator = tail()
    ranges = [(allocator.take(MIB) or 0, MIB) for _ in range(4)]
    size = memory.size()
    for index in (2, 0, 1, 3):
        allocator.give(*ranges[index])
    assert allocator.take(4 * MIB) == ranges[0][0]
    assert memory.size() == size


def test_last_range_grows_by_the_difference() -> None:
    memory, allocator = tail()
    ptr = allocator.take(MIB)
    assert ptr == 10 * PAGE_BYTES
    allocator.give(ptr, MIB)
    assert allocator.take(2 * MIB) == ptr
    assert memory.size() == ptr + 2 * MIB
    assert allocator.take(MIB) == ptr + 2 * MIB, "the old range is part of the new one"


def test_first_output_buffer_is_followed_by_a_spare_page() -> None:
    memory, allocator = tail()
    buffers = Buffers(allocator)
    buffers.prepare(100)
    assert buffers.out_size == FIRST_OUTPUT_BYTES
    assert buffers.out_ptr + buffers.out_size + PAGE_BYTES == memory.size()


@pytest.mark.parametrize(("most", "size"), [(76, 4 * MIB), (75, 2 * MIB), (12, PAGE_BYTES)])
def test_output_buffer_is_as_large_as_there_is_room_for(most: int, size: int) -> None:
    _, allocator = tail(10, most)
    buffers = Buffers(allocator)
    buffers.prepare(100)
    assert buffers.out_size == size


def test_a_failure_leaves_nothing_half_ready() -> None:
    _, allocator = tail(10, 100)
    buffers = Buffers(allocator)
    buffers.prepare(100)
    with pytest.raises(BufferFault):
        buffers.prepare(100 * PAGE_BYTES)
    assert not buffers.over < 100 <= buffers.upto
    buffers.prepare(100)
    assert buffers.over < 100 <= buffers.upto
    assert buffers.in_size
    assert buffers.out_size


def test_memory_that_grows_is_not_taken_from_the_guard() -> None:
    assert not tail(100, 512)[1].use_existing()
    assert not tail(60, 60)[1].use_existing()
    _, allocator = tail(80, 80)
    assert allocator.use_existing()
    assert allocator.take(PAGE_BYTES) == 79 * PAGE_BYTES
    assert allocator.take(79 * PAGE_BYTES) is None, "the first 64 KiB are the guard's"
    assert allocator.take(78 * PAGE_BYTES) == PAGE_BYTES
