"""Jobs a second by one pool, and by a Ray cluster of one node and of two, simulated on this machine: they share its cores.

    python benchmarks/ray_nodes.py [JOBS]     # with the extra guardpool[ray]

What it shows is what the cluster costs beside one pool; two simulated nodes have no more cores than one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kits"))

import guardpool.ray
import raykit
from guardpool import Guard, samples
from guardpool.batch import label_file
from guardpool.batch.jobline import job_line


def main(count: int) -> None:
    guards = [Guard.from_file(samples.GUARD, "github", samples.POLICY)]
    with tempfile.TemporaryDirectory() as folder:
        jobs = Path(folder) / "jobs.jsonl"
        with jobs.open("wb") as file:
            file.writelines(job_line(job) for job in samples.jobs(count))
        begun = time.monotonic()
        label_file(jobs, Path(folder) / "outcomes.jsonl", guards, workers=raykit.NODE_CPUS, log_level="off")
        _tell("one pool, file to file", count, begun)
        for nodes in (1, 2):
            with raykit.cluster(nodes):
                for run in ("first run, actors start", "once more"):
                    begun = time.monotonic()
                    outcomes = guardpool.ray.label_files([str(jobs)], guards, log_level="off")
                    found = _drain(outcomes)
                    assert found == count, found
                    _tell(f"{nodes} node{'s' if nodes > 1 else ''}, {run}", count, begun, *_first)


_first: list[float] = []


def _drain(outcomes: Iterable[object]) -> int:
    """How many there are; notes when the first one came, after which the actors have started."""
    _first.clear()
    number = 0
    for number, _ in enumerate(outcomes, 1):
        if number == 1:
            _first.append(time.monotonic())
    return number


def _tell(what: str, count: int, begun: float, first: float | None = None) -> None:
    took = time.monotonic() - begun
    started = "" if first is None else f", first outcome after {first - begun:.1f} s"
    print(f"{what:32} {count:>9,} jobs in {took:6.1f} s: {count / took:>8,.0f} jobs/s{started}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
