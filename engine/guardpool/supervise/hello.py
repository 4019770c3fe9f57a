"""HELLO: what a worker says when it is ready or cannot be, whether the supervisor believes it, and what follows.

Every worker of a pool holds the same guards with the same policies, so each must say what the first one said.
"""

from __future__ import annotations

import errno
import os
import resource

from guardpool.contract import parse_agent_answer
from guardpool.errors import GuardInitError, GuardPoolError, HostError, LimitsError, SandboxUnavailable
from guardpool.labels import AgentLabels
from guardpool.machine.shortages import explain
from guardpool.outcomes import LogLine
from guardpool.printable import printable
from guardpool.protocol import control, wire
from guardpool.supervise.endings import Endings
from guardpool.supervise.notifier import NO_JOB
from guardpool.supervise.state import PoolState
from guardpool.supervise.worker_handle import State, WorkerHandle

_NO_MEMORY = os.strerror(errno.ENOMEM)
_AGENT_SLACK_BYTES = 64 * 1024


class Hellos:
    """Makes workers ready by what they say.

    Args:
        state: the pool's; it gets the agents' labels from the first worker that is ready.
        endings: for workers that cannot be used.
    """

    def __init__(self, state: PoolState, endings: Endings) -> None:
        self._state = state
        self._endings = endings
        self._warned: set[int] = set()  # guards without an allocator that the log has been told of

    def on_hello(self, worker: WorkerHandle, hello: wire.Hello) -> None:
        """Make a worker ready, or act on the reason why it cannot be. Raises ProtocolError if its HELLO is not valid."""
        state = self._state
        if worker.ending is not None and not worker.ever_ready:
            return
        stillborn = worker.state is State.DEAD and not worker.ever_ready
        if not (worker.state is State.STARTING or stillborn) or hello.protocol != wire.PROTOCOL:
            raise wire.ProtocolError(f"HELLO of protocol {hello.protocol} from a worker that is {worker.state.value}")
        for line in hello.logs:
            if 0 <= line.guard < len(state.names) and self._is_news(line):
                state.machine.notifier.logs(state.names[line.guard], NO_JOB, [LogLine(line.level, line.text)])
        problem = self._problem_of(hello)
        if state.started and problem is not None:
            self._endings.refuse(worker, str(problem))  # perhaps the next one fares better
            return
        if stillborn and problem is None:
            return
        problem = problem or self._problem_of_baseline(worker.measure())
        if problem is not None:
            state.fail(problem)
            return
        if not state.started:
            state.sandbox = {printable(name, 40): printable(how) for name, how in hello.sandbox.items()}
        worker.becomes_ready(state.machine.now())
        state.note_birth()
        state.scheduler.join(worker.number)

    def _is_news(self, line: wire.GuardLog) -> bool:
        """Whether a guard's log line is to be told. Every worker warns of a guard without an allocator; once is enough."""
        if line.text != control.NO_ALLOCATOR:
            return True
        if line.guard in self._warned:
            return False
        self._warned.add(line.guard)
        return True

    def _problem_of(self, hello: wire.Hello) -> GuardPoolError | None:
        """Why a worker that says this cannot be used, or None. Raises ProtocolError if no honest worker says it."""
        names = self._state.names
        failure = hello.failure
        if failure is not None:
            message = printable(failure.message, 1000)
            if failure.kind == "sandbox":
                return SandboxUnavailable(message)
            if failure.kind == "guard" and _NO_MEMORY in message and _is_address_space_limited():
                return HostError(
                    f"{message}: {explain(OSError(errno.ENOMEM, 'it inherits the limits of this process'))}"
                )
            if failure.kind == "guard" and 0 <= failure.guard < len(names):
                return GuardInitError(message, guard=names[failure.guard])
            return HostError(message)
        if len(hello.agents) != len(names):
            raise wire.ProtocolError(f"HELLO with {len(hello.agents)} answers of label_agent for {len(names)} guards")
        if self._state.agents is None:
            self._state.agents = [_agent(answer) for answer in hello.agents]
            self._state.agent_answers = hello.agents
        for name, agent, first, now in zip(names, self._state.agents, self._state.agent_answers, hello.agents):
            if first != now and _differs(agent, first, now):
                return GuardInitError(
                    f"guard {name!r}: label_agent answered differently in a new worker: first {_shown(first)}, "
                    f"now {_shown(now)}",
                    guard=name,
                )
        return None

    def _problem_of_baseline(self, baseline: int | None) -> GuardPoolError | None:
        """The error if a first worker's resident set of `baseline` bytes, before any job, is too near to its cap, or not known:
        then the cap could not be kept."""
        limit = self._state.limits.max_rss_bytes
        if self._state.started:
            return None
        if baseline is None:
            return HostError(
                "/proc does not tell the memory of a worker, so max_rss_bytes could not be kept: it may be mounted with hidepid"
            )
        if baseline <= limit * 3 // 4:
            return None
        return LimitsError(
            f"max_rss_bytes is {limit}, but a worker has {baseline} bytes resident before its first job: it would be "
            f"replaced at 3/4 of the limit at once; allow at least {baseline * 4 // 3 + 1} bytes"
        )


def _is_address_space_limited() -> bool:
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _agent(answer: bytes) -> AgentLabels:
    try:
        return parse_agent_answer(answer)
    except ValueError as error:
        raise wire.ProtocolError(f"HELLO with an answer of label_agent that is not valid: {error}") from error


def _differs(agent: AgentLabels, first: bytes, now: bytes) -> bool:
    """Whether an answer of other bytes means something else. One that is much longer always counts as different: to parse
    16 MiB of brackets would take the supervisor seconds."""
    return len(now) > 4 * len(first) + _AGENT_SLACK_BYTES or _agent(now) != agent


def _shown(answer: bytes) -> str:
    return printable(answer[:1000].decode("utf-8", "replace"), 300)
