"""A report as Markdown: the goals first, then every quantity, with its spread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from guardpool_bench.compare import Comparison
from guardpool_bench.results import GoalResult, Machine, Profile, Report, Series

# If other programs use more than this share of the cores, the figures of a run are also about them.
BUSY_SHARE = 0.15

_SECTIONS = {
    "throughput": "Throughput",
    "submit": "One submit a job",
    "latency": "One warm call",
    "start": "Start",
    "respawn": "Replacing a worker",
    "memory": "Memory of the workers",
    "engines": "Both engines",
    "backends": "Guards that ask their backend",
    "workers": "Scaling in workers",
    "sizes": "Scaling in job size",
    "files": "File to file",
    "recordings": "Recordings read",
    "decisions": "Decisions",
    "protection": "What each protection costs",
    "isolation": "What a copy of the guard for each job costs",
    "profile": "Where a microsecond goes",
    "million": "A million jobs",
}


def to_markdown(report: Report, plots: Sequence[str] = ()) -> str:
    """The whole report.

    Args:
        report: what was measured.
        plots: file names of plots, to be shown in it.
    """
    parts = [f"# guardpool {report.guardpool}: benchmark", *_head(report)]
    if any(goal.measured is not None for goal in report.goals):
        parts += ["## Goals", *_warnings(report), goals_table(report.goals)]
    parts += [f"![{name}]({name})" for name in plots]
    for case, title in _SECTIONS.items():
        rows = [series for series in report.series if series.case == case]
        if case == "profile":
            if report.profile is not None:
                parts += [f"## {title}", profile_text(report.profile)]
        elif rows:
            parts += [f"## {title}", series_table(rows)]
    if report.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in report.notes)]
    return "\n\n".join(parts) + "\n"


def _head(report: Report) -> list[str]:
    machine, subject = report.machine, report.subject
    facts = [
        ("when", f"{report.created}, {report.seconds:.0f} s{'' if report.finished else ', NOT FINISHED'}"),
        ("machine", describe_machine(machine)),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
        ("load", _load(report)),
        ("guard", f"{subject.guard}, {subject.wasm_bytes:,} bytes, sha256 {subject.sha256[:16]}"),
        ("jobs", subject.jobs),
        ("options", ", ".join(f"{name} {value}" for name, value in report.options.items())),
    ]
    return ["\n".join(f"- {name}: {value}" for name, value in facts)]


def _warnings(report: Report) -> list[str]:
    """Why the verdicts may be worth less than they look."""
    found = []
    busy = [case for case, load in report.foreign_load.items() if load > BUSY_SHARE * report.machine.cores]
    if busy:
        found.append(
            f"**Other programs kept this machine busy ({', '.join(busy)}).** Rates are too low then, and ratios say as much of "
            "the kernel's scheduler, which shares out cores by session and by process, as of the pools. Measure again."
        )
    if report.options.get("quick"):
        found.append("**A quick run:** it tells whether everything works; its figures decide nothing.")
    return found


def describe_machine(machine: Machine) -> str:
    """One line."""
    governor = f", governor {machine.governor}" if machine.governor else ""
    return f"{machine.cpu}, {machine.cores} cores{governor}, {machine.memory_mib:,} MiB, {machine.kernel}, {machine.python}"


def _load(report: Report) -> str:
    machine = report.machine
    text = f"{machine.load_before} before, {machine.load_after} after (means of a minute)"
    if report.foreign_load:
        worst = max(report.foreign_load, key=lambda case: report.foreign_load[case])
        text += f"; other programs used up to {report.foreign_load[worst]:.1f} cores (before {worst!r})"
    if report.stolen >= 0.001:
        text += f"; the hypervisor gave {report.stolen:.1%} of the cores' time to others"
    return text


def goals_table(goals: Sequence[GoalResult]) -> str:
    """Every goal beside what was measured."""
    rows = []
    for goal in goals:
        if goal.measured is None:
            rows.append((goal.name, goal.against, goal.goal, "not measured", "", "", goal.remark if goal.key else ""))
            continue
        verdict = "pass" if goal.passed else "FAIL"
        rows.append(
            (
                goal.name,
                goal.against,
                goal.goal,
                show(goal.measured, goal.unit),
                f"{verdict}, {by_how_much(goal)}",
                f"{goal.runs_passed} of {goal.runs}",
                goal.remark,
            )
        )
    return table(("what", "against", "goal", "measured", "verdict", "runs that pass", "remark"), rows)


def by_how_much(goal: GoalResult) -> str:
    """`12% to spare`, `3% short`, `94 times the goal`."""
    assert goal.margin is not None
    if goal.margin < -1:  # only where less is better
        return f"{1 - goal.margin:,.0f} times the goal"
    return f"{abs(goal.margin):.0%} {'to spare' if goal.margin >= 0 else 'short'}"


def series_table(rows: Sequence[Series]) -> str:
    """Quantities with their spread: the median absolute deviation, the lowest and the highest run."""
    return table(
        ("what", "median", "± MAD", "lowest", "highest", "runs"),
        [
            (
                series.title,
                show(series.median, series.unit),
                show(series.mad, series.unit),
                show(series.low, series.unit),
                show(series.high, series.unit),
                str(len(series.values)),
            )
            for series in rows
        ],
    )


_PLACES = {
    "caller": "caller's thread",
    "supervisor": "supervisor's thread",
    "worker": "worker",
}


def profile_text(profile: Profile) -> str:
    """The layers of a job, and how they were measured."""
    whole = sum(profile.totals.values())
    rows = []
    for where, total in profile.totals.items():
        rows += [
            (_PLACES[where], layer.name, f"{layer.us:.2f}", f"{layer.us / whole:.1%}")
            for layer in profile.layers
            if layer.where == where
        ]
        rows.append((_PLACES[where], "**all of it**", f"**{total:.2f}**", f"**{total / whole:.1%}**"))
    lines = [
        f"CPU time of one job ({profile.jobs}): {whole:.1f} us over all threads; {profile.wall_us:.1f} us of wall clock "
        "a job with all workers at work.",
        table(("where", "what", "us a job", "share"), rows),
        "How it was measured. The totals are the kernel's account of the time each thread was on a CPU during a long "
        "map, uninstrumented. Each layer was timed alone: "
        + "; ".join(f"{_PLACES[where]}: {how}" for where, how in _hows(profile).items())
        + ". The rest of a thread is its total less its layers: system calls that wait, wake-ups, the interpreter's lock, "
        "cold caches; it is below zero if a layer was slower alone than in the run.",
    ]
    return "\n\n".join(lines)


def _hows(profile: Profile) -> dict[str, str]:
    found: dict[str, str] = {}
    for layer in profile.layers:
        found.setdefault(layer.where, layer.how)
    return found


def comparison_text(comparison: Comparison, old_name: str) -> str:
    """What got slower, what got quicker, and what cannot be told."""
    lines = [f"## Compared with {old_name}"]
    lines += [f"- {remark}" for remark in comparison.remarks]
    lines.append(f"- the machine (bare loops): {comparison.drift:+.1%}")
    changed = [row for row in comparison.rows if row.verdict in ("slower", "quicker")]
    changed.sort(key=lambda row: (row.verdict != "slower", -abs(row.change.relative)))
    rest = len(comparison.rows) - len(changed)
    unsure = sum(row.verdict == "unsure" for row in comparison.rows)
    if changed:
        rows = [
            (
                "WORSE" if row.verdict == "slower" else "better",
                row.title,
                show(row.old, row.unit),
                show(row.new, row.unit),
                f"{row.change.relative:+.1%}",
                f"± {row.change.noise:.1%}",
            )
            for row in changed
        ]
        lines.append("\n" + table(("", "what", "then", "now", "change", "noise"), rows))
    else:
        lines.append("- nothing changed by more than the noise")
    lines.append(
        f"\n{rest} of {len(comparison.rows)} quantities are the same as far as the noise lets tell"
        + (f"; {unsure} of them have one run only, which tells no noise" if unsure else "")
        + "."
    )
    return "\n".join(lines)


def show(value: float, unit: str) -> str:
    """A number with its unit, with as many digits as mean something."""
    if unit == "ratio":
        return f"{value:.3f}x"
    if unit == "share":
        return f"{value:+.1%}"
    if unit == "jobs/s" or abs(value) >= 1000:
        return f"{value:,.0f} {unit}"
    return f"{value:.2f} {unit}" if abs(value) < 10 else f"{value:.1f} {unit}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up in a terminal."""
    cells = [tuple(heads), *[tuple(row) for row in rows]]
    widths = [max(len(row[at]) for row in cells) for at in range(len(heads))]
    number = [at > 0 and _is_number(cells[1:], at) for at in range(len(heads))]

    def line(row: Sequence[str]) -> str:
        padded = [cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, number)]
        return f"| {' | '.join(padded)} |"

    rule = [f"{'-' * (width - 1)}:" if right else "-" * width for width, right in zip(widths, number)]
    return "\n".join([line(cells[0]), f"| {' | '.join(rule)} |", *map(line, cells[1:])])


def _is_number(rows: Sequence[Sequence[str]], at: int) -> bool:
    texts = [row[at].lstrip("*+-± ") for row in rows if row[at]]
    return bool(texts) and all(text[:1].isdigit() for text in texts)
