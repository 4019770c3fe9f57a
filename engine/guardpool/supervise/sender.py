"""Frames to workers."""

from __future__ import annotations

import select

from guardpool.protocol import wire
from guardpool.supervise.machine import Reactor
from guardpool.supervise.worker_handle import READ_BYTES, WorkerHandle


class Sender:
    """Sends frames; what does not fit into a pipe goes when there is room."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        # Kept for all frames. What is freed here once is for glibc, which maps blocks of more than 128 KiB anew each time, and
        # each time they grow, until one of that size was freed: 6 page faults for a job of 24 KB.
        bytearray(4 * READ_BYTES)
        self._buffer = bytearray(wire.HEADER_BYTES)

    def send(self, worker: WorkerHandle, frame: wire.ToWorker) -> None:
        """Send a frame to a worker; what its pipe does not take now follows when there is room."""
        wire.encode_into(frame, self._buffer)
        if not worker.send(self._buffer):
            self._buffer = bytearray(wire.HEADER_BYTES)  # the worker's handle keeps the old one
            if not self._reactor.watches(worker.end.jobs_fd):
                self._reactor.watch(worker.end.jobs_fd, self._on_writable, worker, select.EPOLLOUT)

    def _on_writable(self, worker: WorkerHandle, _events: int) -> None:
        if worker.send_rest():
            self._reactor.unwatch(worker.end.jobs_fd)
