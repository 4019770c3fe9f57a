"""Jobs in every format that is read, and outcomes read back from every format that is written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zstandard

from guardpool.batch.inputs import Inputs
from guardpool.batch.job_files import JobFiles
from guardpool.batch.jobline import JobParser
from guardpool.batch.parquet_reader import ParquetProcess
from guardpool.jobs import Prepared

FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")
_JSON_COLUMNS = ("tool_args", "tool_result", "capabilities")


def job(number: int, tool: str = "get_issue", **members: Any) -> dict[str, Any]:
    """One job as a dict."""
    return {"id": number, "op": "label_resource", "tool_name": tool, "tool_args": {"n": number}, **members}


def lines(jobs: Sequence[dict[str, Any]]) -> bytes:
    """Jobs as lines of JSON."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in jobs)


def table(jobs: Sequence[dict[str, Any]]) -> Any:
    """Jobs as an Arrow table, whose arguments, results and capabilities are JSON text."""
    import pyarrow as pa

    def cell(key: str, each: dict[str, Any]) -> Any:
        if key not in _JSON_COLUMNS:
            return each.get(key)
        return json.dumps(each[key]) if key in each else None

    keys = list(dict.fromkeys(key for each in jobs for key in each))
    return pa.table({key: [cell(key, each) for each in jobs] for key in keys})


def write(path: Path, jobs: Sequence[dict[str, Any]], row_group: int = 100) -> Path:
    """Write jobs in the format that the path's name says; of two gzip members or zstd frames, and row groups of some rows."""
    half = len(jobs) // 2
    if path.name.endswith(".parquet"):
        import pyarrow.parquet as pq

        pq.write_table(table(jobs), path, row_group_size=row_group)
    else:
        pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
        path.write_bytes(pack(lines(jobs[:half])) + pack(lines(jobs[half:])))  # type: ignore[operator]
    return path


_PARQUET = ParquetProcess()


def end() -> None:
    """End the process that read Parquet for this kit, if one did: after each test."""
    _PARQUET.end()


def parser(limit: int = 100_000) -> JobParser:
    """A parser for the guard `g`."""
    return JobParser(("g",), limit)


def read(*paths: Path | str, limit: int = 100_000) -> list[Prepared]:
    """All jobs of some files, as a run reads them."""
    inputs = Inputs([str(path) for path in paths])
    source = JobFiles(inputs, parser(limit), _PARQUET)
    try:
        return [each for portion in source.batches() for each in portion]
    finally:
        source.close()
        inputs.close()


def open_files(*paths: Path) -> tuple[JobFiles, Inputs]:
    """Files as one source; the caller closes both."""
    inputs = Inputs([str(path) for path in paths])
    return JobFiles(inputs, parser(), _PARQUET), inputs


def read_up_to_failure(path: Path) -> tuple[list[Prepared], OSError]:
    """The jobs of a damaged file, and the error behind them."""
    source, inputs = open_files(path)
    jobs: list[Prepared] = []
    try:
        for portion in source.batches():
            jobs += portion
    except OSError as error:
        return jobs, error
    finally:
        source.close()
        inputs.close()
    raise AssertionError("the file was read to its end")


def read_table(path: Path) -> Any:
    """A Parquet file as a table. Of a path pyarrow keeps the descriptor open for a while."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(path.read_bytes()))


def outcomes_of(path: Path) -> list[dict[str, Any]]:
    """The outcomes in a file of any format; of Parquet each with `label` as in a line, and without what is null."""
    if path.name.endswith(".parquet"):
        return [_as_line(row) for row in read_table(path).to_pylist()]
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    return [json.loads(line) for line in data.splitlines()]


def _as_line(row: dict[str, Any]) -> dict[str, Any]:
    label = {name: row.pop(name) for name in ("description", "secrecy", "integrity", "operation")}
    response = {name: row.pop(name) for name in ("labeled_paths", "default_labels", "items_path", "items", "warnings")}
    if row["op"] == "label_response" and response["labeled_paths"] is not None:
        label = {name: value for name, value in response.items() if value is not None or name[-1] in "sh"}
    else:
        label["warnings"] = response["warnings"]
        label = {name: value for name, value in label.items() if value is not None}
    if row["error"] is not None:
        row["error"] = {name: value for name, value in row["error"].items() if value is not None}
    for name in ("duration_us", "backend", "session_restarted"):
        if row[name] is None:
            del row[name]
    return {**row, "label": label or None}
