"""The sessions that a run has begun, so that a run which goes on from it can say whose beginning its guards have not seen.

A session has begun with its first outcome that is written and that a guard made, or was given the job for: a label that was
kept, or a job that was rejected, tells a guard nothing. What is kept is bounded as in the pool: of sessions with jobs that
are under way there is as much as there are jobs, and of others the last `MAX_IDLE_SESSIONS` are known, by a digest of their
names.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from msgspec.structs import replace

from guardpool.jobs import Prepared
from guardpool.outcomes import Outcome, Status
from guardpool.supervise.sessions import MAX_IDLE_SESSIONS

_DIGEST_BYTES = 8


class BegunSessions:
    """Notes the sessions of jobs. One thread notes jobs that are read, another one what is written.

    Args:
        before: `state()` of the run that this one goes on from.
    """

    def __init__(self, before: bytes = b"") -> None:
        digests = [before[at : at + _DIGEST_BYTES] for at in range(0, len(before), _DIGEST_BYTES)]
        self._before = frozenset(digests)
        self._begun: OrderedDict[bytes, None] = OrderedDict.fromkeys(digests)  # the one that was last used last
        self._lock = threading.Lock()
        self._of_jobs: dict[int, bytes] = {}  # by number; of jobs in a session that have no outcome yet
        self._read = 0

    def read(self, jobs: Sequence[Prepared]) -> None:
        """Note jobs that are about to be labelled, which are numbered from 0 on as they come here."""
        first = self._read
        self._read += len(jobs)
        found = [(number, job.session) for number, job in enumerate(jobs, first) if job.session is not None]
        if found:
            with self._lock:
                self._of_jobs.update((number, _digest(session)) for number, session in found)

    def written(self, numbers: Sequence[int], outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Note outcomes, by the numbers of their jobs, that are about to be written.

        Returns:
            The outcomes. Those that a guard made of jobs in sessions which the earlier run had begun tell of it
            (`Outcome.session_restarted`).
        """
        if not self._of_jobs:
            return outcomes
        told = list(outcomes)
        with self._lock:
            for at, number in enumerate(numbers):
                session = self._of_jobs.pop(number, None)
                outcome = told[at]
                if session is None or not outcome.attempts or outcome.status is Status.CANCELLED:
                    continue
                if session in self._before:
                    told[at] = replace(outcome, session_restarted=True)
                self._begun[session] = None
                self._begun.move_to_end(session)
                if len(self._begun) > MAX_IDLE_SESSIONS:
                    self._begun.popitem(last=False)
        return told

    def state(self) -> bytes:
        """The sessions that have begun, for a run that goes on from here."""
        return b"".join(self._begun)


def _digest(session: str) -> bytes:
    return blake2b(session.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
