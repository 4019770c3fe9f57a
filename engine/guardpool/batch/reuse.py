"""Labels that no guard has to make: those that were kept by an earlier run, and those of equal jobs of this one.

It stands between the thread that reads and the pool's stream, and looks like the stream. A job whose label is known is put with
its outcome; one that equals a job in a guard's hands is held until that one has its own. All others go to the guards, and what
they make is kept, as soon as the worker that made it has left without a fault.

A label is known by what shapes it: guard, policy, engine, limits and so on, and the input as a value: the order of names in an
object does not count. Only `ok` counts, and only where no question of the guard failed. A kept label also counts only if each
reply that its guard was told is still the same; replies that are not known are asked for first. What a guard remembers from
job to job is not seen here: a guard whose labels depend on the order of its jobs must not have them kept.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from hashlib import blake2b, sha256
from typing import NamedTuple, Union

import msgspec

from guardpool.batch.glancing import Glanced
from guardpool.batch.identity import RunIdentity
from guardpool.batch.kept_labels import KEY_BYTES, KeptLabel, KeptLabels, KeptLabelsError, new_worker
from guardpool.contract.inputs import MINUS_ZERO, canonical
from guardpool.errors import ContractError, GuardPoolError
from guardpool.jobs import Prepared
from guardpool.labels import AgentLabels
from guardpool.limits import Limits
from guardpool.outcomes import NOTHING_ASKED, BackendUse, Outcome, OutcomeError, Status, StoredLabel, stored_label
from guardpool.pool import GuardPool
from guardpool.protocol.reply_memory import reply_digest
from guardpool.protocol.wire import ResultItem
from guardpool.submit.stream import Held, JobStream
from guardpool.supervise.scheduler import Task

# Labels of this run that are held for equal jobs; past it the oldest go, and an equal job is labelled again.
MAX_SAME_BYTES = 256 * 1024 * 1024
_ENTRY_BYTES = 400  # what an entry takes beside its label
# Labels are written in transactions of so many, or when a worker leaves: before that they do not count. Keys are scattered, so
# a transaction writes most pages of the file: a row took 17 us in transactions of 4,096, and 10 in those of 20,000.
_KEEP_ROWS = 20_000
# Labels that wait to be written; past it, e.g. while another process holds the file, they are not kept.
_MOST_WAITING = 100_000
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder().decode


class Keys:
    """The keys of a run's jobs.

    Args:
        run, limits: of the run.
        agents: what each guard answered to its policy.
    """

    def __init__(self, run: RunIdentity, limits: Limits, agents: Mapping[str, AgentLabels]) -> None:
        self._only = run.guards[0].name if len(run.guards) == 1 else None
        self._deterministic = run.deterministic
        self._bases: dict[tuple[str | None, str], bytes] = {}
        for guard in run.guards:
            agent = agents[guard.name]
            shaping = (
                *("guardpool label 1", run.guardpool, run.engine, guard.module, guard.policy, asdict(limits)),
                *(sorted(agent.secrecy), sorted(agent.integrity), str(agent.mode), repr(agent.normalized_policy)),
                # Random bytes of a deterministic pool follow from the guard's name, too.
                *("isolation none", guard.name if run.deterministic else None),
            )
            for op in ("label_resource", "label_response"):
                base = blake2b(_encode((*shaping, op)), digest_size=KEY_BYTES).digest()
                self._bases[guard.name, op] = base
                if self._only is not None:
                    self._bases[None, op] = base

    def of(self, job: Prepared) -> bytes | None:
        """A job's key; None if no guard will see it."""
        if job.error is not None:
            return None
        base = self._bases.get((job.guard, job.op))
        if base is None:
            return None
        digest = blake2b(_sorted(job.payload), digest_size=KEY_BYTES, key=base)
        digest.update(self._time_of(job))  # behind the input, which ends with a brace
        return digest.digest()

    def of_spelling(self, job: Prepared) -> bytes | None:
        """What a job that was only glanced at is found by as well: jobs that are spelt alike are equal. None for others."""
        base = self._bases.get((job.guard, job.op)) if type(job) is Glanced else None
        if base is None:
            return None
        # No piece of a line has a newline in it.
        return sha256(b"\n".join((base, *job.spelling, self._time_of(job)))).digest()  # type: ignore[attr-defined]

    def _time_of(self, job: Prepared) -> bytes:
        return repr(float(job.time)).encode() if self._deterministic and job.time is not None else b""

    def guard_of(self, job: Prepared) -> str | None:
        """The name of the guard that a job is for."""
        return self._only if job.guard is None else job.guard


def _sorted(payload: bytes) -> bytes:
    """An input with names sorted. Its numbers are as a guard sees them already."""
    if MINUS_ZERO.search(payload):  # it would become 0: rather to the byte
        return payload
    try:
        return _encode_sorted(_decode(payload))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return payload


