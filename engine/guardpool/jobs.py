"""A job: one labelling request for one recorded tool call."""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from guardpool.outcomes import OutcomeError

# What `Job.tool_result` is where none was given; null is a result. One object, also after pickle and copy.
UNSET = msgspec.UNSET


class Op(str, Enum):
    """What a job asks of its guard; the values are the guard's export names."""

    LABEL_RESOURCE = "label_resource"
    LABEL_RESPONSE = "label_response"

    def __str__(self) -> str:
        return self.value


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
    """

    id: Any
    op: str
    tool_name: str
    tool_args: Any = None
    tool_result: Any = UNSET
    capabilities: Any = None
    guard: str | None = None


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
    """

    id: Any
    guard: str | None
    op: str
    tool_name: str | None
    payload: bytes
    error: OutcomeError | None = None
