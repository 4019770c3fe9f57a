"""Words of strangers on their way into a report: no character is left that could harm whatever it is shown in.

Titles, logins, paths and tools' names were written by whoever could write to a repository. What is kept of them is one printable
line of bounded length, as `printable` makes it; each format then takes care of what means something in that format alone.
"""

from __future__ import annotations

import re
from functools import lru_cache

from guardpool.printable import printable

MAX_CHARS = 200


@lru_cache(maxsize=65_536)
def clean(text: str | None) -> str:
    """One printable line of at most 200 characters; empty for None."""
    return printable(text, MAX_CHARS) if text else ""


def link(url: str | None) -> str:
    """An address that a page may link to: https, and nothing in it that is not plain ASCII. Empty for any other."""
    return url if url and _LINK.fullmatch(url) else ""


_LINK = re.compile(r"https://[A-Za-z0-9.-]+(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/?#-]*)?")
