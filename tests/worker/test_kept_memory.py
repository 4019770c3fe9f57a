"""`KeptMemory`: a memory holds what it held, whatever was written to it, and what was learnt changes nothing but the cost."""

from __future__ import annotations

import mmap
import random

import pytest

from guardpool_worker import kept_memory, linux
from guardpool_worker.kept_memory import KeptMemory

PAGE = mmap.PAGESIZE
PAGES = 320


def memory() -> memoryview:
    return memoryview(mmap.mmap(-1, PAGES * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def write(view: memoryview, draw: random.Random, pages: range, count: int) -> None:
    for _ in range(count):
        at = draw.choice(pages) * PAGE + draw.randrange(PAGE)
        view[at] = draw.randrange(256)


def used(draw: random.Random) -> memoryview:
    """A memory that holds something in some places, and was written with zeros in others."""
    view = memory()
    write(view, draw, range(20, 60), 50)
    write(view, draw, range(PAGES), 30)
    view[200 * PAGE : 210 * PAGE] = bytes(10 * PAGE)
    return view


@pytest.mark.parametrize("seed", range(2))
def test_whatever_was_written_is_gone(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_memory, "_JOBS_A_LOOK", 5)
    draw = random.Random(seed)
    view = used(draw)
    before = bytes(view)
    kept = KeptMemory(view)
    for job in range(60):
        write(view, draw, range(55, 65), draw.randrange(30))  # often the same places, so that something is learnt
        if job % 3:
            write(view, draw, range(PAGES), draw.randrange(40))
        if job == 40:
            view[:] = b"x" * len(view)
        kept.put_back()
        assert bytes(view) == before
        kept.put_back()
        assert bytes(view) == before


def test_a_large_memory_is_put_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_memory, "_LOOKED_AT_BYTES", PAGES * PAGE - 1)
    draw = random.Random(0)
    view = used(draw)
    before = bytes(view)
    kept = KeptMemory(view)
    for _ in range(10):
        write(view, draw, range(PAGES), 40)
        kept.put_back()
        assert bytes(view) == before


def test_another_memory_holds_the_same_and_is_put_back_from_then_on() -> None:
    draw = random.Random(0)
    first, second = used(draw), used(draw)
    before = bytes(first)
    kept = KeptMemory(first)
    kept.let_go()
    kept.use(second)
    assert bytes(second) == before
    write(first, draw, range(PAGES), 40)
    write(second, draw, range(PAGES), 40)
    kept.put_back()
    assert bytes(second) == before
    assert bytes(first) != before


def test_pages_are_given_back_also_where_faults_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "page_faults", lambda: 0)
    view = memory()
    kept = KeptMemory(view)
    for page in range(PAGES):
        view[page * PAGE] = 1
        kept.put_back()
        assert view[page * PAGE] == 0


def test_pages_that_jobs_often_write_stay_there() -> None:
    view = memory()
    kept = KeptMemory(view)

    def job() -> int:
        view[5 * PAGE : 9 * PAGE] = b"x" * (4 * PAGE)
        before = linux.page_faults()
        kept.put_back()
        view[5 * PAGE : 9 * PAGE] = b"y" * (4 * PAGE)
        return linux.page_faults() - before

    assert job() >= 4
    for _ in range(4):
        job()
    assert min(job() for _ in range(5)) == 0


def test_pages_are_given_back_to_the_kernel() -> None:
    view = memory()
    kept = KeptMemory(view)
    kept.put_back()
    kept.put_back()
    view[:] = b"x" * len(view)
    kept.put_back()
    before = linux.page_faults()
    assert view[100 * PAGE] == 0
    assert linux.page_faults() > before
