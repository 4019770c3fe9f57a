"""`guardpool label` from each format of jobs to each format of outcomes: jobs a second, processor time of the caller, memory.

    python benchmarks/file_formats.py [--jobs 1000000] [--workers 2] [--folder DIR]

Each pair is a run of its own process with the sample guard and its table of replies. `caller` is the processor time of that
process for a job, `helpers` that of the processes which read and write Parquet, both in microseconds; `rss` is the most memory
that the caller had, `rss of a helper` that of the largest other process, workers included.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from guardpool import samples
from guardpool.batch.jobline import job_line

FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")
_LINES = 20_000

_RUN = """
import json, os, resource, sys, time
from guardpool import Guard, samples
from guardpool.backends import Replies
from guardpool.batch import label_file

helpers = {"parquet_jobs": 0.0, "parquet_outcomes": 0.0}

def look(run):
    # What the processes beside the pool have used so far: at the end they are gone.
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            words = open(f"/proc/{pid}/cmdline").read()
            fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) != os.getpid():
            continue
        for name in helpers:
            if f"guardpool.batch.{name} import" in words:
                helpers[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

jobs, out, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
guard = Guard.from_file(samples.GUARD, name="github", policy=samples.POLICY, backend=samples.backend)
begin = time.perf_counter()
run = label_file(jobs, out, [guard], workers=workers, progress=look)
elapsed = time.perf_counter() - begin
print(json.dumps({
    "jobs": run.done,
    "elapsed_s": elapsed,
    "caller_s": time.process_time(),
    "helpers_s": sum(helpers.values()),
    # Not `ru_maxrss`, which counts what the process had before its exec.
    "rss_kib": int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]),
    "helper_rss_kib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
}))
"""


def lines_of(count: int) -> Iterator[bytes]:
    """Lines of so many sample jobs, some at a time."""
    portion = []
    for job in samples.jobs(count):
        portion.append(job_line(job))
        if len(portion) == _LINES:
            yield b"".join(portion)
            portion = []
    yield b"".join(portion)


def write_all(folder: Path, count: int) -> None:
    """The same jobs in every format."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    columns = pa.schema(
        [(name, pa.string()) for name in ("op", "tool_name", "tool_args", "tool_result", "capabilities")]
    )
    schema = columns.insert(0, pa.field("id", pa.int64()))
    zstd = zstandard.ZstdCompressor()
    with (
        (folder / "jobs.jsonl").open("wb") as plain,
        gzip.open(folder / "jobs.jsonl.gz", "wb", compresslevel=6) as zipped,
        zstd.stream_writer((folder / "jobs.jsonl.zst").open("wb")) as packed,
        pq.ParquetWriter(folder / "jobs.parquet", schema, compression="zstd") as parquet,
    ):
        for lines in lines_of(count):
            for file in (plain, zipped, packed):
                file.write(lines)
            rows = [json.loads(line) for line in lines.splitlines()]
            for row in rows:
                for name in ("tool_args", "tool_result", "capabilities"):
                    row[name] = json.dumps(row[name]) if name in row else None
            parquet.write_table(pa.Table.from_pylist(rows, schema))


def main() -> None:
    """Measure every pair and print a table."""
    parser = argparse.ArgumentParser(description="label from each format to each format")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_all(folder, options.jobs)
        print(
            "| from | to | jobs/s | caller, us a job | helpers, us a job | rss, MiB | rss of a helper, MiB | size, MB |"
        )
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for source in FORMATS:
            for target in FORMATS:
                out = folder / f"out.{target}"
                command = [sys.executable, "-c", _RUN, str(folder / f"jobs.{source}"), str(out), str(options.workers)]
                told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                jobs = told["jobs"]
                cells = (
                    *(source, target, f"{jobs / told['elapsed_s']:,.0f}"),
                    *(f"{told[key] / jobs * 1e6:.1f}" for key in ("caller_s", "helpers_s")),
                    *(f"{told[key] / 1024:.0f}" for key in ("rss_kib", "helper_rss_kib")),
                    f"{out.stat().st_size / 1e6:.1f}",
                )
                print(f"| {' | '.join(cells)} |", flush=True)
                out.unlink()


if __name__ == "__main__":
    main()
