"""What kept labels cost and save: `guardpool label` of sample jobs without them, when they are made, when known.

    python benchmarks/kept_labels.py [--jobs 100000] [--workers 2] [--turns 3] [--folder DIR]

Each run is a process of its own, with the sample guard and its table of replies; the runs take turns. `CPU` is the processor
time of the caller and its workers for a job, which other programs of the machine change less than the rate. The best turn of
each kind counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from guardpool import samples
from guardpool.batch.jobline import job_line

_RUN = """
import json, resource, sys, time
from guardpool import Guard, samples
from guardpool.backends import Replies
from guardpool.batch import label_file

jobs, out, kept, workers = sys.argv[1], sys.argv[2], sys.argv[3] or None, int(sys.argv[4])
guard = Guard.from_file(samples.GUARD, name="github", policy=samples.POLICY, backend=Replies(samples.replies()))
begin_cpu = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
run = label_file(jobs, out, [guard], workers=workers, keep_labels=kept)
used = [resource.getrusage(who)[:2] for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({
    "jobs": run.done, "kept": run.reuse.from_file if run.reuse else 0, "elapsed_s": run.elapsed_s,
    "caller_s": sum(used[0]) - begin_cpu, "others_s": sum(used[1]),
}))
"""


def measure(folder: Path, kept: Path | None, workers: int) -> dict[str, float]:
    """One run, in a process of its own."""
    arguments = [str(folder / "jobs.jsonl"), str(folder / "out.jsonl"), "" if kept is None else str(kept), str(workers)]
    told = subprocess.run([sys.executable, "-c", _RUN, *arguments], check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(told)
    return result


def main() -> None:
    """Measure by turns and print a table."""
    parser = argparse.ArgumentParser(description="what kept labels cost and save")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    best: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        with (folder / "jobs.jsonl").open("wb") as file:
            file.writelines(map(job_line, samples.jobs(options.jobs)))
        for turn in range(options.turns):
            kept = folder / f"labels-{turn}"
            for kind, labels in (("without", None), ("first run", kept), ("second run", kept)):
                told = measure(folder, labels, options.workers)
                for key, value in told.items():
                    least = best.setdefault(kind, dict(told))
                    least[key] = max(value, least[key]) if key == "kept" else min(value, least[key])
    print("| run | jobs/s | times as many | CPU, us a job | of the caller | labels that were kept |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for kind, told in best.items():
        jobs = told["jobs"]
        cpu = told["caller_s"] + told["others_s"]
        cells = (
            *(kind, f"{jobs / told['elapsed_s']:,.0f}", f"{best['without']['elapsed_s'] / told['elapsed_s']:.2f}"),
            *(f"{cpu / jobs * 1e6:.1f}", f"{told['caller_s'] / jobs * 1e6:.1f}", f"{told['kept']:,.0f}"),
        )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
