"""The benchmark suite of guardpool: what it costs and gives on this machine, beside bare loops and other pools.

    guardpool bench                                         # the sample guard and its jobs
    guardpool bench GUARD.wasm -p POLICY.json --jobs FILE   # your own

`cases` has what is measured, `results` the report of a run, `goals` what it is held against; `measure` says how two
things are compared so that the comparison means something.
"""

from __future__ import annotations

FORMAT = "guardpool-bench/1"
"""Name and version of the JSON report, see `schema.json`."""
