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
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import NamedTuple, Union

import msgspec

from guardpool.batch.glancing import Glanced
from guardpool.batch.identity import RunIdentity
from guardpool.batch.kept_labels import KeptLabel, KeptLabels, KeptLabelsError, new_worker
from guardpool.contract.inputs import MINUS_ZERO, canonical
from guardpool.errors import ContractError, GuardPoolError
from guardpool.jobs import Prepared
from guardpool.labels import AgentLabels
from guardpool.limits import Limits
from guardpool.outcomes import NOTHING_ASKED, BackendUse, Outcome, OutcomeError, Status, StoredLabel, stored_label
from guardpool.pool import GuardPool
from guardpool.protocol.reply_memory import reply_digest
from guardpool.protocol.wire import BackendTally, ResultItem, UsedItem
from guardpool.submit.stream import Held, JobStream
from guardpool.supervise.scheduler import Task

# Labels of this run that are held for equal jobs; past it the oldest go, and an equal job is labelled again.
MAX_SAME_BYTES = 256 * 1024 * 1024
_ENTRY_BYTES = 400  # what an entry takes beside its label
# Labels are written in transactions of so many, or when a worker leaves: before that they do not count. Keys are scattered, so
# a transaction writes most pages of the file: a row took 17 us in transactions of 4,096, and 10 in those of 20,000.
_KEEP_ROWS = 20_000
# Replies that one instance may have been told; past it its labels rest on too much to be kept.
_MOST_TOLD = 100_000
# So long a reply that is known is not looked at again.
_CHECK_S = 1.0
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

    Attributes:
        only: the guard's name, if there is one guard.
    """

    def __init__(self, run: RunIdentity, limits: Limits, agents: Mapping[str, AgentLabels]) -> None:
        self.only = run.guards[0].name if len(run.guards) == 1 else None
        self._deterministic = run.deterministic
        self._bases: dict[tuple[str | None, str], bytes] = {}
        for guard in run.guards:
            agent = agents[guard.name]
            shaping = (
                *("guardpool label 1", run.guardpool, run.engine, guard.module, guard.policy, asdict(limits)),
                *(sorted(agent.secrecy), sorted(agent.integrity), str(agent.mode), repr(agent.normalized_policy)),
                # Random bytes of a deterministic pool follow from the guard's name, too.
                *(f"isolation {run.isolation}", guard.name if run.deterministic else None),
            )
            for op in ("label_resource", "label_response"):
                base = sha256(_encode((*shaping, op))).digest()
                self._bases[guard.name, op] = base
                if self.only is not None:
                    self._bases[None, op] = base

    def of(self, job: Prepared) -> bytes | None:
        """A job's key; None if no guard will see it."""
        if job.error is not None:
            return None
        base = self._bases.get((job.guard, job.op))
        if base is None:
            return None
        # `base` has a length of its own, and the input ends with a brace.
        return sha256(b"".join((base, _sorted(job.payload), self._time_of(job)))).digest()

    def of_spellings(self, jobs: Sequence[Prepared]) -> list[bytes | None]:
        """What jobs that were only glanced at are found by as well: jobs spelt alike are equal. None for others. Hot."""
        bases, with_time = self._bases, self._deterministic
        return [
            # No piece of a line has a newline in it.
            sha256(b"\n".join((base, *job.spelling, self._time_of(job) if with_time else b""))).digest()
            if type(job) is Glanced and (base := bases.get((job.guard, job.op))) is not None
            else None
            for job in jobs
        ]

    def _time_of(self, job: Prepared) -> bytes:
        return repr(float(job.time)).encode() if self._deterministic and job.time is not None else b""

    def guard_of(self, job: Prepared) -> str | None:
        """The name of the guard that a job is for."""
        return self.only if job.guard is None else job.guard


def _sorted(payload: bytes) -> bytes:
    """An input with names sorted. Its numbers are as a guard sees them already."""
    if MINUS_ZERO.search(payload):  # it would become 0: rather to the byte
        return payload
    try:
        return _encode_sorted(_decode(payload))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return payload


class _Made(NamedTuple):
    """A label of this run without its job."""

    label: bytes
    asked: int


