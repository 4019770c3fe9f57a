"""The units of a guard's linear memory. Plain numbers: both sides of the trust boundary read them here."""

from __future__ import annotations

WASM_PAGE_BYTES = 65536

MAX_MEMORY_PAGES = 65536
"""All that a 32-bit memory has: 4 GiB."""

DEFAULT_MEMORY_PAGES = 512
"""The cap of a guard's memory unless the caller chooses another: 32 MiB."""
