"""Jobs in Parquet: which columns and cells are accepted, and files that are damaged, too large, or made to do harm."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import formatkit
from formatkit import job, open_files, read, read_up_to_failure
from guardpool.batch import parquet_jobs, parquet_reader
from guardpool.batch.files import FileError
from guardpool.batch.inputs import Inputs
from guardpool.batch.job_columns import ColumnsError, JobColumns
from guardpool.batch.job_files import JobFiles
from guardpool.batch.parquet_reader import NoJobsInside, ParquetProcess
from guardpool.jobs import Prepared
from guardpool.sizes import MIB

pa = pytest.importorskip("pyarrow", reason="pyarrow has no wheel for this Python")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    formatkit.end()


def prepared(table: Any) -> list[Prepared]:
    """What a table's rows become, in this process."""
    columns = JobColumns(table.schema)
    parser = formatkit.parser()
    rows = (row for batch in table.to_batches() for row in columns.rows(batch))
    return [parquet_jobs.job_of_row(row, number, parser) for number, row in enumerate(rows)]


def table(**columns: Any) -> Any:
    """A table of jobs with these columns, and an operation and a tool."""
    rows = max(len(column) for column in columns.values())
    return pa.table({"op": ["label_resource"] * rows, "tool_name": ["t"] * rows, **columns})


def args_of(column: Any) -> list[bytes]:
    """What a guard is told as arguments of each row."""
    return [
        each.payload.removeprefix(b'{"tool_name":"t","tool_args":')[:-1] for each in prepared(table(tool_args=column))
    ]


# --- cells


def test_json_text_and_nested_columns_give_what_lines_give() -> None:
    values = [{"owner": "o", "n": 1, "tags": ["a", "é"], "in": {"x": 1.5, "y": True}}, {"n": -0.5}, {"tags": []}]
    lines = [each.payload for each in prepared(formatkit.table([job(0, "t", tool_args=value) for value in values]))]
    text = pa.array([json.dumps(value) for value in values])
    for column in (
        text,
        text.cast(pa.large_string()),
        text.cast(pa.string_view()),
        text.cast(pa.binary()),
        text.dictionary_encode(),
    ):
        assert [each.payload for each in prepared(table(tool_args=column))] == lines
    inner = pa.struct([("x", pa.float64()), ("y", pa.bool_())])
    nested = pa.struct([("owner", pa.string()), ("n", pa.float64()), ("tags", pa.list_(pa.string())), ("in", inner)])
    assert [json.loads(args) for args in args_of(pa.array(values, nested))] == values
    as_map = pa.array([[("a", 1), ("b", None)], []], pa.map_(pa.string(), pa.int32()))
    assert args_of(as_map) == [b'{"a":1,"b":null}', b"{}"]
    assert args_of(pa.array([[1, None], [2, 3]], pa.list_(pa.int8(), 2))) == [b"[1,null]", b"[2,3]"]
    assert args_of(pa.array([True, None])) == [b"true", b"null"]


def test_a_null_cell_is_a_member_that_is_not_there() -> None:
    made = pa.table(
        {
            "id": pa.array([None, 7, None]),
            "op": ["label_resource", "label_response", "label_response"],
            "tool_name": ["t"] * 3,
            "tool_args": [None, '{"n":1}', None],
            "tool_result": [None, "null", None],
            "guard": ["g", None, None],
            "session": [None, "s", None],
            "time": [None, 1.5, None],
            "other": [b"\xff"] * 3,
        }
    )
    first, second, third = prepared(made)
    assert (first.id, first.guard, first.session, first.time, first.error) == (0, "g", None, None, None)
    assert (second.id, second.session, second.time) == (7, "s", 1.5)
    assert second.payload == b'{"tool_name":"t","tool_result":null,"tool_args":{"n":1}}'
    assert third.error is not None
    assert (third.id, third.error.code) == (2, "no_tool_result")


def test_a_time_may_be_a_timestamp_of_any_unit() -> None:
    moment = 1_700_000_000_123
    for unit in ("s", "ms", "us", "ns"):
        column = pa.array([moment], pa.timestamp("ms", "Europe/Berlin")).cast(pa.timestamp(unit, "UTC"), safe=False)
        (made,) = prepared(table(time=column))
        assert made.time == pytest.approx(moment / 1000, abs=1 if unit == "s" else 1e-6)


