"""Outcomes as columns of an Arrow table, made of their lines, and outcomes made of such columns.

The lines are parsed in C++, at a tenth of what making every outcome a dict would cost. Three things in a line have no type of
their own and become text or structs first: the data of items in the older form of a response's label, warnings, and the
arguments of questions without an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from guardpool.batch.outcome_lines import NOT_VALID, BadOutcome, id_of
from guardpool.labels import check_label
from guardpool.outcomes import NOTHING_ASKED, BackendUse, Outcome, OutcomeError, Question, Status, StoredLabel

if TYPE_CHECKING:
    import pyarrow as pa

# Dictionaries in Arrow, and categories in pandas and polars. In a file every column has a dictionary that is worth it.
_WORDS = ("guard", "op", "tool_name", "status", "operation")
_OF_LABEL = (
    *("description", "secrecy", "integrity", "operation"),
    *("labeled_paths", "default_labels", "items_path", "items", "warnings"),
)
# Where one of these stands, a line is written anew before it is parsed. Within a string the quotes would be escaped.
_SPECIAL = (b'"items":[', b'"warnings":[', b'"missing":[{')
_MEMBERS = {
    "label_resource": ("description", "secrecy", "integrity", "operation", "warnings"),
    "label_response": ("labeled_paths", "default_labels", "items_path", "items", "warnings"),
}
_ROWS_AT_ONCE = 1024
_INT64 = range(-(1 << 63), 1 << 63)


class _OnlyId(msgspec.Struct, gc=False):
    id: msgspec.Raw


class _PlainId(msgspec.Struct, gc=False):
    id: int | str | None


_decode_ids = msgspec.json.Decoder(_PlainId).decode_lines
_decode_raw_ids = msgspec.json.Decoder(_OnlyId).decode_lines
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def outcome_schema(id_type: pa.DataType) -> pa.Schema:
    """The columns of outcomes: `id` of this type, then the others, each with the name it has in a line.

    The members of a label are columns of their own, those of a resource's and those of a response's. A member that an outcome
    does not have is null.
    """
    import pyarrow as pa

    members = {field.name: field.type for field in _line_schema()}
    label = members.pop("label")
    types = {
        **{name: members[name] for name in ("guard", "op", "tool_name", "status")},
        **{name: label.field(name).type for name in _OF_LABEL},
        **{name: members[name] for name in ("error", "duration_us", "attempts", "backend", "session_restarted")},
    }
    word = pa.dictionary(pa.int32(), pa.string())
    fields = [pa.field(name, word if name in _WORDS else kind) for name, kind in types.items()]
    return pa.schema([pa.field("id", id_type), *fields])


def _line_schema() -> pa.Schema:
    """The members of a line, but for its id."""
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    tags = pa.list_(text)
    labels = [("description", text), ("secrecy", tags), ("integrity", tags)]
    label = pa.struct(
        [
            *labels,
            ("operation", text),
            ("labeled_paths", pa.list_(pa.struct([("path", text), *labels]))),
            ("default_labels", pa.struct(labels)),
            ("items_path", text),
            ("items", pa.list_(pa.struct([("data", text), *labels]))),
            ("warnings", pa.list_(pa.struct([("code", text), ("detail", text)]))),
        ]
    )
    error = pa.struct(
        [
            *(("code", text), ("message", text), ("trap", text), ("guard_code", number), ("exit_code", number)),
            *(("signal", text), ("line", number), ("backend", pa.list_(text))),
        ]
    )
    missing = pa.list_(pa.struct([("tool", text), ("args", text)]))
    count = pa.int32()
    backend = pa.struct([("asked", count), ("answered", count), ("failed", count), ("missing", missing)])
    words = [(name, text) for name in ("guard", "op", "tool_name", "status")]
    return pa.schema(
        [
            *(*words, ("label", label), ("error", error), ("duration_us", number), ("attempts", count)),
            *(("backend", backend), ("session_restarted", pa.bool_())),
        ]
    )


# --- ids


class Ids:
    """The type of the column of ids, which are any scalars: whole numbers, floats, booleans, or text.

    Where ids of several types come together, all are text: a string stays as it is, and another id is its JSON.

    Attributes:
        kind: `int`, `float`, `bool` or `str`; None while every id was null.
    """

    def __init__(self) -> None:
        self.kind: type | None = None

    def widen(self, ids: Iterable[Any]) -> bool:
        """Take note of ids; returns whether the column now has another type than ids before had."""
        before = self.kind
        for kind in set(map(type, ids)) - {type(None)}:
            if self.kind is None:
                self.kind = kind if kind in (int, float, bool) else str
            elif self.kind is not kind:
                self.kind = str
        if self.kind is int and not all(number in _INT64 for number in ids if number is not None):
            self.kind = str
        return before is not None and before is not self.kind

    @property
    def type(self) -> pa.DataType:
        """The Arrow type of the column."""
        import pyarrow as pa

        return {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}.get(self.kind or str, pa.string())

    def column(self, ids: Sequence[Any]) -> pa.Array:
        """Ids that were taken note of, as a column."""
        import pyarrow as pa

        if self.kind is str:
            ids = [each if each is None or type(each) is str else _encode(each).decode() for each in ids]
        return pa.array(ids, self.type)


def ids_of(lines: bytes) -> list[Any]:
    """The ids of lines of outcomes; one that Python does not hold is a `msgspec.Raw`."""
    try:
        return [line.id for line in _decode_ids(lines)]
    except msgspec.ValidationError:
        return [id_of(line.id) for line in _decode_raw_ids(lines)]


# --- columns


def columns_of(lines: bytes, ids: pa.Array) -> pa.Table:
    """Whole lines of outcomes as a table.

    Args:
        lines: as `guardpool.batch.encode_outcomes` writes them.
        ids: the column of their ids.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not lines:
        return outcome_schema(ids.type).empty_table()
    parsed = _parse(lines)
    label = parsed["label"].combine_chunks()
    schema = outcome_schema(ids.type)
    arrays = []
    for field in schema:
        if field.name == "id":
            column = ids
        elif field.name in _OF_LABEL:
            column = pc.struct_field(label, field.name)
        else:
            column = parsed[field.name].combine_chunks()
        arrays.append(column.dictionary_encode() if field.name in _WORDS else column)
    return pa.Table.from_arrays(arrays, schema=schema)


