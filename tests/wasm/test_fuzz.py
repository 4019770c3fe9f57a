"""A short run of the wasm fuzzer; `make fuzz` makes it a long one, `python tests/kits/fuzz_wasm.py` as long as you like."""

from __future__ import annotations

import os

import fuzz_wasm

SECONDS = 120 if os.environ.get("GUARDPOOL_FUZZ") else 2


def test_fuzz_of_the_wasm_reader() -> None:
    fuzzer = fuzz_wasm.Fuzzer(seed=20_220_118)
    at_first = len(fuzzer.answers)
    fuzzer.run(SECONDS)
    assert fuzzer.executions > 300
    assert len(fuzzer.answers) > at_first + 50  # it does get into the branches