@pytest.mark.parametrize(
    ("columns", "code", "says"),
    [
        ({"tool_args": ["{"]}, "not_json", "tool_args is not JSON text: it ends too early"),
        ({"tool_args": ["octo"]}, "not_json", "tool_args is not JSON text: invalid character"),
        ({"tool_args": ['1,"op":"label_response"']}, "not_json", "tool_args is not JSON text: trailing characters"),
        ({"tool_args": [""]}, "not_json", "tool_args is not JSON text: it ends too early"),
        ({"tool_args": ['"{}"']}, "bad_tool_args", "a string that holds a JSON object"),
        ({"tool_args": ["1e999"]}, "not_json", "too large"),
        ({"tool_args": ["[" * 100_000]}, "not_json", "tool_args is not JSON text"),
        ({"tool_args": pa.array([{"a": [float("nan")]}])}, "not_json", "tool_args.a[0]: NaN is not JSON"),
        ({"op": ["label"]}, "no_such_op", "label"),
        ({"tool_name": pa.array([None], pa.string())}, "bad_tool_name", "missing"),
        ({"guard": ["other"]}, "no_such_guard", "no guard is called 'other'"),
        ({"id": [float("nan")]}, "bad_id", "not nan"),
        ({"time": [float("inf")]}, "bad_time", "not inf"),
        ({"time": [-1]}, "bad_time", "from 0"),
    ],
)
def test_a_row_that_is_no_job_is_rejected_in_its_place(columns: dict[str, Any], code: str, says: str) -> None:
    base = {"op": ["label_resource"], "tool_name": ["t"], **columns}
    (made,) = prepared(pa.table(base))
    assert made.error is not None
    assert (made.id, made.error.code, made.error.line) == (0, code, 0)
    assert says in made.error.message


def test_bytes_that_are_not_text_become_replacement_characters() -> None:
    text = pa.array([b'{"a":"\xff"}'], pa.binary())
    assert args_of(text) == ['{"a":"�"}'.encode()]
    bad = pa.Array.from_buffers(pa.string(), 1, text.buffers())
    assert args_of(bad) == ['{"a":"�"}'.encode()]


# --- columns


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (
            {"tool": ["x"], "args": ["y"]},
            "it lacks the columns op and tool_name, which every job needs: it has tool, args; a job may also have id, guard, ",
        ),
        ({"op": ["x"]}, "it lacks the column tool_name, which every job needs: it has op"),
        ({"op": ["x"], "tool_name": ["x"], "arguments": ["{}"]}, "what the tool is called with is tool_args here, not"),
        ({"op": ["x"], "tool_name": [1]}, "the column tool_name has the type int64, and must have a string"),
        ({"op": ["x"], "tool_name": ["x"], "id": [b"\0" * 16]}, None),
        ({"op": ["x"], "tool_name": ["x"], "id": [[1]]}, "the column id has the type list<"),
        (
            {"op": ["x"], "tool_name": ["x"], "time": ["now"]},
            "and must have a number of seconds since 1970, or a times",
        ),
        (
            {
                "op": ["x"],
                "tool_name": ["x"],
                "tool_args": pa.array([{"when": [1]}]).cast(pa.struct([("when", pa.list_(pa.timestamp("us")))])),
            },
            "tool_args.when[] has the type timestamp[us], which JSON has not: write the column tool_args as JSON text",
        ),
        (
            {"op": ["x"], "tool_name": ["x"], "tool_result": pa.array([1]).cast(pa.decimal128(19))},
            "tool_result has the typ",
        ),
        ({"op": ["x"], "tool_name": ["x"], "status": ["ok"], "attempts": [1]}, "it is a file of outcomes"),
    ],
)
def test_columns_that_cannot_be_jobs_are_told_with_what_is_there_and_needed(
    made: dict[str, Any], says: str | None
) -> None:
    schema = pa.table(made).schema
    if says is None:
        assert JobColumns(schema).names == ("id", "op", "tool_name")
        return
    with pytest.raises(ColumnsError) as caught:
        JobColumns(schema)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_of_one_name_are_refused() -> None:
    twice = pa.table([["x"], ["y"], ["z"]], ["op", "tool_name", "tool_name"])
    with pytest.raises(ColumnsError, match="it has 2 columns called tool_name"):
        JobColumns(twice.schema)
    members = pa.struct([pa.field("a", pa.int8()), pa.field("a", pa.int8())])
    with pytest.raises(ColumnsError, match="two members of one name"):
        JobColumns(pa.schema([("op", pa.string()), ("tool_name", pa.string()), ("tool_args", members)]))


