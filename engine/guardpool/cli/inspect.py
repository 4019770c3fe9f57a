"""`guardpool inspect`: the exports, imports and memory of modules, and whether they are guards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from guardpool.batch.files import STANDARD
from guardpool.cli.files import read_whole
from guardpool.cli.render import (
    UsageError,
    complain,
    make_console,
    print_json_bytes,
    print_json_line,
    safe,
    show_bytes,
)
from guardpool.cli.tables import Table
from guardpool.module.inspection import Inspection, inspect
from guardpool.plurals import number_of
from guardpool.sizes import PAGE_BYTES

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"ok": "green", "wrong": "bold red", "unknown": "bold red", "unused": "dim"}


def run(files: Sequence[str], memory_pages: int, engine: str, *, as_json: bool) -> int:
    """Inspect every file, also after one that cannot be read; exit status 1 when one of them is not a guard.

    Raises:
        UsageError: standard input was named twice.
    """
    if files.count(STANDARD) > 1:
        raise UsageError("inspect: standard input holds one module: name - once")
    all_guards = True
    for at, file in enumerate(files):
        name = "standard input" if file == STANDARD else file
        try:
            wasm = read_whole(file)
        except OSError as error:
            complain(f"{name}: {error.strerror or error}")
            all_guards = False
            continue
        inspection = inspect(wasm, memory_pages, engine=engine)
        all_guards = all_guards and inspection.ok
        if as_json:
            text = inspection.to_json(file=name)
            print_json_bytes(text) if len(files) == 1 else print_json_line(text)
        else:
            if at:
                print()
            _print(make_console(), name, inspection)
    return 0 if all_guards else 1


def _print(console: Console, file: str, inspection: Inspection) -> None:
    _print_head(console, file, inspection)
    if inspection.exports:
        table = Table("export", "type", "verdict", "")
        for export in inspection.exports:
            style = _STYLES.get(export.verdict, "")
            table.add_row(safe(export.name), safe(export.type), safe(export.verdict, style=style), safe(export.note))
        _print_table(console, table)
    if inspection.imports:
        table = Table("import", "type", "verdict", "")
        for imported in inspection.imports:
            style = _STYLES.get(imported.verdict, "")
            name = safe(f"{imported.module}.{imported.name}")
            table.add_row(name, safe(imported.type), safe(imported.verdict, style=style), safe(imported.note))
        _print_table(console, table)
    _print_engines(console, inspection)
    for warning in inspection.warnings:
        _print_line(console, f"warning: {warning.message}", "yellow")
    for problem in inspection.problems:
        _print_line(console, f"problem: {problem.message}", "red")
    verdict = "a guard" if inspection.ok else "not a guard: a pool refuses it"
    if len({engine.accepts for engine in inspection.engines.values()}) > 1:
        verdict += f" with {inspection.engine}" if not inspection.ok else f" for {inspection.engine}"
    _print_line(console, f"{file} is {verdict}", "bold green" if inspection.ok else "bold red")


def _print_head(console: Console, file: str, inspection: Inspection) -> None:
    sizes, memory, metadata = inspection.sizes, inspection.memory, inspection.metadata
    console.print(safe(file, 1000, "bold"), soft_wrap=True)
    grid = Table("", "", header=False)
    exactly = f"{sizes.bytes:,} bytes"
    grid.add_row("size", exactly if sizes.bytes < 1024 else f"{show_bytes(sizes.bytes)} ({exactly})")
    if sizes.functions or memory is not None:
        code = f"{show_bytes(sizes.code_bytes)} of code, {show_bytes(sizes.data_bytes)} of data"
        grid.add_row(
            "contents",
            f"{number_of(sizes.functions, 'function')}, {code}, {show_bytes(sizes.debug_bytes)} of debug data",
        )
    if memory is not None:
        declared = "no maximum" if memory.maximum_pages is None else f"at most {memory.maximum_pages:,}"
        grid.add_row(
            "memory",
            f"{number_of(memory.minimum_pages, 'page')} of 64 KiB, {declared}; capped at {memory.effective_pages:,} "
            f"({show_bytes(memory.effective_pages * PAGE_BYTES)})",
        )
    if inspection.ok:
        anew = (
            "made anew, label_agent included: it changes tables, drops segments, or has globals that are not integers"
        )
        grid.add_row("--isolation job", "its state is put back after each job" if inspection.put_back else anew)
    if metadata.module_name:
        grid.add_row("calls itself", safe(metadata.module_name))
    for field, values in metadata.producers.items():
        grid.add_row(safe(field, 40), safe(", ".join(values)))
    grid.print(console)


def _print_engines(console: Console, inspection: Inspection) -> None:
    table = Table("engine", "verdict", "")
    for name, engine in inspection.engines.items():
        verdict = safe("takes it", style="green") if engine.accepts else safe("refuses it", style="bold red")
        table.add_row(safe(name), verdict, safe(engine.problem or "", 1000))
    _print_table(console, table)
    console.print()


def _print_table(console: Console, table: Table) -> None:
    console.print()
    table.print(console)


def _print_line(console: Console, text: str, style: str) -> None:
    """One line, however long: a terminal wraps it, `grep` finds it."""
    console.print(safe(text, 1000, style), soft_wrap=True)
