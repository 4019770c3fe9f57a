"""Labels: what a guard says about a call and its result. Plain data; the rules are in `guardpool.contract`.

Every label is frozen, hashable and compares by value. Tags are opaque strings in frozen sets; whatever is printed or
written sorts them by code point, so that equal labels give equal text and equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, Union

import msgspec
from msgspec import UNSET, UnsetType


class Operation(str, Enum):
    """What a call does to its resource."""

    READ = "read"
    WRITE = "write"
    READ_WRITE = "read-write"

    def __str__(self) -> str:
        return self.value


class DifcMode(str, Enum):
    """How the gateway enforces the labels: refuse, filter, or let labels flow to the agent."""

    STRICT = "strict"
    FILTER = "filter"
    PROPAGATE = "propagate"

    def __str__(self) -> str:
        return self.value


# The longest detail of a warning. A guard chooses what stands in it, so it must not be a way to fill a screen or a file.
MAX_DETAIL_CHARS = 80
_MAX_CODE_CHARS = 40


class LabelWarning(NamedTuple):
    """What the contract lets pass in a guard's answer although whoever decides by the label should know of it.

    A warning changes no label. It equals the plain tuple `(code, detail)`.

    Attributes:
        code: `"operation_unknown"`, `"tags_dropped"`, `"not_an_array"` or `"star_from_guard"`.
        detail: what was given, and where; one line of at most 80 characters.
    """

    code: Annotated[str, msgspec.Meta(max_length=_MAX_CODE_CHARS)]
    detail: Annotated[str, msgspec.Meta(max_length=MAX_DETAIL_CHARS)]


class Printed(msgspec.Struct, frozen=True):
    """A repr like a Struct's own, but with the tags sorted, and without warnings and details where there are none."""

    def __repr__(self) -> str:
        shown = ((name, getattr(self, name)) for name in self.__struct_fields__)
        parts = (f"{name}={_shown(value)}" for name, value in shown if value or name not in ("warnings", "detail"))
        return f"{type(self).__name__}({', '.join(parts)})"


class Labels(Printed, frozen=True, gc=False, forbid_unknown_fields=True):
    """Secrecy and integrity tags of one thing, with a line for people that says what it is."""

    description: str
    secrecy: frozenset[str]
    integrity: frozenset[str]


class ResourceLabel(Printed, frozen=True, gc=False, forbid_unknown_fields=True):
    """What `label_resource` says: the labels of what a call touches, and what the call does to it.

    Attributes:
        description: a line for people.
        secrecy: its secrecy tags.
        integrity: its integrity tags.
        operation: what the call does; `write` if the guard gave none of the three words.
        warnings: what was odd in the guard's answer.
    """

    description: str
    secrecy: frozenset[str]
    integrity: frozenset[str]
    operation: Operation
    warnings: tuple[LabelWarning, ...] = ()


class PathLabel(Printed, frozen=True, gc=False, forbid_unknown_fields=True):
    """Labels for one item of a result, found by the JSON pointer `path`."""

    path: str
    description: str
    secrecy: frozenset[str]
    integrity: frozenset[str]

    @property
    def labels(self) -> Labels:
        """The labels without the path."""
        return Labels(self.description, self.secrecy, self.integrity)


class LabeledItem(Printed, frozen=True):
    """One item of a result with its labels.

    Attributes:
        data: the item: any JSON value.
        labels: its labels.
    """

    data: Any
    labels: Labels

    def __hash__(self) -> int:
        return hash((_shallow(self.data), self.labels))


class ResponseLabel(Printed, frozen=True):
    """What `label_response` says about the items of a result.

    Attributes:
        labeled_paths: labels by JSON pointer; see `guardpool.contract.expand`.
        default_labels: labels of the items that no path names; None if the guard gave none.
        items_path: JSON pointer to the array of items; `""` and None both mean the root.
        items: the older form's items, each with its own labels; None in the newer form.
        warnings: what was odd in the guard's answer.
    """

    labeled_paths: tuple[PathLabel, ...] = ()
    default_labels: Labels | None = None
    items_path: str | None = None
    items: tuple[LabeledItem, ...] | None = None
    warnings: tuple[LabelWarning, ...] = ()


class AgentLabels(Printed, frozen=True):
    """What `label_agent` says: the agent's own labels and how they are enforced.

    Attributes:
        secrecy: the agent's secrecy tags.
        integrity: the agent's integrity tags.
        mode: how the labels are enforced.
        normalized_policy: the policy as the guard understood it: any JSON value, None if it gave none.
    """

    secrecy: frozenset[str]
    integrity: frozenset[str]
    mode: DifcMode
    normalized_policy: Any = None

    def __hash__(self) -> int:
        return hash((self.secrecy, self.integrity, self.mode, _shallow(self.normalized_policy)))


Label = Union[ResourceLabel, ResponseLabel]


def label_to_json(label: Label | None) -> bytes:
    """A label as it stands in the outcome file: one line of UTF-8 without a newline, tags sorted.

    Args:
        label: a resource's or a response's label; None (no fine-grained labels) is `null`.

    Raises:
        TypeError: `label` is something else.
    """
    if isinstance(label, ResourceLabel):
        return _encode(
            ResourceForm(
                label.description,
                sorted(label.secrecy),
                sorted(label.integrity),
                str(label.operation),
                label.warnings or UNSET,
            )
        )
    if isinstance(label, ResponseLabel):
        return _encode(_response_form(label))
    if label is None:
        return b"null"
    raise TypeError(f"a label is a ResourceLabel, a ResponseLabel or None, not {type(label).__name__}")


