"""Another working tree of guardpool beside this one: jobs a second, and processor time of a job by process, by turns.

    git worktree add --detach /tmp/before COMMIT
    python benchmarks/two_trees.py /tmp/before [--jobs mix tiny 50us] [--turns 15] [--engine wasmer] [--workers 2]

Each tree has a process of its own with a pool that stays, and both run the same jobs; 50 us and 1 ms are what the jobs take in
a loop of this tree. A turn is 0.65 s of one `map` and then of the other, of which what comes between 0.15 and 0.6 s counts.
The ratio is the median of the turns', with its quartiles; processor times are medians, as the kernel counts them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

_HERE = Path(__file__).resolve().parent.parent
_PARTS = ("engine", "workers", "benchmarks")
_KINDS = ("mix", "resource", "tiny", "50us", "1ms")
_US = {"50us": 50.0, "1ms": 1000.0}
_DISTINCT = 2000
_RUN_S, _FROM_S, _TO_S = 0.65, 0.15, 0.6


class Turn(NamedTuple):
    """What one turn gave: jobs a second, and microseconds a job of the caller's thread, the supervisor's, and all workers."""

    rate: float
    caller_us: float
    supervisor_us: float
    workers_us: float


# --- in the process of a tree


def pool_of(kind: str, turns: int, module: Path, engine: str, workers: int) -> None:
    """Run turns as lines come on standard input, and print what each gave."""
    import threading

    import psutil

    from guardpool import Guard, GuardPool, samples
    from guardpool_bench import workguard

    jobs: list[Any]
    if kind in ("mix", "resource"):
        guard = Guard.from_file(samples.GUARD, name="subject", policy=samples.POLICY)
        jobs = [job for job in samples.jobs(_DISTINCT) if kind == "mix" or job.op == "label_resource"]
    else:
        guard = Guard.from_file(module, name="subject", policy=workguard.POLICY)
        jobs = [workguard.resource_job(turns, at) if turns else workguard.tiny_job(at) for at in range(_DISTINCT)]
    endless = cycle(jobs)

    def supply(until: float) -> Iterator[Any]:
        while time.perf_counter() < until:
            yield from islice(endless, 20)

    with GuardPool([guard], workers=workers, engine=engine, log_level="off") as pool:
        pids = [child.pid for child in psutil.Process().children(recursive=True)]
        threads = {thread.name: thread.native_id for thread in threading.enumerate()}

        def used_us() -> tuple[float, float, float]:
            ours = [f"self/task/{threads[name]}" for name in ("MainThread", "guardpool-supervisor")]
            caller, supervisor, *others = [_ran_us(where) for where in (*ours, *map(str, pids))]
            return caller, supervisor, sum(others)

        for _ in sys.stdin:
            began = time.perf_counter()
            count, first, last = 0, None, None
            before = after = (0.0, 0.0, 0.0)
            for count, _outcome in enumerate(pool.map(supply(began + _RUN_S)), 1):
                now = time.perf_counter() - began
                if first is None and now >= _FROM_S:
                    first, before = (now, count), used_us()
                elif last is None and now >= _TO_S:
                    last, after = (now, count), used_us()
            if first is None or last is None:
                raise SystemExit(f"a turn of {count} jobs is too short to be counted")
            done = last[1] - first[1]
            print(done / (last[0] - first[0]), *((b - a) / done for a, b in zip(before, after)), flush=True)


def _ran_us(where: str) -> float:
    """For how many microseconds a process or thread was on a processor."""
    return int(Path("/proc", where, "schedstat").read_text().split()[0]) / 1000


# --- the comparison


class Tree:
    """A process with a pool of one tree. Use as a context manager.

    Args:
        root: the tree.
        arguments: of `pool_of`.
    """

    def __init__(self, root: Path, arguments: Sequence[object]) -> None:
        path = os.pathsep.join(str(root / part) for part in _PARTS)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--as-pool", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def turn(self) -> Turn:
        """One turn."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print("go", file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a pool ended: see above")
        return Turn(*map(float, line.split()))


def compare(kind: str, before: Path, arguments: Sequence[object], turns: int) -> str:
    """A line for one kind of jobs."""
    pairs: list[tuple[Turn, Turn]] = []
    with Tree(before, arguments) as old, Tree(_HERE, arguments) as new:
        old.turn(), new.turn()
        for at in range(turns):
            if at % 2:
                then = old.turn()
                pairs.append((then, new.turn()))
            else:
                now = new.turn()
                pairs.append((old.turn(), now))
    ratios = sorted(now.rate / then.rate for then, now in pairs)
    low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    then, now = (Turn(*map(statistics.median, zip(*each))) for each in zip(*pairs))
    times = ", ".join(
        f"{name} {a:.1f} -> {b:.1f}" for name, a, b in zip(("caller", "supervisor", "workers"), then[1:], now[1:])
    )
    rates = f"{then.rate:8,.0f} -> {now.rate:8,.0f} jobs/s"
    return f"{kind:8} {rates}, {statistics.median(ratios):.2f}x ({low:.2f}-{high:.2f}); {times} us a job"


def turns_of(kinds: Sequence[str], module: Path, engine: str) -> dict[str, int]:
    """From how many the jobs of each kind have to count down."""
    from guardpool import Guard
    from guardpool_bench import workguard
    from guardpool_bench.bareloop import BareLoops
    from guardpool_bench.context import QUICK, Context
    from guardpool_bench.jobsets import turns_for
    from guardpool_bench.status_line import StatusLine

    found = dict.fromkeys(kinds, 0)
    if not _US.keys() & found.keys():
        return found
    guards = {"work": Guard.from_file(module, name="work", policy=workguard.POLICY)}
    with BareLoops(1) as bare:
        bare.hold_guard(Context(guards, {}, 1, QUICK, [], StatusLine(1), False, bare, engine).loadable("work"))
        for kind in _US.keys() & found.keys():
            found[kind] = turns_for(bare, "work", kind, _US[kind], workguard.resource_job)
    return found


def main() -> None:
    """Measure by turns and print a line for each kind of jobs."""
    parser = argparse.ArgumentParser(description="another working tree of guardpool beside this one, by turns")
    parser.add_argument("before", type=Path, help="the other tree")
    parser.add_argument("--jobs", nargs="+", choices=_KINDS, default=_KINDS)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--engine", default="wasmtime")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if not (options.before / _PARTS[0] / "guardpool").is_dir():
        parser.error(f"no tree of guardpool: {options.before}")
    if options.turns < 1:
        parser.error("--turns: at least 1")
    from guardpool_bench import workguard

    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder, "work.wasm")
        module.write_bytes(workguard.work_wasm())
        turns = turns_of(options.jobs, module, options.engine)
        for kind in options.jobs:
            arguments = (kind, turns[kind], module, options.engine, options.workers)
            print(compare(kind, options.before.resolve(), arguments, options.turns), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-pool"]:
        kind, turns, module, engine, workers = sys.argv[2:]
        pool_of(kind, int(turns), Path(module), engine, int(workers))
    else:
        main()
