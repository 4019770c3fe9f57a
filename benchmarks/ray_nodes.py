"""Jobs a second from file to file: by one pool, and by Ray clusters of one node and of two, simulated on this machine.

    python benchmarks/ray_nodes.py [JOBS] [ROUNDS]     # with the extra guardpool[ray]

All have two workers together, and all read and write the same files, once lines and once Parquet. The nodes share the cores of
this machine with one another and with Ray's own processes, so what it shows is what a cluster costs. What a run of few jobs
takes, Ray's start of its actors or the pool's of its workers, is told apart and taken off.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kits"))

import msgspec
import pyarrow.parquet as pq

import formatkit
import raykit
from guardpool import samples
from guardpool.batch.jobline import job_line
from guardpool.cli import main as guardpool_command

WORKERS = 2
_FEW = 2000


def main(count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "policy.json").write_bytes(msgspec.json.encode(samples.POLICY))
        for jobs in (_FEW, count):
            write_jobs(folder, jobs)
        took: dict[tuple[str, str, int], list[float]] = {}
        for number in range(rounds):
            for nodes in (0, 1, 2) if number % 2 == 0 else (2, 1, 0):
                with a_cluster(nodes) as address:
                    run(folder, f"{_FEW}.jsonl", nodes, address)  # Ray starts more the first time
                    for ending in ("jsonl", "parquet"):
                        for jobs in (_FEW, count):
                            seconds = run(folder, f"{jobs}.{ending}", nodes, address)
                            took.setdefault((_NAMES[nodes], ending, jobs), []).append(seconds)
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        tell(took, count)


_NAMES = ("one pool", "one node", "two nodes")


def write_jobs(folder: Path, count: int) -> None:
    """The sample's jobs as lines and as Parquet."""
    with (folder / f"{count}.jsonl").open("wb") as file:
        file.writelines(job_line(job) for job in samples.jobs(count))
    writer: Any = None
    portion: list[dict[str, Any]] = []
    for number, line in enumerate((folder / f"{count}.jsonl").open("rb"), 1):
        portion.append(msgspec.json.decode(line))
        if number % _GROUP_ROWS == 0 or number == count:
            table = formatkit.table(portion).select(_COLUMNS)
            writer = writer or pq.ParquetWriter(folder / f"{count}.parquet", table.schema, compression="zstd")
            writer.write_table(table)
            portion = []
    writer.close()


_GROUP_ROWS = 5000
_COLUMNS = ["id", "op", "tool_name", "tool_args", "tool_result", "capabilities"]


@contextmanager
def a_cluster(nodes: int) -> Iterator[str | None]:
    """The address of a cluster of so many nodes, which this process has joined; None for none."""
    if not nodes:
        yield None
        return
    with raykit.cluster(nodes) as (made, _):
        yield made.address


def run(folder: Path, jobs: str, nodes: int, address: str | None) -> float:
    """Label a file by the command, in this process; returns seconds."""
    command = ["label", str(folder / jobs), "-o", str(folder / f"out.{jobs}"), "-w", str(WORKERS // max(1, nodes))]
    command += ["-g", f"github={samples.GUARD}", "-p", f"github={folder / 'policy.json'}", "--log-level", "off"]
    command += ["--no-progress"] if address is None else ["--ray", address]
    begun = time.monotonic()
    status = guardpool_command(command)
    took = time.monotonic() - begun
    assert status == 0, status
    return took


def tell(took: dict[tuple[str, str, int], list[float]], count: int) -> None:
    """Medians: rates with the start and without it, and what they are of one pool's."""
    print(f"{'':10} {'files':8} {'start':>6} {count:>9,} jobs {'jobs/s':>8}  of one pool  without start  of one pool")
    rates: dict[tuple[str, str], tuple[float, float]] = {}
    for who, ending in dict.fromkeys((who, ending) for who, ending, _ in took):
        few, many = (statistics.median(took[who, ending, jobs]) for jobs in (_FEW, count))
        rates[who, ending] = whole, steady = count / many, (count - _FEW) / (many - few)
        first_whole, first_steady = rates[_NAMES[0], ending]
        print(
            f"{who:10} {ending:8} {few:>5.1f}s {many:>12.1f} s {whole:>10,.0f} {whole / first_whole:>12.2f} "
            f"{steady:>14,.0f} {steady / first_steady:>12.2f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000, int(sys.argv[2]) if len(sys.argv) > 2 else 3)
