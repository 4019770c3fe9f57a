"""`guardpool cache`: look at the cache of compiled guards, fill it, check it, empty it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from guardpool.artifacts.cache import CacheEntry, ModuleCache
from guardpool.cli.files import guard_name_of
from guardpool.cli.progress import LogBuffer
from guardpool.cli.render import (
    UsageError,
    complain,
    make_console,
    parse_size,
    print_json,
    safe,
    show_bytes,
    show_seconds,
)
from guardpool.cli.tables import Table
from guardpool.errors import GuardPoolError
from guardpool.guard import Guard
from guardpool.plurals import number_of

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw]?)")
_AGE_UNITS = {"": 86400, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def path() -> int:
    """Print the cache's folder, whether or not it is there."""
    print(ModuleCache().path)
    return 0


def list_entries(*, as_json: bool) -> int:
    """Print what is in the cache."""
    with _warnings_on_stderr():
        cache = ModuleCache()
        entries = cache.entries()
    if as_json:
        print_json({"path": str(cache.path), "entries": [_entry_facts(entry) for entry in entries]})
        return 0
    console = make_console()
    if not entries:
        console.print(safe(f"{cache.path}: empty", 1000), soft_wrap=True)
        return 0
    table = Table("key", "guard", "engine", "pages>", "size>", "used ago>", "compiled in>", "")
    table.columns[1].cut = True  # one long name would take the columns of all others
    now = time.time()
    for entry in entries:
        header = entry.header
        table.add_row(
            entry.key[:8],
            safe((header and header.guard) or "-", 64),
            safe(header.ingredients.engine if header else "-", 32),
            f"{header.ingredients.memory_pages:,}" if header else "-",
            show_bytes(entry.size_bytes),
            _show_age(now - entry.used_s),
            show_seconds(header.compile_s) if header else "-",
            safe(_standing(entry), style="" if entry.usable_here else "yellow"),
        )
    table.print(console)
    console.print()
    total = sum(entry.size_bytes for entry in entries)
    console.print(
        safe(f"{number_of(len(entries), 'artifact')}, {show_bytes(total)} in {cache.path}", 1000), soft_wrap=True
    )
    return 0


def warm(files: Sequence[str], memory_pages: int, engine: str = "auto") -> int:
    """Compile modules ahead of their use; all are tried, and the exit status tells whether all are there now."""
    cache = ModuleCache()
    failed = False
    with _warnings_on_stderr():
        for file in files:
            started = time.monotonic()
            try:
                guard = Guard.from_file(file, name=guard_name_of(file))
                compiled = cache.warm(guard.wasm, memory_pages, guard=guard.name, engine=engine)
            except GuardPoolError as error:
                complain(_with_file(file, error))
                failed = True
                continue
            took = f"compiled in {show_seconds(time.monotonic() - started)}" if compiled else "was compiled already"
            make_console().print(safe(f"{file}: {took}", 1000), soft_wrap=True)
    return 1 if failed else 0


def verify(*, remove: bool, as_json: bool) -> int:
    """Read every artifact whole; exit status 1 when one would not be used."""
    cache = ModuleCache()
    with _warnings_on_stderr():
        entries = len(cache.entries())
    problems = cache.verify(remove=remove)
    if as_json:
        bad = [{"path": str(problem.path), "reason": problem.reason} for problem in problems]
        print_json({"path": str(cache.path), "entries": entries, "removed": remove, "problems": bad})
    else:
        console = make_console()
        if any(problem.path == cache.path for problem in problems):  # the folder itself: nothing in it was looked at
            console.print(safe(str(problems[0]), 1000, "red"), soft_wrap=True)
            return 1
        for problem in problems:
            console.print(safe(f"{problem}{' (removed)' if remove else ''}", 1000, "red"), soft_wrap=True)
        verdict = _verdict(len(problems), remove=remove)
        console.print(safe(f"{cache.path}: {number_of(entries, 'artifact')}, {verdict}", 1000), soft_wrap=True)
    return 1 if problems else 0


def prune(max_bytes: str | None, max_age: str | None) -> int:
    """Remove what was used longest ago."""
    if max_bytes is None and max_age is None:
        raise UsageError(
            "cache prune: say what may stay with --max-bytes or --max-age (cache clear removes everything)"
        )
    size = None if max_bytes is None else parse_size(max_bytes, "--max-bytes")
    age = None if max_age is None else _parse_age(max_age)
    with _warnings_on_stderr():
        report = ModuleCache().prune(size, age)
    freed, kept = show_bytes(report.freed_bytes), show_bytes(report.kept_bytes)
    print(f"removed {number_of(report.removed, 'artifact')} ({freed}), kept {report.kept} ({kept})")
    return 0


def clear() -> int:
    """Remove every artifact."""
    with _warnings_on_stderr():
        count = ModuleCache().clear()
    print(f"removed {number_of(count, 'artifact')}")
    return 0


def _entry_facts(entry: CacheEntry) -> dict[str, object]:
    return {
        "key": entry.key,
        "path": str(entry.path),
        "size_bytes": entry.size_bytes,
        "used_s": entry.used_s,
        "usable_here": entry.usable_here,
        "problem": entry.problem,
        "header": entry.header,
    }


def _standing(entry: CacheEntry) -> str:
    if entry.problem is not None:
        return entry.problem
    return "" if entry.usable_here else "not usable here"  # made for another engine, machine or release


def _verdict(problems: int, *, remove: bool) -> str:
    if not problems:
        return "all sound"
    if remove:
        return f"{problems} not sound, removed"
    return f"{problems} not sound: run guardpool cache verify --remove"


def _show_age(seconds: float) -> str:
    """`5 s`, `12 min`, `3 h`, `40 d`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _with_file(file: str, error: GuardPoolError) -> str:
    return str(error) if file in str(error) else f"{file}: {error}"


def _parse_age(text: str) -> float:
    match = _AGE.fullmatch(text.strip().lower())
    if match is None:
        raise UsageError(f"--max-age must be a number of days, or like 90m, 12h, 7d, 2w; not {text!r}")
    return float(match[1]) * _AGE_UNITS[match[2]]


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Print what the cache warns of, one line each, after the work is done."""
    buffer = LogBuffer()
    buffer.setLevel(logging.WARNING)
    buffer.install("warning")
    try:
        yield
    finally:
        buffer.uninstall()
        for line in buffer.drain():
            complain(line.removeprefix("guardpool: "))
