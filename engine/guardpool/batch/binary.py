"""Files in which no line can be a job, told by their first bytes: compressed, binary, text that is not UTF-8, or outcomes.

Outcomes have keys of a job as well, and would give plausible labels of other calls.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from guardpool.errors import CallerError
from guardpool.printable import printable


class Kind(NamedTuple):
    """What a file is instead of lines of jobs.

    Args:
        what: for a message that begins with "it is ".
        advice: what to do; `{}` stands for the file's name.
    """

    what: str
    advice: str


class NotLines(CallerError):
    """The input holds no lines of jobs; nothing of it was labelled.

    Attributes:
        kind: what it is instead.
        path: of the file among several; None: the only one.
    """

    def __init__(self, kind: Kind, path: str | None = None) -> None:
        name = "the input" if path is None else printable(path, 300)
        super().__init__(f"{name}: no line can be a job: it is {kind.what}; {kind.advice.format(path or 'FILE')}")
        self.kind = kind
        self.path = path


def _packed(what: str, program: str) -> Kind:
    return Kind(f"compressed with {what}", f"{program} {{}} | guardpool label - ...")


def _text(encoding: str, iconv: str) -> Kind:
    return Kind(f"text in {encoding}, not in UTF-8", f"iconv -f {iconv} -t UTF-8 {{}} | guardpool label - ...")


_ROWS = "write its rows as lines of JSON first, a job a line"
# What no line of JSON begins with, from the formats' specifications. Those that are letters only are looked at further.
_KINDS = tuple(
    (re.compile(magic, re.DOTALL), kind)
    for magic, kind in (
        (rb"\x1f\x8b", _packed("gzip", "gzip -dc")),
        (rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", _packed("zstd", "zstd -dc")),
        (rb"BZh[1-9]1AY&SY", _packed("bzip2", "bzip2 -dc")),
        (rb"\xfd7zXZ\0", _packed("xz", "xz -dc")),
        (rb"PK\x03\x04", _packed("zip", "unzip -p")),
        (rb"PAR1\x15", Kind("a Parquet file", "name the file, since it is read from its end")),
        (rb"ARROW1\0\0", Kind("an Arrow file", _ROWS)),
        (
            rb"\0asm",
            Kind("a WebAssembly module", "name the guard as -g NAME={}, and give the file of jobs in its place"),
        ),
        (
            rb'\{"id":[^\n]{1,300}"status":"[a-z]+","label":',
            Kind("a file of outcomes", "give the file of jobs in its place"),
        ),
        (rb"\xff\xfe\0\0|\0\0\xfe\xff", _text("UTF-32", "UTF-32")),
        (rb"\xff\xfe|\xfe\xff", _text("UTF-16", "UTF-16")),
        # Without a mark: an ASCII character, as a line of JSON begins with, in two or four bytes.
        (rb"[\t-~]\0\0\0", _text("UTF-32", "UTF-32LE")),
        (rb"\0\0\0[\t-~]", _text("UTF-32", "UTF-32BE")),
        (rb"[\t-~]\0[^\0]", _text("UTF-16", "UTF-16LE")),
        (rb"\0[\t-~]\0", _text("UTF-16", "UTF-16BE")),
    )
)
# So many first bytes tell all of them.
LONGEST_MAGIC = 400


def kind_of(head: bytes) -> Kind | None:
    """What a file is that begins with these bytes; None if a line of it may be a job."""
    for magic, kind in _KINDS:
        if magic.match(head):
            return kind
    return None
