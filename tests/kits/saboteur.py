"""A thread that kills and stops the processes of a pool at random, and counts what it did."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from random import Random
from types import MappingProxyType

import psutil

# How many of each there are in 30: most faults hit workers. A worker that is stopped and left is found by its deadline; a
# forkserver that is stopped and left is found when it does not fork.
FAULTS = {
    "kill a worker": 12,
    "stop a worker, let it go on": 5,
    "stop a worker, kill it": 3,
    "stop a worker, leave it": 2,
    "kill two workers at once": 2,
    "kill the forkserver": 2,
    "stop the forkserver, let it go on": 2,
    "stop the forkserver, kill it": 1,
    "stop the forkserver, leave it": 1,
}
_MEAN_PAUSE_S = 0.08
_MEAN_STOP_S = 0.08


def forkservers(parent: psutil.Process | None = None) -> list[psutil.Process]:
    """The forkservers that a process started (this one, unless told otherwise)."""
    found = []
    for child in (parent or psutil.Process()).children():
        try:
            if any("guardpool_worker.forkserver" in word for word in child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue  # gone, or a zombie
    return found


def send(process: psutil.Process, parent: int, signum: int) -> bool:
    """Signal a process if it still is that child of that parent; never a stranger whose pid was used again."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # The pidfd holds the process: if it is the right one now, it is the right one below.
        if process.ppid() != parent or process.status() == psutil.STATUS_ZOMBIE:
            return False
        signal.pidfd_send_signal(pidfd, signum)  # type: ignore[attr-defined]
    except (psutil.Error, ProcessLookupError):
        return False
    finally:
        os.close(pidfd)
    return True


class Saboteur(threading.Thread):
    """Injects faults until told to end.

    Args:
        seed: fixes which faults, in which order, after which pauses.
        victim: the process whose pool is attacked; None: this one.
        faults: how many of each kind there are in a round.
        ready: the pids of the workers that have started; only these are stopped for good.

    Attributes:
        done: faults that hit something, by kind.
        kills: SIGKILLs that workers got.
        stops: SIGSTOPs that workers got.
    """

    def __init__(
        self,
        seed: int,
        victim: psutil.Process | None = None,
        faults: Mapping[str, int] = MappingProxyType(FAULTS),
        ready: Callable[[], Collection[int]] = tuple,
    ) -> None:
        super().__init__(name="saboteur", daemon=True)
        self._random = Random(seed)
        self._victim = victim or psutil.Process()
        self._faults = faults
        self._ready = ready
        self._end = threading.Event()
        self._left: list[psutil.Process] = []
        self.done: Counter[str] = Counter()
        self.kills = 0
        self.stops = 0

    def run(self) -> None:
        """Faults until `finish` is called."""
        deck: list[str] = []
        while not self._end.wait(self._random.expovariate(1 / _MEAN_PAUSE_S)):
            if not deck:
                deck = [kind for kind, count in self._faults.items() for _ in range(count)]
                self._random.shuffle(deck)
            kind = deck.pop()
            if "forkserver" in kind and self._is_any_left_stopped():
                deck.insert(0, kind)  # it would end a worker that a deadline has to end
                continue
            try:
                if self._inject(kind):
                    self.done[kind] += 1
            except psutil.Error:
                continue  # it died by itself

    def finish(self) -> None:
        """End the faults; processes that are stopped go on, unless they are to be left stopped."""
        self._end.set()
        self.join()

    def _inject(self, kind: str) -> bool:
        servers = forkservers(self._victim)
        if not servers:
            return False
        server = servers[0]
        if "forkserver" in kind:
            return self._attack(server, self._victim.pid, kind)
        workers = [worker for worker in server.children() if worker not in self._left]
        self._random.shuffle(workers)
        if kind == "kill two workers at once":
            return sum([self._kill_worker(worker, server.pid) for worker in workers[:2]]) == 2
        if kind == "stop a worker, leave it":
            # A worker that still starts has half a minute before it is killed, which is longer than a short run.
            ready = self._ready()
            workers = [worker for worker in workers if worker.pid in ready]
        if not workers:
            return False
        if kind == "kill a worker":
            return self._kill_worker(workers[0], server.pid)
        if self._attack(workers[0], server.pid, kind):
            if kind.endswith("leave it"):
                self._left.append(workers[0])
            self.stops += 1
            self.kills += kind.endswith("kill it")
            return True
        return False

    def _is_any_left_stopped(self) -> bool:
        self._left = [worker for worker in self._left if worker.is_running()]
        return bool(self._left)

    def _kill_worker(self, worker: psutil.Process, parent: int) -> bool:
        self.kills += (hit := send(worker, parent, signal.SIGKILL))
        return hit

    def _attack(self, process: psutil.Process, parent: int, kind: str) -> bool:
        if kind.startswith("kill"):
            return send(process, parent, signal.SIGKILL)
        if not send(process, parent, signal.SIGSTOP):
            return False
        if not kind.endswith("leave it"):
            self._end.wait(self._random.expovariate(1 / _MEAN_STOP_S))
            send(process, parent, signal.SIGKILL if kind.endswith("kill it") else signal.SIGCONT)
        return True
