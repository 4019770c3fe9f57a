"""A worker's results: whether they are sound, and the outcomes they make. Pure. Workers are not trusted.

The wire codec has checked types and counts. Here is what depends on the job: a label must have the form of its operation, on
one line, since it goes into the outcome file as it stands; an error and log lines must be no longer than an honest
worker's, since they are kept for as long as the caller likes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from sys import getsizeof

import msgspec

from guardpool import nesting, stacks
from guardpool.labels import check_label
from guardpool.outcomes import (
    NOTHING_ASKED,
    BackendUse,
    LogLine,
    Outcome,
    OutcomeError,
    Question,
    Status,
    StoredLabel,
    stored_label,
)
from guardpool.printable import printable
from guardpool.protocol.wire import BackendTally, ResultItem, may_be_told
from guardpool.supervise.known_labels import KnownLabels
from guardpool.supervise.scheduler import Task

MAX_WORD_CHARS = 100
MAX_MESSAGE_CHARS = 4000
# Beyond `max_log_bytes`: the line that says how many were dropped.
_LAST_LINE_CHARS = 100
# In memory, beside its text: an empty line is not free.
_LINE_BYTES = 64
# What a byte of JSON takes at most, nearly, once it is decoded: short strings and small objects take most.
_VALUE_BYTES = 16

# Far more than an answer may have by the contract, and far less than this thread's stack has room for.
_MAX_LABEL_DEPTH = 10_000

_STATUS = {status.value: status for status in Status}
_OK = Status.OK
_NULL = b"null"
# What a guard gave back, which is no more than a guess if it did not know what it asked for.
_ANSWERS = (Status.OK, Status.REFUSED, Status.INVALID)
_QUESTION_CHARS = 200

_CHECK: dict[str, Callable[[bytes], object]] = {op: check_label(op) for op in ("label_resource", "label_response")}
_NONE_KNOWN = KnownLabels()
_NO_LABEL = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)


def first_unsound(
    tasks: Sequence[Task], items: Sequence[ResultItem], max_log_bytes: int, known: KnownLabels
) -> str | None:
    """What is wrong with the first result that no honest worker sends; None if all are sound.

    Hot: nearly all are labels. 0.5 us for each of about 150 bytes, 0.1 us for one that is known.

    Args:
        tasks: the jobs.
        items: their results, in the same order.
        max_log_bytes: the limit of a job's log.
        known: labels that are sound; it learns those that are found to be, if all results are.
    """
    sound, unknown = known.by_op, []
    try:
        if not stacks.is_bounded_by_python() and _any_too_deep(items):
            raise RecursionError
        for task, item in zip(tasks, items):
            if item.status == "ok":
                label = item.body
                if label not in sound[task.op]:
                    _CHECK[task.op](label)  # type: ignore[arg-type]  # an error in the place of a label is a TypeError
                    unknown.append((task.op, label))
            elif type(item.body) is bytes or not _is_short(item.body):  # type: ignore[arg-type]
                break
            if item.logs and not _fit(item.logs, max_log_bytes):
                break
            if item.backend is not None and not _adds_up(item.backend):
                break
        else:
            # Raw line ends are white space in JSON. One search in all labels is 5 times quicker than one in each.
            text = b"".join([label for _, label in unknown])  # type: ignore[misc]
            if b"\n" not in text and b"\r" not in text:
                known.add(unknown)  # type: ignore[arg-type]
                return None
    except _NO_LABEL:
        pass
    faults = (_fault(task, item, max_log_bytes) for task, item in zip(tasks, items))
    return next(fault for fault in faults if fault is not None)


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
            if not stacks.is_bounded_by_python() and _any_too_deep([item]):
                raise RecursionError("nested too deeply")
            _CHECK[task.op](body)
        except _NO_LABEL as error:
            return f"{what} holds no label of {task.op}: {error}"
        if b"\n" in body or b"\r" in body:
            return f"{what} holds a label of more than one line"
    if not _fit(item.logs, max_log_bytes):
        return f"{what} has log lines of an unknown level, or more than max_log_bytes allows"
    if item.backend is not None and not _adds_up(item.backend):
        return f"{what} tells of questions that no guard can have asked"
    return None


def _any_too_deep(items: Sequence[ResultItem]) -> bool:
    return any(type(item.body) is bytes and nesting.is_deeper(item.body, _MAX_LABEL_DEPTH) for item in items)


def _is_short(error: OutcomeError) -> bool:
    words = (error.code, error.trap or "", error.signal or "")
    messages = (error.message, *(error.backend or ()))
    return max(map(len, words)) <= MAX_WORD_CHARS and max(map(len, messages)) <= MAX_MESSAGE_CHARS


def _fit(logs: Sequence[LogLine], max_log_bytes: int) -> bool:
    chars = sum([len(line.text) for line in logs])
    return chars <= max_log_bytes + _LAST_LINE_CHARS and all(0 <= line.level <= 3 for line in logs)


def _adds_up(tally: BackendTally) -> bool:
    if not tally.failed and len(tally.tools) == 1:  # nearly all
        tool = tally.tools[0]
        return 0 < tally.asked >= tool.asked and not tool.failed and not tally.missing
    asked = sum([tool.asked for tool in tally.tools])
    failed = sum([tool.failed for tool in tally.tools])
    counts = tally.asked >= tally.failed >= len(tally.missing) and asked <= tally.asked and failed <= tally.failed
    return (
        counts
        and all(tool.asked >= tool.failed for tool in tally.tools)
        and all(_is_compact(question.args) for question in tally.missing)
    )


@lru_cache(maxsize=1024)
def _is_compact(args: bytes) -> bool:
    """Whether arguments of a question are compact JSON, and may stand in an outcome."""
    try:
        return may_be_told(args) and msgspec.json.encode(msgspec.json.decode(args)) == args
    except (ValueError, RecursionError, OverflowError):
        return False


@lru_cache(maxsize=1024)
def _plain_use(asked: int, failed: int) -> BackendUse:
    """One object for all jobs that asked as often: it is never changed."""
    return BackendUse(asked, asked - failed, failed)


def _use_of(tally: BackendTally) -> BackendUse:
    if not tally.missing:
        return _plain_use(tally.asked, tally.failed)
    missing = [Question(question.tool, msgspec.json.decode(question.args)) for question in tally.missing]
    return BackendUse(tally.asked, tally.asked - tally.failed, tally.failed, tuple(missing))


def outcomes_of_results(
    tasks: Sequence[Task],
    items: Sequence[ResultItem],
    names: Sequence[str],
    keep_logs: bool,
    withholds: Sequence[bool] | None = None,
    known: KnownLabels | None = None,
) -> list[Outcome]:
    """The outcomes of jobs that a worker reported. Hot: nearly all are labels, without a line of log.

    Args:
        tasks: the jobs.
        items: their results, in the same order.
        names: the guards' names.
        keep_logs: whether the guard's log lines are wanted.
        withholds: for each guard, whether a question without an answer costs the label; None: for none.
        known: labels that need not be kept once more.
    """
    kept = (known or _NONE_KNOWN).by_op
    return [
        Outcome(
            task.job_id,
            names[task.guard],
            task.op,
            task.tool_name,
            _OK,
            kept[task.op].get(item.body) or _stored(item.body),  # type: ignore[arg-type]
            None,
            item.duration_us,
            task.deaths + 1,
            item.backend_calls,
            (),
            NOTHING_ASKED if item.backend is None else _use_of(item.backend),
        )
        if item.status == "ok"
        and type(item.body) is bytes
        and not item.logs
        and (item.backend is None or not item.backend.failed)
        else outcome_of_result(task, item, names[task.guard], keep_logs, bool(withholds and withholds[task.guard]))
        for task, item in zip(tasks, items)
    ]


def _stored(raw: bytes) -> StoredLabel | None:
    return None if raw == _NULL else StoredLabel(raw)


def outcome_of_result(task: Task, item: ResultItem, guard: str, keep_logs: bool, withholds: bool = False) -> Outcome:
    """The outcome of one job that a worker reported."""
    status, label, error = _STATUS[item.status], None, None
    if type(item.body) is bytes and status is _OK:
        label = _stored(item.body)
    elif isinstance(item.body, OutcomeError) and status is not _OK:
        error = item.body
    else:  # a label and an error at once, or neither: no label
        status, error = Status.INVALID, OutcomeError("invalid_result", "the worker sent neither a label nor an error")
    use = NOTHING_ASKED if item.backend is None else _use_of(item.backend)
    if withholds and use.failed and status in _ANSWERS:
        status, label, error = Status.UNANSWERED, None, _unanswered(use, error)
    return Outcome(
        task.job_id,
        guard,
        task.op,
        task.tool_name,
        status,
        label,  # type: ignore[arg-type]
        error,
        item.duration_us,
        task.deaths + 1,
        item.backend_calls,
        tuple(item.logs) if keep_logs else (),
        use,
    )


def of_sessions(tasks: Sequence[Task], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The tasks' outcomes, which tell now whether their session was restarted. Apart, because most pools know no session."""
    return [
        msgspec.structs.replace(outcome, session_restarted=True) if task.restarted else outcome
        for task, outcome in zip(tasks, outcomes)
    ]


