"""`guardpool doctor`: what works here and what does not, of all a pool needs of Python, engine, kernel and disk.

Nothing is started or written (an empty cache folder that others could write to is closed to them), and nothing is
imported that is missing in a Python without a usable engine.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from enum import Enum
from pathlib import Path

import msgspec

from guardpool.artifacts import trust
from guardpool.artifacts.cache import default_path
from guardpool.artifacts.trust import UntrustedError
from guardpool.cli.render import make_console, print_json, safe
from guardpool.cli.tables import Table
from guardpool.errors import EngineMissing
from guardpool.machine import capacity, cgroup, engines
from guardpool.machine.kernel import Feature, probe

# Counted while a pool starts, with what Python itself has open.
_DESCRIPTORS_OF_A_POOL = 32
_DESCRIPTORS_OF_A_WORKER = 6
# The forkserver, the supervisor's thread, the two that run the caller's callbacks and log handlers, and one for a backend.
_PROCESSES_OF_A_POOL = 5
# What the smallest guard's machine code takes, and what some large ones do.
_LEAST_FILE_BYTES = 256 * 1024
_FILE_BYTES = 64 * 1024 * 1024
# Kernel features without which there is no pool; the others only make it safer.
_NEEDED_FEATURES = frozenset({"pidfd", "memfd", "proc"})
_ELSEWHERE = "set GUARDPOOL_CACHE_DIR to another folder"


class Standing(str, Enum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"  # a pool works, with less speed or less protection
    FAILED = "failed"  # no pool can be made here

    def __str__(self) -> str:
        return self.value


_STYLES = {Standing.OK: "green", Standing.WARNING: "yellow", Standing.FAILED: "bold red"}


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Args:
        name: a stable word: `"python"`, `"engine"`, `"wasmtime"`, `"wasmer"`, `"seccomp"`, `"cores"`, `"cache"`, ...
        standing: how it came out.
        detail: one line for people: what there is, or what is missing and what to do.
    """

    name: str
    standing: Standing
    detail: str


class Diagnosis(msgspec.Struct, frozen=True):
    """All checks, and what follows from them.

    Args:
        ok: whether a pool can be made here.
        version: of guardpool.
        checks: in the order in which a person would look.
    """

    ok: bool
    version: str
    checks: tuple[Check, ...]


def run(*, as_json: bool) -> int:
    """Print the diagnosis; exit status 1 when no pool can be made here."""
    diagnosis = diagnose()
    if as_json:
        print_json(diagnosis)
        return 0 if diagnosis.ok else 1
    console = make_console()
    table = Table("", "", "", header=False)
    for check in diagnosis.checks:
        style = _STYLES[check.standing]
        table.add_row(safe(check.name, style="bold"), safe(check.standing, style=style), safe(check.detail, 500))
    console.print(safe(f"guardpool {diagnosis.version}", style="bold"))
    console.print()
    table.print(console)
    console.print()
    warnings = sum(check.standing is Standing.WARNING for check in diagnosis.checks)
    failed = [check.name for check in diagnosis.checks if check.standing is Standing.FAILED]
    if failed:
        console.print(safe(f"No pool can be made here: see {', '.join(failed)}.", style="bold red"))
    elif warnings:
        console.print(safe("Guards can be run here, with the restrictions above.", style="yellow"))
    else:
        console.print(safe("Guards can be run here.", style="green"))
    return 1 if failed else 0


def diagnose() -> Diagnosis:
    """Look at everything. Takes some milliseconds."""
    from guardpool import __version__

    checks = (_python(), *_engines(), *map(_kernel, probe()), _memory(), *_limits(), _cache(default_path()))
    return Diagnosis(all(check.standing is not Standing.FAILED for check in checks), __version__, checks)


def _python() -> Check:
    version = f"{platform.python_implementation()} {platform.python_version()} in {sys.prefix}"
    return Check("python", Standing.OK if sys.version_info >= (3, 10) else Standing.FAILED, version)


def _engines() -> list[Check]:
    """What `auto` takes, and each engine: whether it can be used, its age, and whether it gets fixes."""
    try:
        choice = engines.choose_engine()
    except EngineMissing as error:
        return [Check("engine", Standing.FAILED, str(error)), *map(_engine, engines.ENGINES.values())]
    as_meant = choice.name == engines.auto_order()[0]
    taken = Check("engine", Standing.OK if as_meant else Standing.WARNING, f"{choice.version}: {choice.why}")
    return [taken, *map(_engine, engines.ENGINES.values())]


