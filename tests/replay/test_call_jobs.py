"""Recorded calls as jobs that are made of their JSON: what a guard is told is what the decoded call would have told it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given

from guardpool import GuardPool, Limits
from guardpool.batch.call_jobs import CallsInOrder, resource_job, response_job
from guardpool.contract.inputs import canonical
from guardpool.jobs import Job, Prepared
from guardpool.outcomes import OutcomeError, Status
from guardpool.recordings import Call, PayloadState, ResultIs, to_jobs
from guardpool.recordings.call import Payload
from guardpool.submit.payload import PayloadError, encode_job
from replaykit import call, guard
from strategies import json_values

TEXT_RESULT = b'{"content":[{"type":"text","text":"\\u003cb\\u003e \\ud83d\\ude00 [REDACTED]"}],"isError":false}'
HUGE = b"9" * 5000


def told_of(slow: Job) -> tuple[bytes, OutcomeError | None]:
    """What a guard is told of a job, with names sorted, or why it is not told of it."""
    try:
        return canonical(encode_job(slow)), None
    except PayloadError as error:
        return b"", OutcomeError(error.code, str(error))


def alike(job: Prepared | None, slow: Job | None) -> None:
    """Assert that two ways to a job lead to the same."""
    assert (job is None) == (slow is None)
    if job is None or slow is None:
        return
    assert (job.id, job.guard, job.op, job.tool_name) == (slow.id, slow.guard, slow.op, slow.tool_name)
    assert (canonical(job.payload) if job.payload else b"", job.error) == told_of(slow)


def both_alike(each: Call) -> None:
    alike(resource_job(each), to_jobs.resource_job(each))
    alike(response_job(each), to_jobs.response_job(each))


@given(args=json_values.map(msgspec.json.encode), result=json_values.map(msgspec.json.encode))
@example(b'{"a":-0}', TEXT_RESULT)
@example(b'{"a":-0.0,"b":1e400}', b'{"content":[{"type":"text","text":-0}]}')
@example(b'{"a":%b}' % HUGE, b"{}")
@example(b'{"a":12345678901234567890}', b'{"a":1.0,"b":1E3,"a":2}')
@example(b'{"a":"\\ud800"}', b'{"content":[{"type":"text","text":"\\udc00"}]}')
@example(b"[" * 901 + b"]" * 901, b"null")
@example(b"null", b'{"a":' * 901 + b"1" + b"}" * 901)
def test_a_guard_is_told_the_same_by_a_calls_json_as_by_its_values(args: bytes, result: bytes) -> None:
    both_alike(call(1, args_json=args, result_json=result))


@pytest.mark.parametrize(
    "members",
    [
        {"tool": None},
        {"tool": "a\ud800b"},
        {"args_json": None},
        {"args_json": b'" {}"'},
        {"payload": Payload(PayloadState.LOST, None)},
        {"result_json": None},
        {"result_is": ResultIs.FILTERED},
        {"result_is": ResultIs.UNKNOWN},
        {"server": None},
    ],
)
def test_calls_that_lack_something_give_the_same_jobs(members: dict[str, Any]) -> None:
    both_alike(call(1, **members))


def test_outcomes_come_in_the_order_in_which_jobs_were_put() -> None:
    calls = [call(number, args_json=b'{"n":%d}' % number) for number in range(300)]
    calls[7] = msgspec.structs.replace(calls[7], args_json=b'{"n":1e999}')
    with GuardPool([guard()], workers=2, limits=Limits(timeout_s=30), log_level="off") as pool:
        labelling = CallsInOrder(pool)
        put = []
        for each in calls:
            for job in (resource_job(each), response_job(each)):
                assert job is not None
                labelling.put(job)
                put.append(job.id)
            labelling.flush(until_taken=each is calls[5] or each is calls[7])
        outcomes = [labelling.next() for _ in put]
        labelling.close()
    assert [outcome.id for outcome in outcomes] == put
    rejected = [outcome.id for outcome in outcomes if outcome.status is Status.REJECTED]
    assert rejected == ["log.jsonl#7/resource", "log.jsonl#7/response"]
