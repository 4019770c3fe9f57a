"""The items of a result and their labels, from what `label_response` answered.

`find` brings answer and result together, with each item's labels in the gateway; `strict_labels` has the stricter ones.

Source: github/gh-aw-mcpg, internal/difc/path_labels.go and internal/guard/wasm_labels.go; the stricter rules are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from guardpool.contract.expansion import (
    UNLABELED,
    Unwrapped,
    index_in,
    items_at,
    rooted,
    segments,
    text_of,
    unwrap,
    unwrap_text,
)
from guardpool.decide.flow import STAR, Tagged
from guardpool.decide.item_facts import ItemFacts, facts_in
from guardpool.decide.words import Failure, Rule
from guardpool.labels import Labels, PathLabel, ResourceLabel, ResponseLabel


class Found(msgspec.Struct, frozen=True, dict=True):
    """The items of one result with what the guard said of each.

    Attributes:
        label: what `label_response` answered. In its older form it brings its own items.
        result: the tool's result.
        data: the items.
        given: the labels whose path names an item, by its index, in the order of the answer.
        is_whole: whether the one item is the whole result, because it is not an array.
        text_parts: how many parts of the result are text.
        unwrapped: what is inside the result; None where it was not needed to find the items.
        labels: the labels of each item in the gateway: the last given to it or to anything below it, else the default; where
            there is neither, no tags at all.
        names_items: whether every path names an item and nothing below it, and no item has two.
        is_regular: whether, beyond that, each item has a label, its own or the default, without an odd tag. Then all rules
            judge by the same labels.
        is_plain: whether, beyond that, nothing was odd in the answer and the result has one text at most.
    """

    label: ResponseLabel
    result: Any
    data: Sequence[Any]
    given: dict[int, list[PathLabel]]
    is_whole: bool
    text_parts: int
    unwrapped: Unwrapped | None
    labels: Sequence[Labels]
    names_items: bool
    is_regular: bool
    is_plain: bool

    @property
    def items_path(self) -> str:
        """The pointer to the array of items, empty for the root."""
        return self.label.items_path or ""

    @cached_property
    def inside(self) -> Unwrapped:
        """What is inside the result."""
        return self.unwrapped or unwrap(self.result)

    @cached_property
    def facts(self) -> list[ItemFacts]:
        """What each item says of itself; an item that is the whole result, what is inside the result."""
        return [facts_in(self.inside.root)] if self.is_whole else [facts_in(data) for data in self.data]

    def is_exact(self, path: PathLabel) -> bool:
        """Whether a path that names an item names the item itself, and not something below it."""
        pointer, above = path.path, self.items_path
        if pointer[:1] == "/" and pointer[-1:] != "/" and pointer.count("/") == above.count("/") + 1:
            return True  # as nearly all are
        return len(segments(pointer)) == len(segments(above)) + 1


def find(label: ResponseLabel, result: Any) -> Found:
    """The items of `result`, as the gateway finds them.

    Without an `items_path` they are the elements of the result, or of the JSON in its text; if that is not an array, the whole
    result is one item, wrapped as it was. A path belongs to the item that its first segment after `items_path` names.

    Raises:
        ContractError: `items_path` leads to no array, or the JSON text is nested too deeply.
    """
    text, parts = text_of(result)
    if label.items is not None:
        given_labels = [item.labels for item in label.items]
        data = [item.data for item in label.items]
        return Found(label, result, data, {}, False, parts, None, given_labels, False, False, False)
    items_path = label.items_path
    if not items_path and not _may_be_an_array(result, text):
        return _whole(label, result, parts, None)
    inside = unwrap_text(result, text, parts)
    if not items_path and not isinstance(inside.root, (list, tuple)):
        return _whole(label, result, parts, inside)
    data = items_at(inside.root, items_path) if items_path else inside.root
    given, names_items = _given(label, rooted(items_path) if items_path else "", len(data))
    labels = _last_labels(label, given, len(data))
    is_regular = names_items and _are_regular(labels)
    is_plain = is_regular and parts <= 1 and not label.warnings
    return Found(label, result, data, given, False, parts, inside, labels, names_items, is_regular, is_plain)


def _whole(label: ResponseLabel, result: Any, parts: int, inside: Unwrapped | None) -> Found:
    """The whole result as the one item, with the default label."""
    labels = (label.default_labels or UNLABELED,)
    is_regular = _are_regular(labels)
    is_plain = is_regular and parts <= 1 and not label.warnings
    return Found(label, result, (result,), {}, True, parts, inside, labels, True, is_regular, is_plain)


def _are_regular(every: Sequence[Labels]) -> bool:
    """Whether each is a label that a guard gave, without an odd tag."""
    for labels in every:
        secrecy, integrity = labels.secrecy, labels.integrity
        if labels is UNLABELED or STAR in integrity or STAR in secrecy or "" in integrity or "" in secrecy:
            return False
    return True


def _last_labels(label: ResponseLabel, given: dict[int, list[PathLabel]], count: int) -> list[Labels]:
    default = label.default_labels or UNLABELED
    if not given:
        return [default] * count
    return [given[index][-1].labels if index in given else default for index in range(count)]


# How nearly all paths go on behind `items_path`, by index.
POINTERS = tuple([f"/{index}" for index in range(256)])
_INDEXES = {pointer: index for index, pointer in enumerate(POINTERS)}


def _given(label: ResponseLabel, prefix: str, count: int) -> tuple[dict[int, list[PathLabel]], bool]:
    """The paths of each of so many items, and whether each of them names its item alone."""
    given: dict[int, list[PathLabel]] = {}
    names_items = True
    for path in label.labeled_paths:
        pointer = path.path
        if not prefix:
            index = _INDEXES.get(pointer)
        else:
            index = _INDEXES.get(pointer[len(prefix) :]) if pointer.startswith(prefix) else None
        if index is None:
            names_items = False  # it may, but that is not looked at here
            index = index_in(pointer, prefix, count)
        elif index >= count:
            index = None
        if index is None:
            continue
        if index in given:
            names_items = False
            given[index].append(path)
        else:
            given[index] = [path]
    return given, names_items


def _may_be_an_array(result: Any, text: str) -> bool:
    """Whether a result is an array, or its text may be one: text that begins otherwise need not be read as JSON."""
    if text:
        return text.lstrip(_JSON_SPACES)[:1] == "["
    return isinstance(result, (list, tuple))


_JSON_SPACES = " \t\r\n"


# The GitHub guard labels so many items (its labels/constants.rs). Fewer at the head of a list may be all that it had to say.
LIKELY_LIMIT = 100


def limit_of(found: Found, item_limit: int | None) -> int | None:
    """How many items the guard labels at most, so far as it is known.

    Args:
        item_limit: the guard's limit, if the caller knows it. Otherwise it is told from the answer: labels for the first 100 or
            more items, and for none after them, are those of a guard that stopped there.
    """
    if item_limit is not None:
        return item_limit
    labelled = len(found.given)
    if LIKELY_LIMIT <= labelled < len(found.data) and max(found.given) == labelled - 1:
        return labelled
    return None


class StrictItem(NamedTuple):
    """An item's labels under the strict rules, and what is wrong with them."""

    labels: Labels
    invalid: tuple[Failure, ...]


