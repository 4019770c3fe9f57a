"""`guardpool bench`: the benchmark suite, if it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence

from guardpool.errors import HostError

_SUITE = "guardpool_bench"


def run(arguments: Sequence[str]) -> int:
    """Run the suite, which has a command line of its own; returns its exit status.

    Raises:
        HostError: the suite is not installed.
    """
    if importlib.util.find_spec(_SUITE) is None:
        raise HostError("the benchmark suite is not installed: run: pip install 'guardpool[bench]'")
    main: Callable[[Sequence[str]], int] = importlib.import_module(f"{_SUITE}.cli").main
    return main(list(arguments))
