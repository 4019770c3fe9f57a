"""Kept labels for jobs that are handed to several pools, as a replay does. The file is the one of `label_file`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from guardpool.batch.identity import RunIdentity
from guardpool.batch.kept_labels import KeptLabels
from guardpool.batch.kept_use import Keeper, KeptLookup, KeptWitness, Keys, outcome_of, problems_of
from guardpool.guard import Guard
from guardpool.jobs import Prepared
from guardpool.limits import Limits
from guardpool.outcomes import Outcome
from guardpool.pool import GuardPool
from guardpool.supervise.scheduler import Task
from guardpool.supervise.witness import Witness


class KeptCalls:
    """Labels of a file that were kept, and who keeps new ones there. Used by one thread.

    Args:
        path: of the file; it is made if it is not there.
        engine, limits: of the pools, which are not deterministic and without isolation.

    Attributes:
        path: as it was given.
        taken: labels that were taken from the file.

    Raises:
        KeptLabelsError: the file cannot be used or trusted.
    """

    def __init__(self, path: str | os.PathLike[str], engine: str, limits: Limits) -> None:
        self.path = os.fspath(path)
        self.taken = 0
        self._engine = engine
        self._limits = limits
        self._lookup = KeptLookup(KeptLabels(path))
        try:
            self._keeper = Keeper(KeptLabels(path))
        except BaseException:
            self._lookup.kept.close()
            raise
        self._is_open = True
        self._keys: Keys | None = None
        self._names: list[str] = []

    @property
    def problems(self) -> list[str]:
        """What is wrong with the file, a line each. It costs time, and no label."""
        return problems_of(self._lookup, self._keeper)

    def pool(self, guards: Sequence[Guard], make: Callable[[Witness], GuardPool]) -> GuardPool:
        """A pool of these guards whose labels are kept; until it is one of other guards, all pools are of these.

        Args:
            make: makes it, with a witness.
        """
        pool = make(KeptWitness(self._keeper, self._keys_of))
        # What answers the guards is no part of a key: each reply is compared.
        asking = [guard.but(backend=None) for guard in guards]
        run = RunIdentity.of(
            asking, self._engine, ordered=True, each_guard=False, timing=True, isolation="none", deterministic=False
        )
        self._keys = Keys(run, self._limits, pool.agents)
        self._names = list(pool.agents)
        self._lookup.begin(pool, self._limits.backend_timeout_s)
        return pool

    def outcomes_of(self, jobs: Sequence[Prepared | None]) -> list[Outcome | None]:
        """What is known of these jobs without a guard. Waits for backends that have to be asked for a reply."""
        assert self._keys is not None
        keys = [None if job is None else self._keys.of(job) for job in jobs]
        wanted = [
            (key, self._names.index(job.guard)) if job and key and job.guard else None for job, key in zip(jobs, keys)
        ]
        found = self._lookup.of([each for each in wanted if each is not None])
        outcomes: list[Outcome | None] = []
        for job, each in zip(jobs, wanted):
            label = None if each is None else found.get(each)
            if job is None or label is None:
                outcomes.append(None)
                continue
            self.taken += 1
            outcomes.append(outcome_of(job, job.guard, label.label, label.asked))
        return outcomes

    def _keys_of(self, task: Task) -> tuple[bytes, ...]:
        """On the supervisor's thread of a pool."""
        assert self._keys is not None
        key = self._keys.of(Prepared(None, self._names[task.guard], task.op, None, task.payload))
        return () if key is None else (key,)

    def close(self) -> None:
        """Write what waits, and close the file. The pools must be closed."""
        if self._is_open:
            self._is_open = False
            self._keeper.close()
            self._lookup.kept.close()
