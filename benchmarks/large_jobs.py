"""Where the processor time of large jobs goes: plain loops, loops with one more copy of each payload, and a pool, by turns.

    python benchmarks/large_jobs.py [--sizes 100000,1000000,5000000] [--turns 7] [--seconds 0.5] [--workers 2]

All start from encoded jobs, of the suite's own guard, which does not look at them. Times are microseconds of processor time a
job: of the thread that copies payloads into shared memory (in a pool, the supervisor's), of the caller's other threads, and of
the workers or loops. Other programs change them far less than jobs a second. Medians of the turns, the least in brackets.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from guardpool import Guard, GuardPool, ModuleCache
from guardpool.contract import check_policy
from guardpool.limits import Limits
from guardpool.machine.engines import choose_engine
from guardpool_bench import machine, workguard
from guardpool_bench.bareloop import BareLoops
from guardpool_bench.cases import scaling
from guardpool_bench.contestants import Bare, Fed, PoolStream
from guardpool_bench.loadable import Loadable
from guardpool_bench.measure import QuietHeap

_WARM_S = 0.05
_SUPERVISOR = "guardpool-supervisor"


class Found(NamedTuple):
    """One turn: jobs a second, and microseconds a job."""

    rate: float
    copier_us: float
    caller_us: float
    worker_us: float

    @property
    def total_us(self) -> float:
        return self.copier_us + self.caller_us + self.worker_us


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100000,1000000,5000000", metavar="BYTES,...")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    print(
        f"{'':10} {'':18} {'jobs/s':>8} {'copier':>14} {'caller':>14} {'workers':>14} {'all, us a job':>14}  plain/this"
    )
    for size in map(int, options.sizes.split(",")):
        _size(size, options.turns, options.seconds, options.workers)


def _size(size: int, turns: int, seconds: float, workers: int) -> None:
    guard, engine = Guard("work", workguard.work_wasm(), workguard.POLICY), choose_engine().name
    artifact = ModuleCache().get_or_compile(guard.wasm, Limits().memory_pages, guard="work", engine=engine)
    policy = msgspec.json.encode(check_policy(guard.policy, guard.trusted_bots, guard.trusted_users))
    jobs = scaling.sized(size)
    with BareLoops(workers) as loops, GuardPool([guard], workers=workers, log_level="off", engine=engine) as pool:
        loops.hold_guard(Loadable("work", engine, artifact, policy))
        loops.hold_jobs(jobs.name, jobs.jobs)
        plain = Bare(loops, "work", jobs.name, "bare-plain", workers)
        fed, stream = Fed(loops, "work", jobs.name, workers), PoolStream(pool)

        def measure(who: Bare | Fed | PoolStream) -> Found:
            who.rate(jobs.jobs, 0.01, _WARM_S)
            pids = [worker.pid for worker in pool.stats().workers] if who is stream else loops.pids
            done, before, began = pool.stats().outcomes.get("ok", 0), _cpu_us(pids), _own_cpu_us()
            rate = who.rate(jobs.jobs, _WARM_S, seconds)
            # Jobs that were cancelled at the end are not counted. The loops tell their rate only.
            count = pool.stats().outcomes["ok"] - done if who is stream else rate * (_WARM_S + seconds)
            supervisor, others = (now - then for now, then in zip(_own_cpu_us(), began))
            worker_us = (_cpu_us(pids) - before) / count
            if who is stream:
                return Found(rate, supervisor / count, others / count, worker_us)
            return Found(rate, (others if who is fed else 0) / count, 0, worker_us)

        values: dict[str, list[Found]] = {who.name: [] for who in (plain, fed, stream)}
        with QuietHeap():
            for turn in range(turns):
                for who in (plain, fed, stream)[:: 1 if turn % 2 == 0 else -1]:
                    values[who.name].append(measure(who))
    _show(size, values)


def _show(size: int, values: dict[str, list[Found]]) -> None:
    plain_us = statistics.median([each.total_us for each in values["bare-plain"]])
    for who, found in values.items():
        cells = []
        for times in zip(*[(each.copier_us, each.caller_us, each.worker_us, each.total_us) for each in found]):
            text = f"{statistics.median(times):.1f} ({min(times):.1f})" if max(times) else ""
            cells.append(f"{text:>14}")
        ratio = plain_us / statistics.median([each.total_us for each in found])
        rate = statistics.median([each.rate for each in found])
        print(f"{size:10,} {who:18} {rate:8,.0f} {' '.join(cells)}  {ratio:.2f}", flush=True)


def _cpu_us(pids: Sequence[int]) -> float:
    return sum(machine.on_cpu_ns(pid) for pid in pids) / 1000


def _own_cpu_us() -> tuple[float, float]:
    """Of this process so far: the supervisor's thread, all others."""
    known = {thread.native_id for thread in threading.enumerate() if thread.name == _SUPERVISOR}
    supervisor = sum(machine.on_cpu_ns(os.getpid(), tid) for tid in known if tid is not None) / 1000
    return supervisor, time.process_time() * 1e6 - supervisor


if __name__ == "__main__":
    main()
