"""Columns of an Arrow table or a Parquet file, read as jobs: which columns and types are accepted, and what their rows mean.

| column | types | |
| --- | --- | --- |
| `op`, `tool_name` | string | must be there |
| `id` | string, whole number, float, boolean | null, or no such column: the number of the row |
| `guard`, `session` | string | |
| `time` | number of seconds since 1970, or timestamp | one without a zone is UTC |
| `tool_args`, `tool_result`, `capabilities` | string: each cell is JSON text; or struct, list, map, number, boolean | |

A string may be large, a view, dictionary-encoded or bytes. A null cell is a member that is not there; JSON's null is the text
`null`. A member of a struct that is null is left out, because a struct has all members in every row, and nothing tells those
that were not there. Other columns are ignored, but MCP's own words are refused, as in a job line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from guardpool.contract.document import repaired
from guardpool.errors import CallerError
from guardpool.jobs import JOB_KEYS, RIGHT_WORDS
from guardpool.printable import printable

if TYPE_CHECKING:
    import pyarrow as pa

NEEDED = ("op", "tool_name")
_TEXTS = ("guard", "op", "tool_name", "session")
_JSON = ("tool_args", "tool_result", "capabilities")
# What each timestamp counts, of a second.
_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_MAX_SHOWN = 20

_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_Read = Callable[[Any], Any]


class ColumnsError(CallerError):
    """A table cannot be read as jobs because of its columns. The message says which it has, and which a job needs."""


class BadCell(ValueError):
    """A cell of a column of JSON text is not JSON; the row is no job. The message begins with the column's name.

    Attributes:
        raw: the text.
    """

    def __init__(self, message: str, raw: msgspec.Raw) -> None:
        super().__init__(message)
        self.raw = raw


class JobColumns:
    """Reads the rows of record batches of one schema as jobs.

    Args:
        schema: a `pyarrow.Schema`.

    Attributes:
        names: the columns that are read, in the order of a job's keys.

    Raises:
        ColumnsError: a column is missing, has a type that a job cannot have, or has a name that is a mistake.
    """

    def __init__(self, schema: pa.Schema) -> None:
        _refuse_mistakes(schema)
        self.names = tuple(name for name in JOB_KEYS if name in schema.names)
        self._readers = {name: _reader(name, schema.field(name).type) for name in self.names}

    def rows(self, batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
        """The rows as dicts with a job's keys, without those whose cell is null.

        JSON text is a `msgspec.Raw` that is one JSON value, or a `BadCell`: that row is not a job.

        Raises:
            UnicodeDecodeError: a string within a struct or a list is not UTF-8.
        """
        columns = []
        for name in self.names:
            cells, read = _cells(name, batch.column(name)), self._readers[name]
            columns.append(cells if read is None else [None if cell is None else read(cell) for cell in cells])
        names = self.names
        for row in zip(*columns):
            yield {name: cell for name, cell in zip(names, row) if cell is not None}


def _refuse_mistakes(schema: pa.Schema) -> None:
    has = f"it has {_listed(schema.names)}"
    if "status" in schema.names and "attempts" in schema.names:
        raise ColumnsError("it is a file of outcomes: give the file of jobs in its place")
    for word, hint in RIGHT_WORDS.items():
        if word in schema.names:
            raise ColumnsError(f"{hint}: rename the column; {has}")
    missing = [name for name in NEEDED if name not in schema.names]
    if missing:
        columns = "column" if len(missing) == 1 else "columns"
        others = _listed([name for name in JOB_KEYS if name not in NEEDED])
        raise ColumnsError(
            f"it lacks the {columns} {' and '.join(missing)}, which every job needs: {has}; a job may also have {others}"
        )
    for name in JOB_KEYS:
        if schema.names.count(name) > 1:
            raise ColumnsError(f"it has {schema.names.count(name)} columns called {name}")


def _listed(names: list[str]) -> str:
    shown = ", ".join(printable(name, 40) for name in names[:_MAX_SHOWN]) or "no column"
    return shown if len(names) <= _MAX_SHOWN else f"{shown} and {len(names) - _MAX_SHOWN:,} more"


# --- types


def _reader(name: str, kind: pa.DataType) -> _Read | None:
    """What makes a job's member of a Python value of a column; None: it is one already.

    Raises:
        ColumnsError: a job cannot have this type there.
    """
    import pyarrow.types as types

    kind = _plain(kind)
    if types.is_null(kind):
        return None
    if name in _TEXTS:
        if _is_text(kind):
            return None
        raise _wrong_type(name, kind, "a string")
    if name == "id":
        if _is_text(kind) or _is_number(kind) or types.is_boolean(kind):
            return None
        raise _wrong_type(name, kind, "a string, a number or a boolean")
    if name == "time":
        if types.is_timestamp(kind):
            per_s = _PER_S[kind.unit]
            return lambda count: count / per_s
        if _is_number(kind):
            return None
        raise _wrong_type(name, kind, "a number of seconds since 1970, or a timestamp")
    if _is_text(kind):
        return lambda cell: _json_text(name, cell)
    return _json_reader(name, kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type behind a dictionary, or behind an extension such as `arrow.json`."""
    import pyarrow as pa

    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind):
            kind = kind.value_type
        else:
            return kind


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(kind) or types.is_floating(kind))


