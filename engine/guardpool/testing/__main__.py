"""`python -m guardpool.testing`: run many seeds of the simulation, or one of them step by step."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from guardpool.testing.simulation import SimulationFailure, simulate


def main() -> int:
    """Exit status: 0 every seed went right, 1 a failure was printed, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m guardpool.testing", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds (default: 1)")
    parser.add_argument("--start", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--jobs", type=int, help="jobs in each run (default: drawn, 20 to 200)")
    parser.add_argument("--workers", type=int, help="workers in each run (default: drawn, 1 to 5)")
    parser.add_argument("--trace", action="store_true", help="print every step")
    options = parser.parse_args()
    if options.seeds < 1 or (options.jobs or 1) < 1 or (options.workers or 1) < 1:
        parser.error("--seeds, --jobs and --workers must be at least 1")
    began = time.monotonic()
    totals: dict[str, Counter[str]] = {
        "outcomes": Counter(),
        "faults": Counter(),
        "verdicts": Counter(),
        "runs": Counter(),
    }
    try:
        for seed in range(options.start, options.start + options.seeds):
            report = simulate(seed, jobs=options.jobs, workers=options.workers)
            totals["outcomes"].update(report.outcomes)
            totals["faults"].update(report.faults)
            totals["verdicts"].update(report.verdicts)
            totals["runs"].update(jobs=report.jobs, workers=report.deaths, events=report.events)
            if options.trace:
                print("\n".join(report.trace))
    except SimulationFailure as failure:
        if options.trace:
            print("\n".join(failure.trace))
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    elapsed_s = time.monotonic() - began
    print(
        f"{options.seeds} seeds in {elapsed_s:.1f} s ({options.seeds / elapsed_s:.0f} a second): nothing lost, nothing twice"
    )
    for name, counts in totals.items():
        print(f"  {name}: " + ", ".join(f"{what} {count}" for what, count in sorted(counts.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