def _engine(facts: engines.EngineFacts) -> Check:
    """One engine. A Python that cannot have it needs no repair; `_engines` says whether there is another."""
    about = f"{facts.name} {facts.version} of {facts.released}, which {facts.upkeep}"
    problem = engines.engine_problem(facts.name)
    if problem is None:
        return Check(facts.name, Standing.OK if facts.gets_fixes else Standing.WARNING, f"can be used: {about}")
    if not facts.has_builds_for_this_python:
        return Check(facts.name, Standing.OK, f"not for this Python, but for {facts.spelled_pythons}: {about}")
    return Check(facts.name, Standing.WARNING, f"cannot be used: {problem} ({about})")


def _kernel(feature: Feature) -> Check:
    if feature.available:
        return Check(feature.name, Standing.OK, feature.detail)
    standing = Standing.FAILED if feature.name in _NEEDED_FEATURES else Standing.WARNING
    return Check(feature.name, standing, feature.detail)


def _memory() -> Check:
    try:
        facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return Check("memory", Standing.WARNING, "the free memory is not known: /proc/meminfo cannot be read")
    limit = cgroup.memory_bytes()
    allowed = "" if limit is None else f"; the container may use {limit / (1 << 30):.1f} GiB"
    return Check("memory", Standing.OK, f"{available / (1 << 30):.1f} GiB available{allowed}")


def _limits() -> list[Check]:
    """The limits of this process, which a pool that is made by a command started here inherits."""
    workers = capacity.cores()
    return [
        _limit(
            "descriptors",
            _soft(resource.RLIMIT_NOFILE),
            _DESCRIPTORS_OF_A_POOL,
            _DESCRIPTORS_OF_A_POOL + workers * _DESCRIPTORS_OF_A_WORKER,
            "open files (RLIMIT_NOFILE, ulimit -n)",
        ),
        _limit(
            "processes",
            cgroup.room_for_processes(),
            _PROCESSES_OF_A_POOL + 1,
            _PROCESSES_OF_A_POOL + workers,
            "more processes and threads in this container (pids.max)",
        ),
        _limit(
            "file size",
            _soft(resource.RLIMIT_FSIZE),
            _LEAST_FILE_BYTES,
            _FILE_BYTES,
            "bytes in a file, and in the memory that compiled guards are handed over in (RLIMIT_FSIZE, ulimit -f)",
        ),
    ]


def _limit(name: str, allowed: int | None, least: int, wanted: int, what: str) -> Check:
    """One limit. Below `least` no pool can be made; below `wanted` perhaps none with a worker a core, or a large guard."""
    if allowed is None:
        return Check(name, Standing.OK, "no limit")
    if allowed < least:
        return Check(name, Standing.FAILED, f"only {allowed} {what}: a pool needs {least} at least")
    if allowed < wanted:
        return Check(name, Standing.WARNING, f"only {allowed} {what}: {wanted} are better")
    return Check(name, Standing.OK, f"{allowed} {what}")


def _soft(limit: int) -> int | None:
    soft = resource.getrlimit(limit)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _cache(path: Path) -> Check:
    """Whether compiled guards can be kept, and would be trusted."""
    slow = "guards are compiled each time"
    try:
        os.close(trust.open_folder(path))
    except FileNotFoundError:
        return _future_cache(path, slow)
    except UntrustedError as error:
        return Check("cache", Standing.WARNING, f"{slow}: {error}")
    except OSError as error:
        return Check(
            "cache", Standing.WARNING, f"{slow}: {path} cannot be used ({error.strerror or error}); {_ELSEWHERE}"
        )
    if not os.access(path, os.W_OK):
        return Check(
            "cache", Standing.WARNING, f"{slow} unless they are stored already: {path} cannot be written; {_ELSEWHERE}"
        )
    return Check("cache", Standing.OK, f"{path}")


def _future_cache(path: Path, slow: str) -> Check:
    above = next(folder for folder in path.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        return Check(
            "cache", Standing.WARNING, f"{slow}: {path} cannot be made, because {above} cannot be written; {_ELSEWHERE}"
        )
    return Check("cache", Standing.OK, f"{path} (will be made when it is needed)")
