"""Workers whose guard called its backend: from the call to its answer, or until the supervisor gives the call up.

The worker waits, and the job's deadline does not run meanwhile. Jobs behind a call that takes long go elsewhere. A question is
asked once, however many workers wait for its answer, and the answer is kept where all of them find it.
"""

from __future__ import annotations

import math

from guardpool.protocol import wire
from guardpool.protocol.reply_memory import FAILURE, NEVER, RESULT, key_of_question
from guardpool.supervise import clock
from guardpool.supervise.backend_failures import BackendFailures
from guardpool.supervise.clock import LookAt
from guardpool.supervise.commands import Ask, BackendAnswered
from guardpool.supervise.sender import Sender
from guardpool.supervise.sources import Flight, Listener, Source, Waiter
from guardpool.supervise.state import PoolState
from guardpool.supervise.worker_handle import BackendWait, State, WorkerHandle

# How long jobs wait behind one that asked its backend before they go elsewhere. Sending them again costs about as much as a
# frame of work; most backends that answer from memory never come near this.
RECALL_AFTER_S = 0.01

# How long it is remembered that a question had no answer: a backend that fails is not hammered, and soon asked again.
FAILURE_S = 1.0

# How many calls that were given up a backend may leave behind, each with a thread of its own. Past them it is not asked.
MAX_GIVEN_UP = 32


