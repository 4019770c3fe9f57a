"""The function and code sections: the long ones, so their loops read bytes in place.

Most numbers in them are one byte long; the cursor is only asked for longer ones. That makes a module of 300 KB with a
thousand functions a matter of a millisecond or two.
"""

from __future__ import annotations

from typing import NoReturn

from guardpool.wasm.cursor import Cursor
from guardpool.wasm.model import CodeSize, WasmLimitError
from guardpool.wasm.module_state import ModuleState

_LOCAL_TYPES = frozenset((0x7F, 0x7E, 0x7D, 0x7C, 0x7B, 0x70, 0x6F))
_END = 0x0B


def function_types(cursor: Cursor, types: int, limit: int) -> list[int]:
    """The type index of each function that the module defines.

    Raises:
        WasmError: malformed, or an index past the last type.
        WasmLimitError: more than `limit` functions.
    """
    count = cursor.count("functions", 1, limit, "functions")
    return indices(cursor, count, types, "type")


def indices(cursor: Cursor, count: int, bound: int, what: str) -> list[int]:
    """A run of `count` indices, each below `bound`."""
    data, end = cursor.data, cursor.end
    if count <= end - cursor.pos and max(data[cursor.pos : cursor.pos + count], default=0) < min(bound, 0x80):
        found = list(data[cursor.pos : cursor.pos + count])  # one byte each, all of them good
        cursor.pos += count
        return found
    found = []
    for _ in range(count):
        offset = cursor.pos
        if offset < end and data[offset] < 0x80:
            index = data[offset]
            cursor.pos = offset + 1
        else:
            index = cursor.u32(f"a {what} index")
        if index >= bound:
            raise cursor.error(f"{what} index {index}, but there are {bound}", offset)
        found.append(index)
    return found


def read_code(cursor: Cursor, state: ModuleState) -> None:
    """The code section: count bodies, bytes and locals, and check that each body is framed as it should be."""
    limits = state.limits
    size = cursor.end - cursor.pos
    if size > limits.code_bytes:
        raise WasmLimitError(
            f"{size} bytes of code; at most {limits.code_bytes} are allowed", cursor.pos, limit="code_bytes"
        )
    defined = state.functions[state.imported_functions :]
    count = cursor.count("function bodies", 3, limits.functions, "functions")
    if count != len(defined):
        raise cursor.error(f"{count} function bodies for {len(defined)} functions")
    params = [len(function_type.params) for function_type in state.types]
    largest = total_locals = most_locals = 0
    data, section_end = cursor.data, cursor.end
    for place, type_index in enumerate(defined):
        pos = cursor.pos
        body_size = cursor.u32("the size of a function body")
        body = cursor.pos
        body_end = body + body_size
        if body_size < 2 or body_end > section_end or data[body_end - 1] != _END:
            _refuse_body(cursor, state.imported_functions + place, pos, body_size)
        local_count = params[type_index]
        if data[body]:  # groups of locals; most bodies have none
            cursor.end = body_end
            local_count += _locals(cursor, state, place)
            cursor.end = section_end
            if cursor.pos >= body_end:
                raise cursor.error(f"the body of function {state.imported_functions + place} has no instruction")
        if local_count > most_locals:
            most_locals = local_count
        if body_size > largest:
            largest = body_size
        total_locals += local_count
        cursor.pos = body_end
        if body_size > limits.function_bytes or local_count > limits.locals or total_locals > limits.total_locals:
            _refuse_size(state, state.imported_functions + place, pos, body_size, local_count)
    state.code = CodeSize(count, size, largest, total_locals, most_locals)


def _locals(cursor: Cursor, state: ModuleState, place: int) -> int:
    """Read the groups of locals at the head of a body; returns how many locals they declare."""
    data, end = cursor.data, cursor.end
    total = 0
    groups = cursor.count("groups of locals", 2, end - cursor.pos, "locals")
    for _ in range(groups):
        pos = cursor.pos
        if pos < end and data[pos] < 0x80:
            total += data[pos]
            cursor.pos = pos = pos + 1
        else:
            total += cursor.u32("a number of locals")
            pos = cursor.pos
        if pos >= end or data[pos] not in _LOCAL_TYPES:
            _refuse_local(cursor, state.imported_functions + place, pos)
        cursor.pos = pos + 1
    return total


def _refuse_local(cursor: Cursor, index: int, pos: int) -> NoReturn:
    """What stands where a local's type is expected is not one of WebAssembly 2.0."""
    what = f"a local of function {index}"
    if pos >= cursor.end:
        raise cursor.error(f"the type of {what} is nothing")
    byte = cursor.data[pos]
    raise cursor.newer_type(byte, what, pos) or cursor.error(f"the type of {what} is 0x{byte:02x}")


def _refuse_body(cursor: Cursor, index: int, offset: int, size: int) -> None:
    what = f"the body of function {index}"
    if size > cursor.end - cursor.pos:
        raise cursor.error(f"{what} has {size} bytes but {cursor.end - cursor.pos} are left", offset)
    if size < 2:
        raise cursor.error(f"{what} has {size} bytes, expected 2 or more", offset)
    last = cursor.data[cursor.pos + size - 1]
    raise cursor.error(f"{what} ends with 0x{last:02x}, expected 0x{_END:02x} (end)", cursor.pos + size - 1)


def _refuse_size(state: ModuleState, index: int, offset: int, size: int, local_count: int) -> None:
    limits = state.limits
    if size > limits.function_bytes:
        raise WasmLimitError(
            f"function {index} has {size} bytes of code; at most {limits.function_bytes} are allowed in one",
            offset,
            limit="function_bytes",
        )
    if local_count > limits.locals:
        raise WasmLimitError(
            f"function {index} has {local_count} locals; at most {limits.locals} are allowed in one",
            offset,
            limit="locals",
        )
    raise WasmLimitError(
        f"the functions up to {index} have more than the {limits.total_locals} locals that are allowed in all",
        offset,
        limit="total_locals",
    )
