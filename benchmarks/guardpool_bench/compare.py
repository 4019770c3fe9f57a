"""Finds what got slower since an older report, with the noise taken into account.

Two medians always differ. A difference counts when it is larger than what the runs' own spread explains, larger than a
floor for what differs between two processes, and larger than the change of the machine itself, which the bare loops show:
no release of guardpool touches them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from guardpool_bench import run_statistics
from guardpool_bench.results import Report, Series
from guardpool_bench.run_statistics import Change

Verdict = Literal["slower", "quicker", "same", "unsure"]

# The least that is called a change, by unit: two processes of one program differ by this much.
_FLOORS = {"ratio": 0.02, "jobs/s": 0.03, "MiB": 0.03, "us": 0.05, "ms": 0.10, "share": 0.25}
_FLOOR = 0.05
# Ratios are taken within one run, and memory does not depend on the clock: the machine's drift does not touch them.
_DRIFTLESS = ("ratio", "MiB", "share")


@dataclass(frozen=True)
class Row:
    """One quantity, then and now.

    Attributes:
        verdict: `"unsure"` if only one run was made on either side, so nothing tells the noise.
    """

    key: str
    title: str
    unit: str
    old: float
    new: float
    change: Change
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """Two reports beside one another.

    Attributes:
        rows: quantities that both have, in the order of the newer one.
        drift: how much quicker (positive) or slower the bare loops were, as a share.
        only_old, only_new: keys that only one of them has.
        remarks: why the comparison may mean less than it seems to.
    """

    rows: list[Row]
    drift: float
    only_old: list[str]
    only_new: list[str]
    remarks: list[str]

    def slower(self) -> list[Row]:
        """The quantities that got slower, worst first."""
        found = [row for row in self.rows if row.verdict == "slower"]
        return sorted(found, key=lambda row: -abs(row.change.relative))


def compare(old: Report, new: Report) -> Comparison:
    """Compare two reports, quantity by quantity."""
    before = {series.key: series for series in old.series}
    now = {series.key: series for series in new.series}
    drift = machine_drift(old.series, new.series)
    rows = [
        _row(before[key], series, drift) for key, series in now.items() if key in before and series.better != "neither"
    ]
    return Comparison(
        rows,
        drift,
        sorted(before.keys() - now.keys()),
        sorted(now.keys() - before.keys()),
        _remarks(old, new, drift),
    )


def machine_drift(old: Sequence[Series], new: Sequence[Series]) -> float:
    """How much the rates of the bare loops changed: the median over all of them; 0 without any."""
    before = {series.key: series.median for series in old if _is_bare(series)}
    changes = [
        series.median / before[series.key] - 1 for series in new if _is_bare(series) and before.get(series.key, 0.0) > 0
    ]
    return median(changes) if changes else 0.0


def _is_bare(series: Series) -> bool:
    return series.unit == "jobs/s" and str(series.about.get("who", "")).startswith("bare")


def _row(old: Series, new: Series, drift: float) -> Row:
    found = run_statistics.change(
        old.summary,
        new.summary,
        floor=_FLOORS.get(new.unit, _FLOOR),
        drift=0.0 if new.unit in _DRIFTLESS else drift,
    )
    verdict: Verdict = "same"
    if found.noise == float("inf"):
        verdict = "unsure"
    elif found.certain:
        better = found.relative > 0 if new.better == "higher" else found.relative < 0
        verdict = "quicker" if better else "slower"
    return Row(new.key, new.title, new.unit, old.median, new.median, found, verdict)


def _remarks(old: Report, new: Report, drift: float) -> list[str]:
    found = []
    for name in ("cpu", "cores", "kernel", "python"):
        was, now = getattr(old.machine, name), getattr(new.machine, name)
        if was != now:
            found.append(f"another {name}: {was} then, {now} now")
    for name in sorted(old.machine.versions.keys() | new.machine.versions.keys()):
        was, now = old.machine.versions.get(name, "none"), new.machine.versions.get(name, "none")
        if was != now and name != "guardpool":
            found.append(f"another {name}: {was} then, {now} now")
    if old.subject.sha256 != new.subject.sha256:
        found.append("another guard: what depends on it cannot be compared")
    found += [
        f"other options: {name} {old.options.get(name)} then, {new.options.get(name)} now"
        for name in ("engine", "workers", "quick")
        if old.options.get(name) != new.options.get(name)
    ]
    if abs(drift) > 0.1:
        found.append(f"the bare loops were {drift:+.0%} off: the machine was not the same, and only ratios mean much")
    if not (old.finished and new.finished):
        found.append("one of the two runs was not finished")
    return found
