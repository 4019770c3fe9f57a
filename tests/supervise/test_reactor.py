"""The supervisor's one wait: commands are never lost, and ordinary traffic is told from the rest."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from guardpool.supervise.reactor import EpollReactor

_PATIENCE_S = 20.0


class Loop:
    """A reactor whose commands are kept; only the command `traffic` is ordinary."""

    def __init__(self) -> None:
        self.carried: list[str] = []
        self.reactor = EpollReactor(self._on_command)

    def _on_command(self, command: Any) -> bool:
        self.carried.append(command[0])
        return bool(command[0] == "traffic")


@pytest.fixture
def loop() -> Iterator[Loop]:
    one = Loop()
    yield one
    one.reactor.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def asleep(loop: Loop) -> threading.Thread:
    """A thread in `wait`, without a time limit."""
    thread = threading.Thread(target=loop.reactor.wait, args=(-1,))
    thread.start()
    return thread


def test_an_eager_loop_is_woken_by_lazy_work(loop: Loop) -> None:
    loop.reactor.eager = True
    thread = asleep(loop)
    loop.reactor.post_lazily(("traffic",))
    thread.join(_PATIENCE_S)
    assert loop.carried == ["traffic"]


def test_lazy_work_waits_for_the_next_wake_up_and_keeps_its_place(loop: Loop) -> None:
    loop.reactor.wait(0)
    loop.reactor.eager = False
    loop.reactor.post_lazily(("first",))
    assert not select.select([loop.reactor._wake_read], [], [], 0)[0]  # no wake-up was written
    loop.reactor.post(("second",))
    loop.reactor.wait(_PATIENCE_S)
    assert loop.carried == ["first", "second"]


def test_a_descriptor_wakes_lazy_work_too(loop: Loop, pipe: tuple[int, int]) -> None:
    loop.reactor.eager = False
    loop.reactor.watch(pipe[0], lambda _subject, _events: bool(os.read(pipe[0], 1)), None)
    thread = asleep(loop)
    loop.reactor.post_lazily(("late",))
    os.write(pipe[1], b"x")
    thread.join(_PATIENCE_S)
    loop.reactor.wait(0)  # in case the descriptor was quicker than the command
    assert loop.carried == ["late"]
    loop.reactor.unwatch(pipe[0])


def test_loop_does_not_sleep_if_a_command_is_there_already(loop: Loop) -> None:
    loop.reactor.eager = False
    loop.reactor.post_lazily(("there",))
    loop.reactor.eager = True  # too late for what was posted before
    asleep_at = time.monotonic()
    loop.reactor.wait(_PATIENCE_S)
    assert loop.carried == ["there"]
    assert time.monotonic() < asleep_at + _PATIENCE_S, "it slept through what was there"


def test_lazy_work_after_the_end_is_carried_out_at_once() -> None:
    loop = Loop()
    loop.reactor.eager = False
    loop.reactor.post_lazily(("before",))
    loop.reactor.close()
    loop.reactor.post_lazily(("after",))
    assert loop.carried == ["before", "after"]


def test_no_command_of_many_threads_is_lost_while_eager_is_switched(loop: Loop) -> None:
    count = 3000

    def work() -> None:
        for _ in range(count):
            loop.reactor.post_lazily(("traffic",))

    posters = [threading.Thread(target=work) for _ in range(3)]
    for poster in posters:
        poster.start()
    end = time.monotonic() + _PATIENCE_S
    while len(loop.carried) < 3 * count and time.monotonic() < end:
        loop.reactor.eager = not loop.reactor.eager
        loop.reactor.wait(1.0 if loop.reactor.eager else 0)
    for poster in posters:
        poster.join(_PATIENCE_S)
    assert loop.carried == ["traffic"] * (3 * count)


@pytest.mark.parametrize(
    ("commands", "calm"),
    [([], True), (["traffic"], True), (["traffic", "kill"], False), (["kill", "traffic"], False)],
)
def test_reactor_is_calm_if_all_commands_were_traffic(loop: Loop, commands: list[str], calm: bool) -> None:
    for command in commands:
        loop.reactor.post((command,))
    loop.reactor.wait(0)
    assert loop.reactor.calm is calm


@pytest.mark.parametrize("answer", [True, False, None])
def test_reactor_is_calm_if_every_handler_says_so(loop: Loop, pipe: tuple[int, int], answer: Any) -> None:
    def handler(_subject: None, _events: int) -> bool | None:
        os.read(pipe[0], 1)
        return answer  # type: ignore[no-any-return]

    loop.reactor.watch(pipe[0], handler, None)
    os.write(pipe[1], b"x")
    loop.reactor.wait(_PATIENCE_S)
    assert loop.reactor.calm is bool(answer)
    loop.reactor.wait(0)
    assert loop.reactor.calm  # nothing happened
    loop.reactor.unwatch(pipe[0])