def _parse(lines: bytes) -> pa.Table:
    import pyarrow as pa

    if any(each in lines for each in _SPECIAL):
        lines = b"".join([_plainly(line) if any(each in line for each in _SPECIAL) else line for line in _split(lines)])
    try:
        return _parse_json(lines)
    except pa.ArrowInvalid:
        # Labels are as workers sent them: they may be spelt in a way that parsers take differently.
        return _parse_json(b"".join([_plainly(line) for line in _split(lines)]))


def _parse_json(lines: bytes) -> pa.Table:
    import pyarrow as pa
    import pyarrow.json as pj

    parse = pj.ParseOptions(explicit_schema=_line_schema(), unexpected_field_behavior="ignore")
    # In one block: a line that is longer than a block is an error.
    read = pj.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    return pj.read_json(pa.BufferReader(lines), parse_options=parse, read_options=read)


def _split(lines: bytes) -> list[bytes]:
    return lines.splitlines(keepends=True)


def _plainly(line: bytes) -> bytes:
    """A line without its id, in which every member has one type in all lines."""
    try:
        members = _decode(line)
    except msgspec.DecodeError:  # an id that Python does not hold
        members = {
            name: _decode(raw)
            for name, raw in msgspec.json.decode(line, type=dict[str, msgspec.Raw]).items()
            if name != "id"
        }
    members.pop("id", None)
    label = members.get("label")
    if label:
        for item in label.get("items") or ():
            item["data"] = _encode(item["data"]).decode()
        if "warnings" in label:
            label["warnings"] = [{"code": code, "detail": detail} for code, detail in label["warnings"]]
    for question in (members.get("backend") or {}).get("missing", ()):
        question["args"] = _encode(question["args"]).decode()
    return _encode(members) + b"\n"


# --- back to outcomes


_NEEDED = ("id", "op", "status")
_STATUSES = {status.value: status for status in Status}


def outcomes_of(table: pa.Table | pa.RecordBatch) -> Iterator[Outcome]:
    """The rows of a table with the columns of `outcome_schema` as outcomes; their labels are checked.

    An id is what the column holds: of a column of strings it is a string.

    Raises:
        BadOutcome: a column is missing, or a row is not an outcome; the message names its id.
    """
    missing = [name for name in _NEEDED if name not in table.schema.names]
    if missing:
        raise BadOutcome(f"these are not outcomes: there is no column {' and no column '.join(missing)}")
    batches = table.to_batches(max_chunksize=_ROWS_AT_ONCE) if hasattr(table, "to_batches") else [table]
    for batch in batches:
        for row in batch.to_pylist():
            try:
                yield _outcome_of(row)
            except NOT_VALID as error:
                raise BadOutcome.of(row["id"], error) from error


def _outcome_of(row: dict[str, Any]) -> Outcome:
    op, status = row["op"] or "", _STATUSES[row["status"]]
    label = _label_of(op, row) if status is Status.OK else None
    error, backend = row.get("error"), row.get("backend")
    if (error is None) is not (status is Status.OK):
        raise ValueError(f"its status is {status.value}, and it has {'no' if error is None else 'an'} error")
    return Outcome(
        row["id"],
        row.get("guard"),
        op,
        row.get("tool_name"),
        status,
        label,  # type: ignore[arg-type]  # a stored one, as a pool makes them
        None if error is None else msgspec.convert(_without_nulls(error), OutcomeError),
        row.get("duration_us") or 0,
        row.get("attempts") or 0,
        0 if backend is None else backend["asked"],
        backend=NOTHING_ASKED if backend is None else _backend_of(backend),
        session_restarted=bool(row.get("session_restarted")),
    )


def _label_of(op: str, row: dict[str, Any]) -> StoredLabel | None:
    """The label in a row, checked; None is a response without one."""
    if op == "label_response" and row["labeled_paths"] is None:
        return None
    members = {name: row[name] for name in _MEMBERS[op] if name in row}
    for optional in ("items", "warnings"):
        if members.get(optional, False) is None:
            del members[optional]
    if "items" in members:
        members["items"] = [{**item, "data": _decode(item["data"])} for item in members["items"]]
    if "warnings" in members:
        members["warnings"] = [(each["code"], each["detail"]) for each in members["warnings"]]
    label = _encode(members)
    check_label(op)(label)
    return StoredLabel(label)


def _backend_of(cell: dict[str, Any]) -> BackendUse:
    missing = tuple(Question(each["tool"], _decode(each["args"])) for each in cell["missing"] or ())
    return BackendUse(cell["asked"], cell["answered"], cell["failed"], missing)


def _without_nulls(cell: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in cell.items() if value is not None}
