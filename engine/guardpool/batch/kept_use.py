"""Kept labels in a run: by what a label is known, which of the file's labels count now, and which are kept.

A label is known by what shapes it: guard, policy, engine, limits and so on, and the input as a value: the order of names in an
object does not count. Only `ok` counts, and only where no question of the guard failed. A kept label rests on the replies that
its guard was told, and counts only if the backend of the run's own guard answers all of those questions in the same way now;
replies that are not known are asked for first. So guards that differ only in name and backend share kept labels. What a guard
remembers from job to job is not seen here: a guard whose labels depend on the order of its jobs must not have them kept.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256

import msgspec

from guardpool.batch.glancing import Glanced
from guardpool.batch.identity import RunIdentity
from guardpool.batch.kept_labels import KeptLabel, KeptLabels, KeptLabelsError, new_worker
from guardpool.contract.inputs import MINUS_ZERO, canonical
from guardpool.errors import ContractError
from guardpool.jobs import Prepared
from guardpool.labels import AgentLabels
from guardpool.limits import Limits
from guardpool.outcomes import NOTHING_ASKED, BackendUse, Outcome, Status, StoredLabel
from guardpool.plurals import number_of
from guardpool.pool import GuardPool
from guardpool.protocol.reply_memory import reply_digest
from guardpool.protocol.wire import BackendTally, ResultItem, UsedItem
from guardpool.supervise.scheduler import Task

# Labels are written in transactions of so many, or when a worker leaves: before that they do not count. Keys are scattered, so
# a transaction writes most pages of the file: a row took 17 us in transactions of 4,096, and 10 in those of 20,000.
_KEEP_ROWS = 20_000
# Replies that one instance may have been told; past it its labels rest on too much to be kept.
_MOST_TOLD = 100_000
# So long a reply that is known is not looked at again.
_CHECK_S = 1.0
# Questions that a backend is asked at a time: of more than 32 a pool takes those behind for lost.
_ASKED_AT_ONCE = 16
# Labels that wait to be written; past it, e.g. while another process holds the file, they are not kept.
_MOST_WAITING = 100_000
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder().decode

KeyFor = tuple[bytes, int]
"""A job's key, and its guard's index. A key alone names neither the guard nor what its backend answers."""


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


class KeptLookup:
    """Finds kept labels that count. Used by one thread; `stop` may be called from any.

    Args:
        kept: the file, open, for this alone.

    Attributes:
        kept: the file.
        failure: why labels are not looked up any more.
    """

    def __init__(self, kept: KeptLabels) -> None:
        self.kept = kept
        self.failure: KeptLabelsError | None = None
        self._stopped = threading.Event()
        self._told: dict[int, list[tuple[str, bytes, bytes]]] = {}  # what instances of earlier runs were told
        self._checked: dict[_Question, tuple[float, bytes]] = {}
        self._unanswered: set[_Question] = set()

    def begin(self, pool: GuardPool, timeout_s: float) -> None:
        """From here on labels may be looked up.

        Args:
            pool: its backends are asked for replies.
            timeout_s: how long a backend may take.
        """
        self._pool = pool
        self._timeout_s = timeout_s
        self._checked.clear()
        self._unanswered.clear()

    def stop(self) -> None:
        """Wait for no backend any more."""
        self._stopped.set()

    def of(self, wanted: Collection[KeyFor]) -> dict[KeyFor, KeptLabel]:
        """The labels that count."""
        if self.failure is not None or not wanted:
            return {}
        try:
            by_key = self.kept.find(list(dict.fromkeys([key for key, _ in wanted])))
            rows = {each: by_key[each[0]] for each in wanted if each[0] in by_key}
            upto: dict[tuple[int, int], int] = {}  # by instance and guard: how many replies matter
            for (_, guard), row in rows.items():
                instance = row.worker, guard
                if row.told > upto.get(instance, -1):
                    upto[instance] = row.told
            right = self._still_right(upto)
        except KeptLabelsError as error:
            self.failure = error
            return {}
        return {each: row for each, row in rows.items() if row.told <= right[row.worker, each[1]]}

    def _still_right(self, upto: Mapping[tuple[int, int], int]) -> dict[tuple[int, int], int]:
        """How many replies of each instance are as they were: those before the first that is not.

        Raises:
            KeptLabelsError: the file cannot be read any more.
        """
        chains: dict[tuple[int, int], list[tuple[_Question, bytes]]] = {}
        for (worker, guard), most in upto.items():
            if most and worker not in self._told:
                told = self.kept.told(worker)
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
        left = deque(unknown)
        waiting = 0
        end = time.monotonic() + self._timeout_s
        while (left or waiting) and not self._stopped.is_set() and time.monotonic() < end:
            while left and waiting < _ASKED_AT_ONCE:
                question = left.popleft()
                self._pool.ask(*question, _teller(answers, question))
                waiting += 1
            try:
                question, reply = answers.get(timeout=0.1)
            except queue.Empty:
                continue
            waiting -= 1
            end = time.monotonic() + self._timeout_s
            if reply is not None:
                digests[question] = reply_digest(reply)
        self._unanswered.update(question for question in unknown if question not in digests)
        return digests


class KeptWitness:
    """The `Witness` of a pool that has its labels kept; of the supervisor's thread.

    Args:
        keeper: writes them.
        keys_of: by what the label of a task is to be found; nothing: it is not kept.
    """

    def __init__(self, keeper: Keeper, keys_of: Callable[[Task], tuple[bytes, ...]]) -> None:
        self._keeper = keeper
        self._keys_of = keys_of
        self._instances: dict[tuple[int, int], _Instance] = {}  # by worker and guard

    def labelled(self, worker: int, tasks: Sequence[Task], items: Sequence[ResultItem]) -> None:
        """Have labels kept, if they may be."""
        for task, item in zip(tasks, items):
            instance = self._instances.get((worker, task.guard))
            if instance is None:
                instance = self._instances[worker, task.guard] = _Instance(new_worker())
            tally = item.backend
            if tally is not None:
                for number, reply in instance.learn(tally):
                    self._keeper.add_reply(instance.number, number, reply)
            if item.status != "ok" or instance.is_doubtful:
                continue
            keys = self._keys_of(task)
            if keys:
                asked = 0 if tally is None else tally.asked
                label = KeptLabel(instance.number, task.op, item.body, asked, len(instance.told))  # type: ignore[arg-type]
                self._keeper.add(keys, label)

    def left(self, worker: int, is_honest: bool) -> None:
        """Have a worker's labels believed, or not."""
        for of, guard in list(self._instances):
            if of == worker:
                self._keeper.left(self._instances.pop((of, guard)).number, is_honest)


def outcome_of(job: Prepared, guard: str | None, label: bytes, asked: int) -> Outcome:
    """The outcome of a job with a label that was made for an equal one."""
    return Outcome(
        job.id,
        guard,
        job.op,
        job.tool_name,
        Status.OK,
        None if label == b"null" else StoredLabel(label),  # type: ignore[arg-type]
        backend_calls=asked,
        backend=BackendUse(asked, asked) if asked else NOTHING_ASKED,
    )


def problems_of(lookup: KeptLookup | None, keeper: Keeper | None) -> list[str]:
    """What is wrong with a file of kept labels, a line each. It costs time, and no label."""
    told = []
    if lookup is not None and lookup.kept.damaged:
        rows = number_of(lookup.kept.damaged, "row was", "rows were")
        told.append(f"{lookup.kept.path}: {rows} damaged and removed")
    failures = (None if lookup is None else lookup.failure, None if keeper is None else keeper.failure)
    return told + list(dict.fromkeys(str(failure) for failure in failures if failure is not None))


_Question = tuple[int, str, bytes]


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
