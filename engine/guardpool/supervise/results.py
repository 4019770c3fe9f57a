"""What a worker's results must be before anybody sees them. Workers are not trusted.

The wire codec has checked types and counts. Here is what depends on the job: a label must be one of its operation, on one
line, since it goes into the outcome file as it stands; an error and log lines must be no longer than an honest worker's,
since they are kept for as long as the caller likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from guardpool.labels import check_label
from guardpool.outcomes import LogLine, OutcomeError
from guardpool.protocol.wire import ResultItem
from guardpool.supervise.scheduler import Task

MAX_WORD_CHARS = 100
MAX_MESSAGE_CHARS = 4000
# Beyond `max_log_bytes`: the line that says how many were dropped.
_LAST_LINE_CHARS = 100

_CHECK: dict[str, Callable[[bytes], object]] = {op: check_label(op) for op in ("label_resource", "label_response")}
_NO_LABEL = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)


def first_unsound(tasks: Sequence[Task], items: Sequence[ResultItem], max_log_bytes: int) -> tuple[int, str] | None:
    """Where the first result stands that no honest worker sends, and what is wrong with it; None where there is none.

    Hot: nearly all are labels. 0.25 us for each of about 150 bytes.

    Args:
        tasks: the jobs.
        items: their results, in the same order; those of no job, at the end, are not looked at.
        max_log_bytes: the limit of a job's log.
    """
    check, labels = _CHECK, []
    try:
        for task, item in zip(tasks, items):
            if item.status == "ok":
                label = item.body
                check[task.op](label)  # type: ignore[arg-type]  # an error in the place of a label is a TypeError
                labels.append(label)
            elif type(item.body) is bytes or not _is_short(item.body):  # type: ignore[arg-type]
                break
            if item.logs and not _fit(item.logs, max_log_bytes):
                break
        else:
            # Raw line ends are white space in JSON. One search in all labels is 5 times quicker than one in each.
            text = b"".join(labels)  # type: ignore[arg-type]
            if b"\n" not in text and b"\r" not in text:
                return None
    except _NO_LABEL:
        pass
    faults = (_fault(task, item, max_log_bytes) for task, item in zip(tasks, items))
    return next((at, fault) for at, fault in enumerate(faults) if fault is not None)


def _fault(task: Task, item: ResultItem, max_log_bytes: int) -> str | None:
    body = item.body
    what = f"its result for job {task.seq}"
    if (type(body) is bytes) != (item.status == "ok"):
        return f"{what} is {item.status}, with {'a label' if type(body) is bytes else 'an error'}"
    if isinstance(body, OutcomeError):
        if not _is_short(body):
            return f"{what} has an error that is too long"
    else:
        try:
            _CHECK[task.op](body)
        except _NO_LABEL as error:
            return f"{what} holds no label of {task.op}: {error}"
        if b"\n" in body or b"\r" in body:
            return f"{what} holds a label of more than one line"
    if not _fit(item.logs, max_log_bytes):
        return f"{what} has log lines of an unknown level, or more than max_log_bytes allows"
    return None


def _is_short(error: OutcomeError) -> bool:
    words = (error.code, error.trap or "", error.signal or "")
    messages = (error.message, *(error.backend or ()))
    return max(map(len, words)) <= MAX_WORD_CHARS and max(map(len, messages)) <= MAX_MESSAGE_CHARS


def _fit(logs: Sequence[LogLine], max_log_bytes: int) -> bool:
    chars = sum([len(line.text) for line in logs])
    return chars <= max_log_bytes + _LAST_LINE_CHARS and all(0 <= line.level <= 3 for line in logs)
