"""Recorded calls as jobs that are encoded already, and a stream of them. Used by one thread.

A call has its arguments and its result as JSON. What a guard is told is made of these texts as they are. Only what cannot be
put before a guard in that way is decoded, for the message that says why.
"""

from __future__ import annotations

from collections import deque

import msgspec

from guardpool.contract.values import MAX_LEVELS
from guardpool.jobs import Job, Op, Prepared
from guardpool.nesting import is_deeper
from guardpool.outcomes import Outcome, OutcomeError
from guardpool.pool import GuardPool
from guardpool.recordings import Call, to_jobs
from guardpool.submit.payload import PayloadError, encode_job, payload_from_parts

# Jobs are handed in some at a time: each time wakes the supervisor, which costs as much as several jobs.
_AT_ONCE = 64

_encode = msgspec.json.Encoder().encode
_RESOURCE, _RESPONSE = Op.LABEL_RESOURCE.value, Op.LABEL_RESPONSE.value


def resource_job(call: Call) -> Prepared | None:
    """`recordings.to_jobs.resource_job`, encoded."""
    if not to_jobs.asks_about_call(call):
        return None
    return _quickly(call, f"{call.call}/resource", _RESOURCE, None) or _slowly(to_jobs.resource_job(call))


def response_job(call: Call) -> Prepared | None:
    """`recordings.to_jobs.response_job`, encoded."""
    if not to_jobs.asks_about_result(call):
        return None
    return _quickly(call, f"{call.call}/response", _RESPONSE, call.result_json) or _slowly(to_jobs.response_job(call))


def _quickly(call: Call, job_id: str, op: str, result: bytes | None) -> Prepared | None:
    """The job, made of the call's JSON as it stands; None if that cannot be done."""
    args = call.args_json or b"{}"
    if is_deeper(args, MAX_LEVELS) or (result is not None and is_deeper(result, MAX_LEVELS)):
        return None
    try:
        payload = payload_from_parts(op, _encode(call.tool), args, result, None)
    except (PayloadError, UnicodeError):
        return None
    return Prepared(job_id, call.server, op, call.tool, payload)


def _slowly(job: Job | None) -> Prepared | None:
    """The job, or why no guard can be told of it."""
    if job is None:
        return None
    try:
        return Prepared(job.id, job.guard, job.op, job.tool_name, encode_job(job))
    except PayloadError as error:
        return Prepared(job.id, job.guard, job.op, job.tool_name, b"", OutcomeError(error.code, str(error)))


class CallsInOrder:
    """Has calls labelled by one pool, and gives the outcomes in the order in which the jobs were put.

    Until it is closed the pool must not be: what is on its way would be lost.
    """

    resource_job = staticmethod(resource_job)
    response_job = staticmethod(response_job)

    def __init__(self, pool: GuardPool) -> None:
        self._stream = pool.stream()
        self._waiting: list[Prepared] = []  # to be handed in
        self._outcomes: deque[Outcome] = deque()

    def put(self, job: Prepared) -> None:
        """Add a job. It may wait here for others; see `flush`. Raises `PoolClosed` or `PoolBroken`."""
        self._waiting.append(job)
        if len(self._waiting) >= _AT_ONCE:
            self.flush()

    def flush(self, *, until_taken: bool = False) -> None:
        """Hand in what waits here. Raises `PoolClosed` or `PoolBroken`.

        Args:
            until_taken: wait until the pool has it and is about to send it to its workers, to go on while they label.
        """
        if not self._waiting:
            return
        while self._stream.room <= 0:  # only what is taken makes room
            self._outcomes += self._stream.take()
        jobs, self._waiting = self._waiting, []
        self._stream.put(jobs, until_taken=until_taken)

    def next(self) -> Outcome:
        """Wait for the outcome of the next job, in the order in which they were put. There must be one. Raises `PoolBroken`."""
        if not self._outcomes:
            self.flush()
            self._outcomes += self._stream.take()
        return self._outcomes.popleft()

    def close(self) -> None:
        """Drop what was not taken."""
        self._stream.close()
