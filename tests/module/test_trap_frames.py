"""Where a guest trapped, told in the terms of its author's file, with the engine of this run."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

import guardkit
from guardpool.module.trap_frames import TrapFrame, trap_frames, without_frames

# The instruction that traps in each guard: its opcode.
TRAPS = {
    "trap_unreachable": b"\x00",
    "trap_integer_divide_by_zero": b"\x6e",  # i32.div_u
    "trap_memory_out_of_bounds": b"\x28",  # i32.load
    "trap_indirect_call_to_null": b"\x11",  # call_indirect
}


@pytest.mark.engine
@pytest.mark.parametrize(("name", "opcode"), TRAPS.items())
def test_the_offset_is_that_of_the_instruction_in_the_authors_file(name: str, opcode: bytes) -> None:
    result = guardkit.instance(name).label("label_resource", guardkit.RESOURCE)
    assert result.error is not None
    wasm = guardkit.wat(name)
    (frame,) = trap_frames(result.error.message, wasm, guardkit.MEMORY_PAGES)
    assert frame.function == "label_resource"
    assert frame.offset is not None
    assert wasm[frame.offset : frame.offset + 1] == opcode
    assert without_frames(result.error.message) == result.error.message.split(" at ")[0]


@pytest.mark.engine
def test_every_function_that_was_running_is_named() -> None:
    result = guardkit.instance("trap_stack_overflow").label("label_resource", guardkit.RESOURCE)
    assert result.error is not None
    frames = trap_frames(result.error.message, guardkit.wat("trap_stack_overflow"), guardkit.MEMORY_PAGES)
    assert len(frames) > 1
    assert {(frame.function, frame.index) for frame in frames} == {("deeper", 0)}


def test_both_ways_of_writing_a_frame_are_read() -> None:
    wasm = guardkit.wat(
        "by_letter"
    )  # it has 2 bytes more before its code when its memory is capped, and 21 for its global
    at = TrapFrame("label_resource", 6, 0x13C)
    for message in (
        "unreachable at ([6]:0x153)",
        "unreachable at <unnamed> (<module>[6]:0x153)",
        "unreachable at ([6]:0x153) at a name (of two words) ([4]:0xa5)",
    ):
        assert trap_frames(message, wasm, 512)[0] == at
        assert without_frames(message) == "unreachable"
    assert trap_frames(message, wasm, 512)[1] == TrapFrame("a name (of two words)", 4, 0x8E)
    assert trap_frames("call stack exhausted at ([4]:0xffffffffffffffff)", wasm, 512)[0].offset is None


@given(st.text(), st.binary(max_size=50))
def test_any_message_and_any_bytes_are_survived(message: str, wasm: bytes) -> None:
    assert trap_frames(message, wasm, 512) == ()
    trap_frames(f"unreachable at {message} ([1]:0x5)", wasm, 512)
    trap_frames(f"unreachable at {message} ([1]:0x5)", guardkit.wat("by_letter"), 512)
    without_frames(message)
