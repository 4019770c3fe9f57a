"""The quick judge: a third wasm module of ours, which makes the usual answer into the canonical JSON of its label.

`contract.judge` costs microseconds an answer in Python, most of them for objects that are made and dropped. The quick judge
gives the same bytes for the usual shape of an answer, within the call that ran the guard, and 0 for everything else, which
Python then judges. It may know less than the contract, and never something else; `quick_judge.zig` says what it knows.

Why no guest has a hand in it:

- Each guard's instance has one, with a memory, a stack and globals of its own. It imports nothing, and the guard, which is
  linked against the gate alone, cannot name it.
- A module sees one memory here (wasmer has no others), so the bridge, which sees the guard's, reads the answer from it and
  passes it on in the arguments of `take`, 64 bytes a call. The copy takes 20 ns for the answer to a call and 120 ns for one
  to a result, a tenth and less of the judging. A label written behind the answer in guest memory would need none, but
  the quick judge's stack and tables would have to be there as well, and the guard chooses what stands there before.
- It reads its copy, once, and the host reads the label from its memory right after the call. No code of the guard runs in
  between; if some did, it would find neither the copy nor the label.
- What it keeps from one answer to the next is overwritten before it is read. Its work and its memory are bounded by constants.

The same module holds copies of known replies, `near_replies.zig`, which have nothing to do with judging: a module of their own
would take as much of a process's addresses for each guard as this one, 4 GiB and more.
"""

from __future__ import annotations

import os
from typing import Final

# Read with the import: the compiler's process and the forkserver open no file once they are hardened.
with open(os.path.join(os.path.dirname(__file__), "quick_judge.wasm"), "rb") as _file:
    WASM: Final = _file.read()
