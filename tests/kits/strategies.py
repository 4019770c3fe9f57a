"""Hypothesis strategies that several tests share: JSON values, labels, and answers that are nearly right."""

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import HealthCheck, settings, strategies as st

from guardpool.labels import LabeledItem, Labels, LabelWarning, Operation, PathLabel, ResourceLabel, ResponseLabel


def examples(count: int) -> int:
    """How many examples to try where `count` are enough on an ordinary day; `make fuzz` asks for twenty times as many."""
    return count * 20 if os.environ.get("GUARDPOOL_FUZZ") else count


# For every property test (`conftest.py` imports this). The machines that run them are shared: how long an example takes
# says nothing about the code.
settings.register_profile(
    "shared-machine", deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared-machine")

# Text as a hostile guard would write it: controls, JSON's own signs, spaces of all sorts, astral characters.
texts = st.text(
    st.one_of(
        st.characters(exclude_categories=("Cs",)),
        st.sampled_from('\0\n\r\t "\\/{}[],:~*\x1c\x7f\x85\xa0\u2028\ufeff\ufffd\u0130\u017f\u212a\U0001f600'),
    ),
    max_size=12,
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)

tags = st.one_of(texts, st.sampled_from(("private:o/r", "none:o/r", "approved:o/r", "", " a ")))
tag_sets = st.frozensets(tags, max_size=5)
plain_labels = st.builds(Labels, texts, tag_sets, tag_sets)
label_warnings = st.lists(
    st.builds(LabelWarning, st.sampled_from(("operation_unknown", "not_an_array", "star_from_guard")), texts),
    max_size=2,
).map(tuple)
resource_labels = st.builds(ResourceLabel, texts, tag_sets, tag_sets, st.sampled_from(Operation), label_warnings)
path_labels = st.builds(PathLabel, texts, texts, tag_sets, tag_sets)
labeled_items = st.builds(LabeledItem, json_values, plain_labels)
response_labels = st.one_of(
    st.builds(
        ResponseLabel,
        st.lists(path_labels, max_size=4).map(tuple),
        st.none() | plain_labels,
        st.none() | st.sampled_from(("", "/", "/items", "items/x")) | texts,
        warnings=label_warnings,
    ),
    st.builds(ResponseLabel, items=st.lists(labeled_items, max_size=3).map(tuple), warnings=label_warnings),
)


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# JSON texts of the values that typed decoders refuse, and a few that are not JSON at all.
_odd = st.sampled_from(
    [
        *("null", "5", "true", "[]", "{}", '""', '"x"', "1e999", "-0", "[null]", '["a",null]', "[1]", '{"a":{}}'),
        *('"\\ud800"', '"\\u0061"', '"\\ud83d\\ude00"', '"\\uDC00\\ud800"', '"a\\/b"', '"\x01"'),
        *("NaN", "01", "[1,]", "9" * 25),
    ]
)
_strings = st.one_of(tags.map(_literal), tags.map(json.dumps), st.just('"*"'), _odd)
_odd_tags = st.sampled_from(("null", '"*"', '"\\u002a"', "5"))
_tag_lists = st.one_of(
    st.lists(st.one_of(tags.map(_literal), _odd_tags), max_size=4).map(lambda items: f"[{', '.join(items)}]"),
    _odd,
)


def _names(name: str) -> st.SearchStrategy[str]:
    """A member's name as JSON text: mostly right, else in another case, escaped, or another name."""
    right = _literal(name)
    escaped = f'"\\u{ord(name[0]):04x}{name[1:]}"'
    folded = _literal(name.replace("s", "\u017f", 1))
    other = st.sampled_from((_literal(name.upper()), escaped, folded, _literal(name + " "), '"extra"'))
    return st.one_of(st.just(right), st.just(right), st.just(right), other)


def _objects(members: dict[str, st.SearchStrategy[str]]) -> st.SearchStrategy[str]:
    """An object as JSON text, its members in any order, left out or repeated."""
    member = st.one_of(*(st.tuples(_names(name), values) for name, values in members.items()))
    whole = st.tuples(*(st.tuples(st.just(_literal(name)), values) for name, values in members.items()))
    pairs = st.one_of(
        whole.map(list),
        st.lists(member, max_size=6),
        st.tuples(whole, st.lists(member, max_size=2)).map(lambda both: [*both[0], *both[1]]),
    )
    return pairs.map(lambda found: "{" + ", ".join(f"{name}: {value}" for name, value in found) + "}")


_labels = st.one_of(_objects({"description": _strings, "secrecy": _tag_lists, "integrity": _tag_lists}), _odd)
_paths = st.one_of(_objects({"path": _strings, "labels": _labels}), _odd)
_path_lists = st.one_of(st.lists(_paths, max_size=3).map(lambda items: f"[{','.join(items)}]"), _odd)
_items = st.one_of(_objects({"data": st.one_of(_odd, json_values.map(_literal)), "labels": _labels}), _odd)
_item_lists = st.one_of(st.lists(_items, max_size=3).map(lambda items: f"[{','.join(items)}]"), _odd)
_operations = st.one_of(st.sampled_from(('"read"', '"write"', '"read-write"', '"READ"')), _odd)
_modes = st.one_of(st.sampled_from(('"strict"', '"Filter"', '"PROPAGATE"', '" filter "')), _odd)

resource_answers = _objects({"resource": _labels, "operation": _operations})
response_answers = st.one_of(
    _objects({"labeled_paths": _path_lists, "default_labels": _labels, "items_path": _strings}),
    _objects({"items": _item_lists}),
    _objects({"labeled_paths": _path_lists, "items": _item_lists}),
)
agent_answers = st.one_of(
    _objects({"agent": _labels, "difc_mode": _modes}),
    _objects({"difc_mode": _modes, "normalized_policy": _odd, "success": _odd, "ok": _odd, "error": _strings}),
)


def _damaged(text: str, at: int, junk: bytes) -> bytes:
    raw = text.encode()
    place = at % (len(raw) + 1)
    return raw[:place] + junk + raw[place + len(junk) // 2 :]


def as_bytes(answers: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """The answers as UTF-8, one in three with a few bytes put in at some place."""
    junk = st.sampled_from(
        (b"", b"\xff", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\x00", b"\n", b" ", b"}", b"\xef\xbb\xbf", b"\\ud800")
    )
    whole = answers.map(str.encode)
    return st.one_of(whole, whole, st.builds(_damaged, answers, st.integers(0, 4096), junk))


def is_one_short_line(message: object) -> bool:
    """What every error message of the contract must be."""
    return len(str(message)) <= 300 and str(message).isprintable()


def short(value: object) -> str:
    """A test's id for a value that may be huge."""
    return ascii(value)[:40]
