"""`python -m guardpool_bench`."""

from __future__ import annotations

import sys

from guardpool_bench.cli import main

if __name__ == "__main__":  # worker processes that are started by spawn import this file again
    sys.exit(main())
