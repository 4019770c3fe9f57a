"""Frames to workers, through real pipes whose other end is read here."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from guardpool.protocol import wire
from guardpool.supervise.reactor import EpollReactor
from guardpool.supervise.sender import Sender
from guardpool.supervise.worker_end import PIPE_BYTES, PipeEnd
from guardpool.supervise.worker_handle import WorkerHandle


class Pipes:
    """A sender whose workers are pipes: what is sent to them is read by `receive`."""

    def __init__(self, workers: int) -> None:
        self.reactor = EpollReactor(lambda _command: True)
        self.sender = Sender(self.reactor)
        self.workers = [WorkerHandle(number, PipeEnd(), 0.0) for number in range(1, workers + 1)]

    def receive(self, worker: WorkerHandle, count: int) -> list[wire.ToWorker]:
        """The next frames that a worker gets."""
        reader, frames = wire.FrameReader.to_worker(), []
        while len(frames) < count:
            frames += reader.feed(os.read(worker.end.child_fds[0], PIPE_BYTES))
            self.reactor.wait(0)
        return frames

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.reactor.close()


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes(2)
    yield made
    made.close()


def large(seq: int) -> wire.Jobs:
    """A frame larger than any pipe; all are of the same length, and no two have the same bytes."""
    return wire.Jobs([wire.JobItem(seq, 0, "label_resource", b"%d" % seq * (3 * PIPE_BYTES))])


def test_rest_of_a_frame_that_did_not_fit_is_sent_later_unchanged(pipes: Pipes) -> None:
    first, second = pipes.workers
    pipes.sender.send(first, large(1))
    pipes.sender.send(second, large(2))
    pipes.sender.send(first, large(3))
    pipes.sender.send(first, wire.Drain())
    assert pipes.receive(second, 1) == [large(2)]
    assert pipes.receive(first, 3) == [large(1), large(3), wire.Drain()]
    assert not first.has_unsent(first.given_bytes)
    pipes.sender.send(second, wire.Drain())  # after it, frames that fit are sent at once
    assert pipes.receive(second, 1) == [wire.Drain()]


def test_unsent_bytes_for_a_worker_that_is_gone_are_dropped(pipes: Pipes) -> None:
    gone = pipes.workers[0]
    pipes.sender.send(gone, large(1))
    assert gone.has_unsent(gone.given_bytes)
    gone.end.close_child_fds()
    pipes.reactor.wait(0)
    assert not gone.has_unsent(gone.given_bytes)
    assert not pipes.reactor.watches(gone.end.jobs_fd)
