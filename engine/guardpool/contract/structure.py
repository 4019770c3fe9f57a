"""Decoding into structures of fixed fields, as the reference gateway's decoder does it.

Three things set this apart from looking members up by name: a field's name matches in any case; null leaves a text or a
structure as it was, and empties an array; and a field that is given twice is decoded over its first value, element by
element, so that what the second leaves out is kept from the first. Two answers that differ in nothing else are told
apart by this, and a guard could hide a tag behind it, so it is followed to the letter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from guardpool.contract.document import Document
from guardpool.contract.text import shown
from guardpool.labels import Labels, PathLabel

T = TypeVar("T")

# The two letters beyond ASCII that fold to an ASCII one: long s and the Kelvin sign.
_FOLDS = {0x17F: "s", 0x212A: "k"}
_NO_TAGS: frozenset[str] = frozenset()
NO_LABELS = Labels("", _NO_TAGS, _NO_TAGS)
_NO_PATH = PathLabel("", "", _NO_TAGS, _NO_TAGS)


class MismatchError(Exception):
    """A value of the wrong type; `at` adds the place, from the inside out, while the exception passes."""

    def __init__(self, expected: str, value: Any) -> None:
        super().__init__()
        self._message = f"must be {expected}, not {shown(value)}"
        self._place = ""

    def at(self, place: str) -> MismatchError:
        """This error, seen from one level further out: `place` is `.name` or `[index]`."""
        self._place = place + self._place
        return self

    def __str__(self) -> str:
        return f"{self._place.lstrip('.')} {self._message}"


def fields(document: Document, value: Any) -> Iterator[tuple[str, Any]]:
    """The members of the object `value`, their names folded to lower case; none for null."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise MismatchError("an object", value)
    for name, member in document.members(value):
        yield name.translate(_FOLDS).lower(), member


def text(old: str | None, value: Any) -> str:
    """`value`, which must be a string; null keeps `old`."""
    if value is None:
        return old or ""
    if not isinstance(value, str):
        raise MismatchError("a string", value)
    return value


class Slots(Generic[T]):
    """An array that remembers what stood in it: shortened and grown again, its old elements come back."""

    __slots__ = ("_slots", "_used")

    def __init__(self) -> None:
        self._slots: list[T | None] = []
        self._used = 0

    def __iter__(self) -> Iterator[T | None]:
        return iter(self._slots[: self._used])

    def assign(self, value: Any, decode: Callable[[T | None, Any], T | None]) -> None:
        """Decode the array `value` over what is here; null and an empty array forget it.

        Args:
            decode: takes an element as it was, None if there was none, and its new JSON value; returns the element.
        """
        if value is not None and not isinstance(value, list):
            raise MismatchError("an array", value)
        if not value:
            self._slots, self._used = [], 0
            return
        slots = self._slots
        slots.extend([None] * (len(value) - len(slots)))
        for index, element in enumerate(value):
            try:
                slots[index] = decode(slots[index], element)
            except MismatchError as error:
                raise error.at(f"[{index}]") from None
        self._used = len(value)


class LabelEntry:
    """Secrecy and integrity with a description: what the contract calls L, still open for a second decoding.

    Args:
        described: whether there is a description. An agent's labels have no description: a member of that name is passed over.
    """

    __slots__ = ("_described", "_integrity", "_secrecy", "description")

    def __init__(self, described: bool = True) -> None:
        self._described = described
        self.description = ""
        self._secrecy: Slots[str] | None = None
        self._integrity: Slots[str] | None = None

    def assign(self, document: Document, value: Any) -> None:
        """Decode the object `value` over what is here; null changes nothing."""
        for name, member in fields(document, value):
            try:
                if name == "secrecy":
                    self._secrecy = self._secrecy or Slots()
                    self._secrecy.assign(member, text)
                elif name == "integrity":
                    self._integrity = self._integrity or Slots()
                    self._integrity.assign(member, text)
                elif name == "description" and self._described:
                    self.description = text(self.description, member)
            except MismatchError as error:
                raise error.at(f".{name}") from None

    @property
    def secrecy(self) -> frozenset[str]:
        """The secrecy tags as they stand now; a null among them is the empty tag."""
        return _tags(self._secrecy)

    @property
    def integrity(self) -> frozenset[str]:
        """The integrity tags as they stand now; a null among them is the empty tag."""
        return _tags(self._integrity)

    def labels(self) -> Labels:
        """Description and tags as they stand now."""
        return Labels(self.description, self.secrecy, self.integrity)


class PathEntry:
    """A path and its labels, still open for a second decoding."""

    __slots__ = ("_labels", "_path")

    def __init__(self) -> None:
        self._path = ""
        self._labels: LabelEntry | None = None

    def assign(self, document: Document, value: Any) -> None:
        """Decode the object `value` over what is here; null changes nothing."""
        for name, member in fields(document, value):
            try:
                if name == "path":
                    self._path = text(self._path, member)
                elif name == "labels":
                    self._labels = self._labels or LabelEntry()
                    self._labels.assign(document, member)
            except MismatchError as error:
                raise error.at(f".{name}") from None

    def label(self) -> PathLabel:
        """The path and its labels as they stand now."""
        labels = NO_LABELS if self._labels is None else self._labels.labels()
        return PathLabel(self._path, labels.description, labels.secrecy, labels.integrity)


class PathList:
    """The `labeled_paths`.

    Args:
        repeated: the field is given more than once, so that what was decoded must stay open. An answer can hold
            millions of paths: with the field given once only finished labels are kept, and one for all empty paths.
    """

    __slots__ = ("_document", "_done", "_open")

    def __init__(self, document: Document, repeated: bool) -> None:
        self._document = document
        self._open: Slots[PathEntry] | None = Slots() if repeated else None
        self._done: tuple[PathLabel, ...] = ()

    def assign(self, value: Any) -> None:
        """Decode the array `value` over what is here. Its elements are dropped from it on the way."""
        if self._open is not None:
            self._open.assign(value, self._decode)
        elif isinstance(value, list):
            self._done = tuple(self._finished(value))
        elif value is not None:
            raise MismatchError("an array", value)

    def labels(self) -> tuple[PathLabel, ...]:
        """The paths as they stand now."""
        if self._open is None:
            return self._done
        return tuple(_NO_PATH if entry is None else entry.label() for entry in self._open)

    def _decode(self, old: PathEntry | None, value: Any) -> PathEntry | None:
        if not value and (value is None or isinstance(value, dict)):
            return old
        entry = old or PathEntry()
        entry.assign(self._document, value)
        return entry

    def _finished(self, values: list[Any]) -> Iterator[PathLabel]:
        for index, value in enumerate(values):
            try:
                entry = self._decode(None, value)
            except MismatchError as error:
                raise error.at(f"[{index}]") from None
            values[index] = None
            yield _NO_PATH if entry is None else entry.label()


def _tags(slots: Slots[str] | None) -> frozenset[str]:
    return _NO_TAGS if slots is None else frozenset(tag or "" for tag in slots)
