"""Plain loops that are fed: what is left of them when every payload is copied once more, and nothing else is done.

The caller's process writes payloads into memory that it shares with each loop's process; the loop copies them from there into
the guard's memory and goes on as `bare-plain` does. They tell each other of a frame by one byte. So this is what any pool comes
to, at most, that gives payloads of its caller to processes that cannot see the caller's memory: no queue, no checks, no
deadlines, no outcome. Frames hold as many payloads as the pool's do, and each loop has two.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
from collections.abc import Generator, Iterator
from itertools import islice
from multiprocessing.shared_memory import SharedMemory
from typing import NamedTuple

from guardpool.protocol.slots import FRAME_BYTES
from guardpool_bench.loadable import Plain

_FRAMES = 2
_END = 255
_LINE_BYTES = 64  # before each payload, with its length, so that it begins at a line of the processor's caches
_LENGTH = struct.Struct("<Q")


class Layout(NamedTuple):
    """Where payloads are in the memory that is shared with one loop.

    Attributes:
        places: how many a frame has.
        place_bytes: the size of each.
    """

    places: int
    place_bytes: int

    @classmethod
    def of(cls, longest: int) -> Layout:
        """For payloads of so many bytes at most."""
        place_bytes = -(-(longest + _LINE_BYTES) // _LINE_BYTES) * _LINE_BYTES
        return cls(max(1, FRAME_BYTES // place_bytes), place_bytes)

    @property
    def size(self) -> int:
        """The size of all frames together, in bytes."""
        return _FRAMES * self.places * self.place_bytes

    def of_frame(self, frame: int) -> range:
        """Where the places of a frame begin."""
        start = frame * self.places * self.place_bytes
        return range(start, start + self.places * self.place_bytes, self.place_bytes)


def feed(memories: dict[int, memoryview], layout: Layout, endless: Iterator[bytes]) -> Generator[int, None, None]:
    """Keep every loop in frames; how many jobs are done, frame by frame. When it is closed the loops have ended theirs.

    Args:
        memories: by the descriptor through which the loop is told of frames.
    """

    def fill(pipe: int, frame: int) -> None:
        view = memories[pipe]
        for at, payload in zip(layout.of_frame(frame), islice(endless, layout.places)):
            _LENGTH.pack_into(view, at, len(payload))
            view[at + _LINE_BYTES : at + _LINE_BYTES + len(payload)] = payload
        os.write(pipe, bytes([frame]))

    poll = select.poll()
    with_loops = dict.fromkeys(memories, 0)  # so many frames
    for pipe in memories:
        poll.register(pipe, select.POLLIN)
    try:
        for frame in range(_FRAMES):
            for pipe in memories:
                fill(pipe, frame)
                with_loops[pipe] += 1
        while True:
            for pipe, _ in poll.poll():
                frames = os.read(pipe, _FRAMES)
                with_loops[pipe] -= len(frames)
                if _failed(frames):
                    del with_loops[pipe]
                    return
                for frame in frames:
                    yield layout.places
                    fill(pipe, frame)
                    with_loops[pipe] += 1
    finally:
        for pipe, count in with_loops.items():
            while count > 0:
                frames = os.read(pipe, _FRAMES)
                count = 0 if _failed(frames) else count - len(frames)
            with contextlib.suppress(OSError):
                os.write(pipe, bytes([_END]))


def _failed(frames: bytes) -> bool:
    """Whether a loop ended too early: it said that it failed, or it died, and its pipe is closed."""
    return not frames or _END in frames


def buffer_of(memory: SharedMemory) -> memoryview:
    """Its bytes; it must be open."""
    assert memory.buf is not None
    return memory.buf


def run_fed(plain: Plain, op: str, pipe: int, shared: memoryview, layout: Layout) -> None:
    """In a loop's process: run what comes, until it is told to end. `pipe` is told if it fails."""
    try:
        memory, input_at, answer_at, room, functions, _instance = plain
        function = functions[op]
        while (frame := os.read(pipe, 1)[0]) != _END:
            for at in layout.of_frame(frame):
                (size,) = _LENGTH.unpack_from(shared, at)
                start = at + _LINE_BYTES
                memory[input_at : input_at + size] = shared[start : start + size]
                memory[answer_at : answer_at + function(input_at, size, answer_at, room)].tobytes()
            os.write(pipe, bytes([frame]))
    except BaseException:
        os.write(pipe, bytes([_END]))
        raise
