"""How jobs of the caller become tasks of the pool: checked, encoded, numbered. Safe from any thread."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union

from guardpool.errors import InvalidJob
from guardpool.jobs import JOB_KEYS, RIGHT_WORDS, UNSET, Job, Op, Prepared, mistake_of, no_such_op
from guardpool.outcomes import Outcome, OutcomeError, Status
from guardpool.plurals import named
from guardpool.submit.payload import PayloadError, encode_job
from guardpool.supervise.owner import Owner
from guardpool.supervise.scheduler import Task

Rejected = tuple[int, Outcome]

_OPS = (Op.LABEL_RESOURCE.value, Op.LABEL_RESPONSE.value)
# A TypeError: a value that cannot be hashed cannot be a name.
_NO_TASK = (PayloadError, KeyError, TypeError)
_SCALARS = (str, int, float, bool, type(None))

# A job as callers give it: a dict has the keys of a job line.
AnyJob = Union[Job, Mapping[str, Any]]


class Intake:
    """Turns jobs into tasks.

    Args:
        names: the guards' names, in order.
        max_input_bytes: a longer payload is rejected.
        passes_time: whether workers are told a job's time; it is checked in any case.
    """

    def __init__(self, names: Sequence[str], max_input_bytes: int, *, passes_time: bool = False) -> None:
        self._names = tuple(names)
        # By what a job names: the guard's index, the operation as a plain string, and `Task.kind`.
        self._places: dict[tuple[str | None, str], tuple[int, str, int]] = {}
        for index, name in enumerate(names):
            for offset, op in enumerate(_OPS):
                for key in (name, None) if len(names) == 1 else (name,):
                    self._places[key, op] = index, op, 2 * index + offset
        self._max_input_bytes = max_input_bytes
        self._passes_time = passes_time
        self._seq = itertools.count(1).__next__

    def task_of(self, job: AnyJob, owner: Owner, index: int, default_id: Any = None) -> Task | Outcome:
        """A job as a task, or its `rejected` outcome.

        Args:
            job: the job.
            owner: who gets the outcome.
            index: which job of the owner's it is.
            default_id: the id of a dict that has none.

        Raises:
            InvalidJob: it is neither a `Job` nor a dict.
        """
        if not isinstance(job, Job):
            made = _job_of(job, default_id)
            if isinstance(made, Prepared):
                assert made.error is not None
                return self._rejected(made, made.error)
            job = made
        try:
            payload = encode_job(job)
        except PayloadError as error:
            return self._rejected(job, OutcomeError(error.code, str(error)))
        return self._task(job, payload, owner, index)

    def tasks_of(self, jobs: Iterable[AnyJob], owner: Owner, first_index: int) -> tuple[list[Task], list[Rejected]]:
        """Jobs as tasks with ascending indexes, and the `rejected` outcomes of those that cannot become tasks.

        The id of a dict that has none is its index.

        Raises:
            InvalidJob: one is neither a `Job` nor a dict; nothing was made of the others.
        """
        tasks: list[Task] = []
        rejected: list[Rejected] = []
        add, places, next_seq, most = tasks.append, self._places, self._seq, self._max_input_bytes
        for index, job in enumerate(jobs, first_index):
            # `task_of`, written out: two calls less for each job.
            if type(job) is Job:
                try:
                    payload = encode_job(job)
                    guard, op, kind = places[job.guard, job.op]
                except _NO_TASK:
                    pass
                else:
                    if len(payload) <= most:
                        task = Task(next_seq(), guard, op, payload, kind, owner, index, job.id, job.tool_name)
                        if (job.session is None and job.time is None) or self._carry(job, task) is None:
                            add(task)
                            continue
            made = self.task_of(job, owner, index, index)
            if type(made) is Task:
                add(made)
            else:
                rejected.append((index, made))  # type: ignore[arg-type]
        return tasks, rejected

    def tasks_of_prepared(
        self, jobs: Sequence[Prepared], owner: Owner, first_index: int
    ) -> tuple[list[Task], list[Rejected]]:
        """Jobs that are encoded already as tasks with ascending indexes, and the `rejected` outcomes of the others."""
        tasks: list[Task] = []
        rejected: list[Rejected] = []
        add, places, next_seq, most = tasks.append, self._places, self._seq, self._max_input_bytes
        for index, job in enumerate(jobs, first_index):
            try:
                guard, op, kind = places[job.guard, job.op]
            except _NO_TASK:
                kind = None
            payload, error = job.payload, job.error
            if kind is not None and error is None and len(payload) <= most:
                task = Task(next_seq(), guard, op, payload, kind, owner, index, job.id, job.tool_name)
                if (job.session is None and job.time is None) or self._carry(job, task) is None:
                    add(task)
                    continue
            made = self._task(job, payload, owner, index) if error is None else self._rejected(job, error)
            rejected.append((index, made))  # type: ignore[arg-type]
        return tasks, rejected

    def _task(self, job: Job | Prepared, payload: bytes, owner: Owner, index: int) -> Task | Outcome:
        try:
            number, op, kind = self._places[job.guard, job.op]
        except (KeyError, TypeError):  # a TypeError: a value that cannot be hashed cannot be a name
            return self._rejected(job, self._why_not(job.guard, job.op))
        if len(payload) > self._max_input_bytes:
            message = f"the input is {len(payload)} bytes; max_input_bytes is {self._max_input_bytes}"
            return self._rejected(job, OutcomeError("input_too_large", message))
        task = Task(self._seq(), number, op, payload, kind, owner, index, job.id, job.tool_name)
        error = self._carry(job, task)
        return task if error is None else self._rejected(job, error)

    def _carry(self, job: Job | Prepared, task: Task) -> OutcomeError | None:
        """Give a task the job's session and time; or say what is wrong with them."""
        session, time = job.session, job.time
        error = mistake_of(session, time)
        if error is None:
            task.session = session
            if time is not None and self._passes_time:
                task.time_us = round(time * 1_000_000)
        return error

    def _rejected(self, job: Job | Prepared, error: OutcomeError) -> Outcome:
        guard = self._names[0] if job.guard is None and len(self._names) == 1 else job.guard
        tool_name = job.tool_name if isinstance(job.tool_name, str) else None
        return Outcome(
            job.id, guard if guard in self._names else None, str(job.op), tool_name, Status.REJECTED, error=error
        )

    def _why_not(self, guard: str | None, op: str) -> OutcomeError:
        if guard in self._names or (guard is None and len(self._names) == 1):
            return OutcomeError("no_such_op", no_such_op(op))
        return OutcomeError("no_such_guard", self._which_guard(guard))

    def _which_guard(self, guard: str | None) -> str:
        names = named(self._names)
        if guard is None:
            return f"the job names no guard and the pool holds {len(self._names)}: {names}"
        return f"no guard is called {str(guard)[:80]!r}; the pool holds: {names}"


