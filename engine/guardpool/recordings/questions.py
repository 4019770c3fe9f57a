"""Guards' own questions told from the agent's calls, by asking the guards again.

A gateway's log has what its guards asked their backend as calls like any other: the questions of `label_resource` stand
directly before the agent's call, those of `label_response` directly after its answer. So each call is labelled once more, in
the order of the log, by the guard of its server, whose questions are answered from the log. What the guard asks is
`enrichment`, and what is left is the agent's. Questions about a call that was denied stay the agent's: its arguments are not
in the log, so nobody can ask again.

A guard that remembers does not ask twice. One that starts anew here may ask for what its earlier run knew before the log began:
a question that the log has no answer to fails, and is counted. Some questions are never in a log.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from itertools import count
from threading import Lock
from typing import Any, NamedTuple

import msgspec

from guardpool.backends.asking import JOB_THAT_ASKS, ask
from guardpool.guard import Backend
from guardpool.jobs import Job
from guardpool.recordings.call import Call, Role, error_text
from guardpool.recordings.json_text import FAILURES
from guardpool.recordings.to_jobs import resource_job, response_job
from guardpool.sizes import MIB

# How far a question may stand from its call: concurrent calls of a gateway are tens.
_WINDOW_CALLS = 400
_WINDOW_BYTES = 64 * MIB
# A question that may be one of a later call is not labelled before that call, if it comes so soon.
_NEAR_CALLS = 40
# Calls that are handed in ahead of their outcomes: enough to fill a worker's frames, and few in comparison with the window.
_MOST_RUNNING = 128
# Answers that a guard may ask for again, by question.
_MAX_KNOWN = 10_000

_canonical = msgspec.json.Encoder(order="deterministic").encode


class NoAnswer(LookupError):
    """The recording has no answer to a question, or only an error."""


class _Held:
    """A call within the window."""

    __slots__ = ("asked", "at", "call", "is_claimed", "is_labelled", "key", "role")

    def __init__(self, at: int, call: Call) -> None:
        self.at = at
        self.call = call
        self.role = call.role
        self.is_claimed = False  # by a guard's question that is not taken account of yet
        self.is_labelled = False  # by `label_resource`
        self.asked: list[dict[str, Any]] = []
        self.key = _key(call.server, call.tool, call.args) if call.tool is not None else None

    @property
    def is_question(self) -> bool:
        """Whether a guard asked it."""
        return self.role is Role.ENRICHMENT


class _Running(NamedTuple):
    """A job that was handed in."""

    held: _Held
    is_response: bool
    outcome: Future[Any]


class Questions:
    """Tells the questions of some servers' guards from the agent's calls.

    Use `answer(server)` as the backend of each guard, and `told` for the calls.

    Calls of which no guard can ask, as far as is known, are handed in ahead of their outcomes. Before any other call, and after
    64 of them, all outcomes are waited for, and only then is taken account of what was asked meanwhile: so nothing depends on
    how quick the guards are.

    Args:
        servers: those that have a guard.
        submit: has a job labelled by the guard that it names, one after the other in their order; the label does not matter.

    Attributes:
        asked: questions of the guards so far, by tool.
        missing: those that nobody answered, by tool: neither the recording nor the guard's own backend, if it has one.
        own_answers: ids of calls that answered a question of their own guards.
    """

    def __init__(self, servers: Collection[str], submit: Callable[[Job], Future[Any]]) -> None:
        self.asked: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.own_answers: set[str] = set()
        self._servers = servers
        self._submit = submit
        self._window: deque[_Held] = deque()
        self._by_question: dict[bytes, list[_Held]] = {}
        self._known: OrderedDict[bytes, Call] = OrderedDict()
        self._tools: set[str] = set()  # that guards were seen to ask for
        self._bytes = 0
        self._running: deque[_Running] = deque()
        self._jobs: dict[Any, _Running] = {}  # those, by the ids of the jobs
        self._claimed: list[_Held] = []
        # Guards ask on other threads, while calls are read on.
        self._lock = Lock()

    def answer(self, server: str, own: Backend | None = None) -> Callable[[str, Any], Any]:
        """The backend of a server's guard, to be called while `told` runs.

        Args:
            server: its id.
            own: answers instead of the recording, whose questions are told all the same.
        """

        def backend(tool: str, args: Any) -> Any:
            with self._lock:
                call = self._answer(server, tool, args)
                self.asked[tool] += 1
                if own is None and call is None:
                    self.missing[tool] += 1
            return _answer_of(call, tool) if own is None else self._ask(own, tool, args)

        return backend

    def _ask(self, own: Backend, tool: str, args: Any) -> Any:
        try:
            return ask(own, tool, args)
        except Exception:
            with self._lock:
                self.missing[tool] += 1
            raise

    def told(self, calls: Iterable[Call]) -> Iterator[Call]:
        """The same calls in the same order, with their roles and with what was asked for each.

        Calls of servers without a guard stay as they are.
        """
        ahead: deque[_Held] = deque()  # the part of the window that is still to be labelled
        for held in map(_Held, count(), calls):
            self._hold(held)
            ahead.append(held)
            while len(ahead) > _WINDOW_CALLS or (ahead and self._bytes > _WINDOW_BYTES):
                yield from self._label_next(ahead)
        while ahead:
            yield from self._label_next(ahead)
        self._wait()
        while self._window:
            yield self._let_go()

    def _label_next(self, ahead: deque[_Held]) -> Iterator[Call]:
        held = ahead.popleft()
        self._look_at(held, ahead)
        # Those behind the first that is not labelled stay for a while: they may be questions about an answer before them.
        first = self._running[0].held if self._running else held
        if self._bytes > _WINDOW_BYTES and self._window[0] is first:
            self._wait()
            first = held
        while self._window[0].at < first.at - _WINDOW_CALLS or (
            self._window[0] is not first and self._bytes > _WINDOW_BYTES
        ):
            yield self._let_go()

    def _hold(self, held: _Held) -> None:
        with self._lock:
            self._window.append(held)
            self._bytes += _size(held.call)
            if held.key is not None:
                self._by_question.setdefault(held.key, []).append(held)

    def _let_go(self) -> Call:
        with self._lock:
            held = self._window.popleft()
            self._bytes -= _size(held.call)
            if held.key is not None:
                others = self._by_question[held.key]
                others.remove(held)
                if not others:
                    del self._by_question[held.key]
        return msgspec.structs.replace(held.call, role=held.role, enrichment=(*held.call.enrichment, *held.asked))

    def _look_at(self, held: _Held, ahead: deque[_Held]) -> None:
        if held.call.server not in self._servers or held.is_question:
            return
        may_be_one = held.role is Role.CANDIDATE or held.call.tool in self._tools
        if may_be_one or len(self._running) >= _MOST_RUNNING:
            self._wait()
            may_be_one = held.role is Role.CANDIDATE or held.call.tool in self._tools
        if may_be_one and not held.is_question:
            self._ask_for_next(held, ahead)
            self._wait()
        if not held.is_question:
            held.role = Role.AGENT
            self._resource(held)
            self._run(held, response_job(held.call), is_response=True)

    def _ask_for_next(self, held: _Held, ahead: deque[_Held]) -> None:
        """Have the next call that is no question itself labelled first: `held` may be its question."""
        for number, each in enumerate(ahead):
            if number >= _NEAR_CALLS:
                return
            # Not by its role: tools that guards of GitHub may ask for are called by agents, too.
            may_be_one = each.call.tool == held.call.tool or each.call.tool in self._tools
            if each.call.server == held.call.server and not may_be_one:
                self._resource(each)
                return

    def _resource(self, held: _Held) -> None:
        if not held.is_labelled:
            held.is_labelled = True
            self._run(held, resource_job(held.call), is_response=False)

    def _run(self, held: _Held, job: Job | None, *, is_response: bool) -> None:
        if job is None:
            return
        with self._lock:  # the guard's first question waits for it
            outcome = self._submit(job)
            running = self._jobs[job.id] = _Running(held, is_response, outcome)
        self._running.append(running)

    def _wait(self) -> None:
        """Wait for the jobs that were handed in, and take account of what they asked."""
        while self._running:
            self._running.popleft().outcome.result()
        with self._lock:
            self._jobs.clear()
            self._tools.update(self.asked)
            for held in self._claimed:
                held.role = Role.ENRICHMENT
            self._claimed.clear()

    def _answer(self, server: str, tool: str, args: Any) -> Call | None:
        """The call of the recording that answers a question; it is told to be that question."""
        running = self._jobs.get(JOB_THAT_ASKS.get())
        current = None if running is None else running.held
        key = _key(server, tool, args)
        found = None if running is None else self._nearest(key, running)
        if found is not None:
            found.is_claimed = True
            self._claimed.append(found)
            self._remember(key, found.call)
        call = found.call if found is not None else self._known.get(key or b"")
        if call is None and current is not None and current.key == key is not None:
            # The call is what its guard asks: its own answer is the answer, and stays the only one if the guard asked it about
            # a call that nobody can label again.
            call = current.call
            self.own_answers.add(call.call)
            self._remember(key, call)
        if current is not None and found is not None:
            answer = {"result": found.call.result} if _is_answered(found.call) else {"error": _error_of(found.call)}
            current.asked.append({"tool": tool, "args": args, **answer})
        return call

    def _nearest(self, key: bytes | None, running: _Running) -> _Held | None:
        """The occurrence of a question that belongs to the call: the last one before it, or the first one after it."""
        if key is None:
            return None
        current = running.held
        held = [each for each in self._by_question.get(key, ()) if abs(each.at - current.at) <= _WINDOW_CALLS]
        free = [each for each in held if each is not current and not each.is_question and not each.is_claimed]
        if running.is_response:
            return next((each for each in free if each.at > current.at), None)
        return next((each for each in reversed(free) if each.at < current.at), None)

    def _remember(self, key: bytes | None, call: Call) -> None:
        if key is None:
            return
        self._known[key] = call
        self._known.move_to_end(key)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)


def _is_answered(call: Call) -> bool:
    return call.result_json is not None and call.result_is.is_answer


def _error_of(call: Call) -> str:
    return error_text(call.error) or "no answer was recorded"


def _answer_of(call: Call | None, tool: str) -> Any:
    """What the recording answers. Raises `NoAnswer`."""
    if call is None:
        raise NoAnswer(f"the recording has no answer to {tool}")
    if not _is_answered(call):
        raise NoAnswer(f"{tool} failed: {_error_of(call)}")
    return call.result


def _key(server: str | None, tool: str | None, args: Any) -> bytes | None:
    """What makes two questions the same; None for arguments that cannot be compared."""
    try:
        return _canonical([server, tool, args])
    except (*FAILURES, TypeError):
        return None


def _size(call: Call) -> int:
    return len(call.result_json or b"") + len(call.args_json or b"") + 500
