"""A guard's memory as the host sees it, and the two buffers in it: one for the input, one for the answer.

The guest gets the same buffers for every call, instead of two allocations a job. The input buffer holds 64 KiB or the
next power of two; the output buffer begins with 4 MiB, or as much of it as the guard has room for, and grows when an
answer does not fit. A buffer that grew past the ordinary size goes back as soon as a call does not need it: memory that
one job asked for must not be missing for the next, or a job's outcome would depend on those before it.

Where they come from: the guard's `alloc` and `dealloc`, or, if it lacks one of them, the end of its memory.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from guardpool.errors import GuardPoolError
from guardpool.sizes import FIRST_INPUT_BYTES, FIRST_OUTPUT_BYTES, PAGE_BYTES
from guardpool_worker.engine.seam import EngineFunction, EngineInstance

ORDINARY_INPUT_BYTES = 1024 * 1024  # an input buffer past this is not kept for inputs that need less
LEAST_OUTPUT_BYTES = 4 * 1024  # for guards with next to no memory; a label has some hundred bytes
MAX_OUTPUT_BYTES = 16 * 1024 * 1024  # the contract's ceiling


class BufferFault(GuardPoolError):
    """The guard has no buffer to offer, or not one that can be used.

    Attributes:
        code: `"no_room"` or `"bad_pointer"`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class GuestMemory:
    """A guard's linear memory.

    The view is kept: memories never move, so it stays valid for the addresses it covers, and is only taken again when
    more is asked for than it has.
    """

    __slots__ = ("_instance", "bytes")

    def __init__(self, instance: EngineInstance) -> None:
        self._instance = instance
        self.bytes = instance.memory_view()

    def let_go(self) -> None:
        """Hold the memory no longer, for good. The host functions hold this, and an engine holds them with the instance, which
        would stay until the collector comes: with its memory, of which a worker may have little more than one guard needs."""
        del self._instance
        self.bytes = memoryview(b"")

    def view(self, end: int) -> memoryview:
        """Bytes from address 0 that reach to `end` at least, unless memory itself ends before."""
        if end > len(self.bytes):
            self.bytes = self._instance.memory_view()
        return self.bytes

    def has_size(self, size: int) -> bool:
        """Whether it has so many bytes, now."""
        return self._instance.memory_size() == size

    def size(self) -> int:
        """The size in bytes, now."""
        self.bytes = self._instance.memory_view()
        return len(self.bytes)


class TailState(NamedTuple):
    """What a `TailAllocator` has given: as in there."""

    free: tuple[tuple[int, int], ...]
    bottom: int | None
    spare_pages: int


class Allocator(Protocol):
    """Hands out ranges of guest memory. Each method may raise `EngineTrap`."""

    def take(self, size: int) -> int | None:
        """The address of `size` bytes, or None if there is no room. Raises BufferFault for an impossible address."""

    def give(self, ptr: int, size: int) -> None:
        """Take a range back."""

    def state(self) -> TailState | None:
        """What it has given, as far as it does not stand in the guard's memory; never changed afterwards."""

    def go_back(self, state: TailState | None) -> None:
        """Have given what it had when `state` told so."""


class GuestAllocator:
    """The guard's own `alloc` and `dealloc`."""

    def __init__(self, memory: GuestMemory, alloc: EngineFunction, dealloc: EngineFunction) -> None:
        self._memory = memory
        self._alloc = alloc
        self._dealloc = dealloc

    def take(self, size: int) -> int | None:
        ptr: int = self._alloc(size) & 0xFFFFFFFF
        if ptr == 0:
            return None
        if ptr + size > len(self._memory.view(ptr + size)):
            raise BufferFault(
                "bad_pointer", f"alloc({size}) returned {ptr}, but its memory has only {self._memory.size()} bytes"
            )
        return ptr

    def give(self, ptr: int, size: int) -> None:
        self._dealloc(signed(ptr), size)

    def state(self) -> None:
        """Nothing: the guard keeps it in its memory."""

    def go_back(self, state: TailState | None) -> None:
        """Nothing to do."""


