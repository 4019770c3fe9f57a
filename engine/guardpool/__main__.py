"""`python -m guardpool`: the command `guardpool`, where it is not on the path."""

from __future__ import annotations

import sys

from guardpool.cli import main

if __name__ == "__main__":
    sys.exit(main())
