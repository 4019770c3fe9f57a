"""Labels that no guard has to make: those that were kept by an earlier run, and those of equal jobs of this one.

It stands between the thread that reads and the pool's stream, and looks like the stream. A job whose label is known is put with
its outcome; one that equals a job in a guard's hands is held until that one has its own. All others go to the guards, and what
they make is kept, as soon as the worker that made it has left without a fault.

Equal jobs are of one guard: another one, of the same module and policy, may be answered something else by its backend. By what
a label is known, and which kept ones count: see `guardpool.batch.kept_use`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, Union

from guardpool.batch.kept_labels import KeptLabel, KeptLabels
from guardpool.batch.kept_use import Keeper, KeptLookup, KeptWitness, KeyFor, Keys, outcome_of, problems_of
from guardpool.errors import GuardPoolError
from guardpool.jobs import Prepared
from guardpool.outcomes import Outcome, OutcomeError, Status, StoredLabel, stored_label
from guardpool.pool import GuardPool
from guardpool.protocol.wire import ResultItem
from guardpool.submit.stream import Held, JobStream
from guardpool.supervise.scheduler import Task

# Labels of this run that are held for equal jobs; past it the oldest go, and an equal job is labelled again.
MAX_SAME_BYTES = 256 * 1024 * 1024
_ENTRY_BYTES = 400  # what an entry takes beside its label


class _Made(NamedTuple):
    """A label of this run without its job."""

    label: bytes
    asked: int


_Known = Union[KeptLabel, _Made]


class _Same:
    """The labels of this run, the newest `MAX_SAME_BYTES` of them."""

    def __init__(self) -> None:
        self._known: dict[KeyFor, _Known] = {}
        self._size = 0

    def get(self, key: KeyFor) -> _Known | None:
        return self._known.get(key)

    def add(self, key: KeyFor, known: _Known) -> None:
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
        self._keeper = keeper
        self._dedupe = dedupe
        self._lookup = None if kept is None else KeptLookup(kept)
        self._witness = None if keeper is None else KeptWitness(keeper, self._keys_of)
        self.from_file = self.from_run = 0
        self._lock = threading.Lock()
        self._by_index: dict[int, _Keys] = {}  # of jobs that guards have
        # By the key of a job that a guard has: those that equal it.
        self._flying: dict[KeyFor, list[tuple[int, Held]]] = {}
        self._same = _Same()

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
        self._stream = stream
        self._keys = keys
        self._write = write
        if self._lookup is not None:
            self._lookup.begin(pool, timeout_s)
        self._guards = {name: index for index, name in enumerate(pool.agents)}
        stream.listener = self._delivered

    @property
    def problems(self) -> list[str]:
        """What is wrong with the file of kept labels, a line each. It costs time, and no label."""
        return problems_of(self._lookup, self._keeper)

    # --- the stream

    def put(self, jobs: Sequence[Prepared]) -> None:
        """Hand jobs in; waits while the window is full. Raises as `JobStream.put`."""
        spellings = [None] * len(jobs) if self._write is None else self._for_guards(jobs, self._keys.of_spellings(jobs))
        known = self._known_of(spellings)
        if all(spelling in known for spelling in spellings):
            with self._lock:
                outcomes = [self._outcome(job, known[spelling]) for job, spelling in zip(jobs, spellings)]
            self._stream.put_mixed(outcomes)
            return
        # Only what is not known by its spelling is looked at more closely.
        if self._write is not None:
            jobs = [job if spelling in known else self._write(job) for job, spelling in zip(jobs, spellings)]
        of = self._keys.of
        made = [None if spelling in known else of(job) for job, spelling in zip(jobs, spellings)]
        keys = [
            spelling if spelling in known else key for spelling, key in zip(spellings, self._for_guards(jobs, made))
        ]
        known.update(self._known_of([None if key in known else key for key in keys]))
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
        if self._lookup is not None:
            self._lookup.stop()
        self._stream.cancel()

    def take_numbered(self, timeout_s: float | None = None) -> tuple[Sequence[int], list[Outcome]]:
        """As `JobStream.take_numbered`."""
        return self._stream.take_numbered(timeout_s)

    def _outcome(self, job: Prepared, known: _Known) -> Outcome:
        if type(known) is KeptLabel:
            self.from_file += 1
        else:
            self.from_run += 1
        return outcome_of(job, self._keys.guard_of(job), known.label, known.asked)

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
        """Hand over the outcomes of jobs that were held; a job without one goes to its guard."""
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

    def _for_guards(self, jobs: Sequence[Prepared], keys: Sequence[bytes | None]) -> list[KeyFor | None]:
        index_of, only = self._guards, self._keys.only
        return [
            None if key is None else (key, index_of[(job.guard or only)])  # type: ignore[index]  # each job names a guard
            for job, key in zip(jobs, keys)
        ]

    def _known_of(self, keys: Sequence[KeyFor | None]) -> dict[KeyFor | None, _Known]:
        """The labels that are known by some of these keys: of this run, and kept ones whose replies are the same."""
        found: dict[KeyFor | None, _Known] = {}
        wanted = [key for key in dict.fromkeys(keys) if key is not None]
        if self._dedupe:
            with self._lock:
                known = [(key, self._same.get(key)) for key in wanted]
                wanted = [key for key, same in known if same is None and key not in self._flying]
            found.update((key, same) for key, same in known if same is not None)
        if self._lookup is not None:
            found.update(self._lookup.of(wanted).items())
        return found

    # --- the witness, on the supervisor's thread

    def labelled(self, worker: int, tasks: Sequence[Task], items: Sequence[ResultItem]) -> None:
        """Have labels kept, if they may be."""
        if self._witness is not None:
            self._witness.labelled(worker, tasks, items)

    def left(self, worker: int, is_honest: bool) -> None:
        """Have a worker's labels believed, or not."""
        if self._witness is not None:
            self._witness.left(worker, is_honest)

    def _keys_of(self, task: Task) -> tuple[bytes, ...]:
        return tuple(each[0] for each in self._by_index.get(task.index, ()) if each is not None)


_Keys = tuple[KeyFor, Union[KeyFor, None]]
"""A job's key, and that of its spelling if it was only glanced at."""
