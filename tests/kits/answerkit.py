"""Answers of guards: an instance that answers what it is given, and answers that are damaged in every way, from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import guardkit
from guardpool.contract import judge
from guardpool.errors import AnswerTooLarge, ContractError
from guardpool_worker import instance
from guardpool_worker.instance import GuardInstance, InstanceSettings

OPS = ("label_resource", "label_response")

RESOURCE = (
    b'{"resource":{"description":"an issue","secrecy":["b","a","b"],"integrity":["none:o/r"]},"operation":"read"}'
)
RESPONSE = (
    b'{"labeled_paths":[{"path":"/items/0","labels":{"description":"a","secrecy":["private:o/r"],"integrity":[]}},'
    b'{"path":"/items/1","labels":{"secrecy":[],"integrity":["x","y"]}}],'
    b'"default_labels":{"secrecy":["d"],"integrity":[]},"items_path":"/items"}'
)

# It answers with its input, or does as it is told in the three places.
_ECHO = """(module
  (memory (export "memory") {pages})
  (func $answer (param $in i32) (param $len i32) (param $out i32) (param $cap i32) (result i32)
    (local $kept i32)
    (if (i32.gt_u (local.get $len) (local.get $cap))
      (then {too_small} (return (i32.const -2))))
    {before}
    (memory.copy (local.get $out) (local.get $in) (local.get $len))
    {after}
    (local.get $len))
  (func (export "label_agent") (param i32 i32 i32 i32) (result i32)
    (call $answer (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "label_resource") (param i32 i32 i32 i32) (result i32)
    (call $answer (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "label_response") (param i32 i32 i32 i32) (result i32)
    (call $answer (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
)"""
HINT = "(i32.store (local.get $out) (local.get $len))"


class Echo:
    """An instance that answers with its input, and a count of the answers that Python judged.

    Args:
        pages: how large its memory is, and `cap` what it may grow to.
        before, after, too_small: WAT, put around the copy of the answer and before -2.
        settings: those of `InstanceSettings`.
    """

    def __init__(
        self,
        pages: str = "1",
        cap: int = guardkit.MEMORY_PAGES,
        before: str = "",
        after: str = "",
        too_small: str = HINT,
        **settings: Any,
    ) -> None:
        text = _ECHO.format(pages=pages, before=before, after=after, too_small=too_small)
        loaded = guardkit.load(guardkit.enginekit.wat_to_wasm(text), cap)
        self.instance = GuardInstance(loaded, InstanceSettings("echo", **settings))
        self.slow = 0

    def __call__(self, op: str, answer: bytes) -> tuple[Any, ...]:
        """What a worker makes of the answer: status, label, and the error's code and message."""
        with counting(self):
            result = self.instance.call(op, answer)
        error = result.error
        return result.status, result.label, error and error.code, error and error.message


class counting:  # noqa: N801  # reads as a verb
    """Within it, `slow` of the object goes up by one for each answer that Python judges."""

    def __init__(self, counted: Any) -> None:
        self._counted = counted

    def __enter__(self) -> None:
        self._judge: Callable[[str, bytes], bytes] = vars(instance)["judge"]

        def counted(op: str, answer: bytes) -> bytes:
            self._counted.slow += 1
            return judge(op, answer)

        vars(instance)["judge"] = counted

    def __exit__(self, *_: object) -> None:
        vars(instance)["judge"] = self._judge


def by_python(op: str, answer: bytes) -> tuple[Any, ...]:
    """What a worker makes of an answer without a quick judge."""
    try:
        return "ok", judge(op, answer), None, None
    except ContractError as error:
        return (
            "invalid",
            None,
            "output_too_large" if isinstance(error, AnswerTooLarge) else "invalid_answer",
            str(error),
        )


_PIECES = [
    *(b'"', b"\\", b"\\n", b'\\"', b"\\/", b"\\u0041", b"\\u001f", b"\\ud83d\\ude00", b"\\ud800", b"\\udc00", b"\\x"),
    *(
        b"\x00",
        b"\x01",
        b"\x1f",
        b"\x7f",
        b" ",
        b"\t",
        b"\r",
        b"\n",
        b"\x0b",
        b"\xa0",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
    ),
    *("é".encode(), "日".encode(), "😀".encode(), b"\xff", b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf0\x9f"),
    *(b"null", b"true", b"0", b"-0", b"1e999", b"NaN", b"[]", b"{}", b"[[", b"}}", b"]", b"{", b",", b":", b",,", b"*"),
    *(b'"*"', b'"a"', b',"a"', b'"a",', b'"":0,', b"null,", b',"description":"z"', b',"secrecy":[]', b'"path":"",'),
    *(b'"labels":{},', b'"items_path":"/x",', b'"items_path":null,', b'"default_labels":null,', b'"labeled_paths":[],'),
]
_ODD: list[Any] = [
    *(None, True, 0, -0.0, 1.5, 10**30, "", "*", "a", [], {}, [[]], ["*"], [None], [1], ["b", "a", "b", "\u00e9", ""]),
    *("\n", '"', "\\", "\x00", "\x7f", "é", "日本", "😀", "\ud800", "x" * 300, [f"t{n}" for n in range(40)]),
    *({"secrecy": [], "integrity": []}, {"description": "d", "secrecy": ["s"], "integrity": []}),
]
_NAMES = (
    *("resource", "operation", "description", "secrecy", "integrity", "labeled_paths", "default_labels", "items_path"),
    *("path", "labels", "items", "extra", "Secrecy", "PATH"),
)


def damaged(answer: bytes, dice: random.Random) -> bytes:
    """The answer with one to three changes: of its bytes, or of its values, members and spelling where it still is JSON."""
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3))):
        answer = dice.choice(_CHANGES)(answer, dice)
    return answer


def _flip(answer: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(answer) + 1)
    return answer[:at] + bytes([dice.randrange(256)]) + answer[at + 1 :]


def _insert(answer: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(answer) + 1)
    return answer[:at] + dice.choice(_PIECES) + answer[at + dice.choice((0, 0, 1, 2)) :]


def _insert_at_a_sign(answer: bytes, dice: random.Random) -> bytes:
    places = [at for at, c in enumerate(answer) if c in b'{}[],:"']
    at = dice.choice(places or [0]) + dice.randrange(2)
    return answer[:at] + dice.choice(_PIECES) + answer[at:]


def _cut(answer: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(answer) + 1)
    return answer[:at] + (b"" if dice.random() < 0.3 else answer[at + dice.randrange(12) :])


def _repeat(answer: bytes, dice: random.Random) -> bytes:
    start, end = sorted((dice.randrange(len(answer) + 1), dice.randrange(len(answer) + 1)))
    at = dice.randrange(len(answer) + 1)
    return answer[:at] + answer[start:end] + answer[at:]


def _respell(answer: bytes, dice: random.Random) -> bytes:
    return _rewritten(answer, dice, lambda value: value)


def _reorder(answer: bytes, dice: random.Random) -> bytes:
    def reorder(value: Any) -> Any:
        for part in _parts(value, dict):
            members = list(part.items())
            dice.shuffle(members)
            part.clear()
            part.update(members)
        for part in _parts(value, list):
            dice.shuffle(part)
        return value

    return _rewritten(answer, dice, reorder)


def _replace(answer: bytes, dice: random.Random) -> bytes:
    def replace(value: Any) -> Any:
        parts: list[Any] = [part for part in (*_parts(value, dict), *_parts(value, list)) if part]
        if parts:
            part = dice.choice(parts)
            part[dice.choice([*part] if isinstance(part, dict) else range(len(part)))] = dice.choice(_ODD)
        return value

    return _rewritten(answer, dice, replace)


def _members(answer: bytes, dice: random.Random) -> bytes:
    def change(value: Any) -> Any:
        parts = list(_parts(value, dict))
        if parts:
            part = dice.choice(parts)
            if part and dice.random() < 0.4:
                part.pop(dice.choice([*part]))
            else:
                part[dice.choice(_NAMES)] = dice.choice(_ODD)
        return value

    return _rewritten(answer, dice, change)


def _some_tags() -> list[str]:
    dice, letters = random.Random(1), "ab\u00e9\u00ff\u65e5\ud7ff\ue000\uffff\U00010000\U0010ffff~"
    made = ["".join(dice.choices(letters, k=dice.randrange(12))) for _ in range(60)]
    return [dice.choice(("", "private:octo/", "a" * 8)) + tag for tag in made]


_TAGS = _some_tags()


def _tags(answer: bytes, dice: random.Random) -> bytes:
    def change(value: Any) -> Any:
        for part in _parts(value, dict):
            for name in ("secrecy", "integrity"):
                if isinstance(part.get(name), list):
                    part[name] = dice.choices(_TAGS, k=dice.choice((0, 1, 2, 3, 5, 9, 33, 34)))
        return value

    return _rewritten(answer, dice, change)


def _long(answer: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(answer) + 1)
    return answer[:at] + dice.choice((b"x", b"\xc3\xa9", b"\\n", b" ", b'"a",')) * dice.randrange(400) + answer[at:]


def _rewritten(answer: bytes, dice: random.Random, change: Callable[[Any], Any]) -> bytes:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return _flip(answer, dice)
    separators = dice.choice(((",", ":"), (", ", ": "), (" ,", " :")))
    written = json.dumps(
        change(value),
        ensure_ascii=dice.random() < 0.2,
        separators=separators,
        indent=dice.choice((None, None, 1, "\t")),
    )
    return written.encode("utf-8", "surrogatepass")


def _parts(value: Any, kind: type) -> Any:
    """The containers of that kind in a value, outermost first."""
    open_: list[Any] = [value]
    while open_:
        each = open_.pop()
        if isinstance(each, kind):
            yield each
        if isinstance(each, (dict, list)):
            open_ += each.values() if isinstance(each, dict) else each


_CHANGES = (
    *(_flip, _insert, _insert_at_a_sign, _cut, _repeat, _replace, _members, _long),
    *(_respell, _reorder, _reorder, _tags, _tags),  # which leave the most of them usual
)
