"""A guard's memory as it was at one moment, kept so that it can be put back after each job for little more than the job wrote.

No system call that a worker may make tells which pages a job wrote, and to write all of a memory anew would take longer than
most jobs. But most pages held nothing but zeros at that moment, and the kernel takes pages back for the price of one call for
all that lie together (MADV_DONTNEED): the next one to touch such a page gets a new one, full of zeros. So there are two kinds:

- pages that held something, and pages of zeros that jobs often write, as a guard's stack. They are written each time
- all other pages of zeros. They are not there until they are touched, which is a page fault, and they go back to the kernel,
  but only if this process had a page fault since the last time: if it had none, none of these pages was touched

A page fault takes 0.7 us and more, a call of madvise 1.7 us, to write a page 0.15 us. Which pages jobs often write is learnt by
a look at all of memory, after each of the first jobs and seldom after that. What was learnt decides what it costs and nothing
else, because every page is of one kind or the other.

Source: madvise(2), getrusage(2); mm/memory.c of Linux, which counts the fault of every page that was not there; and both
engines, which make a linear memory of private anonymous pages.
"""

from __future__ import annotations

import mmap
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from guardpool_worker import linux

# Looks at memory: after the first job, after as many jobs again, and so on, and then after every so many, because one takes
# 0.4 ms for each MiB. Pages that one of eight of the last looks found written are written each time.
_JOBS_A_LOOK: Final = 1024
_LAST_LOOKS: Final = 32
_SHARE: Final = 8
# Larger memories are not looked at again: it would take longer than all the page faults that it might spare.
_LOOKED_AT_BYTES: Final = 128 * 1024 * 1024
# Pages of zeros between others are written with them up to so many, which costs as much as a call of madvise.
_BRIDGED: Final = 8
# And rewritten pages between others go back with them up to so many, so that there is one call and not two.
_GIVEN_BACK_TOO: Final = 2
_PAGE: Final = mmap.PAGESIZE
_ZEROS: Final = bytes(_PAGE)
_LOOK_BYTES: Final = 64 * _PAGE
_MANY_ZEROS: Final = bytes(_LOOK_BYTES)
_UNKNOWN: Final = -1


class KeptMemory:
    """What a linear memory held when this was made.

    Args:
        view: the memory, whole. It does not move.

    Attributes:
        size: of the memory, in bytes.
    """

    def __init__(self, view: memoryview) -> None:
        self.size = len(view)
        # What pages held: parts of the memory itself, until `_plan` has copied them.
        self._pages = {page: view[page * _PAGE : (page + 1) * _PAGE] for page in _written(view)}
        self._often: Collection[int] = ()
        self._looks: deque[frozenset[int]] = deque(maxlen=_LAST_LOOKS)
        self._jobs, self._next_look = 0, 1 if self.size <= _LOOKED_AT_BYTES else 0
        self._plan()
        self.use(view)

    def use(self, view: memoryview) -> None:
        """Have another memory of the same size hold it as well; from now on that one is put back."""
        self._view = view
        self._address = linux.address_of(view)
        linux.use_small_pages(self._address, self.size)
        self._faults, self._faults_tell = _UNKNOWN, False
        self._put_back()
        self._faults_tell = self._do_faults_tell()

    def let_go(self) -> None:
        """Hold the memory no longer; `use` comes next."""
        self._view = memoryview(b"")

    def put_back(self) -> None:
        """Have the memory hold what was kept, after a job."""
        self._jobs += 1
        if self._jobs == self._next_look:
            self._next_look += min(self._jobs, _JOBS_A_LOOK)
            if linux.page_faults() != self._faults:
                self._look()
        self._put_back()

    def _put_back(self) -> None:
        if linux.page_faults() == self._faults:
            self._write()
            return
        for at, length in self._untouched:
            linux.zero_pages(self._address + at, length)
        self._write()
        self._faults = linux.page_faults() if self._faults_tell else _UNKNOWN

    def _write(self) -> None:
        view = self._view
        for at, end, data in self._rewritten:
            view[at:end] = data

    def _do_faults_tell(self) -> bool:
        """Whether this kernel counts the page faults of pages that were given back."""
        for at, _ in self._untouched:
            faults = linux.page_faults()
            self._view[at] = 0
            linux.zero_pages(self._address + at, _PAGE)
            return linux.page_faults() > faults
        return True

    def _look(self) -> None:
        self._looks.append(frozenset(_written(self._view)) - self._pages.keys())
        times = Counter(page for look in self._looks for page in look)
        often = {page for page, count in times.items() if count * _SHARE >= len(self._looks)}
        if often != self._often:
            self._often = often
            self._plan()

    def _plan(self) -> None:
        """Say of every page which kind it is."""
        self._rewritten: list[tuple[int, int, bytes]] = []
        self._untouched: list[tuple[int, int]] = []
        self._faults, end = _UNKNOWN, 0
        for first, after in _runs(sorted({*self._pages, *self._often})):
            self._give_back(end, first)
            data = b"".join([self._pages.get(page, _ZEROS) for page in range(first, after)])
            self._rewritten.append((first * _PAGE, after * _PAGE, data))
            for page in self._pages.keys() & range(first, after):  # held once: here
                self._pages[page] = memoryview(data)[(page - first) * _PAGE : (page - first + 1) * _PAGE]
            end = after
        self._give_back(end, self.size // _PAGE)

    def _give_back(self, first: int, after: int) -> None:
        """Add pages to those that go back to the kernel, in one call with those before if few are between."""
        if first == after:
            return
        start = first * _PAGE
        if self._untouched and first * _PAGE - sum(self._untouched[-1]) <= _GIVEN_BACK_TOO * _PAGE:
            start = self._untouched.pop()[0]
        self._untouched.append((start, after * _PAGE - start))


def _written(view: memoryview) -> Iterator[int]:
    """The pages that hold something other than zeros."""
    address = linux.address_of(view)
    for at in range(0, len(view), _LOOK_BYTES):
        length = min(_LOOK_BYTES, len(view) - at)
        if linux.differs(address + at, _MANY_ZEROS, length):
            for page in range(at // _PAGE, (at + length) // _PAGE):
                if linux.differs(address + page * _PAGE, _ZEROS, _PAGE):
                    yield page


def _runs(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First page and the one after the last, of those that lie together or nearly."""
    first = after = -1
    for page in pages:
        if first >= 0 and page - after > _BRIDGED:
            yield first, after
            first = -1
        if first < 0:
            first = page
        after = page + 1
    if first >= 0:
        yield first, after
