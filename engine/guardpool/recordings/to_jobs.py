"""Calls as jobs: what a guard is asked about a call, before it and about its result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import structs

from guardpool.jobs import Job, Op
from guardpool.recordings.call import Call, PayloadState, Role
from guardpool.recordings.formats.timestamps import since_1970


def jobs(calls: Iterable[Call]) -> Iterator[Job]:
    """The one or two jobs of each call: `CALL/resource`, and `CALL/response` where its result can be labelled.

    A job's guard is the call's server, its session the call's, and its time that of the call or of its answer, where the source
    has one. A guard's own question gives no job.
    """
    for call in calls:
        if call.role is not Role.ENRICHMENT:
            for job, at in ((resource_job(call), call.at), (response_job(call), call.until or call.at)):
                if job is not None:
                    yield structs.replace(job, session=call.session, time=since_1970(at))


def resource_job(call: Call) -> Job | None:
    """The job that asks about a call before it is made.

    Returns:
        None if the call has no tool's name, or if its arguments were lost. Arguments that were never recorded are passed as
        an empty object.
    """
    if call.tool is None or call.payload.args is PayloadState.LOST:
        return None
    args = {} if call.args_json is None else call.args
    return Job(f"{call.call}/resource", Op.LABEL_RESOURCE.value, call.tool, args, guard=call.server)


def response_job(call: Call) -> Job | None:
    """The job that asks about a call's result.

    Returns:
        None where `resource_job` gives none, and for a result that is lost, absent or filtered already: its label would say
        nothing of what the backend answered.
    """
    if call.tool is None or call.payload.args is PayloadState.LOST:
        return None
    if call.result_json is None or not call.result_is.is_answer:
        return None
    args = {} if call.args_json is None else call.args
    return Job(f"{call.call}/response", Op.LABEL_RESPONSE.value, call.tool, args, call.result, guard=call.server)
