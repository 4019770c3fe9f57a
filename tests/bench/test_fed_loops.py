"""Loops that are fed: every payload reaches one of them, and one that fails ends the run with its reason."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator, Iterator
from itertools import cycle, islice

import pytest

from guardpool.protocol.slots import FRAME_BYTES
from guardpool_bench import fedloop
from guardpool_bench.fedloop import Layout, run_fed
from guardpool_bench.loadable import Plain

PATIENCE_S = 20.0


class Loop:
    """A loop in a thread of this process, around a function in the place of a guard's."""

    def __init__(self, layout: Layout, fails_after: int = 1 << 30) -> None:
        self.memory = memoryview(bytearray(layout.size))
        self.ours, self.theirs = socket.socketpair()
        self.got: list[bytes] = []
        self.failure: Exception | None = None
        self._guest = memoryview(bytearray(1024))
        self._fails_after = fails_after
        self._thread = threading.Thread(target=self._run, args=(layout,))
        self._thread.start()

    def _run(self, layout: Layout) -> None:
        plain = Plain(self._guest, 100, 600, 8, {"label_resource": self._function}, None)
        try:
            run_fed(plain, "label_resource", self.theirs.fileno(), self.memory, layout)
        except ArithmeticError as error:
            self.failure = error

    def _function(self, at: int, size: int, answer_at: int, room: int) -> int:
        self.got.append(bytes(self._guest[at : at + size]))
        if len(self.got) > self._fails_after:
            raise ArithmeticError("the guard failed")
        return min(room, answer_at)

    def end(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        for each in (self.ours, self.theirs):
            each.close()


def payloads() -> Iterator[bytes]:
    return (b"%d " % number * (number % 40) for number in cycle(range(997)))


def feed(loops: list[Loop], layout: Layout) -> Generator[int, None, None]:
    return fedloop.feed({loop.ours.fileno(): loop.memory for loop in loops}, layout, payloads())


def test_a_frame_holds_what_a_frame_of_the_pool_does() -> None:
    assert Layout.of(1_000_000).places == 4
    assert Layout.of(5_000_000).places == 1
    assert FRAME_BYTES * 0.9 < len(Layout.of(100_000).of_frame(1)) * 100_064 <= FRAME_BYTES
    first, second = (Layout.of(1000).of_frame(frame) for frame in (0, 1))
    assert max(first) + Layout.of(1000).place_bytes == min(second)


def test_every_payload_reaches_one_loop_whole_and_in_turn() -> None:
    layout = Layout(3, 256)
    loops = [Loop(layout), Loop(layout)]
    counts = feed(loops, layout)
    assert sum(islice(counts, 50)) == 150
    counts.close()
    for loop in loops:
        loop.end()
    got = [payload for loop in loops for payload in loop.got]
    assert 150 <= len(got) <= 150 + 2 * 2 * 3
    assert sorted(got) == sorted(islice(payloads(), len(got)))
    assert all(loop.got for loop in loops)


@pytest.mark.parametrize("after", [0, 7])
def test_a_loop_that_fails_ends_the_run(after: int) -> None:
    layout = Layout(3, 256)
    loops = [Loop(layout), Loop(layout, fails_after=after)]
    for _ in feed(loops, layout):
        pass
    for loop in loops:
        loop.end()
    assert [str(loop.failure) for loop in loops] == ["None", "the guard failed"]
