"""`guardpool doctor`: what works here and what does not."""

from __future__ import annotations

from guardpool.cli.render import make_console, make_table, print_json, safe
from guardpool.doctor import Standing, diagnose

_STYLES = {Standing.OK: "green", Standing.WARNING: "yellow", Standing.FAILED: "bold red"}


def run(*, as_json: bool) -> int:
    """Print the diagnosis; exit status 1 when no pool can be made here."""
    diagnosis = diagnose()
    if as_json:
        print_json(diagnosis)
        return 0 if diagnosis.ok else 1
    console = make_console()
    table = make_table("", "", "", title=f"guardpool {diagnosis.version}")
    table.show_header = False
    for check in diagnosis.checks:
        style = _STYLES[check.standing]
        table.add_row(safe(check.name, style="bold"), safe(check.standing, style=style), safe(check.detail, 500))
    console.print(table)
    warnings = sum(check.standing is Standing.WARNING for check in diagnosis.checks)
    failed = [check.name for check in diagnosis.checks if check.standing is Standing.FAILED]
    if failed:
        console.print(safe(f"No pool can be made here: see {', '.join(failed)}.", style="bold red"))
    elif warnings:
        console.print(safe("Guards can be run here, with the restrictions above.", style="yellow"))
    else:
        console.print(safe("Guards can be run here.", style="green"))
    return 1 if failed else 0