def test_a_file_whose_columns_are_not_jobs_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"\x1b[31mcolour": [1]}), path)
    with pytest.raises(NoJobsInside) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: the jobs cannot be read: it lacks the columns op and tool_name")
    assert "\x1b" not in str(caught.value)
    assert caught.value.exit_status_of_command == 4


# --- files that are damaged, or large


def test_a_damaged_file_gives_the_jobs_before_the_damage_and_one_line(tmp_path: Path) -> None:
    path = formatkit.write(tmp_path / "jobs.parquet", [job(number) for number in range(300)])
    whole = path.read_bytes()
    at = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    path.write_bytes(whole[:at] + b"\xee" * 60 + whole[at + 60 :])
    jobs, error = read_up_to_failure(path)
    assert [each.id for each in jobs] == list(range(100))
    assert (error.errno, error.filename) == (errno.EBADMSG, str(path))
    assert error.strerror is not None
    assert error.strerror.startswith("it is damaged, or not Parquet: ")
    assert "\n" not in error.strerror
    for data in (whole[:-100], whole[:20], b"PAR1", b"PAR1" * 3, whole[:4] + b"\xff" * 4000 + whole[-8:]):
        path.write_bytes(data)
        with pytest.raises(FileError, match="it is damaged, or not Parquet: ") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_text_that_stands_for_many_rows_is_not_unpacked_without_limit(tmp_path: Path) -> None:
    """A few KiB that stand for 16 GiB: one text of 4 MiB, and 4,096 rows that have it."""
    long = json.dumps("x" * 4 * MIB)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), [long])
    pq.write_table(table(tool_args=column), tmp_path / "jobs.parquet", compression="zstd")
    assert (tmp_path / "jobs.parquet").stat().st_size < 100_000
    process = ParquetProcess(memory_bytes=400 * MIB)
    inputs = Inputs([str(tmp_path / "jobs.parquet")])
    source = JobFiles(inputs, formatkit.parser(), process)
    try:
        with pytest.raises(OSError, match="what it unpacks to takes more than 400 MiB of memory") as caught:
            list(source.batches())
        assert caught.value.filename == str(tmp_path / "jobs.parquet")
    finally:
        source.close()
        process.end()
        inputs.close()


def test_a_row_group_that_is_too_large_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = formatkit.write(tmp_path / "jobs.parquet", [job(number) for number in range(30)], row_group=20)
    metadata = pq.ParquetFile(path).metadata
    parquet_jobs.check_row_groups(metadata, ("op", "tool_name"))
    monkeypatch.setattr(parquet_jobs, "MAX_ROW_GROUP_ROWS", 15)
    with pytest.raises(parquet_jobs.RowGroupTooLarge, match=r"its row group 0 has 20 rows and .* bytes; at most 15"):
        parquet_jobs.check_row_groups(metadata, ("op",))
    monkeypatch.setattr(parquet_jobs, "MAX_ROW_GROUP_ROWS", 99)
    monkeypatch.setattr(parquet_jobs, "MAX_ROW_GROUP_BYTES", 1)
    with pytest.raises(parquet_jobs.RowGroupTooLarge, match="write it with smaller row groups"):
        parquet_jobs.check_row_groups(metadata, ("op",))
    parquet_jobs.check_row_groups(metadata, ())  # columns that are not read do not count


def test_a_reading_process_that_dies_ends_the_input_with_one_line(tmp_path: Path) -> None:
    large = [job(number, tool_args="x" * 5000) for number in range(2000)]
    source, inputs = open_files(formatkit.write(tmp_path / "jobs.parquet", large))
    try:
        batches = source.batches()
        first = next(batches)
        (child,) = psutil.Process().children()
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(OSError, match="the process that reads it ended by signal SIGKILL") as caught:
            list(batches)
        assert first
        assert caught.value.filename == str(tmp_path / "jobs.parquet")
    finally:
        source.close()
        inputs.close()


def test_what_cannot_be_parquet_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = formatkit.write(tmp_path / "jobs.parquet", [job(1)])
    monkeypatch.setattr(parquet_reader, "find_spec", lambda _name: None)
    with pytest.raises(FileError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: Parquet needs pyarrow: run: pip install 'guardpool[arrow]'"