class BackendCalls:
    """Passes calls on to the backends, and their answers back.

    Attributes:
        look_at: when the first of the workers that began to wait since the last look at all workers is to be looked at.
    """

    def __init__(self, state: PoolState, sender: Sender) -> None:
        self._state = state
        self._sender = sender
        self._scheduler = state.scheduler
        self._next_token = 1
        self._failures = BackendFailures()
        self.look_at: LookAt = clock.NEVER
        self._looked_at = 0.0

    def looked(self, now: float) -> None:
        """Every worker was looked at."""
        self.look_at, self._looked_at = clock.NEVER, now

    def on_call(self, worker: WorkerHandle, call: wire.BackendCall) -> None:
        """Answer a guard's question, or pass it on. Raises ProtocolError if an honest worker would not ask it."""
        if not worker.is_listening:
            return  # the answer would not be read
        source = self._source_due(worker, call)
        waiter = Waiter(worker.number, self._next_token, call.guard)
        self._next_token += 1
        # A worker asks in canonical form; what it is answered otherwise is not kept.
        key = key_of_question(call.tool, call.args)
        now = self._state.machine.now()
        worker.asks_backend(call.seq, waiter.token, now)
        self.look_at = min(self.look_at, now + RECALL_AFTER_S)
        known = self._known_or_asked(Flight(source, key, call.guard, call.tool, call.args, [waiter]))
        if known is not None:
            kind, reply = known
            self._answer(waiter, None, reply.decode()) if kind == FAILURE else self._answer(waiter, reply, None)

    def on_ask(self, ask: Ask) -> None:
        """Tell what is known, or ask the backend for one who is not a worker. It is not told of what takes too long."""
        source = self._state.sources[ask.guard]
        if source is None or self._state.ending:
            ask.told(None)
            return
        key, listener = key_of_question(ask.tool, ask.args), Listener(ask.guard, ask.told)
        known = self._known_or_asked(Flight(source, key, ask.guard, ask.tool, ask.args, [], listeners=[listener]))
        if known is not None:
            ask.told(known[1] if known[0] == RESULT else None)

    def _known_or_asked(self, flight: Flight) -> tuple[int, bytes] | None:
        """The reply to a question and its kind, if that is known or the backend is not to be asked; None: the question is being
        asked, and those who wait for this flight are told of the answer."""
        source = flight.source
        if flight.key not in source.flights:
            known = self._known(source, flight.key)
            if known is not None:
                return known
            if source.running >= MAX_GIVEN_UP + self._state.wanted:
                why = f"{source.running} calls of this backend have had no answer yet: it is not asked"
                self._warn(self._state.names[flight.guard], flight.tool, why)
                return FAILURE, why.encode()
        self._join_or_ask(flight)
        return None

    def _join_or_ask(self, flight: Flight) -> None:
        """Those who wait for this flight join the one with the same question; without one the question is asked."""
        going_on = flight.source.flights.get(flight.key)
        if going_on is None:
            self._ask(flight)
            going_on = flight
        else:
            going_on.waiters += flight.waiters
            going_on.listeners += flight.listeners
        for waiter in flight.waiters:
            wait = self._wait_of(waiter)
            if wait is not None:
                wait.flight = going_on

    def _ask(self, flight: Flight) -> None:
        state, post, source = self._state, self._state.reactor.post, flight.source
        source.flights[flight.key] = flight
        source.running += 1
        name = state.names[flight.guard]
        state.counters.questions.note_live(name, flight.tool)

        def reply(result: bytes | None, error: str | None, is_for_all: bool) -> None:
            post(BackendAnswered(flight, result, error, is_for_all))

        wait = self._wait_of(flight.waiters[0]) if flight.waiters else None
        task = None if wait is None else self._scheduler.task(flight.waiters[0].worker, wait.seq)
        job_id = None if task is None else task.job_id
        state.machine.backends.call(name, source.backend, flight.tool, flight.args, reply, job_id)

    def _known(self, source: Source, key: bytes) -> tuple[int, bytes] | None:
        """What other workers were told since this one looked."""
        memory, area = self._state.replies, source.kept
        return None if memory is None or area is None else memory.find(area, key, self._state.machine.clock_ns())

    def _source_due(self, worker: WorkerHandle, call: wire.BackendCall) -> Source:
        sources, limits = self._state.sources, self._state.limits
        most = limits.max_backend_calls
        if worker.state is State.STARTING and call.seq == 0:
            due = 0 <= call.guard < len(sources)
            most *= 2 * len(sources)  # in `_initialize` and in `label_agent`
        else:
            task = self._scheduler.asks(worker.number, call.seq)
            due = task is not None and task.guard == call.guard
        if not due:
            raise wire.ProtocolError(f"a backend call of guard {call.guard} for job {call.seq}, which it does not run")
        source = sources[call.guard]
        if source is None:
            raise wire.ProtocolError("a backend call of a guard that has no backend")
        if worker.count_backend_call(call.seq) > most:
            raise wire.ProtocolError(f"more than {limits.max_backend_calls} backend calls for job {call.seq}")
        if worker.has_unread_reply:
            raise wire.ProtocolError("a backend call before it read the last one's answer")
        return source

    def on_answer(self, answer: BackendAnswered) -> bool:
        """Keep a backend's answer, or the error that replaces it, and send it to the workers that wait for it.

        Returns:
            Whether nothing else is to be done. Where a worker was looked at while it waited, its deadline was not counted.
        """
        flight = answer.flight
        flight.source.running -= 1
        if not flight.is_given_up:
            del flight.source.flights[flight.key]
        waiters, listeners = flight.waiters, flight.listeners
        if not answer.is_for_all:
            waiters = [waiter for waiter in waiters if waiter.guard == flight.guard]
            listeners = [listener for listener in listeners if listener.guard == flight.guard]
            self._ask_again(flight)
        elif not flight.is_given_up or not self._is_known_better(flight):
            self._keep(flight, answer.result, answer.error)
        was_seen = False
        for waiter in waiters:
            wait = self._answer(waiter, answer.result, answer.error)
            was_seen = was_seen or wait is None or not wait.seq or wait.since <= self._looked_at
        for listener in listeners:
            listener.told(answer.result)
        return not was_seen

    def _ask_again(self, flight: Flight) -> None:
        """What waits for other guards than the one that was told an answer of its own: ask for them."""
        waiters = [waiter for waiter in flight.waiters if waiter.guard != flight.guard and self._wait_of(waiter)]
        listeners = [listener for listener in flight.listeners if listener.guard != flight.guard]
        guards = [waiter.guard for waiter in waiters] + [listener.guard for listener in listeners]
        if guards:
            again = Flight(flight.source, flight.key, guards[0], flight.tool, flight.args, waiters, listeners=listeners)
            self._join_or_ask(again)

    def _is_known_better(self, flight: Flight) -> bool:
        """Whether a late answer must not be kept: the question was asked again since, and the newer answer is known or will be.
        Workers hold on to an answer as long as it counts, so that no other may take its place."""
        known = self._known(flight.source, flight.key)
        return flight.key in flight.source.flights or (known is not None and known[0] == RESULT)

    def _keep(self, flight: Flight, result: bytes | None, error: str | None) -> None:
        memory, area = self._state.replies, flight.source.kept
        if memory is None or area is None:
            return
        for_s = flight.source.remember_s if result is not None else FAILURE_S
        expires_ns = NEVER if for_s == math.inf else min(NEVER, self._state.machine.clock_ns() + int(for_s * 1e9))
        if result is not None:
            memory.put(area, flight.key, RESULT, result, expires_ns)
        else:
            memory.put(area, flight.key, FAILURE, (error or "").encode("utf-8", "replace"), expires_ns)

    def _answer(self, waiter: Waiter, result: bytes | None, error: str | None) -> BackendWait | None:
        """Answer a worker; returns its wait, None if that is over: it died, or the answer is too late."""
        if self._wait_of(waiter) is None:
            return None
        worker = self._state.workers[waiter.worker]
        wait = worker.backend_answered(error, self._state.machine.now())
        self._scheduler.answered(worker.number)
        if worker.is_listening:
            self._sender.send(worker, wire.BackendReply(wait.seq, result, error))
            worker.note_reply_sent()
        return wait

    def _wait_of(self, waiter: Waiter) -> BackendWait | None:
        """The wait, unless it is over."""
        worker = self._state.workers.get(waiter.worker)
        wait = None if worker is None else worker.backend
        return wait if wait is not None and wait.token == waiter.token else None

    def look(self, worker: WorkerHandle, now: float) -> LookAt:
        """Look at a worker that waits: send elsewhere what waits behind it, have it tell of what it did before, give up on a
        backend that is too slow."""
        wait, limit_s = worker.backend, self._state.limits.backend_timeout_s
        assert wait is not None
        end = wait.since + limit_s
        if now >= end:
            self._give_up(worker, f"no answer within {limit_s} s")
            return now
        if wait.recalled_at is not None or not wait.seq:
            return end
        if now < wait.since + RECALL_AFTER_S:
            return min(end, wait.since + RECALL_AFTER_S)
        wait.recalled_at = now
        recalled = self._scheduler.recall(worker.number, wait.seq)
        if recalled or self._scheduler.load(worker.number) > 1:
            # The worker reads nothing but what it waits for, in order, so it drops them before it goes on.
            self._sender.send(worker, wire.Recall())
        return now if recalled else end  # they are to be sent to other workers

    def _give_up(self, worker: WorkerHandle, why: str) -> None:
        """Answer a worker that has waited long enough. The call goes on; what comes of it late is still kept."""
        wait = worker.backend
        assert wait is not None
        flight = wait.flight
        assert flight is not None
        if not flight.is_given_up:
            flight.is_given_up = True
            del flight.source.flights[flight.key]
            self._warn(self._state.names[flight.guard], flight.tool, why)
            self._keep(flight, None, why)
        self._answer(Waiter(worker.number, wait.token, flight.guard), None, why)

    def _warn(self, guard: str, tool: str, why: str) -> None:
        line = self._failures.line(self._state.machine.now(), guard, tool, why)
        if line is not None:
            self._state.warn(line)
