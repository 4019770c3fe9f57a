"""Workers whose guard called its backend: from the call to its answer, or until the supervisor gives the call up.

The worker waits, and the job's deadline does not run meanwhile. Jobs behind a call that takes long go elsewhere.
"""

from __future__ import annotations

from guardpool.guard import Backend
from guardpool.protocol import wire
from guardpool.supervise.clock import LookAt
from guardpool.supervise.commands import BackendAnswered
from guardpool.supervise.sender import Sender
from guardpool.supervise.state import PoolState
from guardpool.supervise.worker_handle import State, WorkerHandle

# How long jobs wait behind one that asked its backend before they go elsewhere. Sending them again costs about as much as a
# frame of work; most backends that answer from memory never come near this.
RECALL_AFTER_S = 0.01


class BackendCalls:
    """Passes calls on to the backends, and their answers back."""

    def __init__(self, state: PoolState, sender: Sender) -> None:
        self._state = state
        self._sender = sender
        self._scheduler = state.scheduler
        self._next_token = 1

    def on_call(self, worker: WorkerHandle, call: wire.BackendCall) -> None:
        """Pass a guard's call on to its backend. Raises ProtocolError if an honest worker would not make that call."""
        if not worker.is_listening:
            return  # the answer would not be read
        backend = self._backend_due(worker, call)
        token = self._next_token
        self._next_token += 1
        worker.asks_backend(call.seq, token, self._state.machine.now())
        number, post = worker.number, self._state.reactor.post

        def reply(result: bytes | None, error: str | None) -> None:
            post(BackendAnswered(number, token, result, error))

        self._state.machine.backends.call(self._state.names[call.guard], backend, call.tool, call.args, reply)

    def _backend_due(self, worker: WorkerHandle, call: wire.BackendCall) -> Backend:
        backends, limits = self._state.backends, self._state.limits
        most = limits.max_backend_calls
        if worker.state is State.STARTING and call.seq == 0:
            due = 0 <= call.guard < len(backends)
            most *= 2 * len(backends)  # in `_initialize` and in `label_agent`
        else:
            task = self._scheduler.oldest(worker.number)
            due = task is not None and (task.seq, task.guard) == (call.seq, call.guard)
        if not due:
            raise wire.ProtocolError(f"a backend call of guard {call.guard} for job {call.seq}, which it does not run")
        backend = backends[call.guard]
        if backend is None:
            raise wire.ProtocolError("a backend call of a guard that has no backend")
        if worker.count_backend_call(call.seq) > most:
            raise wire.ProtocolError(f"more than {limits.max_backend_calls} backend calls for job {call.seq}")
        if worker.has_unread_reply:
            raise wire.ProtocolError("a backend call before it read the last one's answer")
        return backend

    def on_answer(self, answer: BackendAnswered) -> None:
        """Send a backend's answer, or the error that replaces it, to the worker that waits for it."""
        worker = self._state.workers.get(answer.worker)
        if worker is None or worker.backend is None or worker.backend.token != answer.token:
            return  # it died, or the answer is too late
        wait = worker.backend_answered(answer.error, self._state.machine.now())
        self._scheduler.answered(worker.number)
        if worker.is_listening:
            self._sender.send(worker, wire.BackendReply(wait.seq, answer.result, answer.error))
            worker.note_reply_sent()

    def look(self, worker: WorkerHandle, now: float) -> LookAt:
        """Look at a worker that waits: send elsewhere what waits behind it, give up on a backend that is too slow."""
        wait, limit_s = worker.backend, self._state.limits.backend_timeout_s
        assert wait is not None
        end = wait.since + limit_s
        if now >= end:
            self.on_answer(BackendAnswered(worker.number, wait.token, None, f"no answer within {limit_s} s"))
            return now
        if wait.recalled or not wait.seq:
            return end
        if now < wait.since + RECALL_AFTER_S:
            return min(end, wait.since + RECALL_AFTER_S)
        wait.recalled = True
        if not self._scheduler.recall(worker.number, wait.seq):
            return end
        # The worker reads nothing but what it waits for, in order, so it drops them before it goes on.
        self._sender.send(worker, wire.Recall())
        return now  # they are to be sent to other workers