_Known = Union[KeptLabel, _Made]


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
        # By the key of a job that a guard has: those that equal it.
        self._flying: dict[bytes, list[tuple[int, Held]]] = {}
        self._same = _Same()
        self._stopped = threading.Event()
        self._told: dict[int, list[tuple[str, bytes, bytes]]] = {}  # what instances of earlier runs were told
        self._checked: dict[_Question, tuple[float, bytes]] = {}
        self._unanswered: set[_Question] = set()
        self._instances: dict[tuple[int, int], _Instance] = {}  # by worker and guard; of the supervisor's thread

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
        self._write = write
        self._timeout_s = timeout_s
        self._guards = {name: index for index, name in enumerate(pool.agents)}
        stream.listener = self._delivered

    @property
    def problems(self) -> list[str]:
        """What is wrong with the file of kept labels, a line each. It costs time, and no label."""
        told = []
        if self._kept is not None and self._kept.damaged:
            rows = "1 row was" if self._kept.damaged == 1 else f"{self._kept.damaged:,} rows were"
            told.append(f"{self._kept.path}: {rows} damaged and removed")
        failures = (self._failure, None if self._keeper is None else self._keeper.failure)
        return told + list(dict.fromkeys(str(failure) for failure in failures if failure is not None))

    # --- the stream

    def put(self, jobs: Sequence[Prepared]) -> None:
        """Hand jobs in; waits while the window is full. Raises as `JobStream.put`."""
        spellings = [None] * len(jobs) if self._write is None else self._keys.of_spellings(jobs)
        known = self._known_of(jobs, spellings)
        if all(spelling in known for spelling in spellings):
            with self._lock:
                outcomes = [self._outcome(job, known[spelling]) for job, spelling in zip(jobs, spellings)]
            self._stream.put_mixed(outcomes)
            return
        # Only what is not known by its spelling is looked at more closely.
        if self._write is not None:
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
        if type(known) is KeptLabel:
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
            if not self._by_index:
                return
            for index, outcome in zip(indexes, outcomes):
                keys = self._by_index.pop(index, None)
                if keys is None:
                    continue
                key, spelling = keys
                followers = self._flying.pop(key, [])
                if outcome.status is Status.OK and not outcome.backend.failed:
                    known = _Made(outcome.label_json, outcome.backend.asked)
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
        index_of, only = self._guards, self._keys.only
        guards: dict[bytes, int] = {
            key: index_of[(job.guard or only)]  # type: ignore[index]  # with several guards each job names one
            for job, key in zip(jobs, keys)
            if key is not None
        }
        if not self._dedupe:
            return self._kept_of(list(guards), guards)
        found: dict[bytes | None, _Known] = {}
        wanted = []
        with self._lock:
            for key in guards:
                same = self._same.get(key)
                if same is not None:
                    found[key] = same
                elif key not in self._flying:
                    wanted.append(key)
        found.update(self._kept_of(wanted, guards))
        return found

    def _kept_of(self, wanted: Sequence[bytes], guards: Mapping[bytes, int]) -> dict[bytes | None, _Known]:
        if self._kept is None or self._failure is not None or not wanted:
            return {}
        try:
            rows = self._kept.find(wanted)
            upto: dict[tuple[int, int], int] = {}  # by instance and guard: how many replies matter
            for key, row in rows.items():
                instance = row.worker, guards[key]
                if row.told > upto.get(instance, -1):
                    upto[instance] = row.told
            right = self._still_right(upto)
        except KeptLabelsError as error:
            self._failure = error
            return {}
        return {key: row for key, row in rows.items() if row.told <= right[row.worker, guards[key]]}

    def _still_right(self, upto: Mapping[tuple[int, int], int]) -> dict[tuple[int, int], int]:
        """How many replies of each instance are as they were: those before the first that is not.

        Raises:
            KeptLabelsError: the file cannot be read any more.
        """
        assert self._kept is not None
        chains: dict[tuple[int, int], list[tuple[_Question, bytes]]] = {}
        for (worker, guard), most in upto.items():
            if most and worker not in self._told:
                told = self._kept.told(worker)
                self._told[worker] = [(reply.tool, _canonical(reply.args), reply.digest) for reply in told]
            replies = self._told[worker][:most] if most else []
            chains[worker, guard] = [((guard, tool, args), digest) for tool, args, digest in replies]
        now = self._digests(list({question for chain in chains.values() for question, _ in chain}))
        return {
            instance: next((at for at, (question, was) in enumerate(chain) if now.get(question) != was), len(chain))
            for instance, chain in chains.items()
        }

    def _digests(self, questions: Sequence[_Question]) -> dict[_Question, bytes]:
        """What the backends answer now, as digests. A question without an answer is left out, and not asked again in this run:
        a backend that hangs costs one wait, and the labels that rest on it are made anew.
        """
        digests: dict[_Question, bytes] = {}
        unknown = []
        now = time.monotonic()
        for question in questions:
            checked = self._checked.get(question)
            if checked is not None and now < checked[0] + _CHECK_S:
                digests[question] = checked[1]
            elif (reply := self._pool.known_reply(*question)) is None:
                if question not in self._unanswered:
                    unknown.append(question)
            else:
                digests[question] = reply_digest(reply)
                self._checked[question] = now, digests[question]
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
        self._unanswered.update(question for question in unknown if question not in digests)
        return digests

    # --- the witness, on the supervisor's thread

    def labelled(self, worker: int, tasks: Sequence[Task], items: Sequence[ResultItem]) -> None:
        """Have labels kept, if they may be."""
        if self._keeper is None:
            return
        for task, item in zip(tasks, items):
            instance = self._instances.get((worker, task.guard))
            if instance is None:
                instance = self._instances[worker, task.guard] = _Instance(new_worker())
            tally = item.backend
            if tally is not None:
                for number, reply in instance.learn(tally):
                    self._keeper.add_reply(instance.number, number, reply)
            keys = self._by_index.get(task.index)
            if item.status == "ok" and keys is not None and not instance.is_doubtful:
                asked = 0 if tally is None else tally.asked
                label = KeptLabel(instance.number, task.op, item.body, asked, len(instance.told))  # type: ignore[arg-type]
                self._keeper.add(tuple(key for key in keys if key is not None), label)

    def left(self, worker: int, is_honest: bool) -> None:
        """Have a worker's labels believed, or not."""
        if self._keeper is None:
            return
        for of, guard in list(self._instances):
            if of == worker:
                self._keeper.left(self._instances.pop((of, guard)).number, is_honest)


