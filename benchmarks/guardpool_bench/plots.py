"""The plots of a report as PNG files: each says in its title what it shows and on its axes in what unit.

matplotlib is an optional extra; callers look first whether it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from guardpool_bench.report import describe_machine
from guardpool_bench.results import Curve, Report, Series

_OURS, _BARE, _MUTED, _BAD = "#1f6feb", "#8c959f", "#bf8700", "#cf222e"
_PEERS = ("#8250df", "#1a7f37", "#bc4c00", "#9a6700")
_WIDTH, _DPI = 9.0, 130
_ERROR = {"linewidth": 0.8, "ecolor": "#24292f"}
# From encoded jobs: dashed.
_SIZES_LINES = {
    "bare": (_BARE, "-"),
    "guardpool": (_OURS, "-"),
    "bare-encoded": (_BARE, "--"),
    "guardpool-encoded": (_OURS, "--"),
    "bare-plain": ("#24292f", "--"),
    "bare-fed": ("#24292f", ":"),
}
_SIZES_RATIOS = {
    ("guardpool", "bare"): _OURS,
    ("guardpool-encoded", "bare-encoded"): _MUTED,
    ("guardpool-encoded", "bare-plain"): _BAD,
    ("bare-fed", "bare-plain"): "#24292f",
}


def draw_all(report: Report, folder: Path) -> list[str]:
    """Draw every plot that the report has figures for; returns their file names."""
    import matplotlib

    matplotlib.use("Agg")
    drawn = []
    for name, draw in _PLOTS.items():
        figure = draw(report)
        if figure is not None:
            figure.text(
                0.99, 0.005, f"guardpool {report.guardpool} · {describe_machine(report.machine)}",
                ha="right", va="bottom", fontsize=6, color="#57606a",
            )  # fmt: skip
            figure.savefig(folder / f"{name}.png", dpi=_DPI)
            drawn.append(f"{name}.png")
            _close(figure)
    return drawn


def _figure(rows: int = 1, height: float = 4.5) -> tuple[Any, Any]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, 1, figsize=(_WIDTH, height), layout="constrained")
    engine = figure.get_layout_engine()
    engine.set(rect=(0, 0.03, 1, 0.97))
    for each in [axes] if rows == 1 else axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(True, color="#d0d7de", linewidth=0.6)
        each.set_axisbelow(True)
    return figure, axes


def _close(figure: Any) -> None:
    from matplotlib import pyplot

    pyplot.close(figure)


def _colour(who: str, peers: Sequence[str]) -> str:
    if who.startswith("guardpool"):
        return _OURS
    return _PEERS[peers.index(who) % len(_PEERS)] if who in peers else _BARE


def _throughput(report: Report) -> Any:
    """Ratio to the bare loops: guardpool and the peers, by kind of jobs."""
    rows = [s for s in report.series if s.case == "throughput" and s.key.endswith(".ratio")]
    rows = [s for s in rows if s.about.get("against") == "bare"]
    if not rows:
        return None
    sets = list(dict.fromkeys(str(s.about["jobs"]) for s in rows))
    whos = list(dict.fromkeys(str(s.about["who"]) for s in rows))
    peers = [who for who in whos if not who.startswith("guardpool")]
    titles = {str(s.about["jobs"]): s.title.partition(":")[0] for s in rows}
    figure, axes = _figure(height=1.4 + 0.9 * len(sets))
    thick = 0.8 / len(whos)
    for at, who in enumerate(whos):
        mine = {str(s.about["jobs"]): s for s in rows if s.about["who"] == who}
        places = [n + thick * (at - (len(whos) - 1) / 2) for n, name in enumerate(sets) if name in mine]
        found = [mine[name] for name in sets if name in mine]
        bars = axes.barh(
            places, [s.median for s in found], thick * 0.92, color=_colour(who, peers), label=who,
            xerr=_errors(found), error_kw=_ERROR,
        )  # fmt: skip
        axes.bar_label(bars, [f"{s.median:.2f}" for s in found], fontsize=7, label_type="center", color="white")
    axes.axvline(1.0, color="#24292f", linewidth=1)
    axes.set_yticks(range(len(sets)), [titles[name] for name in sets])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(left=0)
    axes.set_xlabel("jobs a second, as a share of bare loops that run the guard on as many cores (longer is better)")
    axes.set_title("Throughput: how much of the machine reaches the guard", loc="left", fontsize=11)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def _by(report: Report, case: str, field: str, who: str, unit: str = "jobs/s") -> list[Series]:
    rows = [s for s in report.series if s.case == case and s.about.get("who") == who and s.unit == unit]
    return sorted((s for s in rows if field in s.about), key=lambda s: float(s.about[field]))


def _line(axes: Any, rows: Sequence[Series], field: str, label: str, colour: str) -> None:
    x = [float(s.about[field]) for s in rows]
    axes.plot(x, [s.median for s in rows], marker="o", color=colour, label=label)
    axes.fill_between(x, [s.low for s in rows], [s.high for s in rows], color=colour, alpha=0.15, linewidth=0)


def _workers(report: Report) -> Any:
    ours, bare = (_by(report, "workers", "workers", who) for who in ("guardpool", "bare"))
    if not ours:
        return None
    figure, axes = _figure()
    counts = [float(s.about["workers"]) for s in ours]
    one = ours[0].median / counts[0]
    axes.plot(counts, [one * n for n in counts], linestyle=":", color="#57606a", label="one worker, times their number")
    _line(axes, bare, "workers", "bare loops", _BARE)
    _line(axes, ours, "workers", "guardpool", _OURS)
    axes.set_xticks(counts, [f"{n:.0f}" for n in counts])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("worker processes")
    axes.set_ylabel("jobs a second")
    jobs = ours[0].title.partition(",")[0]
    axes.set_title(f"Scaling in workers: {jobs} ({report.machine.cores} cores)", loc="left", fontsize=11)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _sizes(report: Report) -> Any:
    rates = {who: _by(report, "sizes", "bytes", who) for who in _SIZES_LINES}
    if not rates["guardpool"]:
        return None
    figure, (top, bottom) = _figure(2, 6.0)
    for who, (colour, style) in _SIZES_LINES.items():
        if rows := rates[who]:
            x = [float(s.about["bytes"]) for s in rows]
            mb = [s.median * at / 1e6 for s, at in zip(rows, x)]
            top.plot(x, mb, style, marker="o", color=colour, label=who)
    ratios = [s for who in rates for s in _by(report, "sizes", "bytes", who, "ratio")]
    for (who, against), colour in _SIZES_RATIOS.items():
        rows = [s for s in ratios if s.about["who"] == who and s.about.get("against", "bare") == against]
        if rows:
            _line(bottom, rows, "bytes", f"{who} over {against} loops", colour)
    for axes in (top, bottom):
        axes.set_xscale("log")
        axes.legend(fontsize=8, frameon=False)
    top.set_yscale("log")
    top.set_ylabel("MB of jobs a second")
    bottom.set_ylim(0, max(1.05, *(s.high for s in ratios)))
    bottom.axhline(1.0, color="#24292f", linewidth=0.8)
    bottom.set_ylabel("share of the loops")
    bottom.set_xlabel("size of one job in bytes; the guard itself does next to nothing, so this is the worst case")
    top.set_title("Scaling in job size: what moving the bytes costs", loc="left", fontsize=11)
    return figure


def _backends(report: Report) -> Any:
    """Ratios to the loops with a look-up, and what one question costs."""
    rows = [s for s in report.series if s.case == "backends"]
    ratios = [s for s in rows if s.unit == "ratio" and s.about.get("against") == "bare"]
    costs = [s for s in rows if s.key.endswith(".question")]
    if not ratios or not costs:
        return None
    titles = [s.title.partition(": ")[0] for s in ratios]
    figure, (top, bottom) = _figure(2, 2.4 + 0.3 * (len(ratios) + len(costs)))
    bars = top.barh(titles, [s.median for s in ratios], 0.7, color=_OURS, xerr=_errors(ratios), error_kw=_ERROR)
    top.bar_label(bars, [f"{s.median:.2f}" for s in ratios], fontsize=7, padding=3)
    top.axvline(1.0, color="#24292f", linewidth=1)
    top.set_xlim(0, max(1.05, *(s.high for s in ratios)))
    top.set_xlabel("share of bare loops that look answers up in a dict (longer is better)")
    top.set_title("Guards that ask their backend: replies that are known", loc="left", fontsize=11)
    colours = [
        _BARE if s.about.get("who") == "bare" else _OURS if s.about.get("who") == "known" else _MUTED for s in costs
    ]
    bars = bottom.barh([s.title for s in costs], [max(0.1, s.median) for s in costs], 0.7, color=colours)
    bottom.bar_label(bars, [f"{s.median:,.1f}" for s in costs], fontsize=7, padding=3)
    bottom.set_xscale("log")
    bottom.margins(x=0.12)
    bottom.set_xlabel("microseconds of a worker for one question, logarithmic (shorter is better)")
    for axes in (top, bottom):
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", labelsize=7)
    return figure


def _errors(rows: Sequence[Series]) -> list[list[float]]:
    """From the median down to the lowest run and up to the highest."""
    return [[s.median - s.low for s in rows], [s.high - s.median for s in rows]]


def _million(report: Report) -> Any:
    rate, rss = (_curve(report, f"million.{name}") for name in ("rate", "rss"))
    if rate is None or rss is None:
        return None
    return _two_curves(
        rate, rss, f"Along one map of {rate.x[-1]:,.0f} jobs: the rate, and the memory of the caller's process"
    )


def _million_file(report: Report) -> Any:
    rate, rss = (_curve(report, f"million.file.{name}") for name in ("rate", "rss"))
    if rate is None or rss is None:
        return None
    return _two_curves(rate, rss, "Along one file of jobs: the rate, and the memory of guardpool label")


def _two_curves(rate: Curve, rss: Curve, title: str) -> Any:
    figure, (top, bottom) = _figure(2, 6.0)
    top.plot(rate.x, rate.y, color=_OURS, linewidth=1.2)
    top.set_ylim(0, 1.15 * max(rate.y))
    top.set_ylabel("jobs a second")
    bottom.plot(rss.x, rss.y, color=_MUTED, linewidth=1.2)
    bottom.set_ylim(0, 1.25 * max(rss.y))
    bottom.set_ylabel("MiB resident")
    bottom.set_xlabel(rate.x_name)
    for axes in (top, bottom):
        axes.ticklabel_format(style="plain", axis="both")
        axes.get_xaxis().set_major_formatter(_thousands())
        axes.get_yaxis().set_major_formatter(_thousands())
    top.set_title(title, loc="left", fontsize=11)
    return figure


def _thousands() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:,.0f}")


def _curve(report: Report, key: str) -> Curve | None:
    return next((curve for curve in report.curves if curve.key == key and len(curve.x) > 1), None)


def _latency(report: Report) -> Any:
    rows = [s for s in report.series if s.case == "latency" and not s.key.endswith("over-bare")]
    jobs = next((str(s.about["jobs"]) for s in rows if s.about["jobs"] == "resource"), None)
    rows = [s for s in rows if s.about["jobs"] == (jobs or "trivial")]
    if not rows:
        return None
    whos = list(dict.fromkeys(str(s.about["who"]) for s in rows))
    peers = [who for who in whos if who != "bare" and not who.startswith("guardpool")]
    words = ("p50", "p90", "p99")
    figure, axes = _figure()
    thick = 0.8 / len(whos)
    for at, who in enumerate(whos):
        found = [next(s for s in rows if s.about["who"] == who and s.about["quantile"] == word) for word in words]
        places = [n + thick * (at - (len(whos) - 1) / 2) for n in range(len(words))]
        colour = "#79b8ff" if who == "guardpool.submit" else _colour(who, peers)
        bars = axes.bar(places, [s.median for s in found], thick * 0.92, color=colour, label=who)
        axes.bar_label(bars, [f"{s.median:,.0f}" for s in found], fontsize=7, padding=1)
    axes.set_yscale("log")
    axes.set_xticks(
        range(len(words)), ["half of the calls\nare quicker than (p50)", "9 of 10 (p90)", "99 of 100 (p99)"]
    )
    axes.grid(False, axis="x")
    axes.set_ylabel("microseconds, logarithmic (lower is better)")
    title = rows[0].title.split(", ")[1]
    axes.set_title(f"One call at a time, waited for: {title}", loc="left", fontsize=11)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _profile(report: Report) -> Any:
    profile = report.profile
    if profile is None:
        return None
    from matplotlib import colormaps

    figure, axes = _figure(height=5.2)
    names = {"worker": "worker", "supervisor": "supervisor's thread", "caller": "caller's thread"}
    whole = sum(profile.totals.values())
    for row, where in enumerate(names):
        left = 0.0
        layers = [layer for layer in profile.layers if layer.where == where and layer.us > 0]
        for at, layer in enumerate(layers):
            colour = "#d0d7de" if layer.name == "rest" else colormaps["tab20"](at / 20)
            axes.barh(row, layer.us, 0.55, left=left, color=colour, edgecolor="white", linewidth=0.6)
            if layer.us > whole * 0.11:
                axes.text(
                    left + layer.us / 2,
                    row,
                    f"{layer.name}\n{layer.us:.1f}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    wrap=True,
                )
            left += layer.us
        small = [layer for layer in layers if layer.us <= whole * 0.11]
        text = "   ".join(f"{layer.name} {layer.us:.2f}" for layer in small)
        axes.text(0, row - 0.34, _wrapped(text), fontsize=6.5, va="top", color="#57606a")
    axes.set_yticks(range(len(names)), list(names.values()))
    axes.set_ylim(len(names) - 0.15, -0.5)
    axes.invert_yaxis()
    axes.set_ylim(-0.85, len(names) - 0.5)
    axes.grid(False, axis="y")
    axes.set_xlabel("microseconds of CPU a job; small shares are named below their bar")
    axes.set_title(f"Where a microsecond goes: {whole:.0f} us a job ({profile.jobs})", loc="left", fontsize=11)
    return figure


def _wrapped(text: str, width: int = 150) -> str:
    lines = [""]
    for part in text.split("   "):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += ("  ·  " if lines[-1] else "") + part
    return "\n".join(lines)


_PLOTS: dict[str, Callable[[Report], Any]] = {
    "throughput": _throughput,
    "latency": _latency,
    "workers": _workers,
    "sizes": _sizes,
    "backends": _backends,
    "profile": _profile,
    "million": _million,
    "million-file": _million_file,
}