class _Known(NamedTuple):
    """A label without its job: kept by an earlier run, or made in this one."""

    label: bytes
    asked: int
    is_kept: bool = False


class _Same:
    """The labels of this run, the newest `MAX_SAME_BYTES` of them."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}
        self._size = 0

    def get(self, key: bytes) -> _Known | None:
        return self._known.get(key)

    def add(self, key: bytes, known: _Known) -> None:
        if key in self._known:
            return
        self._known[key] = known
        self._size += len(known.label) + _ENTRY_BYTES
        while self._size > MAX_SAME_BYTES:
            oldest = next(iter(self._known))
            self._size -= len(self._known.pop(oldest).label) + _ENTRY_BYTES


class Reuse:
    """A stream that asks its guards for no label twice. The thread that reads calls `put`, the one that writes `take_numbered`.

    Also the pool's `Witness`.

    Args:
        kept: the file of kept labels, to look labels up in; None: none are kept.
        keeper: writes labels there.
        dedupe: label equal jobs of the run once.

    Attributes:
        from_file: outcomes with a label that was kept.
        from_run: outcomes with the label of an equal job of the run.
    """

    def __init__(self, kept: KeptLabels | None, keeper: Keeper | None, dedupe: bool) -> None:
        self._kept = kept
        self._keeper = keeper
        self._dedupe = dedupe
        self.from_file = self.from_run = 0
        self._failure: KeptLabelsError | None = None  # why labels are not looked up any more
        self._lock = threading.Lock()
        self._by_index: dict[int, _Keys] = {}  # of jobs that guards have
        self._flying: dict[
            bytes, list[tuple[int, Held]]
        ] = {}  # by the key of a job that a guard has: those that equal it
        self._same = _Same()
        self._stopped = threading.Event()

    def begin(
        self,
        pool: GuardPool,
        stream: JobStream,
        keys: Keys,
        write: Callable[[Prepared], Prepared] | None,
        timeout_s: float,
    ) -> None:
        """From here on jobs may be put.

        Args:
            pool: with this as its witness.
            stream: of the pool, not used before.
            keys: of the run's jobs.
            write: gives jobs that were only glanced at their payload; None: there are none.
            timeout_s: how long a backend may take.
        """
        self._pool = pool
        self._stream = stream
        self._keys = keys
        self._write = write or _as_it_is
        self._timeout_s = timeout_s
        self._guards = {name: index for index, name in enumerate(pool.agents)}
        stream.listener = self._delivered

    @property
    def problems(self) -> list[str]:
        """What is wrong with the file of kept labels, a line each. It costs time, and no label."""
        told = []
        if self._kept is not None and self._kept.damaged:
            many = (
                "1 row of kept labels was"
                if self._kept.damaged == 1
                else f"{self._kept.damaged:,} rows of kept labels were"
            )
            told.append(f"{self._kept.path}: {many} damaged and removed")
        failures = (self._failure, None if self._keeper is None else self._keeper.failure)
        return told + list(dict.fromkeys(str(failure) for failure in failures if failure is not None))

    # --- the stream

    def put(self, jobs: Sequence[Prepared]) -> None:
        """Hand jobs in; waits while the window is full. Raises as `JobStream.put`."""
        spellings = [self._keys.of_spelling(job) for job in jobs]
        known = self._known_of(jobs, spellings)
        # Only what is not known by its spelling is looked at more closely.
        jobs = [job if spelling in known else self._write(job) for job, spelling in zip(jobs, spellings)]
        keys = [spelling if spelling in known else self._keys.of(job) for job, spelling in zip(jobs, spellings)]
        known.update(self._known_of(jobs, [None if key in known else key for key in keys]))
        mixed: list[Prepared | Outcome | Held] = []
        followers: list[tuple[int, _Keys, Held]] = []
        with self._lock:
            for index, (job, key, spelling) in enumerate(zip(jobs, keys, spellings), self._stream.next_index):
                if key is None:
                    mixed.append(job)
                elif (found := known.get(key)) is not None or (found := self._same.get(key)) is not None:
                    mixed.append(self._outcome(job, found))
                elif self._dedupe and key in self._flying:
                    held = Held(job)
                    followers.append((index, (key, spelling), held))
                    mixed.append(held)
                else:
                    self._flying.setdefault(key, [])
                    self._by_index[index] = key, spelling
                    mixed.append(job)
        self._stream.put_mixed(mixed)
        for index, pair, held in followers:  # now that they have their places
            self._follow(index, pair, held)

    def finish(self) -> None:
        """No more jobs."""
        self._stream.finish()

    def cancel(self) -> None:
        """Take no more jobs; each one that no worker has yet gets a `cancelled` outcome."""
        self._stopped.set()
        self._stream.cancel()

    def take_numbered(self, timeout_s: float | None = None) -> tuple[Sequence[int], list[Outcome]]:
        """As `JobStream.take_numbered`."""
        return self._stream.take_numbered(timeout_s)

    def _outcome(self, job: Prepared, known: _Known) -> Outcome:
        if known.is_kept:
            self.from_file += 1
        else:
            self.from_run += 1
        return Outcome(
            job.id,
            self._keys.guard_of(job),
            job.op,
            job.tool_name,
            Status.OK,
            None if known.label == b"null" else StoredLabel(known.label),  # type: ignore[arg-type]
            backend_calls=known.asked,
            backend=BackendUse(known.asked, known.asked) if known.asked else NOTHING_ASKED,
        )

    # --- equal jobs

    def _follow(self, index: int, keys: _Keys, held: Held) -> None:
        """Have a job that is held wait for the one that it equals, if that is not over by now."""
        with self._lock:
            if keys[0] in self._flying:
                self._flying[keys[0]].append((index, held))
                return
            known = self._same.get(keys[0])
            if known is None:  # that one has no label
                self._flying[keys[0]] = []
                self._by_index[index] = keys
                outcome = None
            else:
                outcome = self._outcome(held.job, known)
        self._resolve([(index, held, outcome)])

    def _delivered(self, indexes: list[int], outcomes: list[Outcome]) -> None:
        """Outcomes are about to be handed over: answer the jobs that equal theirs, or have one of those labelled."""
        resolved: list[tuple[int, Held, Outcome | None]] = []
        with self._lock:
            for index, outcome in zip(indexes, outcomes):
                keys = self._by_index.pop(index, None)
                if keys is None:
                    continue
                key, spelling = keys
                followers = self._flying.pop(key, [])
                if outcome.status is Status.OK and not outcome.backend.failed:
                    known = _Known(outcome.label_json, outcome.backend.asked)
                    if self._dedupe:
                        self._same.add(key, known)
                        if spelling is not None:
                            self._same.add(spelling, known)
                    resolved += [(at, held, self._outcome(held.job, known)) for at, held in followers]
                elif outcome.status is Status.CANCELLED:
                    resolved += [(at, held, self._cancelled(held.job, outcome.error)) for at, held in followers]
                elif followers:
                    at, held = followers[0]
                    self._flying[key] = followers[1:]
                    self._by_index[at] = key, None
                    resolved.append((at, held, None))
        self._resolve(resolved)

    def _resolve(self, resolved: Sequence[tuple[int, Held, Outcome | None]]) -> None:
        """Hand over the outcomes of jobs that were held; where there is none the guard is to make it."""
        for index, held, outcome in resolved:
            if outcome is None:
                try:
                    self._stream.send_held(index, held)
                    continue
                except GuardPoolError as error:
                    outcome = self._cancelled(held.job, OutcomeError("cancelled", str(error)))
            label = stored_label(outcome)
            size = len(label.json) if type(label) is StoredLabel else 0
            self._stream.deliver([index], [outcome], len(held.job.payload), size)

    def _cancelled(self, job: Prepared, error: OutcomeError | None) -> Outcome:
        return Outcome(job.id, self._keys.guard_of(job), job.op, job.tool_name, Status.CANCELLED, error=error)

    # --- kept labels

    def _known_of(self, jobs: Sequence[Prepared], keys: Sequence[bytes | None]) -> dict[bytes | None, _Known]:
        """The labels that are known by some of these keys: of this run, and kept ones whose replies are the same."""
        guards = {key: self._guards[name] for job, key in zip(jobs, keys) if key and (name := self._keys.guard_of(job))}
        found: dict[bytes | None, _Known] = {}
        wanted = []
        with self._lock:
            for key in guards:
                same = self._same.get(key)
                if same is not None:
                    found[key] = same
                elif not (self._dedupe and key in self._flying):
                    wanted.append(key)
        found.update(self._kept_of(wanted, guards))
        return found

    def _kept_of(self, wanted: Sequence[bytes], guards: Mapping[bytes, int]) -> dict[bytes | None, _Known]:
        if self._kept is None or self._failure is not None or not wanted:
            return {}
        try:
            rows = self._kept.find(wanted)
        except KeptLabelsError as error:
            self._failure = error
            return {}
        asked = {key: _questions_of(guards[key], row) for key, row in rows.items()}
        digests = self._digests(list({question for questions in asked.values() for question, _ in questions}))
        return {
            key: _Known(row.label, row.asked, True)
            for key, row in rows.items()
            if all(digests.get(question) == digest for question, digest in asked[key])
        }

    def _digests(self, questions: Sequence[_Question]) -> dict[_Question, bytes]:
        """What the backends answer now, as digests; a question without an answer is left out."""
        digests: dict[_Question, bytes] = {}
        unknown = []
        for question in questions:
            reply = self._pool.known_reply(*question)
            if reply is None:
                unknown.append(question)
            else:
                digests[question] = reply_digest(reply)
        if not unknown:
            return digests
        answers: queue.SimpleQueue[tuple[_Question, bytes | None]] = queue.SimpleQueue()
        for question in unknown:
            self._pool.ask(*question, _teller(answers, question))
        end = time.monotonic() + self._timeout_s
        left = len(unknown)
        while left and not self._stopped.is_set() and time.monotonic() < end:
            try:
                question, reply = answers.get(timeout=0.1)
            except queue.Empty:
                continue
            left -= 1
            if reply is not None:
                digests[question] = reply_digest(reply)
        return digests

    # --- the witness, on the supervisor's thread

    def labelled(self, worker: int, tasks: Sequence[Task], items: Sequence[ResultItem]) -> None:
        """Have labels kept, if they may be."""
        if self._keeper is None:
            return
        for task, item in zip(tasks, items):
            tally = item.backend
            if item.status != "ok" or (tally is not None and (tally.failed or tally.used is None)):
                continue
            keys = self._by_index.get(task.index)
            if keys is not None:
                used = [] if tally is None else tally.used or []
                label = KeptLabel(task.op, item.body, 0 if tally is None else tally.asked, used)  # type: ignore[arg-type]
                for key in keys:
                    if key is not None:
                        self._keeper.add(worker, key, label)

    def left(self, worker: int, is_honest: bool) -> None:
        """Have a worker's labels believed, or not."""
        if self._keeper is not None:
            self._keeper.left(worker, is_honest)


