"""From the constructor to a pool that is ready: with nothing in the cache, and with everything.

Each start is measured in a process of its own, where `guardpool` was imported and nothing else: as a script sees it. A
second pool of the same process, which finds everything imported, stands beside.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec

from guardpool import UNSET
from guardpool_bench.context import Context, folder
from guardpool_bench.results import ReportError

_CHILD = """
import json, sys, time
began_all = time.perf_counter()
import guardpool
from guardpool import Guard, GuardPool, Job
imported = time.perf_counter()
facts = json.load(sys.stdin)
guard = Guard.from_file(facts["wasm"], name="subject", policy=facts["policy"],
                        trusted_bots=facts["bots"], trusted_users=facts["users"])
job = Job(0, **facts["job"])
found = {"import_ms": (imported - began_all) * 1e3}
for which in ("first", "second"):
    began = time.perf_counter()
    with GuardPool([guard], workers=facts["workers"], cache=facts["cache"], log_level="off",
                   engine=facts["engine"]) as pool:
        ready = time.perf_counter()
        pool.submit(job).result()
        found[which + "_ms"] = (ready - began) * 1e3
        found[which + "_result_ms"] = (time.perf_counter() - began) * 1e3
    if not facts["second"]:
        break
print(json.dumps(found))
"""


def run(context: Context) -> None:
    """Measure pools of 1, 2 and many workers, cold and warm."""
    many = _many()
    with folder() as own:
        about = facts(context, own)
        cold: list[float] = []
        for turn in range(context.scale.starts):
            context.step(f"no cache, run {turn + 1} of {context.scale.starts}")
            cache = own / f"cold-{turn}"
            cold.append(start(about, context.workers, cache, second=False)["first_ms"])
        context.record("cold", f"ready, nothing in the cache, {context.workers} workers", "ms", "lower", cold)
        start(about, 1, own / "warm", second=False)
        counts = sorted({1, 2, context.workers, many})
        found: dict[tuple[int, str], list[float]] = {}
        for turn in range(context.scale.starts):
            for workers in counts:
                context.step(f"warm cache, {workers} workers, run {turn + 1} of {context.scale.starts}")
                for name, value in start(about, workers, own / "warm", second=True).items():
                    found.setdefault((workers, name), []).append(value)
    _record(context, counts, found)


def facts(context: Context, own: Path) -> dict[str, object]:
    """What a process needs to start a pool of the measured guard, whose module is written into the folder."""
    guard = context.guards["subject"]
    wasm = own / "guard.wasm"
    wasm.write_bytes(guard.wasm)
    job = next(iter(context.jobsets.values())).jobs[0]
    return {
        "wasm": str(wasm),
        "policy": guard.policy,
        "bots": guard.trusted_bots,
        "users": guard.trusted_users,
        "engine": context.engine,
        "job": {
            name: value for name, value in msgspec.structs.asdict(job).items() if name != "id" and value is not UNSET
        },
    }


def _record(context: Context, counts: list[int], found: dict[tuple[int, str], list[float]]) -> None:
    titles = {
        "first_ms": ("warm", "ready, warm cache, first pool of a process"),
        "second_ms": ("again", "ready, warm cache, second pool of a process"),
        "first_result_ms": ("result", "first result, warm cache, first pool of a process"),
    }
    for workers in counts:
        for name, (word, title) in titles.items():
            context.record(
                f"{word}.{workers}", f"{title}, {workers} worker{'s' * (workers > 1)}", "ms", "lower",
                found[workers, name], workers=workers,
            )  # fmt: skip
    context.record(
        "import", "import of guardpool with Guard, GuardPool and Job", "ms", "lower", found[counts[0], "import_ms"]
    )


def _many() -> int:
    """Four a core, as far as the memory caps of so many workers fit into this machine."""
    from guardpool.limits import Limits

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(4 * len(os.sched_getaffinity(0)), total // Limits().max_rss_bytes))


def start(facts: dict[str, object], workers: int, cache: Path, *, second: bool) -> dict[str, float]:
    """Milliseconds of the start of a pool in a fresh process; `second`: and of another pool after it."""
    request = json.dumps({**facts, "workers": workers, "cache": str(cache), "second": second})
    done = subprocess.run(
        [sys.executable, "-c", _CHILD], input=request.encode(), capture_output=True, timeout=120, check=False
    )
    if done.returncode:
        raise ReportError(f"a pool could not be started: {done.stderr.decode(errors='replace').strip()[-500:]}")
    times: dict[str, float] = json.loads(done.stdout)
    return times
