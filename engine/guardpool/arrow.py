"""Outcomes as Arrow tables, and tables as jobs, for pandas, polars, DuckDB and whatever else takes Arrow.

It needs pyarrow: `pip install guardpool[arrow]`, which is imported when a function here is first called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from guardpool.batch.job_columns import BadCell, ColumnsError as ColumnsError, JobColumns
from guardpool.batch.outcome_columns import Ids, columns_of, outcome_schema, outcomes_of
from guardpool.batch.outcome_lines import BadOutcome as BadOutcome
from guardpool.batch.writer import encode_outcomes
from guardpool.errors import HostError, check_kind
from guardpool.outcomes import Outcome

if TYPE_CHECKING:
    import pyarrow as pa

_PORTION = 10_000
_BATCH_ROWS = 1024


class PyarrowMissing(HostError):
    """pyarrow is not installed; the message says what to type."""


def table(outcomes: Iterable[Outcome]) -> pa.Table:
    """Outcomes as a table, a row each, in their order.

    Args:
        outcomes: taken some thousands at a time; what is held of all of them is the table.

    Returns:
        A `pyarrow.Table`. Columns have the names of a line of the outcome file, and the members of a label are columns of their
        own:

        | column | type |
        | --- | --- |
        | `id` | int64, double, bool or string, as the ids are; of several kinds string, with JSON for those that are none |
        | `guard`, `op`, `tool_name`, `status`, `operation` | dictionary of strings |
        | `description`, `items_path` | string |
        | `secrecy`, `integrity` | list of strings |
        | `labeled_paths` | list of structs: path, description, secrecy, integrity |
        | `default_labels` | struct: description, secrecy, integrity |
        | `items` | list of structs: data (JSON text), description, secrecy, integrity |
        | `warnings` | list of structs: code, detail |
        | `error` | struct: code, message, trap, guard_code, exit_code, signal, line, backend |
        | `duration_us`, `attempts` | int64, int32 |
        | `session_restarted` | bool; null for false |
        | `backend` | struct: asked, answered, failed, missing (list of structs: tool, args as JSON text) |

        What an outcome does not have is null.

    Raises:
        PyarrowMissing: pyarrow is not installed.
    """
    pyarrow = _pyarrow()
    check_kind("outcomes", outcomes, Iterable, "an iterable of Outcome")
    ids = Ids()
    portions: list[tuple[list[Any], pa.Table]] = []
    rest = iter(outcomes)
    while portion := list(islice(rest, _PORTION)):
        for outcome in portion:
            check_kind("each of the outcomes", outcome, Outcome, "an Outcome")
        own = [outcome.id for outcome in portion]
        ids.widen(own)
        without = pyarrow.nulls(len(own), pyarrow.string())
        portions.append((own, columns_of(encode_outcomes(portion), without)))
    if not portions:
        return outcome_schema(ids.type).empty_table()
    whole = pyarrow.concat_tables([made for _, made in portions]).unify_dictionaries()
    column = pyarrow.chunked_array([ids.column(own) for own, _ in portions])
    return whole.set_column(0, pyarrow.field("id", column.type), column)


def outcomes_from(table: pa.Table | pa.RecordBatch) -> Iterator[Outcome]:
    """The rows of a table that `table` made, or of a Parquet file of outcomes, as outcomes. Each label is checked.

    An outcome is as it was, but for its logs, which have no column, and an id in a column of several kinds, which is text
    there.

    Raises:
        BadOutcome: a column is missing, or, when its turn comes, a row is not an outcome or its label is not valid.
        PyarrowMissing: pyarrow is not installed.
    """
    _check_table(table)
    return outcomes_of(table)


def jobs_from(table: pa.Table | pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows of a table as jobs: dicts with the keys of a job line, for `GuardPool.map`.

    A row that is not a job becomes a `rejected` outcome there. `help(guardpool.batch.job_columns)` says which columns and types
    a table may have: `op` and `tool_name` must be there, and `tool_args`, `tool_result` and `capabilities` are JSON text, or
    structs, lists, maps, numbers and booleans.

    Args:
        table: a `pyarrow.Table` or `RecordBatch`. For a pandas `frame` give `pyarrow.Table.from_pandas(frame)`, for a polars
            one `frame.to_arrow()`.

    Raises:
        ColumnsError: at once, not with the first row: a column is missing, or has a type that a job cannot have.
        PyarrowMissing: pyarrow is not installed.
    """
    _check_table(table)
    return _jobs(table, JobColumns(table.schema))


def _jobs(table: pa.Table | pa.RecordBatch, columns: JobColumns) -> Iterator[dict[str, Any]]:
    batches = table.to_batches(max_chunksize=_BATCH_ROWS) if hasattr(table, "to_batches") else [table]
    for batch in batches:
        for row in columns.rows(batch):
            yield {name: _value(cell) for name, cell in row.items()}


def _value(cell: Any) -> Any:
    """JSON text as its value; a text that is not JSON as a `Raw`, which a pool rejects with its place."""
    if type(cell) is BadCell:
        return cell.raw
    if type(cell) is not msgspec.Raw:
        return cell
    try:
        return msgspec.json.decode(cell)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return cell


def _check_table(table: object) -> None:
    pyarrow = _pyarrow()
    check_kind("table", table, (pyarrow.Table, pyarrow.RecordBatch), "a pyarrow.Table or RecordBatch")


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise PyarrowMissing("pyarrow is not installed: run: pip install 'guardpool[arrow]'") from None
    return pyarrow