_Question = tuple[int, str, bytes]
_Keys = tuple[bytes, Union[bytes, None]]
"""A job's key, and that of its spelling if it was only glanced at."""


def _as_it_is(job: Prepared) -> Prepared:
    return job


def _teller(
    answers: queue.SimpleQueue[tuple[_Question, bytes | None]], question: _Question
) -> Callable[[bytes | None], None]:
    return lambda reply: answers.put((question, reply))


def _questions_of(guard: int, row: KeptLabel) -> list[tuple[_Question, bytes]]:
    """What a label's guard asked, with the digests of what it was told."""
    return [((guard, reply.tool, _canonical(reply.args)), reply.digest) for reply in row.replies]


def _canonical(args: bytes) -> bytes:
    try:
        return canonical(args)
    except ContractError:
        return args  # as workers do: no table holds it


class Keeper:
    """Writes labels into a file of kept labels, on a thread of its own.

    Args:
        kept: the file, open, for this alone.

    Attributes:
        failure: why labels are not kept any more.
    """

    def __init__(self, kept: KeptLabels) -> None:
        self._kept = kept
        self.failure: KeptLabelsError | None = None
        self._queue: queue.SimpleQueue[_Label | _Left | None] = queue.SimpleQueue()
        self._workers: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, name="guardpool-keeper", daemon=True)
        self._thread.start()

    def add(self, worker: int, key: bytes, label: KeptLabel) -> None:
        """Keep a label that a worker made. Never waits."""
        if self.failure is None and self._queue.qsize() < _MOST_WAITING:
            self._queue.put(_Label(worker, key, label))

    def left(self, worker: int, is_honest: bool) -> None:
        """A worker is gone: if it is honest, its labels count from here on."""
        self._queue.put(_Left(worker, is_honest))

    def close(self) -> None:
        """Write what waits, and close the file. The pool must be closed."""
        self._queue.put(None)
        self._thread.join()
        self._kept.close()

    def _run(self) -> None:
        rows: list[tuple[bytes, int, KeptLabel]] = []
        item: _Label | _Left | None = None
        while True:
            item = self._queue.get()
            if isinstance(item, _Label):
                rows.append((item.key, self._workers.setdefault(item.worker, new_worker()), item.label))
                if len(rows) < _KEEP_ROWS:
                    continue
            if self.failure is None:
                self._write(rows, item)
            rows = []
            if item is None:
                return

    def _write(self, rows: list[tuple[bytes, int, KeptLabel]], item: _Label | _Left | None) -> None:
        try:
            if rows:
                self._kept.keep(rows)
            if isinstance(item, _Left):
                number = self._workers.pop(item.worker, None)
                if number is not None and item.is_honest:
                    self._kept.believe(number)
        except KeptLabelsError as error:
            self.failure = error


class _Label(NamedTuple):
    worker: int
    key: bytes
    label: KeptLabel


class _Left(NamedTuple):
    worker: int
    is_honest: bool