_Question = tuple[int, str, bytes]
_Keys = tuple[bytes, Union[bytes, None]]
"""A job's key, and that of its spelling if it was only glanced at."""


def _teller(
    answers: queue.SimpleQueue[tuple[_Question, bytes | None]], question: _Question
) -> Callable[[bytes | None], None]:
    return lambda reply: answers.put((question, reply))


def _canonical(args: bytes) -> bytes:
    try:
        return canonical(args)
    except ContractError:
        return args  # as workers do: no table holds it


class _Instance:
    """What a guard's instance in a worker has been told.

    Attributes:
        number: in the file.
        told: the replies.
        is_doubtful: a question had no answer, or was not told of: from there on its labels are not kept, because it may
            remember what it then assumed.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.told: set[UsedItem] = set()
        self.is_doubtful = False

    def learn(self, tally: BackendTally) -> list[tuple[int, UsedItem]]:
        """Take note of a job's questions, and with the first of those before it; returns new replies, each with its number."""
        if tally.failed or tally.used is None or len(self.told) >= _MOST_TOLD:
            self.is_doubtful = True
            return []
        new = []
        for reply in tally.used:
            if reply not in self.told:
                new.append((len(self.told), reply))
                self.told.add(reply)
        return new


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
        self._queue: queue.SimpleQueue[
            tuple[tuple[bytes, ...], KeptLabel] | tuple[int, int, UsedItem] | _Left | None
        ] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="guardpool-keeper", daemon=True)
        self._thread.start()

    def add(self, keys: tuple[bytes, ...], label: KeptLabel) -> None:
        """Keep a label, to be found by each of these keys. Never waits."""
        if self.failure is None and self._queue.qsize() < _MOST_WAITING:
            self._queue.put((keys, label))

    def add_reply(self, instance: int, number: int, reply: UsedItem) -> None:
        """Keep a reply that an instance was told, as number `number` from 0. Never waits."""
        if self.failure is None:
            self._queue.put((instance, number, reply))

    def left(self, instance: int, is_honest: bool) -> None:
        """An instance is gone with its worker: if that is honest, its labels count from here on."""
        self._queue.put(_Left(instance, is_honest))

    def close(self) -> None:
        """Write what waits, and close the file. The pool must be closed."""
        self._queue.put(None)
        self._thread.join()
        self._kept.close()

    def _run(self) -> None:
        labels: list[tuple[tuple[bytes, ...], KeptLabel]] = []
        replies: list[tuple[int, int, UsedItem]] = []
        while True:
            item = self._queue.get()
            if isinstance(item, tuple) and len(item) == 2:
                labels.append(item)
            elif isinstance(item, tuple):
                replies.append(item)
            if item is not None and not isinstance(item, _Left) and len(labels) < _KEEP_ROWS:
                continue
            if self.failure is None:
                self._write(labels, replies, item if isinstance(item, _Left) else None)
            labels, replies = [], []
            if item is None:
                return

    def _write(
        self,
        labels: list[tuple[tuple[bytes, ...], KeptLabel]],
        replies: list[tuple[int, int, UsedItem]],
        left: _Left | None,
    ) -> None:
        try:
            if labels or replies:
                self._kept.keep(labels, replies)
            if left is not None and left.is_honest:
                self._kept.believe(left.instance)
        except KeptLabelsError as error:
            self.failure = error


@dataclass(frozen=True)
class _Left:
    instance: int
    is_honest: bool