def _wrong_type(name: str, kind: pa.DataType, wanted: str) -> ColumnsError:
    return ColumnsError(f"the column {name} has the type {printable(str(kind), 80)}, and must have {wanted}")


def _json_reader(place: str, kind: pa.DataType) -> _Read | None:
    """What makes a JSON value of a Python value of this type; None: it is one."""
    import pyarrow.types as types

    kind = _plain(kind)
    if types.is_null(kind) or types.is_boolean(kind) or _is_number(kind):
        return None
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return None
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _list_reader(_json_reader(f"{place}[]", kind.value_type))
    if types.is_map(kind) and _is_text(_plain(kind.key_type)):
        return _map_reader(_json_reader(f"{place}.*", kind.item_type))
    if types.is_struct(kind):
        fields = [kind.field(at) for at in range(kind.num_fields)]
        if len({field.name for field in fields}) < len(fields):
            raise ColumnsError(f"the struct {printable(place, 80)} has two members of one name")
        return _struct_reader({field.name: _json_reader(f"{place}.{field.name}", field.type) for field in fields})
    raise ColumnsError(
        f"{printable(place, 80)} has the type {printable(str(kind), 80)}, which JSON has not: write the column "
        f"{place.split('.')[0].split('[')[0]} as JSON text, or with structs, lists, maps, strings, numbers and booleans only"
    )


def _list_reader(inner: _Read | None) -> _Read | None:
    if inner is None:
        return None
    return lambda cell: [None if item is None else inner(item) for item in cell]


def _map_reader(inner: _Read | None) -> _Read:
    if inner is None:
        return dict
    return lambda cell: {key: None if item is None else inner(item) for key, item in cell}


def _struct_reader(members: dict[str, _Read | None]) -> _Read:
    pairs = tuple(members.items())

    def read(cell: dict[str, Any]) -> dict[str, Any]:
        return {
            name: item if inner is None else inner(item) for name, inner in pairs if (item := cell[name]) is not None
        }

    return read


# --- cells


def _json_text(name: str, cell: str | bytes) -> msgspec.Raw | BadCell:
    text = cell.encode() if isinstance(cell, str) else cell
    try:
        return _decode_raw(text)
    except (msgspec.DecodeError, RecursionError) as error:
        what = str(error).removeprefix("JSON is malformed: ")
        what = "it ends too early" if "truncated" in what else what
        return BadCell(f"{name} is not JSON text: {what}", msgspec.Raw(text))


def _cells(name: str, column: pa.Array) -> list[Any]:
    """The cells of a column as Python values; bytes that are not UTF-8 become U+FFFD, as in a job line."""
    import pyarrow as pa

    kind = _plain(column.type)
    while column.type != kind:
        column = column.storage if isinstance(column, pa.ExtensionArray) else column.dictionary_decode()
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.int64())
    if not _is_text(kind):
        return column.to_pylist()  # type: ignore[no-any-return]
    try:
        cells: list[Any] = column.to_pylist()
        return [cell.decode() if isinstance(cell, bytes) else cell for cell in cells]
    except UnicodeDecodeError:
        cells = column.cast(pa.large_binary()).to_pylist()
        return [None if cell is None else repaired(cell).decode() for cell in cells]
