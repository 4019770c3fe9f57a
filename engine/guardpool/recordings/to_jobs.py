"""Calls as jobs: what a guard is asked about a call, before it and about its result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from guardpool.jobs import Job, Op
from guardpool.recordings.call import Call, PayloadState, ResultIs, Role

_RESULTS = (ResultIs.RAW, ResultIs.UNKNOWN)


def jobs(calls: Iterable[Call]) -> Iterator[Job]:
    """The one or two jobs of each call: `CALL/resource`, and `CALL/response` where its result can be labelled.

    A job's guard is the call's server. A guard's own question gives no job, nor does a call without a tool's name or one whose
    arguments were lost. A result that is lost, absent or filtered already gives no response job: its label would say nothing
    of what the backend answered. Arguments that were not recorded are passed as an empty object.
    """
    for call in calls:
        if call.tool is None or call.role is Role.ENRICHMENT or call.payload.args is PayloadState.LOST:
            continue
        args = call.args
        args = {} if args is None else args
        yield Job(f"{call.call}/resource", Op.LABEL_RESOURCE.value, call.tool, args, guard=call.server)
        if call.result_json is not None and call.result_is in _RESULTS:
            yield Job(f"{call.call}/response", Op.LABEL_RESPONSE.value, call.tool, args, call.result, guard=call.server)
