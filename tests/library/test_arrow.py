"""Outcomes as Arrow tables and tables as jobs, and what pandas, polars and DuckDB make of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import formatkit
import guardkit
from guardpool import Guard, GuardPool, arrow
from guardpool.batch import encode_outcome
from guardpool.labels import LabeledItem, Labels, LabelWarning, Operation, PathLabel, ResourceLabel, ResponseLabel
from guardpool.outcomes import BackendUse, Outcome, OutcomeError, Question, Status, StoredLabel

pa = pytest.importorskip("pyarrow", reason="pyarrow has no wheel for this Python")
pq = pytest.importorskip("pyarrow.parquet")

RESOURCE = ResourceLabel(
    "an issue", frozenset({"b", "a"}), frozenset(), Operation.READ, (LabelWarning("tags_dropped", "x"),)
)
RESPONSE = ResponseLabel(
    (PathLabel("/0", "one", frozenset({"s"}), frozenset({"i"})), PathLabel("/1", "two", frozenset(), frozenset())),
    Labels("others", frozenset(), frozenset({"i"})),
    "/items",
)
OLDER = ResponseLabel(items=(LabeledItem({"a": [1, None, "é"]}, Labels("one", frozenset({"s"}), frozenset())),))
ERROR = OutcomeError("trap", 'a "quote"\n', trap="unreachable", line=7, backend=("E: x",))
USE = BackendUse(2, 1, 1, (Question("search", {"q": [1, 2.5]}),))
OUTCOMES = [
    Outcome(0, "g", "label_resource", "t", Status.OK, RESOURCE, None, 12, 1, 2, backend=USE),
    Outcome(1, "g", "label_response", "t", Status.OK, RESPONSE, attempts=2),
    Outcome(2, "h", "label_response", "u", Status.OK, OLDER, session_restarted=True),
    Outcome(3, "h", "label_response", "u", Status.OK, None),
    Outcome(4, None, "", None, Status.TRAP, error=ERROR),
    Outcome(5, "h", "label_resource", "u", Status.REFUSED, error=OutcomeError("guard_refused", "m", guard_code=-7)),
]


def test_a_table_has_what_lines_have(tmp_path: Path) -> None:
    table = arrow.table(OUTCOMES)
    path = tmp_path / "o.parquet"
    pq.write_table(table, path)
    for row, outcome in zip(formatkit.outcomes_of(path), OUTCOMES):
        expected = outcome.to_dict()
        label = expected["label"]
        if label:
            label.update(
                {"warnings": [{"code": c, "detail": d} for c, d in label["warnings"]]} if "warnings" in label else {}
            )
            for item in label.get("items", ()):
                item["data"] = json.dumps(item["data"], separators=(",", ":"), ensure_ascii=False)
        for question in expected.get("backend", {}).get("missing", ()):
            question["args"] = json.dumps(question["args"], separators=(",", ":"))
        if label:  # what a label does not have is null in its column
            label = {name: value for name, value in label.items() if value is not None}
            row["label"] = {name: value for name, value in row["label"].items() if value is not None}
        assert row == {**expected, "label": label}


def test_columns_have_types_and_words_are_categories() -> None:
    types = dict(zip(arrow.table(OUTCOMES).schema.names, arrow.table(OUTCOMES).schema.types))
    word = pa.dictionary(pa.int32(), pa.string())
    assert [types[name] for name in ("guard", "op", "tool_name", "status", "operation")] == [word] * 5
    assert types["secrecy"] == types["integrity"] == pa.list_(pa.string())
    assert types["labeled_paths"].value_type.names == ["path", "description", "secrecy", "integrity"]
    assert (types["id"], types["duration_us"], types["attempts"]) == (pa.int64(), pa.int64(), pa.int32())
    assert arrow.table([]).schema == arrow.table([OUTCOMES[0]]).schema.set(0, pa.field("id", pa.string()))


@pytest.mark.parametrize(
    ("ids", "kind", "told"),
    [
        ([1, None, -(2**63)], pa.int64(), None),
        (["a", None], pa.string(), None),
        ([1.5, 2.5], pa.float64(), None),
        ([True, False], pa.bool_(), None),
        ([1, "a", 2.5, True, None], pa.string(), ["1", "a", "2.5", "true", None]),
        ([2**63], pa.string(), ["9223372036854775808"]),
        ([msgspec.Raw(b"1e999"), 1], pa.string(), ["1e999", "1"]),
        ([None], pa.string(), None),
    ],
)
def test_the_column_of_ids_has_the_type_of_the_ids(ids: list[Any], kind: Any, told: list[Any] | None) -> None:
    outcomes = [Outcome(each, "g", "label_resource", "t", Status.OK) for each in ids]
    column = arrow.table(outcomes)["id"]
    assert (column.type, column.to_pylist()) == (kind, told or ids)


def test_a_label_spelt_in_another_way_gives_the_same_row() -> None:
    """Labels are as a worker sent them: with blanks, escapes in names, a name twice."""
    odd = (
        b'{"labeled_paths" : [], "default_labels":null,"items_path":null, "it\\u0065ms" : [{"data": {"x":[1]},'
        b'"description":"d","secrecy":[],"integrity":[], "description":"e"}]}'
    )
    made = Outcome(1, "g", "label_response", "t", Status.OK, StoredLabel(odd))  # type: ignore[arg-type]
    (row,) = arrow.table([made]).to_pylist()
    assert row["items"] == [{"data": '{"x":[1]}', "description": "e", "secrecy": [], "integrity": []}]
    assert encode_outcome(made).count(odd) == 1


def test_a_table_is_labelled_row_by_row() -> None:
    jobs = [formatkit.job(number, tool) for number, tool in enumerate(["ok", "refuse", "ok"])]
    table = formatkit.table([*jobs, formatkit.job(3, "ok")])
    table = table.set_column(3, "tool_args", pa.array(['{"n":1}', "{}", "null", "{"]))
    guard = Guard("g", guardkit.wat("good"), {"allow-only": {"repos": "public", "min-integrity": "none"}})
    with GuardPool([guard], workers=1) as pool:
        outcomes = list(pool.map(arrow.jobs_from(table)))
        assert [each.id for each in outcomes] == [0, 1, 2, 3]
        assert outcomes[3].status is Status.REJECTED
        assert outcomes[3].error is not None
        assert "tool_args" in outcomes[3].error.message
        assert [each.status for each in pool.map(arrow.jobs_from(table.to_batches()[0].slice(0, 3)))] == [Status.OK] * 3
    with pytest.raises(arrow.ColumnsError, match="op and tool_name"):
        arrow.jobs_from(pa.table({"x": [1]}))


def test_outcomes_come_back_from_a_table_as_they_were() -> None:
    back = list(arrow.outcomes_from(arrow.table(OUTCOMES)))
    assert back == OUTCOMES
    assert [each.label_json for each in back] == [each.label_json for each in OUTCOMES]


@pytest.mark.parametrize(
    ("column", "row", "cell"),
    [
        ("operation", 0, "delete"),
        ("secrecy", 0, None),
        ("secrecy", 0, [None]),
        ("description", 0, None),
        ("warnings", 0, [{"code": "c", "detail": "d" * 81}]),
        ("labeled_paths", 1, [{"path": "/0", "description": "d", "secrecy": None, "integrity": []}]),
        ("items", 2, [{"data": "{", "description": "d", "secrecy": [], "integrity": []}]),
        ("op", 0, "label_agent"),
        ("status", 0, "fine"),
        ("status", 4, "ok"),
        ("error", 4, None),
    ],
)
def test_what_no_pool_gives_is_refused(column: str, row: int, cell: Any) -> None:
    table = arrow.table(OUTCOMES)
    rows = table.to_pylist()
    rows[row][column] = cell
    changed = pa.Table.from_pylist(rows, schema=table.schema)
    with pytest.raises(arrow.BadOutcome, match=rf"^the outcome of job {row} is not valid: "):
        list(arrow.outcomes_from(changed))


def test_a_table_of_something_else_is_refused() -> None:
    with pytest.raises(arrow.BadOutcome, match="there is no column op and no column status"):
        list(arrow.outcomes_from(pa.table({"id": [1]})))


def test_without_pyarrow_one_line_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for call in (lambda: arrow.table([]), lambda: arrow.jobs_from(None)):
        with pytest.raises(arrow.PyarrowMissing, match=r"run: pip install 'guardpool\[arrow\]'"):
            call()


# --- other libraries


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arrow") / "outcomes.parquet"
    pq.write_table(arrow.table(OUTCOMES), path)
    return path


def test_pandas_reads_outcomes_and_its_frames_are_jobs(file: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas has no wheel for this Python")
    frame = pandas.read_parquet(file)
    assert list(frame["status"]) == ["ok"] * 4 + ["trap", "refused"]
    assert str(frame["tool_name"].dtype) == "category"
    assert list(frame["secrecy"][0]) == ["a", "b"]
    assert [each["path"] for each in frame["labeled_paths"][1]] == ["/0", "/1"]
    jobs = pandas.DataFrame({"op": ["label_resource"], "tool_name": ["t"], "tool_args": [{"n": 1, "tags": ["a"]}]})
    assert list(arrow.jobs_from(pa.Table.from_pandas(jobs))) == [
        {"op": "label_resource", "tool_name": "t", "tool_args": {"n": 1, "tags": ["a"]}}
    ]


@pytest.fixture(scope="module")
def polars(file: Path) -> Any:
    """polars, with the descriptors that it keeps open once it has read a file."""
    polars = pytest.importorskip("polars", reason="polars has no wheel for this Python")
    polars.read_parquet(file)
    return polars


def test_polars_reads_outcomes_and_its_frames_are_jobs(polars: Any, file: Path) -> None:
    frame = polars.read_parquet(file)
    assert frame["status"].to_list() == ["ok"] * 4 + ["trap", "refused"]
    assert frame["secrecy"].to_list()[0] == ["a", "b"]
    assert frame.explode("labeled_paths")["labeled_paths"].struct.field("path").drop_nulls().to_list() == ["/0", "/1"]
    assert polars.from_arrow(arrow.table(OUTCOMES)).equals(frame)
    jobs = polars.DataFrame({"op": ["label_resource"], "tool_name": ["t"], "tool_args": [{"n": 1, "tags": ["a"]}]})
    assert list(arrow.jobs_from(jobs.to_arrow())) == [
        {"op": "label_resource", "tool_name": "t", "tool_args": {"n": 1, "tags": ["a"]}}
    ]


def test_duckdb_reads_outcomes_and_writes_jobs(file: Path, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="duckdb has no wheel for this Python")
    with duckdb.connect() as connection:
        rows = connection.execute(
            "select status, count(*) from read_parquet(?) group by status order by 1", [str(file)]
        ).fetchall()
        assert rows == [("ok", 4), ("refused", 1), ("trap", 1)]
        paths = connection.execute(
            "select unnest(labeled_paths).path from read_parquet(?) where op = 'label_response'", [str(file)]
        ).fetchall()
        assert paths == [("/0",), ("/1",)]
        assert connection.execute("select error.trap from read_parquet(?) where id = 4", [str(file)]).fetchone() == (
            "unreachable",
        )
        written = tmp_path / "jobs.parquet"
        connection.execute(
            "copy (select 7 as id, 'label_resource' as op, 'get' as tool_name, {'n': 1}::json as tool_args) "
            f"to '{written}' (format parquet)"
        )
    assert list(arrow.jobs_from(formatkit.read_table(written))) == [
        {"id": 7, "op": "label_resource", "tool_name": "get", "tool_args": {"n": 1}}
    ]