def _unanswered(use: BackendUse, error: OutcomeError | None) -> OutcomeError:
    first = ""
    if use.missing:
        question = use.missing[0]
        asked = f"{question.tool} {msgspec.json.encode(question.args).decode()}"
        first = f"; the first: {printable(asked, _QUESTION_CHARS)}"
    message = f"{use.failed} of {use.asked} questions to the backend had no answer{first}"
    return OutcomeError("unanswered", message, backend=None if error is None else error.backend)


def held_bytes(outcome: Outcome) -> int:
    """Memory that what an outcome holds takes, nearly: what a stream counts in its window."""
    label, error = stored_label(outcome), outcome.error
    size = len(label.json) if type(label) is StoredLabel else 0
    if error is not None:
        size += sum(map(getsizeof, (error.message, *(error.backend or ()))))
    size += sum([_LINE_BYTES + _VALUE_BYTES * len(msgspec.json.encode(q.args)) for q in outcome.backend.missing])
    return size + sum([_LINE_BYTES + getsizeof(line.text) for line in outcome.logs])


def with_backend_errors(outcome: Outcome, errors: Collection[str]) -> Outcome:
    """The outcome with what the backend raised: in its logs in order, and in its error, if it
    has one, from the last to the first."""
    logs = (*outcome.logs, *(LogLine(3, f"backend: {error}") for error in errors))
    error = outcome.error
    if error is not None:
        error = msgspec.structs.replace(error, backend=tuple(errors)[::-1])
    return msgspec.structs.replace(outcome, logs=logs, error=error)
