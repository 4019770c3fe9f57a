"""What a worker says when it is ready, or is not: whether its HELLO is to be believed, and what is wrong where it is not.

Every worker of a pool holds the same guards with the same policies, so each must greet like the first one did.
"""

from __future__ import annotations

from guardpool.contract import parse_agent_answer
from guardpool.errors import GuardInitError, GuardPoolError, HostError, LimitsError, SandboxUnavailable
from guardpool.labels import AgentLabels
from guardpool.printable import printable
from guardpool.protocol import control, wire
from guardpool.supervise.state import Core

_AGENT_SLACK_BYTES = 64 * 1024


class Greetings:
    """Reads the HELLOs of a pool's workers.

    Args:
        core: the pool's state; it gets the agents' labels from the first worker that is ready.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._warned: set[int] = set()  # guards that lack an allocator, and the log says so

    def is_news(self, line: wire.GuardLog) -> bool:
        """Whether a guard's log line is to be told. Every worker warns of a guard without an allocator; once is enough."""
        if line.text != control.NO_ALLOCATOR:
            return True
        if line.guard in self._warned:
            return False
        self._warned.add(line.guard)
        return True

    def problem_of(self, hello: wire.Hello) -> GuardPoolError | None:
        """Why a worker that says this is of no use, or None. Raises ProtocolError where no honest worker says it."""
        names = self._core.names
        failure = hello.failure
        if failure is not None:
            message = printable(failure.message, 1000)
            if failure.kind == "sandbox":
                return SandboxUnavailable(message)
            if failure.kind == "guard" and 0 <= failure.guard < len(names):
                return GuardInitError(message, guard=names[failure.guard])
            return HostError(message)
        if len(hello.agents) != len(names):
            raise wire.ProtocolError(f"HELLO with {len(hello.agents)} answers of label_agent for {len(names)} guards")
        if self._core.agents is None:
            self._core.agents = [_agent(answer) for answer in hello.agents]
            self._core.agent_answers = hello.agents
        for name, agent, first, now in zip(names, self._core.agents, self._core.agent_answers, hello.agents):
            if first != now and _differs(agent, first, now):
                return GuardInitError(
                    f"guard {name!r}: label_agent answered differently in a new worker: first {_shown(first)}, "
                    f"now {_shown(now)}",
                    guard=name,
                )
        return None

    def problem_of_baseline(self, baseline: int) -> LimitsError | None:
        """The error where a first worker's resident set of `baseline` bytes, before any job, is too near to its cap."""
        limit = self._core.limits.max_rss_bytes
        if self._core.started or baseline <= limit * 3 // 4:
            return None
        return LimitsError(
            f"max_rss_bytes is {limit}, but a worker has {baseline} bytes resident before its first job: it would be "
            f"replaced at 3/4 of the limit at once; allow at least {baseline * 4 // 3 + 1} bytes"
        )


def _agent(answer: bytes) -> AgentLabels:
    try:
        return parse_agent_answer(answer)
    except ValueError as error:
        raise wire.ProtocolError(f"HELLO with an answer of label_agent that is none: {error}") from error


def _differs(agent: AgentLabels, first: bytes, now: bytes) -> bool:
    """Whether an answer of other bytes means something else. One that is much longer does, whatever it is: to read 16 MiB
    of brackets would take the supervisor seconds."""
    return len(now) > 4 * len(first) + _AGENT_SLACK_BYTES or _agent(now) != agent


def _shown(answer: bytes) -> str:
    return printable(answer[:1000].decode("utf-8", "replace"), 300)
