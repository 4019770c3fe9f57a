"""1,000 jobs, one of which kills its worker: how many come back, from guardpool and from other process pools.

    python benchmarks/side_by_side_deaths.py [--jobs 1000] [--limit 15] [--only guardpool]

Each pool runs in a process of its own and has a time limit, because some never return. Jobs work for about 1 ms; the one
in the middle ends its worker: in the other pools by SIGKILL to itself, in guardpool by a trap, by spinning past its
deadline, by filling its memory, and by a SIGKILL from outside every time a worker begins it. loky and pebble are run if
they are installed (`pip install loky pebble`).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WORKERS = 2
CHUNK = 64
TURNS = 12_000  # about 1 ms of Python
WAT = Path(__file__).parent.parent / "tests" / "guards" / "vicious.wat"
POLICY = {"allow-only": {"repos": "all", "min-integrity": "none"}}


class Tally:
    """The jobs that came back. Printed after every change, so a pool that hangs has told what it had."""

    def __init__(self) -> None:
        self.results = 0
        self.failed = 0
        self.victim = "nothing"

    def add(self, number: int, killer: int, error: str | None) -> None:
        """A job came back."""
        if number == killer:
            self.victim = error or "a result"
        elif error is None:
            self.results += 1
        else:
            self.failed += 1

    def tell(self, usable: str) -> None:
        """One line for the parent."""
        print(f"{self.results}\t{self.failed}\t{self.victim}\t{usable}", flush=True)


def work(number: int, killer: int) -> int:
    """A job of the other pools."""
    if number == killer:
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(TURNS):
        pass
    return number


def settle(tally: Tally, futures: Iterable[tuple[int, Any]], killer: int) -> None:
    """Wait for futures, whatever they hold."""
    for number, future in futures:
        try:
            future.result()
            tally.add(number, killer, None)
        except BaseException as error:
            tally.add(number, killer, type(error).__name__)
        if number % 50 == 49:
            tally.tell("?")


def submit_all(tally: Tally, jobs: int, submit: Callable[..., Any]) -> str:
    """One `submit` a job, then one more: is the pool of any use afterwards?"""
    killer, futures = jobs // 2, []
    for number in range(jobs):
        try:
            futures.append((number, submit(work, number, killer)))
        except Exception as error:  # the pool broke while jobs were handed in
            tally.add(number, killer, type(error).__name__)
    settle(tally, futures, killer)
    try:
        submit(work, 0, -1).result()
    except Exception as error:
        return f"no: {type(error).__name__}"
    return "yes"


# --- the contestants


def run_concurrent_futures(tally: Tally, jobs: int) -> str:
    with concurrent.futures.ProcessPoolExecutor(WORKERS) as executor:
        return submit_all(tally, jobs, executor.submit)


def run_loky(tally: Tally, jobs: int) -> str:
    from loky import get_reusable_executor

    return submit_all(tally, jobs, get_reusable_executor(max_workers=WORKERS).submit)


def run_pebble(tally: Tally, jobs: int) -> str:
    from pebble import ProcessPool

    with ProcessPool(max_workers=WORKERS) as pool:
        return submit_all(tally, jobs, lambda function, *args: pool.schedule(function, args=args))


def run_pebble_chunks(tally: Tally, jobs: int) -> str:
    from pebble import ProcessPool

    killer, got = jobs // 2, set[int]()
    with ProcessPool(max_workers=WORKERS) as pool:
        results = pool.map(_Work(killer), range(jobs), chunksize=CHUNK).result()
        while True:
            try:
                got.add(next(results))
            except StopIteration:
                break
            except Exception as error:
                tally.victim = type(error).__name__
        for number in range(jobs):
            if number != killer:
                tally.add(number, killer, None if number in got else tally.victim)
    return "yes"


def run_imap(tally: Tally, jobs: int, chunk: int = 1) -> str:
    killer = jobs // 2
    with multiprocessing.Pool(WORKERS) as pool:
        for number in pool.imap_unordered(_Work(killer), range(jobs), chunk):
            tally.add(number, killer, None)
            tally.tell("?")
        return "yes"


def run_apply_async(tally: Tally, jobs: int) -> str:
    killer = jobs // 2
    with multiprocessing.Pool(WORKERS) as pool:
        results = [(number, pool.apply_async(work, (number, killer))) for number in range(jobs)]
        for number, result in results:
            if number != killer:  # never comes
                result.get()
                tally.add(number, killer, None)
                tally.tell("no: the victim's result never comes")
        results[killer][1].get()
    return "yes"


class _Work:
    def __init__(self, killer: int) -> None:
        self._killer = killer

    def __call__(self, number: int) -> int:
        return work(number, self._killer)


def run_guardpool(letter: str, tally: Tally, jobs: int) -> str:
    from guardpool import Guard, GuardPool, Job, Limits
    from guardpool.machine.engines import choose_engine
    from guardpool_worker.engine.choice import load_engine

    logging.getLogger("guardpool").setLevel(logging.CRITICAL)  # each death is a warning, and meant
    pools: list[GuardPool] = []

    def kill_who_asks(_tool: str, _args: Any) -> None:
        # Every worker: which of them asks is not to be seen from here. What else runs is tried once more.
        for worker in pools[0].stats().workers:
            os.kill(worker.pid, signal.SIGKILL)
        threading.Event().wait(1.0)

    limits = Limits(timeout_s=1.0, memory_pages=900, max_rss_bytes=60 << 20, max_attempts=2)
    guard = Guard(
        "vicious", load_engine(choose_engine().name).wat_to_wasm(WAT.read_text()), POLICY, backend=kill_who_asks
    )
    killer = jobs // 2
    with GuardPool([guard], workers=WORKERS, limits=limits) as pool:
        pools.append(pool)
        made = (Job(n, "label_resource", f"{letter if n == killer else 'w'}{n}", {"n": n}) for n in range(jobs))
        for outcome in pool.map(made):
            ok = outcome.status.value == "ok"
            tally.add(outcome.id, killer, None if ok else f"`{outcome.status}`")
            if outcome.id % 50 == 49:
                tally.tell("?")
        return "yes" if pool.label_resource("k").status == "ok" else "no"


CONTESTANTS: dict[str, tuple[str | None, Callable[[Tally, int], str]]] = {
    "guardpool, a trap": (None, lambda tally, jobs: run_guardpool("t", tally, jobs)),
    "guardpool, past its deadline": (None, lambda tally, jobs: run_guardpool("s", tally, jobs)),
    "guardpool, past its memory": (None, lambda tally, jobs: run_guardpool("m", tally, jobs)),
    "guardpool, all workers killed twice": (None, lambda tally, jobs: run_guardpool("b", tally, jobs)),
    "concurrent.futures, submit": (None, run_concurrent_futures),
    "loky, submit": ("loky", run_loky),
    "pebble, schedule": ("pebble", run_pebble),
    "pebble, map in chunks of 64": ("pebble", run_pebble_chunks),
    "multiprocessing.Pool, imap_unordered": (None, run_imap),
    "multiprocessing.Pool, imap, chunks of 64": (None, lambda tally, jobs: run_imap(tally, jobs, CHUNK)),
    "multiprocessing.Pool, apply_async": (None, run_apply_async),
}


# --- the table


def compare(jobs: int, limit_s: float, only: str) -> None:
    """Run every contestant whose name holds `only` and print a line for each."""
    print(f"{jobs:,} jobs on {WORKERS} workers, one of which kills its worker; {limit_s:g} s each")
    print(f"{'':42}{'results':>8}{'errors':>8}{'missing':>9}{'s':>7}  {'the victim':<26}usable afterwards")
    for name, (needs, _) in CONTESTANTS.items():
        if only not in name:
            continue
        if needs is not None and find_spec(needs) is None:
            print(f"{name:<42}not installed")
            continue
        line, took_s, ended = _run_one(name, jobs, limit_s)
        results, failed, victim, usable = line.split("\t")
        missing = jobs - 1 - int(results) - int(failed)
        if not ended:
            usable = usable.replace("?", "no: hangs")
        print(f"{name:<42}{results:>8}{failed:>8}{missing:>9}{took_s:>7.1f}  {victim:<26}{usable}")


def _run_one(name: str, jobs: int, limit_s: float) -> tuple[str, float, bool]:
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, __file__, "--jobs", str(jobs), "--run", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=limit_s)
        ended = True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with whatever it left running
        out, _ = process.communicate()
        ended = False
    lines = out.splitlines()
    return (lines[-1] if lines else "0\t0\tnothing\t?"), time.monotonic() - began, ended


def main(arguments: list[str]) -> int:
    """Compare, or be one of those compared."""
    parser = argparse.ArgumentParser(description="How many jobs come back when one kills its worker.")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--limit", type=float, default=15.0, help="seconds for each pool (default: 15)")
    parser.add_argument("--only", default="", help="pools whose name holds this")
    parser.add_argument("--run", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run is None:
        compare(options.jobs, options.limit, options.only)
        return 0
    tally = Tally()
    tally.tell(CONTESTANTS[options.run][1](tally, options.jobs))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
