"""A job: one labelling request for one recorded tool call."""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from guardpool.errors import InvalidJob
from guardpool.outcomes import OutcomeError

# What `Job.tool_result` is where none was given; null is a result. One object, also after pickle and copy.
UNSET = msgspec.UNSET


class Op(str, Enum):
    """What a job asks of its guard; the values are the guard's export names."""

    LABEL_RESOURCE = "label_resource"
    LABEL_RESPONSE = "label_response"

    def __str__(self) -> str:
        return self.value


_RESOURCE, _RESPONSE = Op.LABEL_RESOURCE.value, Op.LABEL_RESPONSE.value

# What a job line may hold, and so a dict that is a job. Other keys are ignored.
JOB_KEYS = ("id", "guard", "op", "tool_name", "tool_args", "tool_result", "capabilities", "session", "time")
# MCP's own words, which people write by mistake. Ignored like other keys they would give plausible labels of another job.
RIGHT_WORDS = {
    "arguments": "what the tool is called with is tool_args here, not arguments",
    "result": "what the tool answered is tool_result here, not result",
    "params": "a job has no params: what is in it as name and arguments is tool_name and tool_args here",
    "name": "the tool's name is tool_name here, not name",
}


# In 2255. A guard is told nanoseconds, which most languages count in 64 bits with a sign: those end in 2262.
MAX_TIME_S = 9_000_000_000
TIME_IS = f"time must be a number of seconds since 1970, from 0 to {MAX_TIME_S}"
_LONGEST_SHOWN = 10**30  # Python refuses to write numbers of thousands of digits


def mistake_of(session: object, time: object) -> OutcomeError | None:
    """What is wrong with a job's `session` or `time`; None: nothing."""
    if session is not None and not isinstance(session, str):
        return OutcomeError("bad_session", f"session must be a string, not {type(session).__name__}")
    if time is None:
        return None
    if isinstance(time, bool) or not isinstance(time, (int, float)):
        return OutcomeError("bad_time", f"{TIME_IS}; not {type(time).__name__}")
    if 0 <= time <= MAX_TIME_S:
        return None
    got = repr(time) if isinstance(time, float) or abs(time) < _LONGEST_SHOWN else "a longer number"
    hint = ": are these milliseconds?" if MAX_TIME_S < time <= 1000 * MAX_TIME_S else ""
    return OutcomeError("bad_time", f"{TIME_IS}; not {got}{hint}")


def no_such_op(op: object) -> str:
    """The message for an `op` that is not an operation."""
    got = op if isinstance(op, str) else type(op).__name__
    return f'op must be "{_RESOURCE}" or "{_RESPONSE}", not {got[:80]!r}'


class Job(msgspec.Struct, frozen=True, gc=False):
    """One labelling request.

    Args:
        id: any scalar; comes back in the outcome, untouched. Need not be unique.
        op: `"label_resource"` (before the call) or `"label_response"` (its result).
        tool_name: the MCP tool, e.g. `"get_issue"`.
        tool_args: what the tool was called with: any JSON value.
        tool_result: what the tool answered: any JSON value; None is null. A `label_response` without it is `rejected`, and
            `label_resource` does not look at it.
        capabilities: passed to the guard if it is not None.
        guard: the guard's name; None means the only one of the pool.
        session: which session of an agent the job belongs to, any string; None: none. The jobs of one session run on one worker
            of a pool, in the order in which they were handed in, by one `map` or by single calls. If that worker dies or is
            replaced, the session goes on in another one, whose guard has seen nothing of it: see `Outcome.session_restarted`.
            A pool remembers the last 16,384 sessions that have no jobs at the moment; others begin like new ones.
        time: when the call was made, in seconds since 1970, from 0 to 9,000,000,000. In a deterministic pool the guard's
            clocks begin there, or at 0; in others it is not looked at. Fractions count to the microsecond.

    A job whose `session` or `time` is something else is `rejected`.

    Raises:
        InvalidJob: `op` is something else.
    """

    id: Any
    op: str
    tool_name: str
    tool_args: Any = None
    tool_result: Any = UNSET
    capabilities: Any = None
    guard: str | None = None
    session: str | None = None
    time: float | None = None

    def __post_init__(self) -> None:
        if self.op != _RESOURCE and self.op != _RESPONSE:
            raise InvalidJob(no_such_op(self.op))


class Prepared(msgspec.Struct, gc=False):
    """A job that is encoded already.

    Args:
        id: comes back in the outcome.
        guard: the guard's name, or None for the only one.
        op: `"label_resource"` or `"label_response"`.
        tool_name: comes back in the outcome; what the guard is told stands in `payload`. None if there is an `error` and
            the job names no tool.
        payload: the guard's input: one JSON object in UTF-8 (see `guardpool.submit.payload`).
        error: where set, the job becomes a `rejected` outcome in its place and no worker sees it.
        session, time: as in `Job`.
    """

    id: Any
    guard: str | None
    op: str
    tool_name: str | None
    payload: bytes
    error: OutcomeError | None = None
    session: str | None = None
    time: float | None = None
