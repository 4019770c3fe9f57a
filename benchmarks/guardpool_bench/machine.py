"""The machine a run was measured on, and what else keeps it busy: figures without these mean nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path

from guardpool_bench.results import Machine

PACKAGES = (
    "guardpool",
    "wasmtime",
    "wasmer",
    "wasmer-compiler-cranelift",
    "msgspec",
    "psutil",
    "loky",
    "pebble",
    "matplotlib",
)

_JIFFY_S = 1 / os.sysconf("SC_CLK_TCK")


def describe(load_before: float, load_after: float) -> Machine:
    """Everything a reader needs to know of this machine."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20),
        kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions=versions(),
        load_before=round(load_before, 2),
        load_after=round(load_after, 2),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    )


def versions() -> dict[str, str]:
    """Versions of the packages that matter; those that are not installed are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def stolen_s() -> float:
    """Seconds that the hypervisor gave to others while we wanted to run, over all cores; 0 on bare metal."""
    return int(_read("/proc/stat").split(maxsplit=9)[8]) * _JIFFY_S


def foreign_load(seconds: float) -> float:
    """How many cores other programs keep busy now; to be called while nothing of ours runs."""
    before, mine = _busy_s(), time.process_time()
    started = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - started
    return max(0.0, (_busy_s() - before - (time.process_time() - mine)) / elapsed)


def on_cpu_ns(pid: int | str, tid: int | str | None = None) -> int:
    """Nanoseconds a thread (None: the main thread) has been on a CPU, from the scheduler's own accounts."""
    task = pid if tid is None else tid
    return int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])


def page_faults(pid: int | str) -> int:
    """How often a process touched a page that was not there, so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7]) + int(fields[9])


def memory_kib(pid: int | str, field: str) -> int:
    """A field of `/proc/PID/smaps_rollup` in KiB, e.g. `Pss`.

    Raises:
        PermissionError: the process is not dumpable (a sandboxed worker) and we are not root.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0])
    raise KeyError(field)


def rss_bytes(pid: int | str = "self") -> int:
    """The resident set of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.processor() or "unknown"


def _busy_s() -> float:
    """Seconds that all cores together were not idle."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, _read("/proc/stat").split(maxsplit=8)[1:8])
    return (user + nice + system + irq + softirq) * _JIFFY_S


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
