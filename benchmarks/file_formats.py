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
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from guardpool import samples
from guardpool.batch.jobline import job_line

FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")
# So many jobs are made; writing a million different ones in every format would take as long as labelling them.
_BLOCK_JOBS = 20_000

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
guard = Guard.from_file(samples.GUARD, name="github", policy=samples.POLICY, backend=Replies(samples.replies()))
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


def write_all(folder: Path, count: int) -> None:
    """The same jobs in every format: a block of sample jobs again and again, each time with new ids."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    block = [job_line(job) for job in samples.jobs(min(_BLOCK_JOBS, count))]
    rests = [line.partition(b",")[2] for line in block]  # behind the id, which comes first
    rows = list(map(json.loads, block))
    columns = {
        name: [json.dumps(row[name]) if name in row else None for row in rows]
        for name in ("tool_args", "tool_result", "capabilities")
    }
    columns |= {name: [row[name] for row in rows] for name in ("op", "tool_name")}
    others = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    firsts = range(0, count, len(block))
    zstd = zstandard.ZstdCompressor()
    with (
        (folder / "jobs.jsonl").open("wb") as plain,
        gzip.open(folder / "jobs.jsonl.gz", "wb", compresslevel=1) as zipped,
        zstd.stream_writer((folder / "jobs.jsonl.zst").open("wb")) as packed,
        pq.ParquetWriter(folder / "jobs.parquet", pa.schema([("id", pa.int64()), *others.schema])) as parquet,
        ThreadPoolExecutor() as threads,
    ):
        for first in firsts:
            many = min(len(block), count - first)
            lines = b"".join([b'{"id":%d,%b' % (number, rest) for number, rest in enumerate(rests[:many], first)])
            ids = pa.array(range(first, first + many), pa.int64())
            table = others.slice(0, many).add_column(0, "id", ids)
            writing = [threads.submit(file.write, lines) for file in (plain, zipped, packed)]
            writing.append(threads.submit(parquet.write_table, table))
            for each in writing:
                each.result()


def main() -> None:
    """Measure every pair and print a table."""
    parser = argparse.ArgumentParser(description="label from each format to each format")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        begin = time.monotonic()
        write_all(folder, options.jobs)
        print(f"the inputs took {time.monotonic() - begin:.0f} s", file=sys.stderr)
        print(
            f"{options.jobs:,} jobs, {options.workers} workers, {os.cpu_count()} cores\n\n"
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
