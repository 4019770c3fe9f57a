"""Frames to workers, through real pipes whose other end is read here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, cast

import pytest

from guardpool import Limits
from guardpool.protocol import wire
from guardpool.supervise.exchange import Traffic
from guardpool.supervise.reactor import Reactor
from guardpool.supervise.state import Core
from guardpool.supervise.worker_handle import PIPE_BYTES, WorkerHandle


class Desk:
    """`Traffic` without workers: what is sent to them is read by `receive`."""

    def __init__(self, workers: int) -> None:
        self.reactor = Reactor(lambda _command: True)
        self.traffic = Traffic(Core(["g"], [None], Limits(), self.reactor), cast("Any", None))
        self.workers = [WorkerHandle(number, 0.0) for number in range(1, workers + 1)]

    def receive(self, worker: WorkerHandle, count: int) -> list[wire.ToWorker]:
        """The next frames that a worker gets."""
        reader, frames = wire.FrameReader.to_worker(), []
        while len(frames) < count:
            frames += reader.feed(os.read(worker.child_fds[0], PIPE_BYTES))
            self.reactor.wait(0)
        return frames

    def close(self) -> None:
        self.traffic.close()
        for worker in self.workers:
            worker.close()
        self.reactor.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk(2)
    yield made
    made.close()


def large(seq: int) -> wire.Jobs:
    """A frame that no pipe holds; all of them are of the same length, and none has a byte of another."""
    return wire.Jobs([wire.JobItem(seq, 0, "label_resource", b"%d" % seq * (3 * PIPE_BYTES))])


def test_what_of_a_frame_does_not_fit_is_sent_as_it_was_whatever_is_sent_meanwhile(desk: Desk) -> None:
    first, second = desk.workers
    desk.traffic.send(first, large(1))
    desk.traffic.send(second, large(2))
    desk.traffic.send(first, large(3))
    desk.traffic.send(first, wire.Drain())
    assert desk.receive(second, 1) == [large(2)]
    assert desk.receive(first, 3) == [large(1), large(3), wire.Drain()]
    assert not first.has_unsent(first.given_bytes)
    desk.traffic.send(second, wire.Drain())  # and after it, frames that fit go at once
    assert desk.receive(second, 1) == [wire.Drain()]


def test_what_was_left_for_a_worker_that_is_gone_is_dropped(desk: Desk) -> None:
    gone = desk.workers[0]
    desk.traffic.send(gone, large(1))
    assert gone.has_unsent(gone.given_bytes)
    gone.close_child_fds()
    desk.reactor.wait(0)
    assert not gone.has_unsent(gone.given_bytes)
    assert not desk.reactor.watches(gone.jobs_fd)
