"""Where a guest trapped: the frames in the message of a trap, told in the terms of the file that its author has.

An engine counts offsets in the module that it was given, in which there is more before the code: the caps of memory and
tables, and exports. Both engines write a frame as `at NAME (MODULE[INDEX]:0xOFFSET)`, where names may be missing.
"""

from __future__ import annotations

import re

import msgspec

from guardpool.module.kept_state import as_compiled
from guardpool.wasm import WasmError, read_module
from guardpool.wasm.custom_sections import function_name

_FRAME = re.compile(r" at (?:(?!at )(\S(?:(?! at ).)*?) )?\([^()\[\]]*\[([0-9]{1,10})\]:0x([0-9a-f]{1,16})\)")
_UNNAMED = "<unnamed>"  # so calls wasmer a function without a name


class TrapFrame(msgspec.Struct, frozen=True):
    """One function that was running.

    Args:
        function: its name, from the module's name section or its exports; None if it has none.
        index: its index, imported functions first.
        offset: of the instruction, in bytes from the start of the file; None if the engine does not know.
    """

    function: str | None
    index: int
    offset: int | None

    def __str__(self) -> str:
        """`in label_resource (function 6) at byte 0x13c`."""
        where = "" if self.offset is None else f" at byte {self.offset:#x}"
        return f"in {self.function or 'a function without a name'} (function {self.index}){where}"


def trap_frames(message: str, wasm: bytes, memory_pages: int) -> tuple[TrapFrame, ...]:
    """The frames in a trap's message, innermost first; empty if it has none. Never raises.

    Args:
        message: `OutcomeError.message` of a trap.
        wasm: the module as its author wrote it.
        memory_pages: the cap that it ran with, in pages of 64 KiB.
    """
    found = _FRAME.findall(message)
    if not found:
        return ()
    try:
        info = read_module(wasm)
        longer = len(as_compiled(wasm, memory_pages)) - len(wasm)
    except WasmError:
        return ()
    exported = {each.index: each.name for each in info.exports if each.kind == "function"}
    frames = []
    for name, digits, hexadecimal in found:
        index, offset = int(digits), int(hexadecimal, 16) - longer
        if name in ("", _UNNAMED):
            name = function_name(wasm, info, index) or exported.get(index)
        frames.append(TrapFrame(name, index, offset if 0 <= offset < len(wasm) else None))
    return tuple(frames)


def without_frames(message: str) -> str:
    """A trap's message with its reason only."""
    return _FRAME.sub("", message)
