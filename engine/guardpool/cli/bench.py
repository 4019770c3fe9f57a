"""`guardpool bench`: the benchmark suite, where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence

from guardpool.errors import EngineMissing, HostError
from guardpool.platform_check import engine_problem

_SUITE = "guardpool_bench"


def run(arguments: Sequence[str]) -> int:
    """Run the suite; it has a command line of its own.

    Raises:
        HostError: the suite is not installed.
        EngineMissing: there is nothing to measure: this Python has no usable engine.
    """
    if importlib.util.find_spec(_SUITE) is None:
        raise HostError("the benchmark suite is not installed: pip install 'guardpool[bench]'")
    problem = engine_problem()
    if problem is not None and not {"-h", "--help"} & set(arguments):
        raise EngineMissing(problem)
    main: Callable[[Sequence[str]], int] = importlib.import_module(f"{_SUITE}.cli").main
    return main(list(arguments))