_NOTHING_WRONG: tuple[Failure, ...] = ()
_NO_LABEL = (Failure(Rule.NO_LABEL, detail="the guard gave the item no label"),)
_STAR_OR_EMPTY = (Failure(Rule.INVALID_LABEL, detail="the guard gave the item a tag '*' or an empty tag"),)


def strict_labels(found: Found, resource: ResourceLabel, item_limit: int | None) -> list[StrictItem]:
    """The labels of each item under the strict rules.

    Where the guard labelled the items of a collection its labels decide. Labels of something below an item are joined into the
    item's own. Where the label is a guess, the resource's labels are joined in: the one item that is the whole result, text,
    several text parts, errors. An item without a label is denied, and so is one past the guard's limit, and one whose label
    holds a tag `*` or an empty tag.
    """
    joined = resource if _is_guess(found) else None
    limit = limit_of(found, item_limit)
    items = []
    for index in range(len(found.data)):
        labels = joined_labels(found, index)
        invalid = _NOTHING_WRONG
        if labels is None:
            labels, invalid = UNLABELED, _NO_LABEL
        elif has_odd_tag(labels) or _any_has_odd_tag(found, index):
            invalid = _STAR_OR_EMPTY
        if limit is not None and index >= limit and not _has_its_own(found, index):
            detail = f"the guard labels at most {limit} items, and this is item {index + 1}"
            invalid = (*invalid, Failure(Rule.ITEM_LIMIT, detail=detail))
        items.append(StrictItem(labels if joined is None else join(labels, joined), invalid))
    return items