def label_from_json(op: str, raw: bytes) -> Label | None:
    """The label that `label_to_json` wrote.

    Args:
        op: the job's operation: `"label_resource"` or `"label_response"`.
        raw: the label's JSON, in the form of the outcome file.

    Raises:
        ValueError: `raw` is not a label of that operation (a `msgspec.ValidationError` or `msgspec.DecodeError`).
    """
    try:
        if op == "label_resource":
            return _decode_resource(raw)
        if op == "label_response":
            # Only the older form's items hold values of any depth, and a short label none of more than 100 levels.
            has_items = len(raw) > 200 and (raw.find(b'"items"') >= 0 or raw.find(b"\\u") >= 0)
            form = _decode_where_there_is_room(raw) if has_items else _decode_response(raw)
            return None if form is None else _response_label(form)
    except RecursionError as error:
        raise msgspec.DecodeError("the label is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError("the label is not UTF-8") from error
    raise ValueError(f"an operation is label_resource or label_response, not {op!r}")


def _decode_where_there_is_room(raw: bytes) -> _ReadResponse | None:
    from guardpool import stacks  # here, because workers need the rest of this module and not this

    form: _ReadResponse | None = stacks.call(raw, _decode_response)
    return form


def check_label(op: str) -> Callable[[bytes], object]:
    """A function that raises if `label_from_json` would for this operation, and otherwise returns anything.

    It makes none of the sets, so it is quicker: 10 us instead of 13 to 24 for a response of 30 items. It may also raise
    `UnicodeDecodeError` and `RecursionError`.
    """
    return _check_resource if op == "label_resource" else _check_response


# The outcome file's form, of which `guardpool.contract.judging` makes the same bytes without making a label. Tags are
# sequences here because a set has no order.


class ResourceForm(msgspec.Struct, frozen=True, gc=False):
    """A `ResourceLabel` as it stands in the file; one without warnings has no such member."""

    description: str
    secrecy: Sequence[str]
    integrity: Sequence[str]
    operation: str
    warnings: Sequence[LabelWarning] | UnsetType = UNSET


class _CheckedResource(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """`ResourceForm` for checking a line without making the label: its operation must be one of the three."""

    description: str
    secrecy: list[str]
    integrity: list[str]
    operation: Literal["read", "write", "read-write"]
    warnings: list[LabelWarning] | UnsetType = UNSET


class LabelsForm(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """`Labels` as they stand in the file."""

    description: str
    secrecy: Sequence[str]
    integrity: Sequence[str]


class PathForm(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A `PathLabel` as it stands in the file."""

    path: str
    description: str
    secrecy: Sequence[str]
    integrity: Sequence[str]


class _ItemForm(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    data: Any
    description: str
    secrecy: list[str]
    integrity: list[str]


class ResponseForm(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A `ResponseLabel` as it stands in the file; a label of the newer form has no `items`, most have no `warnings`."""

    labeled_paths: list[PathForm]
    default_labels: LabelsForm | None
    items_path: str | None
    items: list[_ItemForm] | UnsetType = UNSET
    warnings: Sequence[LabelWarning] | UnsetType = UNSET


class _ReadResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ResponseForm` for reading: its paths and labels are decoded into the public types at once."""

    labeled_paths: tuple[PathLabel, ...]
    default_labels: Labels | None
    items_path: str | None
    items: tuple[_ItemForm, ...] | UnsetType = UNSET
    warnings: tuple[LabelWarning, ...] = ()


_encode = msgspec.json.Encoder().encode
_decode_resource = msgspec.json.Decoder(ResourceLabel).decode
_check_resource = msgspec.json.Decoder(_CheckedResource).decode
_check_response = msgspec.json.Decoder(Union[ResponseForm, None]).decode
_decode_response = msgspec.json.Decoder(Union[_ReadResponse, None]).decode


def _response_form(label: ResponseLabel) -> ResponseForm:
    default = label.default_labels
    return ResponseForm(
        [PathForm(p.path, p.description, sorted(p.secrecy), sorted(p.integrity)) for p in label.labeled_paths],
        None
        if default is None
        else LabelsForm(default.description, sorted(default.secrecy), sorted(default.integrity)),
        label.items_path,
        UNSET if label.items is None else [_item_form(item) for item in label.items],
        label.warnings or UNSET,
    )


def _item_form(item: LabeledItem) -> _ItemForm:
    labels = item.labels
    return _ItemForm(item.data, labels.description, sorted(labels.secrecy), sorted(labels.integrity))


def _response_label(form: _ReadResponse) -> ResponseLabel:
    items = None
    if form.items is not UNSET:
        items = tuple(
            LabeledItem(i.data, Labels(i.description, frozenset(i.secrecy), frozenset(i.integrity))) for i in form.items
        )
    return ResponseLabel(form.labeled_paths, form.default_labels, form.items_path, items, form.warnings)


def _shown(value: object) -> str:
    if isinstance(value, frozenset):
        return "{" + ", ".join(repr(tag) for tag in _in_order(value)) + "}"
    if isinstance(value, Enum):
        return repr(value.value)
    return repr(value)


def _in_order(tags: Iterable[Any]) -> list[Any]:
    return sorted(tags, key=lambda tag: (str(type(tag)), tag))


def _shallow(value: object) -> object:
    """Something hashable that is equal for equal JSON values: containers by size and keys, not by depth."""
    if isinstance(value, dict):
        return (len(value), frozenset(value))
    if isinstance(value, (list, tuple)):
        return len(value)
    return value
