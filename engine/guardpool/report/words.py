"""Words of strangers on their way into a report: no character is left that could harm whatever it is shown in.

Titles, logins, paths and tools' names were written by whoever could write to a repository. What is kept of them is one
printable line of bounded length, as `printable` makes it; each format then takes care of what means something in it alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from guardpool.printable import printable

MAX_CHARS = 200


@lru_cache(maxsize=65_536)
def clean(text: str | None) -> str:
    """One printable line of at most 200 characters; empty for None."""
    return printable(text, MAX_CHARS) if text else ""


def theirs(text: str) -> str:
    """Words of strangers within a sentence or a cell, marked so that a format can set them apart. Empty stays empty."""
    return f"{_BEGIN}{text}{_END}" if text else ""


def laid_out(text: str, set_apart: Callable[[str], str], ours: Callable[[str], str] = str) -> str:
    """Text in which `theirs` marked words, each of its parts as a format writes it.

    Args:
        text: the text.
        set_apart: what becomes of words of strangers.
        ours: what becomes of our own.
    """
    parts = _MARKED.split(text)
    return "".join(set_apart(part) if at % 2 else ours(part) for at, part in enumerate(parts))


def plain(text: str) -> str:
    """Text without the marks of `theirs`."""
    return laid_out(text, str)


# Clean text holds neither: both are control characters.
_BEGIN, _END = "\x0e", "\x0f"
_MARKED = re.compile(f"{_BEGIN}(.*?){_END}")


def link(url: str | None) -> str:
    """An address that a page may link to: https, and nothing in it that is not plain ASCII. Empty for any other."""
    return url if url and _LINK.fullmatch(url) else ""


_LINK = re.compile(r"https://[A-Za-z0-9.-]+(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/?#-]*)?")