def regular_labels(found: Found, resource: ResourceLabel) -> Sequence[Labels]:
    """`strict_labels` where all of the labels are regular and within the guard's limit: nothing is wrong with any.

    They are `found.labels` themselves, unless the resource's labels change them.
    """
    if not _is_guess(found):
        return found.labels
    joined = [join(labels, resource) for labels in found.labels]
    return found.labels if joined == list(found.labels) else joined


def join(labels: Labels, other: Labels | ResourceLabel | PathLabel) -> Labels:
    """The labels of two things seen as one: the secrecy of both, and only the integrity that both have."""
    if other.secrecy <= labels.secrecy and labels.integrity <= other.integrity:
        return labels
    return Labels(labels.description, labels.secrecy | other.secrecy, labels.integrity & other.integrity)


def has_odd_tag(labels: Tagged) -> bool:
    """Whether labels hold a tag that no guard may give: `*`, which would stand for all, or an empty one."""
    secrecy, integrity = labels.secrecy, labels.integrity
    return STAR in integrity or STAR in secrecy or "" in integrity or "" in secrecy


def joined_labels(found: Found, index: int) -> Labels | None:
    """What the guard said of an item, those of things below it joined into its own; None if it has no label of its own."""
    if found.label.items is not None:
        return found.label.items[index].labels
    given = found.given.get(index)
    if given is None:
        return found.label.default_labels
    if len(given) == 1 and found.is_exact(given[0]):
        return given[0].labels
    exact = [path for path in given if found.is_exact(path)]
    below = [path for path in given if not found.is_exact(path)]
    labels = exact.pop(0).labels if exact else found.label.default_labels
    if labels is None:
        return None
    for path in (*exact, *below):
        labels = join(labels, path)
    return labels


def _any_has_odd_tag(found: Found, index: int) -> bool:
    """Whether one of the labels that were joined into the item's holds a tag that no guard may give."""
    given = found.given.get(index)
    return given is not None and any(has_odd_tag(path) for path in given)


def _has_its_own(found: Found, index: int) -> bool:
    return found.label.items is not None or index in found.given


def _is_guess(found: Found) -> bool:
    """Whether a guard that labels items by their place cannot have meant what the agent would get."""
    if found.is_whole or is_error(found.result) or found.text_parts > 1:
        return True
    return found.label.items is not None and not isinstance(found.inside.root, (list, tuple, dict))


def is_text(found: Found) -> bool:
    """Whether the result is text and not JSON, such as a diff or a file."""
    inside = found.inside
    return isinstance(inside.root, str) or (bool(inside.text) and not inside.is_json)


def is_error(result: Any) -> bool:
    """Whether a result is an MCP result that says it is an error."""
    return isinstance(result, dict) and result.get("isError") is True
