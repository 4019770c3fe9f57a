"""The oracle's book of sessions: jobs of one run in order, on one worker while it is of use, and outcomes tell of another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from guardpool.outcomes import Outcome, Status
from guardpool.testing.plan import Nature
from guardpool.testing.processes import Process
from guardpool.testing.world import Wrong


class _Session:
    def __init__(self) -> None:
        self.unfinished: dict[str, list[str]] = {}  # by owner: jobs without an outcome, in order
        self.ended_on: set[int] = set()  # workers that its jobs came to their end on, with an outcome
        self.at: Process | None = None  # the worker that the last of them came to its end on
        self.restarted = False
        self.is_in_order = True


class SessionWatch:
    """Watches one run.

    Args:
        natures: of all jobs, by name.
        is_of_use: whether the supervisor takes a worker for ready.
    """

    def __init__(self, natures: Mapping[str, Nature], is_of_use: Callable[[Process], bool]) -> None:
        self._natures = natures
        self._is_of_use = is_of_use
        self._sessions: dict[str, _Session] = {}
        self._began_on: dict[str, Process] = {}  # by job: where it was begun last
        self._done_on: dict[str, Process] = {}  # by job: where it was done last

    def queues(self, names: Sequence[str]) -> None:
        """A caller hands in jobs."""
        for name in names:
            session = self._session_of(name)
            if session is not None:
                session.unfinished.setdefault(_owner_of(name), []).append(name)

    def begins(self, process: Process, name: str) -> None:
        """A worker begins a job."""
        self._began_on[name] = process
        session = self._session_of(name)
        if session is None or not session.is_in_order or not process.honest:
            return
        unfinished = session.unfinished[_owner_of(name)]
        if name not in unfinished:
            return  # it was cancelled, or a lie finished it
        for earlier in unfinished[: unfinished.index(name)]:
            if self._done_on.get(earlier) is not process:
                raise Wrong(f"job {name} of {self._natures[name].session} begins before {earlier} came to its end")
        home = session.at
        if home is not None and home is not process and home.alive and self._is_of_use(home):
            raise Wrong(
                f"job {name} of {self._natures[name].session} begins in worker {process.number}, not in {home.number}"
            )

    def done(self, name: str) -> None:
        """A worker came to the end of a job."""
        self._done_on[name] = self._began_on[name]

    def ends(self, outcome: Outcome, is_forged: bool) -> None:
        """A job gets its outcome."""
        session = self._session_of(outcome.id)
        if session is None:
            if outcome.session_restarted:
                raise Wrong(f"job {outcome.id} is in no session, and its outcome tells that it was started afresh")
            return
        session.unfinished[_owner_of(outcome.id)].remove(outcome.id)
        worker = self._began_on.get(outcome.id)
        if is_forged or worker is None or not worker.honest:
            # A worker that was broken out of can answer for any job that it has, in any order.
            session.is_in_order = session.is_in_order and outcome.status is Status.CANCELLED
        if outcome.status is Status.CANCELLED or not session.is_in_order or worker is None:
            return
        session.restarted = session.restarted or not session.ended_on <= {worker.number}
        session.ended_on.add(worker.number)
        session.at = worker
        if outcome.status is Status.CRASHED:
            return  # a job that was suspected is charged with a worker's death even if it did not begin there
        if outcome.session_restarted != session.restarted:
            raise Wrong(
                f"{self._natures[outcome.id].session} came to workers {sorted(session.ended_on)}, and the outcome of job "
                f"{outcome.id} tells {outcome.session_restarted}"
            )

    def _session_of(self, name: str) -> _Session | None:
        key = self._natures[name].session
        return None if key is None else self._sessions.setdefault(key, _Session())


def _owner_of(name: str) -> str:
    """The stream of a job, or the calls: what its name begins with."""
    return name.partition("-")[0] if "-" in name else "c"
