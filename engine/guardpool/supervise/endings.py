"""How a worker's work ends while it lives: it is killed, or let go. Every part that ends one does it here."""

from __future__ import annotations

from guardpool.printable import printable
from guardpool.protocol import wire
from guardpool.supervise.scheduler import Scheduler
from guardpool.supervise.sender import Sender
from guardpool.supervise.state import PoolState
from guardpool.supervise.verdicts import Ending
from guardpool.supervise.worker_handle import State, WorkerHandle


class Endings:
    """Kills workers and lets them go. From then on they get no more frames."""

    def __init__(self, state: PoolState, sender: Sender) -> None:
        self._state = state
        self._sender = sender
        self._scheduler: Scheduler = state.scheduler

    def kill(self, worker: WorkerHandle, ending: Ending) -> None:
        """Send SIGKILL. The first reason given for a worker's end counts."""
        self._scheduler.retire(worker.number)
        worker.kill(ending)

    def condemn(self, worker: WorkerHandle, fault: str) -> None:
        """Kill a worker that broke the protocol; the job that ran is charged as in any crash."""
        fault = printable(fault, 300)
        self._state.warn(f"worker {worker.number} (pid {worker.end.pid}) broke the protocol: {fault}; killed")
        self._state.reactor.unwatch(worker.end.results_fd)
        self.kill(worker, Ending.broke_protocol(fault))

    def refuse(self, worker: WorkerHandle, why: str) -> None:
        """Kill a worker that is not ready and never will be; that counts towards giving up the pool."""
        fault = printable(why, 1000)
        self._state.warn(f"worker {worker.number} (pid {worker.end.pid}) cannot be used: {fault}; killed")
        self.kill(worker, Ending.useless(fault))

    def dismiss(self, worker: WorkerHandle, cause: str | None) -> None:
        """Let a ready worker finish what it has and go; `cause` is the word its replacement is counted under."""
        self._scheduler.retire(worker.number)
        worker.leaves(cause, self._state.machine.now())
        self._sender.send(worker, wire.Drain())

    def on_broken_instance(self, worker: WorkerHandle, cause: str) -> None:
        """Expect a worker with a dead instance to leave by itself; its successor need not wait for that."""
        worker.instance_broke(cause)
        self._scheduler.retire(worker.number)
        if worker.state is State.READY:
            worker.leaves(cause, self._state.machine.now())

    def send_home(self) -> bool:
        """Let every worker go, because all work is done; True once all are gone."""
        for worker in list(self._state.workers.values()):
            if worker.state is State.READY:
                self.dismiss(worker, None)
            elif worker.state in (State.FORKING, State.STARTING):
                self.kill(worker, Ending.not_needed())
        return not any(worker.is_forked for worker in self._state.workers.values())