def _job_of(job: Mapping[str, Any], default_id: Any) -> Job | Prepared:
    """A dict as a job, by the rules of a job line; a `Prepared` with an error where it is not one."""
    if not isinstance(job, Mapping):
        raise InvalidJob(not_a_job(job))
    given = {key: job[key] for key in JOB_KEYS if key in job}
    given.setdefault("id", default_id)
    op = given.get("op")
    error = _mistake(job, given["id"], op)
    if error is not None:
        job_id = given["id"] if isinstance(given["id"], _SCALARS) else default_id
        known_op = op if isinstance(op, str) else ""
        return Prepared(job_id, given.get("guard"), known_op, given.get("tool_name"), b"", error)
    return Job(**{"tool_name": None, "tool_result": UNSET, **given})


def _mistake(job: Mapping[str, Any], job_id: Any, op: Any) -> OutcomeError | None:
    wrong = [hint for word, hint in RIGHT_WORDS.items() if word in job]
    if wrong:
        return OutcomeError("wrong_key", "; ".join(wrong))
    if not isinstance(job_id, _SCALARS):
        return OutcomeError("bad_id", f"id must be a string, a number, a boolean or None, not {type(job_id).__name__}")
    if "op" not in job:
        return OutcomeError("no_such_op", f'op is missing: it must be "{_OPS[0]}" or "{_OPS[1]}"')
    return None if op in _OPS else OutcomeError("no_such_op", no_such_op(op))


def not_a_job(value: object) -> str:
    """The message for a value that is neither a `Job` nor a dict."""
    hint = "; a line of JSON is one after json.loads" if isinstance(value, (str, bytes)) else ""
    return f"a job is a guardpool.Job, or a dict with the keys {', '.join(JOB_KEYS)}; not {type(value).__name__}{hint}"
