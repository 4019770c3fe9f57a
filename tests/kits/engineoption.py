"""`--engine NAME`: what `auto` means in the process of the tests, and in those that run a kit of ours as a program."""

from __future__ import annotations

import os

from guardpool.machine import engines

auto_order_of_users = engines.auto_order
"""What `auto` means without `--engine`."""

_VARIABLE = "GUARDPOOL_TESTS_ENGINE"


def use(word: str) -> None:
    """Have `auto` mean this engine, and no other, from now on; `"auto"` is what users get."""
    if engines.check_word(word) == "auto":
        os.environ.pop(_VARIABLE, None)
        engines.auto_order = auto_order_of_users
    else:
        os.environ[_VARIABLE] = word
        engines.auto_order = lambda: (word,)


use(os.environ.get(_VARIABLE, "auto"))
