"""Sizes in bytes and in pages that more than one part of guardpool needs. Plain numbers: nothing is imported for them."""

from __future__ import annotations

MIB = 1024 * 1024

# Source: the WebAssembly core specification, 4.2.8 (memory instances); a 32-bit memory has at most 4 GiB.
PAGE_BYTES = 65536
MAX_PAGES = 65536

# 32 MiB, the default cap of a guard's linear memory.
DEFAULT_MEMORY_PAGES = 512

# The buffers that a worker gives each guard before its first job.
FIRST_INPUT_BYTES = 64 * 1024
FIRST_OUTPUT_BYTES = 4 * MIB  # the contract's first try

# The linear memory of the quick judge that each guard has beside it.
QUICK_JUDGE_BYTES = 5 * PAGE_BYTES

MAX_MISSING = 10
"""Questions without an answer that an outcome tells: the first ones."""

# What the guard's allocator has at hand when an isolated job begins. A job that makes it grow the memory costs a new instance,
# and after `label_agent` most allocators have a few KB left, which a page of issues takes. What is not touched costs nothing.
ROOM_BYTES = 2 * MIB
