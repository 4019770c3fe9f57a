"""An interpreter for the classic BPF programs that seccomp takes: tests ask a filter instead of trying it.

It runs any program the kernel would, for any machine. It is written from the kernel's documentation, not from the
assembler it checks.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

_DATA = struct.Struct("<IIQ6Q")
_INSTRUCTION = struct.Struct("<HBBI")
_MASK = 0xFFFFFFFF


class BadProgram(Exception):
    """The kernel would refuse this program."""


def decode(code: bytes) -> list[tuple[int, int, int, int]]:
    """The instructions of a program, as (code, jt, jf, k)."""
    return [_INSTRUCTION.unpack_from(code, at) for at in range(0, len(code), _INSTRUCTION.size)]


def check(program: Sequence[tuple[int, int, int, int]]) -> None:
    """Check what the kernel's verifier checks: length, jumps forward and inside, every path ends in a return."""
    if not 0 < len(program) <= 4096:
        raise BadProgram(f"{len(program)} instructions")
    for at, (code, jt, jf, k) in enumerate(program):
        kind = code & 7
        if kind == 5:
            targets = [at + 1 + k] if code == 5 else [at + 1 + jt, at + 1 + jf]
        else:
            targets = [] if kind == 6 else [at + 1]
        if any(target >= len(program) for target in targets):
            raise BadProgram(f"instruction {at} leads out of the program")
        if kind == 0 and (k % 4 or k > _DATA.size - 4):
            raise BadProgram(f"instruction {at} reads at {k}")


def run(program: Sequence[tuple[int, int, int, int]], number: int, arch: int, args: Sequence[int] = ()) -> int:
    """What the program returns for a system call."""
    data = _DATA.pack(number & _MASK, arch, 0, *(arg & (1 << 64) - 1 for arg in [*args, *[0] * (6 - len(args))]))
    at = accumulator = 0
    while True:
        code, jt, jf, k = program[at]
        at += 1
        if code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x06:  # BPF_RET | BPF_K
            return k
        elif code == 0x05:  # BPF_JMP | BPF_JA
            at += k
        elif code in _TESTS:
            at += jt if _TESTS[code](accumulator, k) else jf
        else:
            raise BadProgram(f"instruction {code:#x}")


_TESTS = {
    0x15: lambda a, k: a == k,  # BPF_JEQ
    0x25: lambda a, k: a > k,  # BPF_JGT
    0x35: lambda a, k: a >= k,  # BPF_JGE
    0x45: lambda a, k: bool(a & k),  # BPF_JSET
}
