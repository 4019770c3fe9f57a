"""Calls as jobs: what a guard is asked about a call, before it and about its result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import structs

from guardpool.errors import check_kind
from guardpool.jobs import Job, Op
from guardpool.recordings.call import Call, PayloadState, Role
from guardpool.recordings.formats.timestamps import since_1970

_LOST = PayloadState.LOST


def jobs(calls: Iterable[Call]) -> Iterator[Job]:
    """The one or two jobs of each call: `CALL/resource`, and `CALL/response` where its result can be labelled.

    A job's guard is the call's server, its session the call's, and its time that of the call or of its answer, where the source
    has one. A guard's own question gives no job.
    """
    check_kind("calls", calls, Iterable, "an iterable of Call")
    for call in calls:
        check_kind("each of the calls", call, Call, "a Call")
        if call.role is not Role.ENRICHMENT:
            for job, at in ((resource_job(call), call.at), (response_job(call), call.until or call.at)):
                if job is not None:
                    yield structs.replace(job, session=call.session, time=since_1970(at))


def asks_about_call(call: Call) -> bool:
    """Whether a guard can be asked about a call before it is made: not if it has no tool's name, or its arguments were lost."""
    return call.tool is not None and call.payload.args is not _LOST


def asks_about_result(call: Call) -> bool:
    """Whether a guard can be asked about a call's result. One that is lost, absent or filtered already is not what the backend
    answered: its label would say nothing of that."""
    return asks_about_call(call) and call.result_json is not None and call.result_is.is_answer


def resource_job(call: Call) -> Job | None:
    """The job that asks about a call before it is made; None if no guard can be asked.

    Arguments that were never recorded are passed as an empty object.
    """
    if call.tool is None or not asks_about_call(call):
        return None
    args = {} if call.args_json is None else call.args
    return Job(f"{call.call}/resource", Op.LABEL_RESOURCE.value, call.tool, args, guard=call.server)


def response_job(call: Call) -> Job | None:
    """The job that asks about a call's result; None if no guard can be asked."""
    if call.tool is None or not asks_about_result(call):
        return None
    args = {} if call.args_json is None else call.args
    return Job(f"{call.call}/response", Op.LABEL_RESPONSE.value, call.tool, args, call.result, guard=call.server)
