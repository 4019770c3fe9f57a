"""What really happened in a simulated run, and what is therefore right.

The books are kept by the world, not by the scheduler: which job the dead worker's page named, for how long it had run, how
much memory its process held. An outcome has to agree with them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from guardpool.outcomes import Outcome, Status
from guardpool.supervise.scheduler import Verdict
from guardpool.testing.plan import Nature
from guardpool.testing.world import MAX_RSS_BYTES, Process, World, label_of

if TYPE_CHECKING:
    from guardpool.testing.traffic import Handle

# What a guard says of a job that it gets to the end of.
_ANSWERS = dict.fromkeys(("ok", "slow", "killer", "hider"), "ok") | {
    answer: answer for answer in ("trap", "refused", "invalid")
}


class Wrong(Exception):
    """Something that must never be."""


class Books:
    """Counts of one run."""

    def __init__(self, world: World, natures: dict[str, Nature]) -> None:
        self._world = world
        self._natures = natures
        self.done: set[int] = set()  # seqs of the jobs that workers finished, or died under for good
        self.crashes: Counter[str] = Counter()
        self.suspected: set[int] = set()  # seqs of the jobs of which one may have killed its worker and hidden it
        self.deaths = 0  # of workers since the last outcome
        self.delivered = 0  # outcomes of jobs that were queued
        self.statuses: Counter[str] = Counter()
        self.forged: set[str] = set()  # jobs of which a hostile worker told a lie while it held them
        self._overdue: set[str] = set()
        self._bloated: set[str] = set()

    def expect(self, right: bool, wrong: str) -> None:
        """Raise where something is not right."""
        if not right:
            raise Wrong(wrong)

    # --- what happened

    def outcome(self) -> None:
        """A job got its outcome."""
        self.deaths = 0

    def ended(self, handle: Handle) -> None:
        """The supervisor kills a worker: whether it has the reason it says it has."""
        process, now = handle.process, self._world.now
        if process is None or process.page_name is None:
            return
        if now - process.page_started_at >= self._world.plan.timeout_s - 1e-9:
            self._overdue.add(process.page_name)
        if process.rss_bytes > MAX_RSS_BYTES:
            self._bloated.add(process.page_name)

    def judged(self, handle: Handle, process: Process, held: dict[int, str]) -> None:
        """A worker is dead and all it wrote was read: whether a job of those it held is to be charged with that."""
        self.deaths += 1
        if handle.verdict is None:
            explained = handle.orphaned or handle.exit_status is None or (handle.said_bye and handle.exit_status == 0)
        else:
            explained = handle.verdict is not Verdict.CRASH
        if not explained and process.page_name is not None and process.page_seq in held:
            self.crashes[process.page_name] += 1
        elif not handle.said_bye and not handle.orphaned and self._says_nothing(handle, process, held):
            if len(held) == 1 and self.suspected.issuperset(held):
                self.crashes.update(held.values())
            else:
                self.suspected.update(held)

    @staticmethod
    def _says_nothing(handle: Handle, process: Process, held: dict[int, str]) -> bool:
        """A worker that nobody had a reason to end, or that shows none of its jobs."""
        innocent = handle.verdict is Verdict.INNOCENT or (handle.verdict is None and handle.exit_status is None)
        return innocent or (handle.victim is None and process.page_seq not in held)

    # --- what is right

    def check_places(self, accepted: int, queued: int, in_flight: int) -> None:
        """Each job is in exactly one place."""
        if accepted != queued + in_flight + self.delivered:
            raise Wrong(
                f"of {accepted} jobs {queued} are queued, {in_flight} in flight and {self.delivered} have an outcome"
            )

    def check_outcome(self, outcome: Outcome, may_be_cancelled: bool) -> None:
        """The one outcome of a job."""
        name, status = outcome.id, outcome.status
        self.statuses[status.value] += 1
        nature, crashes = self._natures[name], self.crashes[name]
        if name in self.forged:
            return
        most = self._world.plan.max_attempts
        attempts = crashes + 1
        if status is Status.REJECTED or nature.kind == "rejected":
            right, attempts = status is Status.REJECTED and nature.kind == "rejected", 0
        elif status is Status.CANCELLED:
            right, attempts = may_be_cancelled, crashes
        elif status is Status.CRASHED:
            right, attempts = crashes == most, most
        elif status is Status.TIMEOUT:
            right = name in self._overdue
        elif status is Status.MEMORY:
            right = name in self._bloated
        else:
            right = _ANSWERS.get(nature.kind) == status.value and crashes < most
        if status is Status.OK:
            right = right and outcome.label_json == label_of(name, nature)
        else:
            right = right and outcome.label_json == b"null" and outcome.error is not None
        if not right or outcome.attempts != attempts:
            shown = outcome.label_json if status is Status.OK else outcome.error
            raise Wrong(
                f"job {name}, a {nature.kind} job under which {crashes} workers crashed, has the outcome {status.value} "
                f"after {outcome.attempts} attempts: {shown!r}"
            )