class TailAllocator:
    """Ranges at the end of linear memory, which is grown for them.

    64 KiB behind the first output buffer stay unused. The guard may grow its memory as well, so these ranges can lie
    between parts that are the guard's.
    """

    def __init__(self, memory: GuestMemory, grow: EngineFunction) -> None:
        self._memory = memory
        self._grow = grow
        self._free: list[tuple[int, int]] = []  # address and size, whole pages, sorted, never touching one another
        self._bottom: int | None = None  # lowest address given, where memory cannot grow
        self._spare_pages = 1

    def take(self, size: int) -> int | None:
        need = -(-size // PAGE_BYTES) * PAGE_BYTES
        for i, (ptr, free) in enumerate(self._free):
            if free >= need:
                self._free[i : i + 1] = [(ptr + need, free - need)] if free > need else []
                return ptr
        return self._take_new(need) if self._bottom is None else self._take_last(need)

    def give(self, ptr: int, size: int) -> None:
        ranges = sorted([*self._free, (ptr, -(-size // PAGE_BYTES) * PAGE_BYTES)])
        self._free = ranges[:1]
        for at, length in ranges[1:]:
            last_at, last_length = self._free[-1]
            if last_at + last_length == at:
                self._free[-1] = (last_at, last_length + length)
            else:
                self._free.append((at, length))

    def state(self) -> TailState:
        return TailState(tuple(self._free), self._bottom, self._spare_pages)

    def go_back(self, state: TailState | None) -> None:
        assert state is not None  # it is one of `state`
        free, self._bottom, self._spare_pages = state
        self._free = list(free)

    def use_existing(self) -> bool:
        """For a memory that cannot grow at all but is large: from now on, give its own last bytes.

        The reference gateway does not grow a memory that is large enough for both buffers, so that guards without an
        allocator and with a fixed memory leave its end to the host. The first 64 KiB are never given.

        Returns:
            False where memory did grow, or is too small.
        """
        size = self._memory.size()
        if (
            self._bottom is not None
            or self._grow(1) != -1
            or size < FIRST_INPUT_BYTES + FIRST_OUTPUT_BYTES + PAGE_BYTES
        ):
            return False
        self._bottom = size
        return True

    def _take_new(self, need: int) -> int | None:
        """Grow the memory; if a free range lies at its end already, only by the difference."""
        end = self._memory.size()
        ptr = end
        if self._free and sum(self._free[-1]) == end:
            ptr = self._free[-1][0]
        spare = self._spare_pages if need >= FIRST_OUTPUT_BYTES else 0
        if self._grow((ptr + need - end) // PAGE_BYTES + spare) == -1:
            return None
        if ptr != end:
            self._free.pop()
        self._spare_pages -= spare
        self._memory.size()
        return ptr

    def _take_last(self, need: int) -> int | None:
        assert self._bottom is not None
        if self._bottom - need < PAGE_BYTES:
            return None
        self._bottom -= need
        return self._bottom


class BuffersState(NamedTuple):
    """Where both buffers are, and what the allocator has given; the first six as in `Buffers`."""

    in_ptr: int
    in_size: int
    out_ptr: int
    out_size: int
    over: int
    upto: int
    shrink: bool
    allocator: TailState | None


class Buffers:
    """The input and the output buffer. Addresses are unsigned.

    Attributes:
        in_ptr, in_size, out_ptr, out_size: addresses and sizes; a size of 0 means that the buffer is not there.
        over, upto: both buffers are there and fit an input of `over` < length <= `upto` bytes; `prepare` sets them.
    """

    __slots__ = ("_allocator", "_shrink", "in_ptr", "in_size", "out_ptr", "out_size", "over", "upto")

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._shrink = False
        self.in_ptr = self.in_size = self.out_ptr = self.out_size = 0
        self.over = self.upto = 0

    def prepare(self, length: int) -> None:
        """Make both buffers ready for an input of `length` bytes.

        Raises:
            BufferFault: the guard has no room for them, or its `alloc` returned an impossible address. Another call may
                still succeed.
            EngineTrap: `alloc` or `dealloc` trapped.
        """
        self.over = self.upto = 0
        if length > self.in_size or length <= ORDINARY_INPUT_BYTES < self.in_size:
            self._drop_input()
        if self._shrink:
            self._drop_output()
        if not self.in_size:
            self._take_input(length)
        if not self.out_size:
            self._take_first_output()
        self._ready()

    def grow_output(self, size: int, least: int) -> bool:
        """Offer a larger output buffer: `size` bytes, halved as often as needed, but not below `least`.

        Returns:
            False if the guard has no room for it.

        Raises:
            BufferFault, EngineTrap: as for `prepare`.
        """
        self.over = self.upto = 0
        self._drop_output()
        found = self._take_output(size)
        while not found and size > least:
            size = max(size // 2, least)
            found = self._take_output(size)
        if not found:
            self._take_first_output()
        self._ready()
        return found

    def forget(self) -> None:
        """Have the next call pass through `prepare`, whatever its length."""
        self.over = self.upto = 0

    def answered(self, length: int) -> None:
        """Note the length of an answer: an output buffer that grew goes back when it is not needed."""
        if self.out_size > FIRST_OUTPUT_BYTES and length <= FIRST_OUTPUT_BYTES:
            self._shrink = True
            self.over = self.upto = 0

    def state(self) -> BuffersState:
        """All of it, for `go_back`."""
        return BuffersState(
            in_ptr=self.in_ptr,
            in_size=self.in_size,
            out_ptr=self.out_ptr,
            out_size=self.out_size,
            over=self.over,
            upto=self.upto,
            shrink=self._shrink,
            allocator=self._allocator.state(),
        )

    def go_back(self, state: BuffersState) -> None:
        """Have the buffers where they were when `state` told so, and the guard's memory is as it was then."""
        self.in_ptr, self.in_size, self.out_ptr, self.out_size, self.over, self.upto, self._shrink, given = state
        self._allocator.go_back(given)

    def _ready(self) -> None:
        self.over = ORDINARY_INPUT_BYTES if self.in_size > ORDINARY_INPUT_BYTES else -1
        self.upto = self.in_size

    def _take_input(self, length: int) -> None:
        ordinary = max(FIRST_INPUT_BYTES, 1 << (length - 1).bit_length() if length else 0)
        for size in (ordinary, max(length, 1)):
            ptr = self._allocator.take(size)
            if ptr is not None:
                self._check_apart(ptr, size, self.out_ptr, self.out_size)
                self.in_ptr, self.in_size = ptr, size
                return
        raise BufferFault("no_room", f"the guard has no room for an input buffer of {max(length, 1)} bytes")

    def _take_first_output(self) -> None:
        size = FIRST_OUTPUT_BYTES
        while not self._take_output(size):
            size //= 2
            if size < LEAST_OUTPUT_BYTES:
                raise BufferFault(
                    "no_room", f"the guard has no room for an output buffer of {LEAST_OUTPUT_BYTES} bytes"
                )

    def _take_output(self, size: int) -> bool:
        ptr = self._allocator.take(size)
        if ptr is None:
            return False
        self._check_apart(ptr, size, self.in_ptr, self.in_size)
        self.out_ptr, self.out_size = ptr, size
        return True

    def _drop_input(self) -> None:
        ptr, size = self.in_ptr, self.in_size
        self.in_ptr = self.in_size = 0
        if size:
            self._allocator.give(ptr, size)

    def _drop_output(self) -> None:
        ptr, size = self.out_ptr, self.out_size
        self.out_ptr = self.out_size = 0
        self._shrink = False
        if size:
            self._allocator.give(ptr, size)

    @staticmethod
    def _check_apart(ptr: int, size: int, other_ptr: int, other_size: int) -> None:
        if other_size and ptr < other_ptr + other_size and other_ptr < ptr + size:
            raise BufferFault(
                "bad_pointer",
                f"alloc({size}) returned {ptr}, inside the {other_size} bytes at {other_ptr} that it had given out already",
            )


def signed(address: int) -> int:
    """An address as the signed i32 that the engine takes."""
    return address - 0x1_0000_0000 if address >= 0x8000_0000 else address
